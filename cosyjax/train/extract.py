"""Features of recordings in batches: what the LM, the flow and the vocoder learn from.

One compiled program per length and sample rate resamples a batch and runs the speech tokenizer,
the speaker encoder, the mel spectrogram and the pitch on it. Clips wait in queues by length until
a batch is full, so short clips are not padded to long ones.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import shapes
from cosyjax.data.prepare import Extract, threaded
from cosyjax.data.progress import Progress
from cosyjax.data.records import PART, read_json
from cosyjax.errors import InputError
from cosyjax.infer.bundle import load_bundle
from cosyjax.infer.compute import ComputePlan, make_plan
from cosyjax.infer.stages import Stages, make_stages
from cosyjax.io import audio
from cosyjax.io.files import CHECKSUMS
from cosyjax.models.speech_tokenizer import num_tokens
from cosyjax.ops import fbank, mel, pitch, resample
from cosyjax.text.normalize import load_spoken_forms, normalize

MODULES = ("speech_tokenizer", "speaker_encoder")
MIN_SAMPLES_16K = 400  # one frame of the speaker encoder
IN_FLIGHT = 2  # batches that run while the next is put together


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """How clips are put into batches."""

    batch_s: float = 32.0  # seconds of audio per batch, padding included
    # Lengths that clips are padded to, each a compiled program; read speech has 2 to 15 s.
    buckets_s: tuple[float, ...] = (
        *(1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0),
        *(12.0, 14.0, 16.0, 20.0, 24.0, 30.0),
    )

    def __post_init__(self) -> None:
        if list(self.buckets_s) != sorted(set(self.buckets_s)) or self.buckets_s[0] < 0.5:
            raise InputError(f"buckets_s={self.buckets_s}: rising lengths from 0.5 s are needed")
        if self.batch_s <= 0:
            raise InputError(f"batch_s={self.batch_s} must be positive")

    def bucket(self, seconds: float) -> float:
        """The length that a clip is padded to."""
        for size in self.buckets_s:
            if seconds <= size:
                return size
        raise InputError(f"{seconds:.1f} s of audio; at most {self.buckets_s[-1]} s fit")

    def rows(self, bucket_s: float) -> int:
        """Clips in a batch of this length."""
        return max(1, int(self.batch_s / bucket_s))


class Features(NamedTuple):
    """Features of a batch, padded; row b has `num_tokens[b]` tokens and twice as many frames."""

    speech_tokens: Any  # [B, T] int32
    num_tokens: Any  # [B] int32
    speaker_embedding: Any  # [B, 192] float32, not normalised
    mel: Any  # [B, F, 80] float16, natural log
    f0: Any  # [B, F] float32 Hz, 0 where unvoiced


def extract_batch(
    stages: Stages, wav: np.ndarray, num_samples: np.ndarray, sample_rate_hz: int
) -> Features:
    """Computes every feature of a batch of recordings in one program.

    Args:
      stages: with speech_tokenizer and speaker_encoder.
      wav: [B, N] float32 in [-1, 1]; pad N to a few lengths, each is compiled once. N covers at
        most 30 s.
      num_samples: [B] valid samples; a row of 0 is padding.
      sample_rate_hz: of `wav`.

    Returns:
      Features on the device; the call returns before they are computed. Tokens and mel come from
      two clocks and are cut to what both cover.
    """
    shapes.check(wav, "B N", "wav")
    num_samples = np.asarray(num_samples, np.int64)
    shapes.check(num_samples, "B", "num_samples", B=wav.shape[0])
    # In 64 bits, and on the host: the product of samples and rate is beyond 32.
    counts = [
        (-(-num_samples * rate_hz // sample_rate_hz)).astype(np.int32)
        for rate_hz in (shapes.TOKENIZER_RATE_HZ, shapes.SAMPLE_RATE_HZ)
    ]
    tokenizer, speaker = stages.speech_tokenizer, stages.speaker_encoder
    models, params = (tokenizer.model, speaker.model), (tokenizer.params, speaker.params)
    return extract_program(models, params, wav, *counts, sample_rate_hz=sample_rate_hz)


@functools.partial(jax.jit, static_argnames=("models", "sample_rate_hz"))
def extract_program(
    models: tuple[Any, Any],
    params: tuple[Any, Any],
    wav: jax.Array,
    num_16k: jax.Array,
    num_24k: jax.Array,
    *,
    sample_rate_hz: int,
) -> Features:
    """What `extract_batch` runs.

    Args:
      models: speech tokenizer and speaker encoder.
      params: theirs.
      wav: [B, N] float32.
      num_16k: [B] int32, samples of each row at the tokenizer's rate.
      num_24k: [B] int32, samples at the mel's rate.
      sample_rate_hz: of `wav`.
    """
    wav_16k = _at_rate(wav, sample_rate_hz, shapes.TOKENIZER_RATE_HZ, num_16k)
    wav_24k = _at_rate(wav, sample_rate_hz, shapes.SAMPLE_RATE_HZ, num_24k)
    num_frames = num_16k // mel.WHISPER_128.hop_samples
    tokens = models[0].apply(
        {"params": params[0]}, mel.log_mel_128(wav_16k, num_16k), num_frames, method="tokens"
    )[0]
    config = fbank.FbankConfig(num_mels=models[1].config.num_mels)
    # A row of padding has no frame to take a mean of; it is given one, and thrown away.
    lengths = fbank.num_frames(jnp.maximum(num_16k, MIN_SAMPLES_16K), config)
    banks = fbank.fbank(wav_16k, jnp.maximum(num_16k, MIN_SAMPLES_16K), config=config)
    embedding = models[1].apply({"params": params[1]}, fbank.subtract_mean(banks, lengths), lengths)
    frames = num_24k // shapes.SAMPLES_PER_FRAME
    counts = jnp.minimum(num_tokens(num_frames), frames // shapes.FRAMES_PER_TOKEN)
    return Features(
        speech_tokens=tokens.astype(jnp.int32),
        num_tokens=counts.astype(jnp.int32),
        speaker_embedding=embedding.astype(jnp.float32),
        mel=mel.mel_80(wav_24k, num_24k).astype(jnp.float16),
        f0=pitch.yin(wav_24k, num_24k),
    )


def _at_rate(wav: jax.Array, from_hz: int, to_hz: int, num_samples: jax.Array) -> jax.Array:
    """Resamples a batch; what the filter leaves beyond a row's end is dropped."""
    out = resample.resample(wav, from_hz, to_hz)
    return jnp.where(jnp.arange(out.shape[1]) < num_samples[:, None], out, 0.0)


class _Waiting(NamedTuple):
    place: int  # of the record in its part
    wav: np.ndarray  # [N] float32 at the file's own rate


def make_extract(
    stages: Stages,
    encode: Callable[[str], list[int]],
    config: ExtractConfig = ExtractConfig(),
) -> Extract:
    """Returns the function that turns the audio records of a part into feature records.

    Args:
      stages: with speech_tokenizer and speaker_encoder.
      encode: text to ids, normalising included.
      config: batch sizes.
    """

    def extract(records: Iterable[dict[str, Any]], progress: Progress) -> Iterator[dict[str, Any]]:
        named: list[dict[str, Any]] = []
        made: dict[int, dict[str, Any]] = {}
        running: list[tuple[list[_Waiting], Features]] = []

        def finish(keep: int) -> None:
            while len(running) > keep:
                rows, features = running.pop(0)
                made.update(_rows(rows, jax.device_get(features)))
                progress.add(len(rows), sum(named[row.place]["duration_s"] for row in rows))

        for rows, batch, rate_hz in _batches(_decoded(records, named, encode), config):
            running.append((rows, extract_batch(stages, *batch, rate_hz)))
            finish(IN_FLIGHT)
        finish(0)
        for place, fields in enumerate(named):
            yield fields | made.pop(place)

    return extract


def _decoded(
    records: Iterable[dict[str, Any]],
    named: list[dict[str, Any]],
    encode: Callable[[str], list[int]],
) -> Iterator[tuple[np.ndarray, int]]:
    """Waveforms and their rates; everything else of a record goes to `named`."""

    def decode(record: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray, int]:
        wav, rate_hz = audio.read_raw(record.pop("audio"))
        return record, wav, rate_hz

    for record, wav, rate_hz in threaded(decode, records):
        named.append(record | {"text_tokens": np.asarray(encode(record["text"]), np.int32)})
        yield wav, rate_hz


def _batches(
    clips: Iterable[tuple[np.ndarray, int]], config: ExtractConfig
) -> Iterator[tuple[list[_Waiting], tuple[np.ndarray, np.ndarray], int]]:
    """Batches of clips of similar length and one rate, each padded to its bucket.

    What is left when the clips end goes up to the next length that also has clips waiting, so that
    few batches have empty rows.
    """
    waiting: dict[tuple[int, float], list[_Waiting]] = {}
    for place, (wav, rate_hz) in enumerate(clips):
        bucket_s = config.bucket(len(wav) / rate_hz)
        queue = waiting.setdefault((rate_hz, bucket_s), [])
        queue.append(_Waiting(place, wav))
        if len(queue) == config.rows(bucket_s):
            yield queue, _stack(queue, rate_hz, bucket_s, config), rate_hz
            waiting[rate_hz, bucket_s] = []
    for rate_hz in sorted({rate for rate, _ in waiting}):
        left = {size: q for (rate, size), q in sorted(waiting.items()) if rate == rate_hz and q}
        rest: list[_Waiting] = []
        for bucket_s, queue in left.items():
            rest += queue
            rows = config.rows(bucket_s)
            while len(rest) >= rows or (rest and bucket_s == max(left)):
                group, rest = rest[:rows], rest[rows:]
                yield group, _stack(group, rate_hz, bucket_s, config), rate_hz


def _stack(
    group: list[_Waiting], rate_hz: int, bucket_s: float, config: ExtractConfig
) -> tuple[np.ndarray, np.ndarray]:
    wav = np.zeros((config.rows(bucket_s), int(np.ceil(bucket_s * rate_hz))), np.float32)
    num_samples = np.zeros(len(wav), np.int64)
    for row, clip in enumerate(group):
        wav[row, : len(clip.wav)] = clip.wav
        num_samples[row] = len(clip.wav)
    return wav, num_samples


def _rows(group: list[_Waiting], features: Features) -> Iterator[tuple[int, dict[str, Any]]]:
    for row, clip in enumerate(group):
        count = int(features.num_tokens[row])
        frames = count * shapes.FRAMES_PER_TOKEN
        yield clip.place, {
            "speech_tokens": features.speech_tokens[row, :count].copy(),
            "speaker_embedding": features.speaker_embedding[row].copy(),
            "mel": features.mel[row, :frames].copy(),
            "f0": features.f0[row, :frames].copy(),
        }


def load_extract(
    bundle: Path, out: Path, *, dtype: str | None = None, batch_s: float | None = None
) -> tuple[Extract, dict[str, Any]]:
    """Opens a bundle for extraction.

    Args:
      bundle: folder.
      out: data folder; where it holds features already, their operand types are taken over, so
        that a run that goes on makes the same numbers.
      dtype: see `compute.make_plan`.
      batch_s: seconds of audio per batch; by default 32 on a CPU and 480 elsewhere.

    Returns:
      The extraction, and what its results depend on.
    """
    opened = load_bundle(bundle, MODULES)
    types = _types_before(out) if dtype is None else {}
    types = types or {name: getattr(make_plan(dtype), name) for name in MODULES}
    plan = ComputePlan(**types)
    stages = make_stages(opened.config, dict(opened.params), plan, MODULES)
    spoken_forms = load_spoken_forms()
    made_by = {
        "bundle": _identity(bundle),
        "compute": types,
        "spoken_forms": spoken_forms is not None,
    }
    batch_s = batch_s or (32.0 if jax.default_backend() == "cpu" else 480.0)
    encode = lambda text: opened.tokenizer.encode(normalize(text, spoken_forms))
    return make_extract(stages, encode, ExtractConfig(batch_s=batch_s)), made_by


def _types_before(out: Path) -> dict[str, str]:
    for path in sorted(out.glob(f"features/*/*/{PART}"))[:1]:
        return dict(read_json(path).get("made_by", {}).get("compute", {}))
    return {}


def _identity(bundle: Path) -> str:
    """Names the two models and the tokenizer; voices and the other models change nothing."""
    sums = bundle / CHECKSUMS
    lines = (sums if sums.is_file() else bundle / "config.json").read_text().splitlines()
    used = [line for line in lines if not sums.is_file() or _is_used(line)]
    return hashlib.sha256("\n".join(sorted(used)).encode()).hexdigest()


def _is_used(line: str) -> bool:
    name = line.partition("  ")[2]
    return name.startswith(("tokenizer/", *MODULES))
