"""A loaded bundle speaks: the same seed the same audio, pieces alone as together, every mode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer import buckets, chunks
from cosyjax.infer.speak import SynthesisConfig

SHORT = SynthesisConfig(min_tokens_per_text_token=2.0, max_tokens_per_text_token=2.0, num_steps=2)
TEXT = "Hello there."


@pytest.fixture(scope="module")
def voice(tiny_tts, prompt_wav):
    return tiny_tts.clone(prompt_wav, "A gliding tone.", name="tone")


@pytest.fixture(scope="module")
def speech(tiny_tts, voice):
    return tiny_tts.synthesize(TEXT, voice, seed=3, config=SHORT)


def test_speech_has_the_length_of_its_tokens(speech) -> None:
    num_tokens = sum(map(len, speech.speech_tokens))
    assert num_tokens > 0
    assert len(speech.wav) == 960 * num_tokens
    assert speech.sample_rate_hz == 24_000
    assert np.all(np.isfinite(speech.wav)) and np.max(np.abs(speech.wav)) <= 0.99


def test_the_same_seed_gives_the_same_audio_and_another_seed_another(
    tiny_tts, voice, speech
) -> None:
    again = tiny_tts.synthesize(TEXT, voice, seed=3, config=SHORT)
    np.testing.assert_array_equal(again.wav, speech.wav)
    other = tiny_tts.synthesize(TEXT, voice, seed=4, config=SHORT)
    assert other.wav.shape != speech.wav.shape or np.any(other.wav != speech.wav)


def test_a_piece_sounds_the_same_whatever_stood_before_it(tiny_tts, voice) -> None:
    conditions = tiny_tts.conditions(voice)
    first, second = "One small step.", "Two small steps."
    together = list(tiny_tts.speak_pieces([first, second], conditions, config=SHORT))
    swapped = list(tiny_tts.speak_pieces(["Else.", second], conditions, config=SHORT))
    np.testing.assert_array_equal(together[1][1], swapped[1][1])


@pytest.mark.slow
def test_every_mode_speaks(tiny_tts, voice) -> None:
    for mode, instruct in (("cross_lingual", ""), ("instruct", "Softly."), ("sft", "")):
        made = tiny_tts.synthesize(TEXT, voice, mode=mode, instruct=instruct, config=SHORT)
        assert len(made.wav) > 0, mode


def test_faster_speech_is_shorter_and_keeps_its_tokens(tiny_tts, voice, speech) -> None:
    fast = tiny_tts.synthesize(TEXT, voice, seed=3, speed=1.5, config=SHORT)
    np.testing.assert_array_equal(fast.speech_tokens[0], speech.speech_tokens[0])
    assert len(fast.wav) == 480 * int(len(speech.wav) // 480 / 1.5)


@pytest.mark.slow
def test_progress_is_told_after_each_piece(tiny_tts, voice) -> None:
    told = []
    pieces = ["one two three four five six seven eight nine ten " * 3 + "."] * 2
    tiny_tts.synthesize(" ".join(pieces), voice, config=SHORT, progress=told.append)
    assert [p.piece for p in told] == list(range(1, told[0].num_pieces + 1))
    assert told[-1].audio_s > 0 and told[-1].left_s == 0


def test_a_cloned_voice_survives_its_file(tiny_tts, voice, tmp_path) -> None:
    from cosyjax.infer.voice import load_voice, save_voice

    save_voice(voice, tmp_path / "tone.safetensors")
    again = load_voice(tmp_path / "tone.safetensors")
    for field in dataclasses.fields(voice):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(voice, field.name))


def test_tokens_and_frames_of_a_voice_cover_the_same_time(voice) -> None:
    assert voice.prompt_mel.shape == (2 * len(voice.speech_tokens), 80)
    assert 35 <= len(voice.speech_tokens) <= 38  # 1.5 s at 25 Hz
    assert voice.speaker_embedding.shape == (192,)


def test_a_recording_is_spoken_again_in_another_voice(tiny_tts, voice, prompt_wav) -> None:
    made = tiny_tts.convert_voice(prompt_wav, voice)
    assert abs(made.seconds - 1.5) <= 0.08


@pytest.mark.slow
def test_flow_padding_of_a_bucket_changes_nothing(tiny_tts, voice, monkeypatch) -> None:
    import jax

    conditions = tiny_tts.conditions(voice)
    tokens = np.arange(20, dtype=np.int32)
    args = (tiny_tts.stages, tokens, conditions, jax.random.key(0), tiny_tts.bundle.noise)
    small = chunks.tokens_to_wav(*args, config=SHORT)
    monkeypatch.setattr(buckets, "SPEECH_TOKENS", (96,))
    monkeypatch.setattr(buckets, "MEL_FRAMES", (96,))
    large = chunks.tokens_to_wav(*args, config=SHORT)
    # Sums over another length round differently; F0 turns that into phase.
    assert np.sqrt(np.mean((small - large) ** 2)) < 1e-3 * np.std(small)


@pytest.mark.parametrize("text", ["", "   ", "!!! ... ？？", "\n\t"])
def test_a_text_without_words_is_refused(tiny_tts, text) -> None:
    with pytest.raises(InputError, match="nothing to speak"):
        tiny_tts.pieces(text)


def test_fifty_thousand_characters_are_refused_before_any_work(tiny_tts) -> None:
    with pytest.raises(InputError, match="50000 characters; at most 10000"):
        tiny_tts.pieces("a" * 50_000)


def test_an_unknown_voice_names_the_nearest(tiny_tts) -> None:
    with pytest.raises(InputError, match="no voice 'my/voce'; did you mean 'my/voice'"):
        tiny_tts.voice("my/voce")


def test_a_mode_that_the_voice_cannot_serve_is_refused(tiny_tts) -> None:
    embedding_only = next(n for n in tiny_tts.voices() if not tiny_tts.voice(n).has_prompt)
    with pytest.raises(InputError, match="no transcribed prompt"):
        tiny_tts.conditions(embedding_only, "zero_shot")
    with pytest.raises(InputError, match="did you mean 'zero_shot'"):
        tiny_tts.conditions(embedding_only, "zeroshot")


def test_speed_has_limits(tiny_tts, voice) -> None:
    with pytest.raises(InputError, match="speed=9"):
        tiny_tts.synthesize(TEXT, voice, speed=9)


def test_the_official_controller_stays_within_reach(tiny_tts, voice) -> None:
    wavs = list(tiny_tts.stream("Hi.", voice, controller="official", seed=3))
    pieces, conditions = tiny_tts.pieces("Hi."), tiny_tts.conditions(voice)
    wanted = list(tiny_tts.speak_chunks(pieces, conditions, seed=3))
    np.testing.assert_array_equal(np.concatenate(wavs), np.concatenate(wanted))
    with pytest.raises(InputError, match="takes a whole text"):
        tiny_tts.stream(iter("Hi."), voice, controller="official")
    with pytest.raises(InputError, match="did you mean 'exact'|exact"):
        tiny_tts.stream("Hi.", voice, controller="exakt")
