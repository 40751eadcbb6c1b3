"""Parity of the speaker encoder: filterbank, intermediate and final outputs, the ONNX file."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from cosyjax.convert import names_speaker, onnx_speaker
from cosyjax.convert.mapping import flatten, import_tensors
from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.errors import InputError
from cosyjax.models.speaker_encoder import SpeakerEncoder, init_params
from cosyjax.ops import fbank

OUTPUT = re.compile(
    r"(?P<what>[a-z]+?)(?:(?P<block>\d+)_)?_?(?P<wav>\d*)(?:_every_?(?P<every>\d+))?"
)


def from_wav(fixture: Fixture) -> Iterator[Check]:
    """`fbank<w>`, `emb<w>` and `head<w>`, `tdnn<w>`, `block<n>_<w>` [_every<k>] of `wav<w>`."""
    model, params = _load(fixture.weights)
    embed = jax.jit(functools.partial(_embed, model))
    known: dict[str, dict[str, Any]] = {}
    # Every wav is padded to the longest: one program, and padding must not matter.
    longest = max(wav.size for wav in fixture.inputs.values())
    for name, expected in fixture.outputs.items():
        parsed = OUTPUT.fullmatch(name)
        wav = f"wav{parsed['wav']}" if parsed else ""
        if parsed is None or wav not in fixture.inputs:
            raise InputError(f"{fixture.name}: out.{name} belongs to no in.wav")
        if wav not in known:
            samples = fixture.inputs[wav].reshape(1, -1)
            padded = np.pad(samples, ((0, 0), (0, longest - samples.size)))
            known[wav] = embed(params, padded, np.array([samples.size]))
        actual = known[wav][f"{parsed['what']}{parsed['block'] or ''}"]
        if expected.ndim == 3:  # [1, T, D] here, [1, D, T] there
            actual = actual.swapaxes(1, 2)[..., : expected.shape[2]]
        elif actual.ndim == 3:
            actual = actual[0, : expected.shape[0]]
        if parsed["every"]:
            actual = actual[:, :: int(parsed["every"])]
        yield Check(name, actual, expected)


def _embed(
    model: SpeakerEncoder, params: Any, wav: jax.Array, num_samples: jax.Array
) -> dict[str, jax.Array]:
    config = fbank.FbankConfig(num_mels=model.config.num_mels)
    energies = fbank.fbank(wav, num_samples, config=config)
    lengths = fbank.num_frames(num_samples, config)
    features = fbank.subtract_mean(energies, lengths)
    embedding, kept = model.apply({"params": params}, features, lengths, with_intermediates=True)
    blocks = {
        re.sub(r"block_(\d+)", lambda m: f"block{int(m[1]) + 1}", k): v for k, v in kept.items()
    }
    return {"fbank": energies, "emb": embedding, **blocks}


def from_onnx(fixture: Fixture) -> Iterator[Check]:
    """`emb_<made by>[_<frames>]` from `feat`, with the weights of the .onnx file beside it."""
    tensors = onnx_speaker.read_campplus(fixture.path.with_suffix(".onnx"))
    model, params = _load(tensors)
    apply = jax.jit(model.apply)
    features = fixture.inputs["feat"]
    for name, expected in fixture.outputs.items():
        first = re.search(r"_(\d+)$", name)
        length = int(first[1]) if first else features.shape[1]
        yield Check(name, apply({"params": params}, features, np.array([length])), expected)


def _load(tensors: Mapping[str, np.ndarray]) -> tuple[SpeakerEncoder, dict[str, Any]]:
    used = {k: v for k, v in tensors.items() if not k.endswith(names_speaker.IGNORED_SUFFIX)}
    config = names_speaker.config_from_shapes({k: v.shape for k, v in used.items()})
    abstract = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    needed = {path: leaf.shape for path, leaf in flatten(abstract).items()}
    return SpeakerEncoder(config), import_tensors(names_speaker.rules(config), used, needed)


FIXTURES = {"fbank_campplus": from_wav, "campplus_small": from_onnx}
