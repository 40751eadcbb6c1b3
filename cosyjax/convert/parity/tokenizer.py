"""Golden files of the speech tokenizer: FSQ alone, encoder and tokens, long recordings."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cosyjax.convert import names_tokenizer
from cosyjax.convert.mapping import flatten, import_tensors
from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.infer.tokenize_speech import tokenize_speech
from cosyjax.models.speech_tokenizer import SpeechTokenizer, init_params, num_tokens
from cosyjax.ops import fsq

_FIRST_CHANNELS = re.compile(r"hidden_first_?(\d+)")
_SOLO = re.compile(r"codes_(len_)?solo_?(\d+)(_len)?")


def run_tokenizer(fixture: Fixture) -> Iterator[Check]:
    """Encoder output, projection, tokens and counts of a padded batch; rows run alone."""
    model, params = _load(fixture)
    run = jax.jit(functools.partial(_stages, model))
    mel = fixture.inputs["mel"].astype(np.float32).swapaxes(1, 2)
    lengths = fixture.inputs["mel_len"].astype(np.int32)
    ours = run(params, mel, lengths)
    for name, expected in fixture.outputs.items():
        first, solo = _FIRST_CHANNELS.fullmatch(name), _SOLO.fullmatch(name)
        if first:
            yield Check(name, ours["hidden"][..., : int(first.group(1))], expected)
        elif solo:
            row = int(solo.group(2))
            alone = run(params, mel[row : row + 1, : lengths[row]], lengths[row : row + 1])
            yield Check(name, alone["codes_len" if "len" in name else "codes"], expected)
        elif name in ours:
            yield Check(name, ours[name], expected)


def _stages(model: SpeechTokenizer, params: Any, mel: jax.Array, lengths: jax.Array) -> Any:
    apply: Any = functools.partial(model.apply, {"params": params})
    hidden, counts = apply(mel, lengths, method="encode"), num_tokens(lengths)
    codes = apply(hidden, method="quantize")
    return {
        "hidden": hidden,
        "hidden_len": counts,
        "codes": fsq.codes_to_tokens(codes, model.config.num_levels),
        "codes_len": counts,
        "fsq_projected": apply(hidden, method="project"),
    }


def run_long(fixture: Fixture) -> Iterator[Check]:
    """Recordings above 30 s through overlapping windows, in a batch with short ones."""
    model, params = _load(fixture)
    mel = fixture.inputs["mel"].astype(np.float32).swapaxes(1, 2)
    tokens, counts = tokenize_speech(model, params, mel, fixture.inputs["mel_len"])
    for name, actual in (("codes", tokens), ("codes_len", counts)):
        if name in fixture.outputs:
            yield Check(name, actual, fixture.outputs[name])


def run_fsq(fixture: Fixture) -> Iterator[Check]:
    """The quantizer behind one dense layer."""
    weight = next(v for k, v in fixture.weights.items() if k.endswith("weight"))
    bias = next(v for k, v in fixture.weights.items() if k.endswith("bias"))
    levels = int(fixture.config.get("levels", 3))
    codes = fsq.round_ste(fsq.bound(fixture.inputs["x"] @ weight.T + bias, levels))
    tokens = fsq.codes_to_tokens(codes, levels)
    ours = {"digits": np.asarray(codes) + levels // 2, "codes": tokens}
    for name in sorted(set(ours) & set(fixture.outputs)):
        yield Check(name, ours[name], fixture.outputs[name])


def _load(fixture: Fixture) -> tuple[SpeechTokenizer, dict[str, Any]]:
    config = names_tokenizer.config_from_shapes({k: v.shape for k, v in fixture.weights.items()})
    abstract = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in flatten(abstract).items()}
    params = import_tensors(names_tokenizer.rules(config), fixture.weights, shapes, fixture.name)
    return SpeechTokenizer(config), jax.device_put(params)


FIXTURES = {
    "fsq": run_fsq,
    "s3tokenizer_v2": run_tokenizer,
    "s3tokenizer_full": run_tokenizer,
    "s3tokenizer_v2_long": run_long,
}
