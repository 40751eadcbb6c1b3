"""Golden files of the vocoder: F0, source, generator, inverse transform; reduced and full size."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from cosyjax.convert import names_hift
from cosyjax.convert.mapping import flatten, import_tensors
from cosyjax.convert.parity.fixture import DEFAULT_TOLERANCE, Check, Fixture
from cosyjax.models.hift import HiFT, HiFTConfig, init_params
from cosyjax.ops import short_stft, source

ROUNDING = "the reference's own float32 rounding of the phase in radians and of the frame position"
GIVEN = "an operand of istft_wave, recorded for it; not an output"


def load_vocoder(
    weights: dict[str, np.ndarray], given: dict[str, Any], source_name: str
) -> tuple[HiFT, dict[str, Any]]:
    """Builds the module and its variables from official weights and a fixture's config."""
    weights = names_hift.strip_prefix(weights)
    known = {}
    if "upsample_rates" in given:
        known["upsample_rates"] = tuple(given["upsample_rates"])
    config = names_hift.config_from_shapes({k: v.shape for k, v in weights.items()}, **known)
    abstract = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    shapes = {path: leaf.shape for path, leaf in flatten(abstract).items()}
    params = import_tensors(names_hift.rules(config), weights, shapes, source_name)
    return HiFT(config), {"params": params}


class _Vocoder:
    """One fixture's module, inputs and golden tensors, in our layout."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture = fixture
        model, variables = load_vocoder(fixture.weights, fixture.config, fixture.name)
        self.config: HiFTConfig = model.config
        self.model, self.variables = model, variables
        self.mel = np.swapaxes(fixture.inputs["mel"], 1, 2)
        given = "f0_given" in fixture.inputs
        self.golden_f0 = fixture.inputs["f0_given"] if given else fixture.outputs["f0"]
        self.golden_source = fixture.outputs["source"][:, 0]
        self.compiled: dict[str, Callable[..., Any]] = {}

    def apply(self, method: str, *args: Any) -> Any:
        if method not in self.compiled:
            self.compiled[method] = jax.jit(functools.partial(self.model.apply, method=method))
        return self.compiled[method](self.variables, *args)

    def waves(self) -> jax.Array:
        cfg = self.config
        run = functools.partial(
            source.sine_waves,
            num_harmonics=cfg.num_harmonics,
            sample_rate_hz=cfg.sample_rate_hz,
            amplitude=cfg.sine_amplitude,
            noise_std=cfg.noise_std,
            voiced_threshold_hz=cfg.voiced_threshold_hz,
        )
        return jax.jit(run)(self.golden_f0, self.fixture.inputs["noise"])

    def spectrum(self) -> jax.Array:
        """Of the golden source: [B, F, 2 * bins]."""
        run = functools.partial(short_stft.transform, n_fft=self.config.n_fft, hop=self.config.hop)
        return jax.jit(run)(self.golden_source)

    def wave_error(self) -> float:
        """Largest difference of a sine that the reference's float32 phases explain.

        It holds phases in radians, rounded 5.5 times on the way (sum, 2 pi, the product with it,
        the product with the frame, interpolation), and interpolates them at frame positions
        rounded twice, between phases `slope` apart; a rounding is off by up to 2**-24 of its value.
        """
        cfg = self.config
        turns = self.golden_f0.astype(np.float64) * (cfg.num_harmonics + 1) / cfg.sample_rate_hz
        slope = 2 * np.pi * cfg.samples_per_frame * np.minimum(turns, 1.0)
        phase = np.max(np.sum(slope, axis=-1))
        position = self.golden_f0.shape[1] * np.max(slope)
        return cfg.sine_amplitude * 2.0**-24 * float(5.5 * phase + 2 * position)

    def source_error(self) -> float:
        weights = self.fixture.weights
        key = next(k for k in weights if k.endswith("m_source.l_linear.weight"))
        return self.wave_error() * float(np.sum(np.abs(weights[key])))


def run(fixture: Fixture) -> Iterator[Check]:
    """Compares stage by stage: each stage starts from the golden output of the one before."""
    vocoder = _Vocoder(fixture)
    for name, expected in fixture.outputs.items():
        yield _check(vocoder, name, expected)


def _check(v: _Vocoder, name: str, expected: np.ndarray) -> Check:
    inputs = v.fixture.inputs
    if name in ("f0", "f0_predicted"):
        return Check(name, v.apply("f0", v.mel), expected)
    if name == "uv_frames":
        return Check(name, np.float32(v.golden_f0 > v.config.voiced_threshold_hz), expected)
    if match := re.fullmatch(r"sine_waves(?:_every(\d+))?", name):
        waves = np.asarray(v.waves())[:, :: int(match[1] or 1)]
        return _rounded(name, waves, expected, v.wave_error())
    if name == "source":
        actual = np.asarray(v.apply("source", v.golden_f0, inputs["noise"]))[:, None]
        return _rounded(name, actual, expected, v.source_error())
    if name == "source_stft_head":
        spectrum = np.swapaxes(np.asarray(v.spectrum()), 1, 2)
        return Check(name, spectrum[..., : expected.shape[-1]], expected)
    if name == "source_rand_ini_zero_maxdiff":
        # Our source takes no initial phases, so two sets of them cannot differ.
        return Check(name, np.zeros_like(expected), expected)
    if name in ("audio", "audio_cache"):
        return Check(name, _audio(v, name), expected)
    if match := re.fullmatch(r"after_up(\d+)", name):
        return Check(name, np.swapaxes(_after_upsample(v, int(match[1])), 1, 2), expected)
    if name == "istft_wave":
        return Check(name, _istft(v), expected)
    if name in ("istft_mag", "istft_phase"):
        return Check(name, expected, expected, skipped=GIVEN)
    raise KeyError(f"no comparison for out.{name}")


def _rounded(name: str, actual: Any, expected: np.ndarray, error: float) -> Check:
    tolerance = error / float(np.std(expected))
    if tolerance <= DEFAULT_TOLERANCE:
        return Check(name, actual, expected)
    return Check(name, actual, expected, tolerance=tolerance, reason=ROUNDING)


def _audio(v: _Vocoder, name: str) -> Any:
    excitation = v.golden_source
    if name == "audio_cache":
        cache = v.fixture.inputs["cache_source"][:, 0]
        excitation = np.concatenate([cache, excitation[:, cache.shape[1] :]], axis=1)
    return v.apply("decode", v.mel, excitation)


def _after_upsample(v: _Vocoder, stage: int) -> jax.Array:
    spectrum = v.spectrum()

    def climb(variables: Any, mel: jax.Array) -> jax.Array:
        model = v.model.bind(variables)
        x = model.first(mel)
        for i in range(stage):
            x = model.fuse(model.upsample(x, i), spectrum, i)
        return model.upsample(x, stage)

    return jax.jit(climb)(v.variables, v.mel)


def _istft(v: _Vocoder) -> jax.Array:
    magnitude, phase = v.fixture.outputs["istft_mag"], v.fixture.outputs["istft_phase"]
    magnitude = np.minimum(magnitude, v.config.max_magnitude)
    spectrum = np.concatenate([magnitude * np.cos(phase), magnitude * np.sin(phase)], axis=1)
    run = functools.partial(short_stft.inverse, n_fft=v.config.n_fft, hop=v.config.hop)
    return jax.jit(run)(np.swapaxes(spectrum, 1, 2))


FIXTURES = {"hift": run, "hift_full": run}
