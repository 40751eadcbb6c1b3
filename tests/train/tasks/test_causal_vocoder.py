"""The causal vocoder trains in the vocoder's stage, and goes into a bundle that speaks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

import cosyjax
from cosyjax.infer.bundle import load_bundle, save_bundle
from cosyjax.infer.modules import parameter_shapes
from cosyjax.models.causal_hift import CausalHiFT
from cosyjax.train.tasks.vocoder import GENERATOR, VocoderTask
from tests.train.tasks.overfit import overfit
from tests.train.tasks.test_vocoder import MODEL, TASK, batch_of

CAUSAL = dataclasses.replace(TASK, model=dataclasses.replace(MODEL, causal=True, lookahead=2))


def test_it_costs_what_its_convolutions_do() -> None:
    cost = lambda **fields: VocoderTask(dataclasses.replace(MODEL, causal=True, **fields)).cost(
        {"wav": (1, 24_000), "f0": (1, 50)}
    )
    further = cost(lookahead=5).flops - cost(lookahead=4).flops
    taps = 50 * 80 * (MODEL.base_channels + MODEL.f0_channels)
    assert further == 4 * 2 * taps  # four passes, two operations each


@pytest.mark.slow
def test_it_learns_one_batch_in_the_same_loop() -> None:
    after, history = overfit(CAUSAL, batch_of(), 5, 3e-3)
    mel = [row[f"{GENERATOR}/loss_mel"] for row in history]
    assert mel[-1] < 0.95 * mel[0]  # on its way; each step has its own noise
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(after))


@pytest.mark.slow
def test_a_bundle_takes_it_and_speaks(tiny_bundle: Path, prompt_wav: Path, tmp_path: Path) -> None:
    params = nn.meta.unbox(jax.jit(CAUSAL.init)(jax.random.key(0)))
    names, trees = CAUSAL.modules(params)
    base = load_bundle(tiny_bundle)
    made = dataclasses.replace(
        base,
        config=dataclasses.replace(base.config, vocoder=names["vocoder"]),
        params={**base.params, "vocoder": jax.tree.map(np.asarray, trees["vocoder"])},
    )
    save_bundle(made, tmp_path / "causal")
    tts = cosyjax.load(tmp_path / "causal", dtype="float32")
    assert isinstance(tts.stages.vocoder.model, CausalHiFT)
    assert set(parameter_shapes("vocoder", names["vocoder"]))
    speech = tts.synthesize("Hello.", tts.clone(prompt_wav, "A gliding tone."))
    assert speech.seconds > 0 and np.all(np.isfinite(speech.wav))
