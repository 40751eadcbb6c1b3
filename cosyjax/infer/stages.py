"""The five models of a bundle, made ready for inference: folded, fused, with their compute type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax

from cosyjax.infer.acoustic import prepare_for_synthesis
from cosyjax.infer.bundle import BundleConfig
from cosyjax.infer.compute import ComputePlan
from cosyjax.infer.decode import prefill_params, prepare_for_decode
from cosyjax.models import speaker_encoder, vocoder
from cosyjax.models.flow import FlowMatching
from cosyjax.models.speech_tokenizer import SpeechTokenizer
from cosyjax.models.text_speech_lm import TextSpeechLM


class Stage(NamedTuple):
    """A module (a frozen description) and its parameters."""

    model: Any
    params: Any
    prefill: Any = None  # of the LM alone: the parameters in the form that reads a prompt


@dataclasses.dataclass(frozen=True)
class Stages:
    """Everything between text tokens and waveform; a stage that was not asked for is None."""

    lm: Any = None
    flow: Any = None
    vocoder: Any = None
    speech_tokenizer: Any = None
    speaker_encoder: Any = None


Prepare = Callable[[Any, Any], tuple[Any, Any]]


def _as_is(params: Any, config: Any) -> tuple[Any, Any]:
    return params, config


def _at_once(prepare: Prepare) -> Prepare:
    """`prepare` as one program: a hundred small ones take seconds to compile at every start."""

    def prepared(params: Any, config: Any) -> tuple[Any, Any]:
        configs = []

        def trace(params: Any) -> Any:
            tree, config_after = prepare(params, config)
            configs.append(config_after)
            return tree

        return jax.jit(trace)(params), configs[0]

    return prepared


# Stage name -> (module in the bundle, config to model, what makes parameters ready for inference).
TABLE: dict[str, tuple[str, Any, Prepare]] = {
    "lm": ("text_speech_lm", TextSpeechLM, prepare_for_decode),
    "flow": ("flow", FlowMatching, _at_once(prepare_for_synthesis)),
    "vocoder": ("vocoder", vocoder.make_vocoder, _at_once(vocoder.fold_weight_norm)),
    "speech_tokenizer": ("speech_tokenizer", SpeechTokenizer, _as_is),
    "speaker_encoder": (
        "speaker_encoder",
        speaker_encoder.SpeakerEncoder,
        speaker_encoder.fold_batch_norm,
    ),
}


def make_stages(
    config: BundleConfig,
    params: dict[str, Any],
    plan: ComputePlan,
    names: Collection[str] = tuple(TABLE),
) -> Stages:
    """Prepares models: norms folded, projections fused, parameters on the device.

    Args:
      config: sizes.
      params: {module name: tree}; an entry is dropped once it is prepared, so that a model is not
        held twice.
      plan: operand type per stage.
      names: which stages.
    """
    made = {}
    for name in names:
        module, make, prepare = TABLE[name]
        sized = dataclasses.replace(getattr(config, name), compute=getattr(plan, name))
        if name == "lm":
            how = {"row_compute": plan.lm_rows, "attention": plan.lm_attention}
            sized = dataclasses.replace(sized, **how)
        ready, sized = prepare(params.pop(module), sized)
        ready = jax.device_put(ready)
        prefill = prefill_params(ready, sized) if name == "lm" else None
        made[name] = Stage(make(sized), ready, prefill)
    return Stages(**made)
