"""Trained stages become a bundle, or a clear error says what is missing."""

from __future__ import annotations

import types
from pathlib import Path

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer.bundle import load_bundle, save_bundle
from cosyjax.infer.modules import MODULES
from cosyjax.train import assemble


class Run:
    """A workdir's config whose task gives one module of the tiny bundle, moved by 1."""

    def __init__(self, module, bundle, tokenizer=""):
        self.data = types.SimpleNamespace(tokenizer=tokenizer)
        self.task = self
        self._module, self._bundle = module, bundle

    def modules(self, groups):
        del groups
        tree = jax.tree.map(lambda leaf: leaf + 1, self._bundle.params[self._module])
        return {self._module: self._bundle.config.of(self._module)}, {self._module: tree}


@pytest.fixture
def given(tiny_bundle, monkeypatch):
    """assemble() whose workdirs are named after modules of the tiny bundle."""
    bundle = load_bundle(tiny_bundle)
    folder = str(tiny_bundle / "tokenizer")
    read = lambda workdir, which: (Run(workdir.name, bundle, folder), {})
    monkeypatch.setattr(assemble, "read_workdir", read)
    return lambda names, **options: assemble.assemble([Path(n) for n in names], **options)


def test_five_stages_make_a_bundle_that_is_saved_and_read(given, tmp_path) -> None:
    made = given(MODULES)
    save_bundle(made, tmp_path / "bundle")
    again = load_bundle(tmp_path / "bundle")
    assert set(again.params) == set(MODULES) and again.config == made.config


def test_a_stage_takes_the_place_of_that_of_the_base(given, tiny_bundle) -> None:
    made, before = given(["vocoder"], base=tiny_bundle), load_bundle(tiny_bundle)
    for module in MODULES:
        moved = 1 if module == "vocoder" else 0
        leaves = jax.tree.leaves(made.params[module]), jax.tree.leaves(before.params[module])
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, np.asarray(b) + np.float32(moved))
    assert set(made.voices) == set(before.voices) and made.noise is not None


def test_voices_of_another_tokenizer_are_left_behind(given, tiny_bundle) -> None:
    assert not given(["speech_tokenizer"], base=tiny_bundle).voices


def test_a_missing_stage_is_named(given) -> None:
    with pytest.raises(InputError, match=r"vocoder \(stage 'vocoder'\)"):
        given([module for module in MODULES if module != "vocoder"])


def test_a_partial_bundle_fits_the_sizes_of_what_it_has(given) -> None:
    made = given(["speech_tokenizer", "speaker_encoder"], partial=True)
    assert made.config.lm.codebook_size == made.config.speech_tokenizer.codebook_size
    assert made.config.flow.speaker_dim == made.config.speaker_encoder.embed_dim


def test_a_partial_bundle_is_a_base_for_the_stages_that_it_lacks(given, tmp_path) -> None:
    first = ["speech_tokenizer", "speaker_encoder"]
    save_bundle(given(first, partial=True), tmp_path / "front")
    rest = [module for module in MODULES if module not in first]
    made = given(rest, base=tmp_path / "front")
    assert made.config == given(MODULES).config and set(made.params) == set(MODULES)
    with pytest.raises(InputError, match=r"flow \(stage 'flow'\)"):
        given(rest[:1], base=tmp_path / "front")


def test_two_runs_of_one_stage_are_refused(given) -> None:
    with pytest.raises(InputError, match="both train flow"):
        given(["flow", "flow"])
