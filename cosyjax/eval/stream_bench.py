"""What a stream costs and how it sounds, for sizes of chunks and lengths of left context.

Speed: time to the first audio and its parts, time per chunk and whether it grows, real-time factor,
how far a listener is behind, work against that of one whole call, bytes of state. Sound: distance
to what is said whole with everything in view, and what happens at the borders between chunks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import shapes
from cosyjax.eval import borders
from cosyjax.infer import decode_rows, decode_text, speak, stream_step
from cosyjax.infer.acoustic import tokens_to_mel
from cosyjax.infer.acoustic_state import AcousticModels
from cosyjax.infer.acoustic_stream import acoustic_step, flow_noise
from cosyjax.infer.playback import Playback
from cosyjax.infer.stream_row import Opening
from cosyjax.infer.stream_schedule import StreamConfig
from cosyjax.infer.streaming import Streamer, StreamSetup
from cosyjax.infer.synthesize import Synthesizer
from cosyjax.infer.vocode import mel_to_wav
from cosyjax.infer.voice_state import begin_row
from cosyjax.io import plots

TEXT = "The train from Chicago to Boston leaves in twenty minutes, so please do not be late."
SECONDS = 10  # of audio that is streamed
REPEATS = 5  # of the first audio


class Setting(NamedTuple):
    """What is varied."""

    chunk: int  # tokens of every chunk, the first one too
    left_context: int  # mask chunks; -1 for everything


class Material(NamedTuple):
    """What is spoken, and the whole that a stream is compared with."""

    tokens: np.ndarray  # [T] int32
    key: jax.Array
    wav: np.ndarray  # [T * 960], everything in view
    flops: float  # of that one call


def settings(
    tts: Synthesizer, chunks_s: Sequence[float], left_s: Sequence[float | None]
) -> list[Setting]:
    """Every chunk with every left context, to whole mask chunks; None sees everything."""
    mask_chunk = tts.bundle.config.flow.mask_chunk
    whole = lambda seconds: max(round(seconds * shapes.TOKEN_RATE_HZ / mask_chunk), 1)
    lefts = [-1 if seconds is None else whole(seconds) for seconds in left_s]
    sizes = [whole(seconds) * mask_chunk for seconds in chunks_s]
    return [Setting(size, left) for left in dict.fromkeys(lefts) for size in dict.fromkeys(sizes)]


def make_material(tts: Synthesizer, voice: str | None) -> Material:
    """Lets the LM say the text over and over until it is long enough, and speaks that whole."""
    streamer = Streamer(tts, _setup(Setting(tts.bundle.config.flow.mask_chunk, -1)))
    opening, models = streamer.opening(voice), streamer.speaker.models
    num_tokens, spoken = SECONDS * shapes.TOKEN_RATE_HZ, np.zeros(0, np.int32)
    text = np.asarray(tts.tokenizer.encode(TEXT), np.int32)
    for attempt in range(100):
        key = jax.random.fold_in(opening.key, attempt)
        given = tts.stages, text, opening.conditions, key
        said = speak.text_to_tokens(*given, tts.bundle.config.sampling, tts.config)
        spoken = np.concatenate([spoken, said])
        if len(spoken) >= num_tokens:
            break
    spoken, key = spoken[:num_tokens], jax.random.fold_in(opening.key, 0)
    wav, flops = speak_whole(tts, opening, models, spoken, key)
    return Material(spoken, key, wav, flops)


def speak_whole(
    tts: Synthesizer, opening: Opening, models: AcousticModels, tokens: np.ndarray, key: jax.Array
) -> tuple[np.ndarray, float]:
    """What prompt and tokens say in one call under the chunk mask, and its FLOPs."""
    given = opening.conditions
    both = np.concatenate([given.flow_tokens, tokens]).astype(np.int32)
    num_prompt, num_frames = len(given.flow_mel), shapes.FRAMES_PER_TOKEN * len(both)
    num_mels = models.flow.config.estimator.num_mels
    prompt_mel = np.reshape(given.flow_mel, (num_prompt, num_mels))
    frames, ends = jnp.arange(num_frames)[None], jnp.array([num_prompt])
    flow = {
        "speech_tokens": both[None],
        "num_tokens": np.array([len(both)], np.int32),
        "prompt_mel": np.pad(prompt_mel, ((0, num_frames - num_prompt), (0, 0)))[None],
        "speaker_embedding": np.asarray(given.speaker_embedding, np.float32).reshape(1, -1),
        "noise": flow_noise(_buffer(tts), key[None], frames, ends, num_mels),
        "num_steps": tts.config.num_steps,
        "guidance_scale": tts.config.guidance_scale,
        "streaming": True,
    }
    flow_params, vocoder_params = tts.stages.flow.params, tts.stages.vocoder.params
    mel = tokens_to_mel(models.flow, flow_params, **flow)[:, num_prompt:]
    counts = jnp.array([mel.shape[1]], jnp.int32)
    voice = (
        models.vocoder,
        vocoder_params,
        mel,
        counts,
        jax.random.fold_in(key, speak.VOCODER_STREAM),
    )
    wav = np.asarray(mel_to_wav(*voice))[0]
    spent = _flops(tokens_to_mel.lower(models.flow, flow_params, **flow))
    own = jax.jit(mel_to_wav, static_argnums=0).lower(*voice)
    return wav, spent + _flops(own)


def measure(
    tts: Synthesizer, setting: Setting, voice: str | None, given: Material
) -> dict[str, Any]:
    """Returns the figures of one setting; times in ms, after warming up."""
    streamer = Streamer(tts, _setup(setting))
    streamer.warmup(voice)
    opening = streamer.opening(voice)
    # A stream that sees everything is given room for these tokens and no more, as the whole is.
    prompt_s = opening.voice.num_prompt / shapes.TOKEN_RATE_HZ
    known = Streamer(tts, _setup(setting, SECONDS + prompt_s))
    wav, times, flops = stream_tokens(known, known.opening(voice), given)
    firsts = [_first_audio(streamer, voice, seed) for seed in range(REPEATS)]
    typical = sorted(firsts, key=lambda heard: heard.first_audio_s)[REPEATS // 2]
    middle = times[1:-1] or times
    rate = shapes.SAMPLES_PER_TOKEN
    edges = np.arange(setting.chunk * rate, len(wav) - rate, setting.chunk * rate)
    return {
        **setting._asdict(),
        **_in_seconds(setting, streamer.speaker.models.mask_chunk),
        "first_audio_ms": 1e3 * typical.first_audio_s,
        "first_parts_ms": first_parts(streamer, opening),
        "chunk_ms": 1e3 * statistics.median(middle),
        "chunk_jitter_ms": 1e3 * _mad(middle),
        "chunk_slope_ms": (
            1e3 * float(np.polyfit(np.arange(len(middle)), middle, 1)[0])
            if len(middle) > 2
            else 0.0
        ),
        "rtf": typical.rtf,
        "least_margin_ms": 1e3 * min(typical.least_margin_s, typical.audio_s),
        "gap_free": typical.gap_free,
        "work_ratio": flops * len(times) / given.flops,
        "state_bytes": known.state_bytes,
        "snr_db": borders.snr_db(wav, given.wav),
        "mel_distance_db": borders.mel_distance_db(wav, given.wav),
        **borders.jumps(wav, given.wav, edges),
    }


def stream_tokens(
    streamer: Streamer, opening: Opening, given: Material
) -> tuple[np.ndarray, list[float], float]:
    """Speaks known tokens in equal chunks.

    Returns:
      the audio, the seconds that each chunk took, and the FLOPs of one.
    """
    models, params = streamer.speaker.models, streamer.speaker.params
    state = begin_row(opening.voice.acoustic, given.key, streamer.sizes.reach)
    tail = np.asarray(opening.voice.tail)[: opening.voice.num_tail]
    left, chunk = np.concatenate([tail, given.tokens]), streamer.schedule.chunk
    size, wavs, times, flops = chunk + models.lookahead, [], [], 0.0
    while len(left):
        tokens = np.pad(left[:size], (0, max(size - len(left), 0)))[None]
        call = (models, params, tokens, state)
        options: dict[str, Any] = {
            "num_valid": np.array([min(len(left), size)], np.int32),
            "last": np.array([len(left) <= chunk]),
            "noise": streamer.speaker.noise,
            "guidance_scale": streamer.speaker.guidance_scale,
        }
        flops = flops or _flops(acoustic_step.lower(*call, **options))
        start = time.perf_counter()
        spoken, state = acoustic_step(*call, **options)
        wavs.append(np.asarray(spoken.wav)[0, : int(spoken.num_samples[0])])
        times.append(time.perf_counter() - start)
        left = left[chunk:]
    return np.concatenate(wavs), times, flops


def first_parts(streamer: Streamer, opening: Opening) -> dict[str, float]:
    """Times in ms of what stands between a text and its first sound, one after another."""
    speaker, sizes = streamer.speaker, streamer.sizes
    state = stream_step.init_stream_state(speaker, sizes, streamer.num_steps)
    text = np.asarray(streamer.encode(TEXT)[0], np.int32)
    parts: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = jax.block_until_ready(work())
        parts[name] = 1e3 * (time.perf_counter() - start)
        return made

    sampling, limits = speaker.sampling, streamer.tts.config
    read = lambda: decode_rows.start_row(
        *(speaker.lm, text, opening.conditions, opening.key),
        sampling=sampling,
        config=limits,
        max_tokens=sizes.max_tokens,
        lm_length=sizes.lm_length,
    )
    lm = timed("read_text", read)
    row = timed("begin", lambda: begin_row(opening.voice.acoustic, opening.key, sizes.reach))
    arrival = stream_step.Arrival(row, opening.voice.tail, opening.voice.num_tail, lm, True)
    state = timed("join", lambda: stream_step.join_row(state, 0, arrival))
    chunk = streamer.schedule.first_chunk
    wanted = np.array([chunk + speaker.models.lookahead], np.int32)
    draw = lambda: decode_text.decode_wanted(
        speaker.lm.model, speaker.lm.params, state.lm, state.text, wanted, sampling=sampling
    )
    lm, drawn = timed("draw_tokens", draw)
    state = state.replace(lm=lm, text=drawn)
    timed("speak", lambda: stream_step.stream_step(speaker, state, chunk)[0].wav)
    return parts


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws the time to the first audio against the distance to the whole."""
    figure, (axes,) = plots.make_figure(1, (7, 4), [1])
    for left in dict.fromkeys(row["left_s"] for row in rows):
        mine = [row for row in rows if row["left_s"] == left]
        name = "looks back at everything" if left is None else f"looks back {left:.0f} s"
        x, y = ([row[key] for row in mine] for key in ("first_audio_ms", "mel_distance_db"))
        axes.plot(x, y, marker="o", label=name)
        for row in mine:
            axes.annotate(
                f"{row['chunk_s']:.1f} s", (row["first_audio_ms"], row["mel_distance_db"])
            )
    axes.set_xlabel("time to the first audio, ms")
    axes.set_ylabel("distance to the whole, dB of mel")
    axes.legend()
    plots.save_figure(figure, path)


def _in_seconds(setting: Setting, mask_chunk: int) -> dict[str, float | None]:
    chunk_s = setting.chunk / shapes.TOKEN_RATE_HZ
    left_s = setting.left_context * mask_chunk / shapes.TOKEN_RATE_HZ
    return {"chunk_s": chunk_s, "left_s": None if setting.left_context < 0 else left_s}


def _setup(setting: Setting, most_s: float = SECONDS + 30.0) -> StreamSetup:
    """For prompt and speech of at most so many seconds, where everything is seen."""
    schedule = StreamConfig(setting.chunk, setting.chunk)
    if setting.left_context >= 0:
        return StreamSetup(schedule=schedule, left_context=setting.left_context)
    return StreamSetup(schedule=schedule, left_context=-1, max_seconds=most_s)


def _first_audio(streamer: Streamer, voice: str | None, seed: int) -> Playback:
    heard = Playback(time.perf_counter())
    for wav in streamer.stream(TEXT, voice=voice, seed=seed):
        heard.hear(len(wav), time.perf_counter())
    return heard


def _buffer(tts: Synthesizer) -> Any:
    noise = tts.bundle.noise
    return None if noise is None else jnp.asarray(noise)


def _flops(lowered: Any) -> float:
    """FLOPs of a program; the body of its loops, as long in a chunk as in a whole, counts once."""
    found = lowered.cost_analysis()
    return float((found[0] if isinstance(found, list) else found)["flops"])


def _mad(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return statistics.median(abs(value - middle) for value in values)
