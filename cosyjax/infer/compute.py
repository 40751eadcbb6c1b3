"""Which operand type each stage computes with, chosen from a measurement, and the disk cache."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from cosyjax.errors import InputError, nearest

WORTH_IT = 1.3  # bf16 products must beat float32 by this much
TURNS = 25
THREE_WORTH_IT = 3.5  # three of them in the place of one: only matrix units (AMX) are as fast


@dataclasses.dataclass(frozen=True)
class ComputePlan:
    """Operand type of the products of each stage; accumulation is float32 everywhere."""

    lm: str = "float32"
    lm_rows: str = "float32"  # of the LM's products with a single row
    lm_attention: str = "whole"  # that reads a prompt, see layers.attention
    flow: str = "float32"
    vocoder: str = "float32"
    speech_tokenizer: str = "float32"
    speaker_encoder: str = "float32"
    why: str = "float32 asked for"


EXACT = ComputePlan()


def make_plan(dtype: str | None) -> ComputePlan:
    """Turns the `dtype` argument of `load` into a plan.

    Args:
      dtype: "float32" (the official numbers), "bfloat16" (bf16 operands in LM and flow), or None
        for whichever this machine is faster with.

    Raises:
      InputError: another word.
    """
    name = getattr(dtype, "__name__", None) or (None if dtype is None else str(dtype))
    if name not in (None, "auto", "float32", "bfloat16"):
        words = ("auto", "float32", "bfloat16")
        raise InputError(f"dtype={name!r}; {nearest(str(name), words)}")
    if name == "float32":
        return EXACT
    if name == "bfloat16":
        return _fast("bfloat16 asked for")
    if jax.default_backend() != "cpu":
        return _fast(f"the backend is {jax.default_backend()}")
    ratio = bfloat16_speedup()
    reason = f"bf16 products run at {ratio:.1f} times the f32 rate here"
    if ratio <= WORTH_IT:
        return dataclasses.replace(EXACT, why=reason)
    return _fast(reason, "bfloat16x3" if ratio > THREE_WORTH_IT else "float32")


def _fast(why: str, careful: str = "float32") -> ComputePlan:
    # Token ids and waveforms must not move: their stages take three bf16 products (about 1e-5 of
    # float32) where the CPU has matrix units, and stay in float32 elsewhere.
    # One row of bfloat16 is ten times slower than one of float32 on a CPU.
    rows = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    attention = "splash" if jax.default_backend() == "tpu" else "whole"
    return ComputePlan("bfloat16", rows, attention, "bfloat16", careful, careful, careful, why)


@functools.cache
def bfloat16_speedup() -> float:
    """Measures a 512 x 512 x 1024 product in both types, in turns; about 0.1 s.

    The best of many turns counts, so that other work on the machine does not decide.
    """
    a, b = jnp.ones((512, 512), jnp.float32), jnp.ones((512, 1024), jnp.float32)
    product = jax.jit(lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.float32))
    pairs = [(a, b), (a.astype(jnp.bfloat16), b.astype(jnp.bfloat16))]
    best = [float("inf")] * 2
    for turn in range(TURNS):
        for index, pair in enumerate(pairs):
            start = time.perf_counter()
            jax.block_until_ready(product(*pair))
            if turn:  # the first compiles
                best[index] = min(best[index], time.perf_counter() - start)
    return best[0] / best[1]


def enable_compilation_cache() -> Path:
    """Keeps compiled programs on disk, so that the next start does not compile again.

    The folder is `COSYJAX_CACHE_DIR`, or `~/.cache/cosyjax/xla`; a folder that the caller has
    configured in JAX already is left alone.
    """
    current = getattr(jax.config, "jax_compilation_cache_dir")
    if current:
        return Path(current)
    default = Path.home() / ".cache" / "cosyjax" / "xla"
    folder = Path(os.environ.get("COSYJAX_CACHE_DIR", default))
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
