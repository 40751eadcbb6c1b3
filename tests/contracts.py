"""The shared contracts: what must hold of every layer that streams, pads or looks ahead."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCE = 2e-5


def assert_streams(
    module: Any,
    variables: Any,
    x: jax.Array,
    calls: Sequence[Sequence[int]],
    *,
    lookahead: int = 0,
    init_args: tuple[Any, ...] = (),
    atol: float = TOLERANCE,
) -> None:
    """Speaking in pieces equals speaking at once, in values and in gradients by input and params.

    The module has `__call__(x)`, `init_state(batch, *init_args)` and `step(x, state)`, or
    `step(x, state, lookahead)` where it peeks at `lookahead` further frames (zeros at the end).

    Args:
      module: an unbound Linen module.
      variables: {"params": ...}.
      x: [B, T, D].
      calls: ways to cut T, such as [(5, 5, 10), (20,)]; the last call may be uneven.
      lookahead: frames that a step sees beyond its own.
      init_args: further arguments of `init_state`, such as the length of a cache.
      atol: largest difference allowed.
    """
    whole, wanted = _values_and_gradients(module.apply, variables, x)
    scale = max(1.0, max(float(np.max(np.abs(g))) for g in jax.tree.leaves(wanted)))
    for sizes in calls:
        assert sum(sizes) == x.shape[1], "a test must cut the whole input"

        def pieces(v: Any, x: jax.Array, sizes: Sequence[int] = sizes) -> jax.Array:
            return _in_pieces(module, v, x, sizes, lookahead, init_args)

        got, grads = _values_and_gradients(pieces, variables, x)
        np.testing.assert_allclose(got, whole, atol=atol, rtol=0, err_msg=f"calls {sizes}")
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a / scale, b / scale, atol=10 * atol, rtol=0)


def _values_and_gradients(fn: Callable[..., jax.Array], variables: Any, x: jax.Array) -> Any:
    """fn(variables, x) and the gradients of a fixed sum of it, in numpy, from one program."""

    @jax.jit
    def run(v: Any, x: jax.Array) -> Any:
        y, pull = jax.vjp(fn, v, x)
        return y, pull(jnp.asarray(_drawn(y.shape), y.dtype))

    return jax.device_get(run(variables, x))


def _drawn(shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape)


def _in_pieces(
    module: Any, v: Any, x: jax.Array, sizes: Sequence[int], lookahead: int, init_args: Any
) -> jax.Array:
    state = module.apply(v, x.shape[0], *init_args, method="init_state")
    padded = jnp.pad(x, ((0, 0), (0, lookahead), (0, 0)))
    outputs, start = [], 0
    for size in sizes:
        args = [x[:, start : start + size], state]
        if lookahead:
            args.append(padded[:, start + size : start + size + lookahead])
        y, state = module.apply(v, *args, method="step")
        outputs.append(y)
        start += size
    return jnp.concatenate(outputs, axis=1)


def assert_padding_inert(
    fn: Callable[[jax.Array, jax.Array], Any],
    x: jax.Array,
    lengths: Sequence[int],
    *,
    ratio: float = 1.0,
    atol: float = TOLERANCE,
) -> None:
    """NaN in the padding changes no valid output, each row equals itself alone, rows do not talk.

    Args:
      fn: (x [B, T, ...], lengths [B]) -> [B, T', ...] array.
      x: [B, T, ...] float input; positions beyond `lengths` are overwritten.
      lengths: valid frames per row.
      ratio: output frames per input frame.
      atol: largest difference allowed.
    """
    x, counts = np.asarray(x), np.asarray(lengths, np.int32)
    valid = np.arange(x.shape[1]) < counts[:, None]
    valid = valid.reshape(valid.shape + (1,) * (x.ndim - 2))
    zeros = np.asarray(fn(np.where(valid, x, 0.0).astype(x.dtype), counts))
    poison = np.asarray(fn(np.where(valid, x, np.nan).astype(x.dtype), counts))
    for row, length in enumerate(lengths):
        keep = int(length * ratio)
        alone = _alone(fn, x, counts, row)[:keep]
        assert np.all(np.isfinite(poison[row, :keep])), f"row {row}: padding leaks NaN"
        np.testing.assert_allclose(poison[row, :keep], zeros[row, :keep], atol=0, rtol=0)
        np.testing.assert_allclose(poison[row, :keep], alone, atol=atol, rtol=0)


def _alone(fn: Callable[..., Any], x: np.ndarray, counts: np.ndarray, row: int) -> np.ndarray:
    """Output of one row without the others.

    A padded row is cut to its length. One that fills the batch stays where it is, beside silence,
    so that the program for the batch serves.
    """
    if counts[row] < x.shape[1]:
        cut = slice(row, row + 1)
        return np.asarray(fn(x[cut, : counts[row]], counts[cut]))[0]
    silent = np.zeros_like(x)
    silent[row] = x[row]
    return np.asarray(fn(silent, counts))[row]


def assert_causal(
    fn: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    *,
    last_seen: Callable[[int], int],
    ratio: int = 1,
) -> None:
    """Output frame t moves with input frame `last_seen(t)` and with none after it.

    Args:
      fn: [B, T, D] -> [B, T * ratio, E].
      x: [B, T, D].
      last_seen: the furthest input frame that output frame t may see.
      ratio: output frames per input frame.
    """
    num_frames = x.shape[1]

    def energy(x: jax.Array) -> jax.Array:
        y = fn(x)
        return jnp.sum(y * jnp.asarray(_drawn(y.shape[2:]), y.dtype), axis=(0, 2))

    moves = jax.jit(lambda x: jnp.sum(jnp.abs(jax.jacrev(energy)(x)), axis=(1, 3)))
    jacobian = np.asarray(moves(x))  # [T', T]
    for t in range(num_frames * ratio):
        edge = min(last_seen(t), num_frames - 1)
        assert np.all(jacobian[t, edge + 1 :] == 0), f"frame {t} sees beyond {edge}"
        assert jacobian[t, edge] > 0, f"frame {t} does not see {edge}: a dead layer"


def assert_resumes(config: Any, folder: Path, *, half: int = 5) -> None:
    """Twice `half` steps equal `half`, a restore and `half` again: losses and parameters, exactly.

    Args:
      config: a TrainConfig; its numbers of steps are set here.
      folder: an empty folder.
      half: steps before the restore.
    """
    from cosyjax.train.loop import train
    from cosyjax.train.report import METRICS, read_metrics

    config = dataclasses.replace(
        config, num_steps=2 * half, checkpoint_every=half, keep_last=2, eval_every=-1
    )
    quiet = lambda line: None
    whole = train(config, folder / "whole", tell=quiet)
    shutil.copytree(folder / "whole", folder / "resumed")
    shutil.rmtree(folder / "resumed" / "checkpoints" / str(2 * half))
    lines = (folder / "resumed" / METRICS).read_text().splitlines(keepends=True)
    (folder / "resumed" / METRICS).write_text("".join(lines[: half + 1]))
    resumed = train(config, folder / "resumed", tell=quiet)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    wanted, got = (read_metrics(folder / name) for name in ("whole", "resumed"))
    assert [row["step"] for row in got] == list(range(1, 2 * half + 1))
    assert [row["loss"] for row in got] == [row["loss"] for row in wanted]
