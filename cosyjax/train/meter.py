"""How fast a run goes: rates, share of the peak, waiting for data, time left."""

from __future__ import annotations

import collections
import time

import jax
import jax.numpy as jnp

from cosyjax.train.task import Cost

# Dense bf16 peak of one device in FLOP/s, from the makers' data sheets; by `device_kind`.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "Tesla T4": 65e12,
}
WINDOW = 8  # readings that a rate is averaged over: single steps jitter


def peak_flops() -> float | None:
    """FLOP/s of all devices together; a single CPU is measured, None where nothing is known."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return _measure_cpu() if jax.device_count() == 1 else None
    known = [name for name in PEAK_FLOPS if device.device_kind.startswith(name)]
    return PEAK_FLOPS[max(known, key=len)] * jax.device_count() if known else None


def _measure_cpu(size: int = 2048, repeats: int = 10) -> float:
    """The faster of f32 and bf16 products of square matrices, best of some.

    Half a second in all: what else runs on the machine should not make the peak look low.
    """

    def rate(dtype: jnp.dtype) -> float:
        x = jnp.ones((size, size), dtype)
        dot = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
        dot(x).block_until_ready()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            dot(x).block_until_ready()
            times.append(time.perf_counter() - start)
        return 2.0 * size**3 / min(times)

    return max(rate(jnp.dtype("float32")), rate(jnp.dtype("bfloat16")))


class Meter:
    """Adds up what steps processed since the last reading; pauses do not count."""

    def __init__(self, peak: float | None) -> None:
        self._peak = peak
        self._window: collections.deque[tuple[float, ...]] = collections.deque(maxlen=WINDOW)
        self._reset()

    def _reset(self) -> None:
        self._start = time.perf_counter()
        self._steps, self._paused_s, self._waited_s = 0, 0.0, 0.0
        self._flops, self._tokens, self._audio_s = 0.0, 0.0, 0.0

    def add(self, cost: Cost) -> None:
        """Counts a finished step."""
        self._steps += 1
        self._flops += cost.flops
        self._tokens += cost.tokens
        self._audio_s += cost.audio_s

    def waited(self, seconds: float) -> None:
        """Counts time in which the device had nothing to do but wait for a batch."""
        self._waited_s += seconds

    def paused(self, seconds: float) -> None:
        """Leaves out an evaluation or the like."""
        self._paused_s += seconds

    def restart(self) -> None:
        """Forgets what was counted, such as the step that compiled."""
        self._window.clear()
        self._reset()

    def read(self) -> dict[str, float]:
        """Rates over the last WINDOW readings; nothing where no step was counted since the last."""
        if not self._steps:
            return {}
        elapsed_s = time.perf_counter() - self._start - self._paused_s
        sums = (elapsed_s, self._steps, self._tokens, self._audio_s, self._waited_s, self._flops)
        self._window.append(sums)
        self._reset()
        totals = [sum(column) for column in zip(*self._window)]
        seconds, steps, tokens, audio_s, waited_s, flops = (float(total) for total in totals)
        seconds = max(seconds, 1e-9)
        rates = {
            "steps_per_s": steps / seconds,
            "tokens_per_s": tokens / seconds,
            "audio_hours_per_s": audio_s / 3600.0 / seconds,
            "data_wait": min(waited_s / seconds, 1.0),
        }
        return rates | ({"mfu": flops / seconds / self._peak} if self._peak else {})
