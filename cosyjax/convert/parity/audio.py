"""Parity of the audio front ends: Whisper's log-mel, the flow's mel, the resampler."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

import jax
import numpy as np

from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.errors import InputError
from cosyjax.ops import mel, resample, stft


def whisper_mel(fixture: Fixture) -> Iterator[Check]:
    """`mel<x>` (also as a second implementation made it) from `wav<x>`, filters, window."""
    sizes = fixture.config
    n_fft = int(sizes.get("n_fft", 400))
    config = dataclasses.replace(
        mel.WHISPER_128,
        sample_rate_hz=int(sizes.get("sample_rate", 16_000)),
        n_fft=n_fft,
        window_samples=n_fft,
        hop_samples=int(sizes.get("hop", 160)),
        num_mels=int(sizes.get("n_mels", 128)),
    )
    for name, expected in fixture.outputs.items():
        if name.startswith("mel_filters"):
            yield _filter_check(mel.filterbank(config), name, expected)
        elif name == "window":
            yield Check(name, stft.hann_window(n_fft), expected)
        else:
            wav = _input_of(fixture, name.removeprefix("mel"))
            run = jax.jit(functools.partial(mel.log_mel_128, config=config))
            actual = run(wav.reshape(1, -1))[0]
            yield Check(name, np.asarray(actual).T.reshape(expected.shape), expected)


def matcha_mel(fixture: Fixture) -> Iterator[Check]:
    """`mel[_fmax_none]<x>` from `wav<x>`; summaries of the filters `mel_basis_fmax<hz>_*`."""
    for name, expected in fixture.outputs.items():
        parsed = re.match(r"mel(?P<basis>_basis)?(?:_fmax_?(?P<fmax>none|\d+))?(?P<rest>.*)", name)
        if parsed is None:
            raise InputError(f"{fixture.name}: out.{name} is not a mel spectrogram")
        config = _matcha_config(fixture, parsed["fmax"])
        if parsed["basis"]:
            yield _filter_check(mel.filterbank(config), name, expected)
            continue
        wav = _input_of(fixture, parsed["rest"])
        run = jax.jit(functools.partial(mel.log_mel, config=config))
        actual = np.asarray(run(wav.reshape(1, -1))[0]).T
        yield Check(name, actual.reshape(expected.shape), expected)


def resampled(fixture: Fixture) -> Iterator[Check]:
    """`y_<from>_<to>` from `x<from>`."""
    for name, expected in fixture.outputs.items():
        from_hz, to_hz = (int(digits) for digits in re.findall(r"\d+", name)[:2])
        wav = fixture.inputs[f"x{from_hz}"]
        actual = resample.resample(wav.reshape(-1, wav.shape[-1]), from_hz, to_hz)
        yield Check(name, np.asarray(actual).reshape(expected.shape), expected)


def _matcha_config(fixture: Fixture, fmax: str | None) -> mel.MelConfig:
    sizes = fixture.config
    top = sizes.get("fmax", 8000) if fmax is None else (None if fmax == "none" else int(fmax))
    n_fft = int(sizes.get("n_fft", 1920))
    return mel.MelConfig(
        sample_rate_hz=int(sizes.get("sampling_rate", 24_000)),
        n_fft=n_fft,
        hop_samples=int(sizes.get("hop_size", 480)),
        window_samples=int(sizes.get("win_size", n_fft)),
        num_mels=int(sizes.get("num_mels", 80)),
        fmin_hz=float(sizes.get("fmin", 0)),
        fmax_hz=None if top is None else float(top),
    )


def _input_of(fixture: Fixture, rest: str) -> np.ndarray:
    """The wav an output was made from: the longest `wav<x>` whose <x> begins what is left."""
    fits = [n for n in fixture.inputs if n.startswith("wav") and rest.startswith(n[3:])]
    if not fits:
        raise InputError(f"{fixture.name}: no in.wav{rest}; there are {sorted(fixture.inputs)}")
    return fixture.inputs[max(fits, key=len)]


def _filter_check(filters: np.ndarray, name: str, expected: np.ndarray) -> Check:
    """Filters [bins, M] as the golden file keeps them: whole, or a sum or maximum a filter."""
    rows = np.ascontiguousarray(filters.T)
    if name.endswith("row_sum"):
        # Filters of unit area have nearly one sum: its spread is as small as 2e-3 of it.
        reason = "sums of unit-area filters: the order of adding moves 1e-4 of their spread"
        return Check(name, rows.sum(axis=1, dtype=np.float64), expected, 1e-3, reason)
    return Check(name, np.abs(rows).max(axis=1) if "absmax" in name else rows, expected)


FIXTURES = {"logmel128_16k": whisper_mel, "mel80_24k": matcha_mel, "resample": resampled}
