"""Trained stages to a bundle that speaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer.bundle import Bundle, BundleConfig, load_bundle
from cosyjax.infer.modules import MODULES
from cosyjax.text.tokenizer import TextTokenizer, load_tokenizer
from cosyjax.train.checkpoint import read_workdir

STAGE_OF = {
    "text_speech_lm": "lm",
    "flow": "flow",
    "vocoder": "vocoder",
    "speech_tokenizer": "tokenizer",
    "speaker_encoder": "speaker",
}
WHICH = ("best", "last")


def assemble(
    workdirs: Sequence[Path],
    *,
    base: Path | None = None,
    tokenizer: Path | None = None,
    which: str = "best",
    partial: bool = False,
) -> Bundle:
    """Puts stages together.

    Args:
      workdirs: of runs, no two of which train the same model.
      base: a bundle that gives what no workdir trains: models, text tokenizer, noise, voices.
      tokenizer: folder of the text tokenizer; None takes that of `base`, or the one that a
        workdir's data was read with.
      which: the "best" checkpoint by held-out loss, or the "last".
      partial: models may be missing, for a bundle that only prepares data.

    Returns:
      The bundle, parameters float32 in host memory.

    Raises:
      InputError: two workdirs with one model, a model that nobody gives, models that do not fit
        each other, or no text tokenizer.
    """
    found = load_bundle(base, _held(base)) if base is not None else None
    configs = {m: found.config.of(m) for m in found.params} if found else {}
    params = dict(found.params) if found else {}
    trained: dict[str, Path] = {}
    for workdir in workdirs:
        run, groups = read_workdir(workdir, which)
        own_configs, own_params = run.task.modules(groups)
        for module in own_configs:
            if module in trained:
                raise InputError(f"{trained[module]} and {workdir} both train {module}; give one")
            trained[module] = workdir
        configs |= own_configs
        params |= jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), own_params)
        tokenizer = tokenizer or (None if found else _tokenizer_of(run.data))
    _check_complete(configs, partial)
    return Bundle(
        config=_config(found.config if found else BundleConfig(), configs),
        params=params,
        tokenizer=_read_tokenizer(tokenizer, found),
        noise=None if found is None or "flow" in trained else found.noise,
        voices=found.voices if found and not trained.keys() & _VOICED else {},
        source="trained with cosyjax",
    )


# A voice holds speech tokens and an embedding: other models of these two make it meaningless.
_VOICED = {"speech_tokenizer", "speaker_encoder"}


def _held(base: Path) -> list[str]:
    """The models of a bundle, which a partial one has not all."""
    return [module for module in MODULES if (base / f"{module}.safetensors").is_file()]


def _check_complete(configs: dict[str, Any], partial: bool) -> None:
    missing = [module for module in MODULES if module not in configs]
    if missing and not partial:
        stages = ", ".join(f"{module} (stage {STAGE_OF[module]!r})" for module in missing)
        raise InputError(
            f"no workdir gives {stages}; train them, take them from --base BUNDLE, or make a "
            "bundle that only prepares data with --partial"
        )


def _config(config: BundleConfig, models: dict[str, Any]) -> BundleConfig:
    """`config` with these models; sizes of absent ones follow, as nothing else uses them."""
    values = {MODULES[module].field: model for module, model in models.items()}
    if "speech_tokenizer" in models:
        codes = models["speech_tokenizer"].codebook_size
        if "text_speech_lm" not in models:
            values["lm"] = dataclasses.replace(config.lm, codebook_size=codes)
        if "flow" not in models:
            values["flow"] = dataclasses.replace(config.flow, vocab_size=codes)
    if "speaker_encoder" in models and "flow" not in models:
        flow = values.get("flow", config.flow)
        size = models["speaker_encoder"].embed_dim
        values["flow"] = dataclasses.replace(flow, speaker_dim=size)
    return dataclasses.replace(config, **values)


def _tokenizer_of(data: Any) -> Path | None:
    folder = getattr(data, "tokenizer", "")
    return Path(folder) if folder else None


def _read_tokenizer(folder: Path | None, base: Bundle | None) -> TextTokenizer:
    if folder is not None:
        return load_tokenizer(folder)
    if base is not None:
        return base.tokenizer
    raise InputError("no text tokenizer: give its folder with --tokenizer, or a --base bundle")
