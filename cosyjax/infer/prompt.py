"""From a prompt recording to a voice: checks, speech tokens, prompt mel, speaker embedding."""

from __future__ import annotations

import jax
import numpy as np

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.infer.buckets import AUDIO_SECONDS, bucket, pad_to
from cosyjax.infer.embed_speaker import embed_speaker
from cosyjax.infer.stages import Stages
from cosyjax.infer.tokenize_speech import tokenize_speech
from cosyjax.infer.voice import Voice
from cosyjax.io import audio
from cosyjax.ops import mel, resample

MIN_SECONDS = 0.5
MAX_SECONDS = 30.0  # the limit of the official front end
MIN_RATE_HZ = 16_000
SILENCE_PEAK = 1e-3  # -60 dBFS


def read_prompt(source: audio.AudioSource) -> tuple[np.ndarray, int]:
    """Reads and checks a prompt recording, given by its path or as the bytes of its file.

    Returns:
      wav: [N] float32, mean over channels.
      sample_rate_hz: the file's own rate.

    Raises:
      InputError: not audio, a rate below 16 kHz, shorter than 0.5 s, longer than 30 s, or silent.
    """
    wav, rate_hz = audio.read_raw(source)
    path = "the recording" if isinstance(source, bytes) else source
    seconds = len(wav) / rate_hz
    if rate_hz < MIN_RATE_HZ:
        raise InputError(
            f"{path}: sampled at {rate_hz} Hz; a prompt needs at least {MIN_RATE_HZ} Hz: "
            "use a better recording (resampling does not bring the voice back)"
        )
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise InputError(
            f"{path}: {seconds:.2f} s long; a prompt is {MIN_SECONDS} to {MAX_SECONDS:.0f} s: "
            "cut it to one or two clear sentences"
        )
    peak = float(np.max(np.abs(wav)))
    if peak < SILENCE_PEAK:
        raise InputError(f"{path}: silent (peak {peak:.1e}); give a recording with speech in it")
    return wav, rate_hz


_log_mel_128 = jax.jit(mel.log_mel_128)
_mel_80 = jax.jit(mel.mel_80)
_resample = jax.jit(resample.resample, static_argnums=(1, 2))


def resampled(wav: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """[N] at one rate -> [N'] at another; lengths go to whole seconds, so few programs compile."""
    if from_hz == to_hz:
        return wav
    seconds = bucket(int(np.ceil(len(wav) / from_hz)), AUDIO_SECONDS, "seconds of audio")
    out = _resample(pad_to(wav, seconds * from_hz), from_hz, to_hz)
    return np.asarray(out)[: resample.num_resampled(len(wav), from_hz, to_hz)]


def speech_tokens(stages: Stages, wav_16k: np.ndarray) -> np.ndarray:
    """[N] at 16 kHz -> [T] int32 speech tokens."""
    wav, num_samples = _bucketed(wav_16k, shapes.TOKENIZER_RATE_HZ)
    features = _log_mel_128(wav, num_samples)
    num_frames = num_samples // 160
    stage = stages.speech_tokenizer
    tokens, num_tokens = tokenize_speech(stage.model, stage.params, features, num_frames)
    return np.asarray(tokens)[0, : int(num_tokens[0])].astype(np.int32)


def speaker_embedding(stages: Stages, wav_16k: np.ndarray) -> np.ndarray:
    """[N] at 16 kHz -> [192] float32."""
    wav, num_samples = _bucketed(wav_16k, shapes.TOKENIZER_RATE_HZ)
    stage = stages.speaker_encoder
    return np.asarray(embed_speaker(stage.model, stage.params, wav, num_samples))[0]


def mel_frames(wav_24k: np.ndarray) -> np.ndarray:
    """[N] at 24 kHz -> [F, 80] log-mel."""
    wav, num_samples = _bucketed(wav_24k, shapes.SAMPLE_RATE_HZ)
    frames = np.asarray(_mel_80(wav, num_samples))[0]
    return frames[: len(wav_24k) // shapes.SAMPLES_PER_FRAME]


def _bucketed(wav: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    seconds = bucket(int(np.ceil(len(wav) / rate_hz)), AUDIO_SECONDS, "seconds of audio")
    return pad_to(wav, seconds * rate_hz)[None], np.array([len(wav)], np.int32)


def make_voice(
    stages: Stages, source: audio.AudioSource, transcript: str, *, name: str, note: str = ""
) -> Voice:
    """Encodes a prompt recording once, for any number of syntheses.

    Args:
      stages: the models.
      source: path of an audio file, or its bytes.
      transcript: what is said in it, normalised as text is; "" gives a voice for cross-lingual
        use, where the LM sees no prompt.
      name: name of the voice.
      note: origin and consent, kept in the file.

    Raises:
      InputError: see `read_prompt`.
    """
    wav, rate_hz = read_prompt(source)
    wav_16k = resampled(wav, rate_hz, shapes.TOKENIZER_RATE_HZ)
    tokens = speech_tokens(stages, wav_16k)
    prompt_mel = mel_frames(resampled(wav, rate_hz, shapes.SAMPLE_RATE_HZ))
    # Tokens and frames come from two clocks; the official front end cuts to what both cover.
    length = min(len(prompt_mel) // shapes.FRAMES_PER_TOKEN, len(tokens))
    return Voice(
        name=name,
        speaker_embedding=speaker_embedding(stages, wav_16k),
        prompt_text=transcript,
        speech_tokens=tokens[:length],
        prompt_mel=prompt_mel[: length * shapes.FRAMES_PER_TOKEN],
        note=note,
    )
