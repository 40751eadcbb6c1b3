"""An official CosyVoice 2 folder to a bundle in memory.

llm.pt, flow.pt, hift.pt           state dicts
speech_tokenizer_v2.onnx           speech tokenizer
campplus.onnx (or .pt, .bin)       speaker encoder, batch norms folded or not
CosyVoice-BlankEN/                 tokenizer and sizes of the Qwen2 backbone
spk2info.pt                        speakers, optional
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from cosyjax import config as configs
from cosyjax.convert import (
    mapping,
    names_flow,
    names_hift,
    names_lm,
    names_speaker,
    names_tokenizer,
    onnx_speaker,
    onnx_tokenizer,
    spk2info,
)
from cosyjax.convert.torch_files import StateDict, read_state_dict
from cosyjax.errors import InputError
from cosyjax.infer.bundle import Bundle, BundleConfig, Tell
from cosyjax.infer.modules import MODULES, parameter_shapes
from cosyjax.io.files import read_json
from cosyjax.ops.noise import official_noise
from cosyjax.shapes import NUM_MELS
from cosyjax.text.tokenizer import load_tokenizer

BACKBONE = "CosyVoice-BlankEN"
SPEAKERS = "spk2info.pt"
_SIZES: dict[str, Callable[..., Any]] = {
    "text_speech_lm": names_lm.config_from_shapes,
    "flow": names_flow.config_from_shapes,
    "vocoder": names_hift.config_from_shapes,
    "speech_tokenizer": names_tokenizer.config_from_shapes,
    "speaker_encoder": names_speaker.config_from_shapes,
}
_NEARLY = 0.9  # share of the released model's tensors that makes a file one of its kind
_FIXED_WIDTHS = {  # literals of the official code
    "encoder.pre_lookahead_layer.conv1.weight": 4,
    "encoder.pre_lookahead_layer.conv2.weight": 3,
    "encoder.up_layer.conv.weight": 5,
}
_BACKBONE_SIZES = {
    "hidden_size": "embed_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "intermediate_size": "mlp_dim",
}
_BACKBONE_NUMBERS = (*_BACKBONE_SIZES, "rope_theta", "rms_norm_eps")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Source(NamedTuple):
    """Where one module lies in an official folder."""

    files: tuple[str, ...]  # the first that exists is read
    sign: str  # a key that no other module has
    rules: Callable[[Any], list[mapping.Rule]]


SOURCES = {
    "text_speech_lm": Source(("llm.pt",), "llm_decoder.weight", names_lm.rules),
    "flow": Source(("flow.pt",), "spk_embed_affine_layer.weight", names_flow.rules),
    "vocoder": Source(("hift.pt",), "m_source.l_linear.weight", names_hift.rules),
    "speech_tokenizer": Source(
        ("speech_tokenizer_v2.onnx",), "encoder.conv1.weight", names_tokenizer.rules
    ),
    "speaker_encoder": Source(
        ("campplus.onnx", "campplus.pt", "campplus.bin", "campplus_cn_common.bin"),
        "head.conv1.weight",
        names_speaker.rules,
    ),
}


def read_official(
    folder: Path | str,
    *,
    overrides: Sequence[str] = (),
    source: str = "",
    tell: Tell = lambda line: None,
) -> Bundle:
    """Reads every module, checked key by key.

    Args:
      folder: in the official layout.
      overrides: assignments such as "flow.mask_chunk=50", for sizes that tensors do not tell.
      source: what the bundle says of its origin; the folder's name where empty.
      tell: called with a line per module.

    Raises:
      InputError: a file is missing, damaged or mislabelled, or a key does not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = {module: _find(folder, module) for module in SOURCES}
    if not (folder / BACKBONE).is_dir():
        raise InputError(f"{folder}: no {BACKBONE}/, which holds the text tokenizer")
    tokenizer = load_tokenizer(folder / BACKBONE)
    states = {module: _read(path, module, tell) for module, path in paths.items()}
    backbone_path = folder / BACKBONE / "config.json"
    backbone = _backbone_config(backbone_path)
    parts = {m: _config(m, state, paths[m], backbone, overrides) for m, state in states.items()}
    _check_backbone(backbone, parts["text_speech_lm"], backbone_path)
    # Key by key first: a misshapen tensor says more than sizes that do not fit each other.
    params = {m: _params(m, state, parts[m], paths[m]) for m, state in states.items()}
    config = _whole_config(folder, parts, overrides)
    speakers = folder / SPEAKERS
    return Bundle(
        config=config,
        params=params,
        tokenizer=tokenizer,
        # The buffer has as many rows as the official mel; a model of another width never saw it.
        noise=official_noise() if config.flow.estimator.num_mels == NUM_MELS else None,
        voices=spk2info.read_voices(speakers, tokenizer) if speakers.exists() else {},
        source=source or folder.resolve().name,
        stored_dtypes={m: _our_dtypes(m, s, parts[m]) for m, s in states.items() if s.dtypes},
    )


def _find(folder: Path, module: str) -> Path:
    names = SOURCES[module].files
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        raise InputError(
            f"{folder}: no {' or '.join(names)}: the {MODULES[module].title} is missing"
        )
    return found[0]


def _read(path: Path, module: str, tell: Tell) -> StateDict:
    start = time.perf_counter()
    if path.suffix == ".onnx":
        reader = {
            "speech_tokenizer": onnx_tokenizer.read_tokenizer,
            "speaker_encoder": onnx_speaker.read_campplus,
        }[module]
        state = StateDict(reader(path), {})
    else:
        state = _tidy(module, read_state_dict(path))
    _check_label(path, module, state.tensors)
    size, seconds = path.stat().st_size, time.perf_counter() - start
    tell(f"read {path.name}: {len(state.tensors)} tensors, {size:,} bytes in {seconds:.1f} s")
    return state


def _tidy(module: str, state: StateDict) -> StateDict:
    """Drops what training alone needs: the GAN's discriminators, counters of batch norms."""
    tensors, dtypes = state.tensors, state.dtypes
    if module == "vocoder":
        tensors = {k: v for k, v in tensors.items() if not k.startswith("discriminator.")}
        tensors, dtypes = names_hift.strip_prefix(tensors), names_hift.strip_prefix(dtypes)
    if module == "speaker_encoder":
        ignored = names_speaker.IGNORED_SUFFIX
        tensors = {k: v for k, v in tensors.items() if not k.endswith(ignored)}
    return StateDict(tensors, {k: v for k, v in dtypes.items() if k in tensors})


def _check_label(path: Path, module: str, tensors: Mapping[str, Any]) -> None:
    """A file under another's name fails with hundreds of keys; one line says more."""
    if SOURCES[module].sign in tensors:
        return
    for other, place in SOURCES.items():
        if place.sign in tensors:
            title = MODULES[other].title
            raise InputError(
                f"{path}: holds the tensors of the {title} ({place.files[0]}); files were swapped"
            )


def _backbone_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    values = read_json(path)
    # Newer releases of transformers keep the rotary base one level down.
    values = dict(values.get("rope_parameters") or {}) | values
    for key in _BACKBONE_NUMBERS:
        if not isinstance(values.get(key, 0), (int, float)):
            raise InputError(f"{path}: {key}={values[key]!r}; a number is needed")
    return values


def _check_backbone(values: Mapping[str, Any], config: Any, path: Path) -> None:
    """The folder's sizes must be those of llm.pt, or the two were mixed up."""
    for theirs, ours in _BACKBONE_SIZES.items():
        if values.get(theirs, getattr(config, ours)) != getattr(config, ours):
            raise InputError(
                f"{path}: {theirs}={values[theirs]}, but the tensors of llm.pt say "
                f"{getattr(config, ours)}; the two are not of one model"
            )


def _config(
    module: str,
    state: StateDict,
    path: Path,
    backbone: dict[str, Any],
    overrides: Sequence[str],
) -> Any:
    """Reads one model's config off its tensors, then applies the overrides that concern it."""
    sizes = {key: tuple(value.shape) for key, value in state.tensors.items()}
    for key, width in _FIXED_WIDTHS.items():
        if key in sizes and sizes[key][-1:] != (width,):
            raise InputError(
                f"{path}: misshapen {key}: {sizes[key]}; the official code has a width of {width}"
            )
    full = _full_sizes(module)
    if sum(sizes.get(key) == shape for key, shape in full.items()) > _NEARLY * len(full):
        sizes = full  # so that a tensor that tells a size is compared like any other
    more = (backbone,) if module == "text_speech_lm" else ()
    with _naming(path, module):
        config = _SIZES[module](sizes, *more)
    prefix = MODULES[module].field + "."
    for assignment in overrides:
        if assignment.strip().startswith(prefix):
            config = configs.override(config, assignment.strip().removeprefix(prefix))
    return config


@functools.cache
def _full_sizes(module: str) -> dict[str, tuple[int, ...]]:
    """{official key: shape} of the released model."""
    name = {
        "text_speech_lm": "llm",
        "vocoder": "hift",
        "speech_tokenizer": "s3tokenizer_v2",
        "speaker_encoder": "campplus",
    }.get(module, module)
    text = resources.files("cosyjax.convert").joinpath("manifest", f"{name}.json").read_text()
    return {key: tuple(shape) for key, shape in json.loads(text).items()}


@contextlib.contextmanager
def _naming(path: Path, module: str) -> Iterator[None]:
    """Sizes of which no model can be made end in all sorts of errors; this names the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except (IndexError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        title = MODULES[module].title
        said = f"its tensors make no {title}: some have too few dimensions or none at all"
        raise InputError(f"{path}: {said} ({error})") from error


def _whole_config(folder: Path, parts: Mapping[str, Any], overrides: Sequence[str]) -> BundleConfig:
    prefixes = tuple(f"{MODULES[module].field}." for module in parts)
    try:
        config = BundleConfig(**{MODULES[module].field: part for module, part in parts.items()})
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    for assignment in overrides:
        if not assignment.strip().startswith(prefixes):
            config = configs.override(config, assignment)
    return config


def _params(module: str, state: StateDict, sizes: Any, path: Path) -> dict[str, Any]:
    with _naming(path, module):
        wanted = parameter_shapes(module, sizes)
    if module == "text_speech_lm":
        return names_lm.import_lm(state.tensors, sizes, wanted, str(path))
    rules = SOURCES[module].rules(sizes)
    return mapping.import_tensors(rules, state.tensors, wanted, str(path))


def _our_dtypes(module: str, state: StateDict, sizes: Any) -> dict[str, str]:
    rules = SOURCES[module].rules(sizes)
    return {rule.ours: state.dtypes[rule.theirs] for rule in rules if rule.theirs in state.dtypes}


def resolve(source: str) -> Path:
    """Returns the folder `source`, or downloads the hub repository of that id.

    Raises:
      InputError: neither a folder nor a reachable hub id.
    """
    folder = Path(source)
    if folder.exists() or not _HUB_ID.fullmatch(source):
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(
            f"{source}: no such folder; if it is a hub id: pip install cosyjax[convert]"
        ) from error
    wanted = [name for place in SOURCES.values() for name in place.files]
    wanted += [SPEAKERS, *(f"{BACKBONE}/{n}" for n in ("*.json", "merges.txt"))]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted))
    except Exception as error:  # the hub client raises its own, requests' and OS errors
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source}: no such folder, and not to be had from the hub ({line})"
        ) from error
