"""A bundle: one folder with configuration, weights, tokenizer, noise and voices.

    config.json             sizes of every model
    generation_config.json  how speech tokens are drawn
    <module>.safetensors    parameters, float32 or smaller (`storage`), under our dotted names
    noise.safetensors       the flow's starting noise, where the model was trained with a fixed one
    tokenizer/              tokenizer.json and its settings
    voices/<name>.safetensors
    README.md, SHA256SUMS

Parameters are mapped, not read: they take memory when they are used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

import cosyjax
from cosyjax import config as configs
from cosyjax import shapes
from cosyjax.errors import InputError, nearest
from cosyjax.infer import storage
from cosyjax.infer.bundle_config import GENERATION_KEYS, BundleConfig
from cosyjax.infer.model_card import model_card
from cosyjax.infer.modules import MODULES, parameter_shapes
from cosyjax.infer.voice import Voice, load_voice, save_voice
from cosyjax.io import files
from cosyjax.text.tokenizer import TextTokenizer, load_tokenizer

MODEL_TYPE = "cosyjax"
MARKS = ("config.json",)  # a folder without it is no bundle, and `force` does not replace it
Tell = Callable[[str], None]
_HINTS = 5
_SMALL_FILES_BYTES = 32 << 20  # tokenizer, card and lists


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle in memory; `params` holds the modules that were asked for."""

    config: BundleConfig
    params: Mapping[str, Any]  # {module: nested dictionaries of float32 arrays}
    tokenizer: TextTokenizer
    noise: np.ndarray | None = None  # [frames, 80] float32
    voices: Mapping[str, Voice] = dataclasses.field(default_factory=dict)
    source: str = ""  # where the weights came from
    # {module: {our path: dtype}} of tensors that came in another type than float32.
    stored_dtypes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.config.lm.text_vocab_size
        if self.tokenizer.vocab_size > rows:
            raise InputError(
                f"the text tokenizer has {self.tokenizer.vocab_size} ids, the language model's "
                f"text table {rows} rows; they are not of one model"
            )

    @property
    def default_voice(self) -> str:
        """The voice where none is named; "" where there is none at all."""
        names = sorted(self.voices)
        wanted = self.config.default_voice
        return wanted if wanted in names else next(iter(names), "")


class VoiceFolder(Mapping[str, Voice]):
    """{name: Voice} over a folder of voice files, each read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> Voice:
        path = voice_path(self._folder, name)
        if not path.is_file():
            raise KeyError(name)
        return load_voice(path)

    def __iter__(self) -> Iterator[str]:
        for path in sorted(self._folder.glob("*.safetensors")):
            yield path.stem.replace("%2F", "/").replace("%25", "%")

    def __len__(self) -> int:
        return sum(1 for _ in self)


def voice_path(folder: Path, name: str) -> Path:
    """The file of a voice; a slash in the name is written %2F."""
    return folder / f"{name.replace('%', '%25').replace('/', '%2F')}.safetensors"


def load_bundle(
    path: Path | str, modules: Collection[str] = tuple(MODULES), *, verify: bool = False
) -> Bundle:
    """Opens a bundle folder.

    Args:
      path: made by `cosyjax convert` or `save_bundle`.
      modules: which of MODULES to map.
      verify: compare every file with SHA256SUMS first (reads everything).

    Raises:
      InputError: no bundle there, or a file of it is missing, damaged, or fits another config.
    """
    folder = Path(path)
    config, raw = _load_config(folder)
    if verify:
        files.verify_checksums(folder)
    params, dtypes = {}, {}
    for module in modules:
        if module not in MODULES:
            raise InputError(f"no module {module!r}; {nearest(module, MODULES)}")
        params[module], dtypes[module] = _load_module(folder, module, config.of(module))
    noise = folder / "noise.safetensors"
    return Bundle(
        config=config,
        params=params,
        tokenizer=load_tokenizer(
            folder / "tokenizer", split_chinese_tokens=config.split_chinese_tokens
        ),
        noise=_load_noise(noise) if noise.exists() else None,
        voices=VoiceFolder(folder / "voices"),
        source=str(raw.get("source", "")),
        stored_dtypes={module: names for module, names in dtypes.items() if names},
    )


def _load_config(folder: Path) -> tuple[BundleConfig, dict[str, Any]]:
    if not (folder / "config.json").is_file():
        if (folder / "llm.pt").exists():
            hint = f"it is an official model folder: run `cosyjax convert {folder} BUNDLE`"
        else:
            hint = "make one with `cosyjax convert SRC BUNDLE`"
        raise InputError(f"{folder}: no bundle there (no config.json); {hint}")
    raw = files.read_json(folder / "config.json")
    if raw.get("model_type") != MODEL_TYPE:
        kind = raw.get("model_type")
        raise InputError(f"{folder}/config.json: model_type={kind!r}; {MODEL_TYPE!r} is needed")
    generation = folder / "generation_config.json"
    values = raw | (files.read_json(generation) if generation.is_file() else {})
    for key in ("model_type", "architectures", "source", "transformers_version"):
        values.pop(key, None)
    try:
        return configs.from_dict(BundleConfig, values), raw
    except InputError as error:
        raise InputError(f"{folder}/config.json: {error}") from error


def _load_module(folder: Path, module: str, config: Any) -> tuple[Any, dict[str, str]]:
    path = folder / f"{module}.safetensors"
    arrays, metadata = files.load_arrays(path)
    held = metadata.get("module", module)
    if held != module:
        raise InputError(f"{path}: holds {held!r}, not {module!r}; files were swapped")
    try:
        arrays = storage.unpack(arrays, metadata)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    given = {name: array.shape for name, array in arrays.items()}
    if metadata.get("checked") != _fingerprint(config, given):
        check_parameters(given, parameter_shapes(module, config), str(path))
    names = json.loads(metadata.get("stored_dtypes", "{}"))
    return traverse_util.unflatten_dict(arrays, sep="."), names


def _fingerprint(config: Any, given: Mapping[str, tuple[int, ...]]) -> str:
    """Names what was checked when the file was written: tracing a model again takes seconds."""
    listing = [cosyjax.__version__, configs.to_dict(config), sorted(given.items())]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def check_parameters(
    given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raises InputError naming every missing, unexpected or misshapen parameter."""
    surplus = sorted(set(given) - set(wanted))
    problems = [f"missing {name}" for name in sorted(set(wanted) - set(given))]
    # Looking for the nearest name is slow: a hint for the first few, a name for each.
    problems += [f"unexpected {name} ({nearest(name, wanted)})" for name in surplus[:_HINTS]]
    problems += [f"unexpected {name}" for name in surplus[_HINTS:]]
    problems += [
        f"misshapen {name}: {tuple(given[name])}, needed {tuple(wanted[name])}"
        for name in sorted(set(given) & set(wanted))
        if tuple(given[name]) != tuple(wanted[name])
    ]
    if problems:
        count = f"{len(problems)} parameters do not fit config.json"
        raise InputError(f"{source}: {count}:\n  " + "\n  ".join(problems))


def _load_noise(path: Path) -> np.ndarray:
    arrays, _ = files.load_arrays(path)
    if set(arrays) != {"noise"}:
        raise InputError(f"{path}: holds {sorted(arrays)}; one array 'noise' is needed")
    shapes.check(arrays["noise"], "F M", str(path))
    return arrays["noise"]


def save_bundle(
    bundle: Bundle,
    path: Path | str,
    *,
    force: bool = False,
    store: str = "float32",
    card: str | None = None,
    tell: Tell = lambda line: None,
) -> None:
    """Writes a bundle folder that appears whole or not at all.

    Args:
      bundle: its parameters are checked against its config before anything is written.
      path: the folder to make.
      force: replace a folder that is not empty.
      store: form of the parameters in the files, one of `storage.STORES`.
      card: text of README.md; by default one that lists the models.
      tell: called with a line per file written.

    Raises:
      InputError: parameters that do not fit, a folder in the way, or a full disk.
    """
    flat = {m: traverse_util.flatten_dict(tree, sep=".") for m, tree in bundle.params.items()}
    for module, arrays in flat.items():
        given = {name: np.shape(array) for name, array in arrays.items()}
        check_parameters(given, parameter_shapes(module, bundle.config.of(module)), module)
    needed = sum(array.nbytes for arrays in flat.values() for array in arrays.values())
    needed += _SMALL_FILES_BYTES + (0 if bundle.noise is None else bundle.noise.nbytes)
    with files.atomic_folder(path, force=force, marks=MARKS, needed_bytes=needed) as folder:
        for module, arrays in flat.items():
            _save_module(bundle, module, storage.pack(arrays, store), folder, tell)
        _save_rest(bundle, folder)
        num_params = {m: sum(map(np.size, arrays.values())) for m, arrays in flat.items()}
        card = card or model_card(
            num_params,
            source=bundle.source,
            sample_rate_hz=bundle.config.sample_rate_hz,
            has_noise=bundle.noise is not None,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        files.write_checksums(folder)


def _save_module(
    bundle: Bundle,
    module: str,
    packed: tuple[dict[str, np.ndarray], dict[str, str]],
    folder: Path,
    tell: Tell,
) -> None:
    start = time.perf_counter()
    arrays, metadata = packed
    shapes_of = {n: a.shape for n, a in arrays.items() if not n.endswith(storage.SCALE)}
    metadata |= {"module": module, "checked": _fingerprint(bundle.config.of(module), shapes_of)}
    if bundle.stored_dtypes.get(module):
        metadata["stored_dtypes"] = json.dumps(dict(bundle.stored_dtypes[module]))
    path = folder / f"{module}.safetensors"
    files.save_arrays(path, arrays, metadata=metadata)
    seconds = time.perf_counter() - start
    tell(f"wrote {path.name}: {path.stat().st_size:,} bytes in {seconds:.1f} s")


def _save_rest(bundle: Bundle, folder: Path) -> None:
    values = configs.to_dict(bundle.config)
    generation = {key: values.pop(key) for key in GENERATION_KEYS}
    architectures = [type(bundle.config.of(module)).__name__ for module in bundle.params]
    head = {
        "model_type": MODEL_TYPE,
        "architectures": [name.removesuffix("Config") for name in architectures],
        "source": bundle.source,
    }
    _write_json(folder / "config.json", head | values)
    _write_json(folder / "generation_config.json", generation)
    bundle.tokenizer.save(folder / "tokenizer")
    if bundle.noise is not None:
        files.save_arrays(folder / "noise.safetensors", {"noise": bundle.noise})
    (folder / "voices").mkdir()
    for name, voice in bundle.voices.items():
        save_voice(voice, voice_path(folder / "voices", name))


def _write_json(path: Path, values: Any) -> None:
    text = json.dumps(values, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
