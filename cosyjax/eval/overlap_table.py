"""What an overlap costs and gives when a vocoder that is not causal streams: a table of rows.

Each row streams a mel in equal chunks and compares the audio with what the same vocoder says whole:
over all, around the borders between two calls, and at the borders themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.eval.borders import snr_db
from cosyjax.eval.random_bundle import draw_params
from cosyjax.infer.acoustic_state import state_bytes
from cosyjax.infer.overlap import (
    OverlapConfig,
    init_overlap,
    is_exact,
    sizes,
    speak_overlapped,
    work_ratio,
)
from cosyjax.infer.vocode import mel_to_wav
from cosyjax.models import hift
from cosyjax.models.hift import HiFT, HiFTConfig

NEAR_MS = 40  # a border's surroundings, half on each side
LEVEL_MS = 5  # on each side of a border, for its jump in level
SMOOTH_FRAMES = 9  # of a random mel, which then changes as slowly as speech


class Utterance(NamedTuple):
    """What is spoken, and the whole that a stream is compared with."""

    model: HiFT
    params: Any  # folded
    mel: np.ndarray  # [F, M]
    key: jax.Array
    wav: np.ndarray  # [F * 480]


def overlap_table(
    given: Utterance, overlaps: Sequence[OverlapConfig], chunk_frames: Sequence[int]
) -> list[dict[str, Any]]:
    """Returns a row for each overlap and size of chunk; see `measure`."""
    return [measure(given, overlap, chunk) for chunk in chunk_frames for overlap in overlaps]


def measure(given: Utterance, overlap: OverlapConfig, chunk: int) -> dict[str, Any]:
    """Streams an utterance in chunks of so many mel frames.

    Returns:
      the setting, and
      `snr_db` of all samples against the whole, `near_snr_db` of those within 20 ms of a border;
      `level_jump_db` how much the level of 5 ms changes at a border beyond what the whole's does,
      `step_jump` the same of one sample to the next in parts of the whole's root mean square, both
      as means over borders; None where there is no border;
      `work_ratio` frames vocoded per frame spoken, `delay_frames`, and `state_bytes` of a row.
    """
    config = given.model.config
    wav, borders = stream(given, overlap, chunk)
    near = NEAR_MS * config.sample_rate_hz // 2000
    around = np.zeros(len(wav), bool)
    for border in borders:
        around[max(border - near, 0) : border + near] = True
    state = jax.eval_shape(lambda: init_overlap(config, overlap, 1))
    at_borders = {
        "near_snr_db": lambda: snr_db(wav[around], given.wav[around]),
        "level_jump_db": lambda: _level_jump(wav, given.wav, borders, config.sample_rate_hz),
        "step_jump": lambda: _step_jump(wav, given.wav, borders),
    }
    return {
        "overlap": overlap.overlap,
        "fade": overlap.fade,
        "chunk_frames": chunk,
        "exact": is_exact(config, overlap),
        "snr_db": snr_db(wav, given.wav),
        **{name: value() if borders else None for name, value in at_borders.items()},
        "work_ratio": work_ratio(config, overlap, chunk),
        "delay_frames": sizes(config, overlap).ahead,
        "state_bytes": state_bytes(state),
    }


def stream(given: Utterance, overlap: OverlapConfig, chunk: int) -> tuple[np.ndarray, list[int]]:
    """Returns all samples, and where each call's but the first one's begin."""
    state = init_overlap(given.model.config, overlap, 1)
    pieces, total = [], len(given.mel)
    for start in range(0, total, chunk):
        part = given.mel[start : start + chunk]
        wav, count, state = speak_overlapped(
            given.model,
            given.params,
            np.pad(part, ((0, chunk - len(part)), (0, 0)))[None],
            state,
            overlap=overlap,
            keys=given.key[None],
            num_frames=np.array([len(part)], np.int32),
            last=np.array([start + chunk >= total]),
        )
        pieces.append(np.asarray(wav)[0, : int(count[0])])
    ends = np.cumsum([len(piece) for piece in pieces])[:-1]
    return np.concatenate(pieces), [int(end) for end in ends if end > 0]


def random_utterance(
    num_frames: int, config: HiFTConfig = HiFTConfig(), seed: int = 0
) -> Utterance:
    """Random weights whose F0 is that of voices and whose samples are not clipped.

    Their effective field is another one than that of trained weights: each tap counts as much as
    the next, where training lets the far ones fade.
    """
    params = draw_params(hift.init_params, config, seed)
    output, last = params["f0_predictor"]["output"], params["last"]
    output["kernel"], output["bias"] = 100.0 * output["kernel"], output["bias"] + 200.0  # Hz
    last["scale"], last["bias"] = 0.3 * last["scale"], last["bias"] - 1.0
    folded, config = hift.fold_weight_norm(params, config)
    stream = np.random.default_rng(seed)
    mel = stream.standard_normal((num_frames + SMOOTH_FRAMES - 1, config.num_mels))
    window = np.hanning(SMOOTH_FRAMES + 2)[1:-1]
    window /= np.sqrt(np.sum(window**2))
    mel = np.stack([np.convolve(column, window, "valid") for column in mel.T], axis=1)
    model, key = HiFT(config), jax.random.key(seed)
    mel = mel.astype(np.float32)
    wav = mel_to_wav(model, folded, jnp.asarray(mel[None]), jnp.array([num_frames]), key)
    return Utterance(model, folded, mel, key, np.asarray(wav)[0])


def _level_jump(got: np.ndarray, wanted: np.ndarray, borders: Sequence[int], rate_hz: int) -> float:
    num = LEVEL_MS * rate_hz // 1000
    level = lambda x: 10.0 * np.log10(np.mean(np.square(x, dtype=np.float64)) + 1e-12)
    jump = lambda x, at: level(x[at : at + num]) - level(x[max(at - num, 0) : at])
    return float(np.mean([abs(jump(got, at) - jump(wanted, at)) for at in borders]))


def _step_jump(got: np.ndarray, wanted: np.ndarray, borders: Sequence[int]) -> float:
    size = np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))
    step = lambda x, at: float(x[at]) - float(x[at - 1])
    return float(np.mean([abs(step(got, at) - step(wanted, at)) for at in borders]) / size)
