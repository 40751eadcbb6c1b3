"""The official method names speak as `Synthesizer` does."""

from __future__ import annotations

import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer import compat, synthesize
from cosyjax.infer.speak import SynthesisConfig

SHORT = SynthesisConfig(min_tokens_per_text_token=2.0, max_tokens_per_text_token=2.0, num_steps=2)


@pytest.fixture()
def model(tiny_tts, tiny_bundle, monkeypatch):
    monkeypatch.setattr(synthesize, "load", lambda folder, dtype=None: tiny_tts)
    monkeypatch.setattr(tiny_tts, "config", SHORT)
    return compat.CosyVoice2(tiny_bundle)


def test_zero_shot_yields_a_dictionary_per_piece(model, tiny_tts, prompt_wav) -> None:
    chunks = list(model.inference_zero_shot("Hi.", "A tone.", prompt_wav))
    voice = tiny_tts.clone(prompt_wav, "A tone.")
    wanted = tiny_tts.synthesize("Hi.", voice, mode="zero_shot")
    np.testing.assert_array_equal(chunks[0]["tts_speech"][0], wanted.wav)


def test_a_registered_speaker_is_listed_and_speaks(model, prompt_wav) -> None:
    assert model.add_zero_shot_spk("A tone.", prompt_wav, "tone")
    assert "tone" in model.list_available_spks()
    spoken = list(model.inference_zero_shot("Hi.", "", None, zero_shot_spk_id="tone"))
    assert spoken[0]["tts_speech"].shape[0] == 1


def test_a_prompt_must_be_given_somehow(model) -> None:
    with pytest.raises(InputError, match="prompt_wav nor zero_shot_spk_id"):
        list(model.inference_cross_lingual("Hi.", None))
