"""The five models of a bundle: their names, files, configs and parameter shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import traverse_util

from cosyjax.models import flow, speaker_encoder, speech_tokenizer, text_speech_lm, vocoder


class Module(NamedTuple):
    """How one model is found in a bundle."""

    field: str  # of BundleConfig
    init_params: Callable[[Any, jax.Array], Any]  # (config, key) -> tree
    title: str  # for messages and the model card


MODULES: dict[str, Module] = {
    "text_speech_lm": Module("lm", text_speech_lm.init_params, "text-speech language model"),
    "flow": Module("flow", flow.init_params, "flow matching"),
    "vocoder": Module("vocoder", vocoder.init_params, "vocoder"),
    "speech_tokenizer": Module(
        "speech_tokenizer", speech_tokenizer.init_params, "speech tokenizer"
    ),
    "speaker_encoder": Module("speaker_encoder", speaker_encoder.init_params, "speaker encoder"),
}


@functools.lru_cache(maxsize=64)
def parameter_shapes(module: str, config: Any) -> dict[str, tuple[int, ...]]:
    """{dotted path: shape} of a model's parameters; takes seconds the first time, and no memory."""
    tree = jax.eval_shape(lambda key: MODULES[module].init_params(config, key), jax.random.key(0))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree, sep=".").items()}
