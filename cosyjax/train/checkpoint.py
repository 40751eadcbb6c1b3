"""Checkpoints: parameters, optimiser, averages, data position, config and versions in one step.

A step is written beside the others and renamed when it is whole, in the background; a run killed
at any moment finds the last whole one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.metadata
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from cosyjax import sharding
from cosyjax.config import to_dict
from cosyjax.errors import InputError
from cosyjax.train.config import TrainConfig, read_config
from cosyjax.train.partition import Layout
from cosyjax.train.state import TrainState
from cosyjax.train.task import Params

FOLDER = "checkpoints"
LOSS = "heldout_loss"
_PARTS = ("params", "opt_state", "ema")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = ("no space left", "file too large", "disk quota exceeded")


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint holds beside the state."""

    state: TrainState
    config: dict[str, Any]
    data_seed: int


class Checkpoints:
    """The checkpoints of a workdir."""

    def __init__(
        self, workdir: Path, *, keep_last: int = 2, keep_best: int = 1, clean: bool = False
    ) -> None:
        """Opens the folder, and makes it if it is absent.

        Args:
          workdir: of a run.
          keep_last: so many steps stay.
          keep_best: beside the best ones by held-out loss.
          clean: remove what a killed run has left half-written; of the run itself only.
        """
        self.folder = workdir.absolute() / FOLDER
        logging.getLogger("absl").addFilter(_not_about_metrics)
        policies = checkpoint_managers.preservation_policy
        best = policies.BestN(
            get_metric_fn=lambda metrics: -metrics[LOSS],
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        kept = [policies.LatestN(keep_last), *([best] if keep_best else [])]
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                best_fn=lambda metrics: metrics[LOSS],
                best_mode="min",
                enable_async_checkpointing=True,
                cleanup_tmp_directories=clean,
            ),
        )

    def latest(self) -> int | None:
        """The last whole step; None where there is none."""
        return self._manager.latest_step()

    def best(self) -> tuple[int, float] | None:
        """(step, held-out loss) of the best step that was evaluated."""
        losses = [(self._loss(step), step) for step in self._manager.all_steps()]
        known = [(loss, step) for loss, step in losses if loss is not None]
        return (min(known)[1], min(known)[0]) if known else None

    def _loss(self, step: int) -> float | None:
        metrics = self._manager.metrics(step)
        return None if not metrics else metrics.get(LOSS)

    def save(
        self,
        step: int,
        state: TrainState,
        iterator: grain.DatasetIterator,
        config: TrainConfig,
        *,
        data_seed: int,
        heldout_loss: float | None = None,
    ) -> None:
        """Starts to write; the state may be donated when this returns.

        Raises:
          InputError: the disk is full, now or in the save before.
        """
        if step in self._manager.all_steps():
            return
        with _reporting(self.folder):
            _check_room(self.folder, state)
            parts = {
                name: ocp.args.StandardSave(getattr(state, name))
                for name in _PARTS
                if jax.tree.leaves(getattr(state, name))
            }
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **parts,
                    data=grain.checkpoint.CheckpointSave(iterator),
                    config=ocp.args.JsonSave(to_dict(config)),
                    position=ocp.args.JsonSave({"seed": data_seed}),
                    versions=ocp.args.JsonSave(versions()),
                ),
                metrics=None if heldout_loss is None else {LOSS: heldout_loss},
            )

    def wait(self) -> None:
        """Waits for the save under way; raises InputError if the disk was full."""
        with _reporting(self.folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and stops the writers."""
        with _reporting(self.folder):
            self._manager.close()

    def config(self, step: int) -> dict[str, Any]:
        """The config that a step was saved with."""
        args = ocp.args.Composite(config=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["config"]

    def restore(self, step: int, layout: Layout) -> Restored:
        """Reads a step onto the mesh of `layout`.

        Raises:
          InputError: the step does not fit the layout.
        """
        target = layout.abstract
        names = [n for n in _PARTS if jax.tree.leaves(getattr(target, n))]
        args = {n: ocp.args.StandardRestore(getattr(target, n)) for n in names}
        args |= {n: ocp.args.JsonRestore() for n in ("config", "position")}
        with _explaining(f"{self.folder}, step {step}"):
            got = self._manager.restore(step, args=ocp.args.Composite(**args))
        where = sharding.replicated(layout.mesh)
        parts = {n: got[n] if n in names else getattr(target, n) for n in _PARTS}
        count = jax.jit(lambda: jnp.int32(step), out_shardings=where)()
        return Restored(TrainState(step=count, **parts), got["config"], got["position"]["seed"])

    def data_positions(self, step: int) -> list[dict[str, Any]]:
        """States of the data iterators of all processes, as grain's handler has written them."""
        files = (self.folder / str(step) / "data").glob("process_*-of-*.json")
        number = lambda path: int(path.name.split("_")[1].split("-")[0])
        return [json.loads(path.read_text()) for path in sorted(files, key=number)]


def _not_about_metrics(record: logging.LogRecord) -> bool:
    """Steps without an evaluation have no metrics; orbax would warn of each."""
    return "did not provide metrics" not in record.getMessage()


def holds_checkpoint(workdir: Path) -> bool:
    """True where a workdir holds a whole step."""
    folder = workdir / FOLDER
    return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def read_workdir(workdir: Path, which: str = "best") -> tuple[TrainConfig, Params]:
    """Reads a trained stage.

    Args:
      workdir: of a run.
      which: "best" by held-out loss (the last where none was evaluated), or "last".

    Returns:
      The config, and {group: tree} on the first device; averages where the run kept them.

    Raises:
      InputError: no whole checkpoint there.
    """
    if not holds_checkpoint(workdir):
        raise InputError(f"{workdir} holds no checkpoint; give the --workdir of a training run")
    checkpoints = Checkpoints(workdir)
    best, latest = checkpoints.best(), checkpoints.latest()
    step = best[0] if which == "best" and best else latest
    assert step is not None, "a workdir with a checkpoint has a latest step"
    config = read_config(checkpoints.config(step))
    shapes = nn.meta.unbox(jax.eval_shape(config.task.init, jax.random.key(0)))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)
    target = {"params": jax.tree.map(place, shapes)}
    if config.ema_decay:
        groups = config.ema_groups or tuple(dict.fromkeys(t.group for t in config.task.turns()))
        target["ema"] = {g: target["params"][g] for g in groups}
    args = {name: ocp.args.StandardRestore(tree) for name, tree in target.items()}
    got = checkpoints._manager.restore(step, args=ocp.args.Composite(**args))
    checkpoints.close()
    return config, {**got["params"], **(got["ema"] if "ema" in target else {})}


def replace_params(state: TrainState, found: Params, source: str) -> TrainState:
    """Puts trees, possibly partial, into the parameters and their averages.

    Groups that this task lacks are left out, such as the discriminators of another run.

    Raises:
      InputError: none of the groups, or a parameter or shape that the model does not have.
    """
    params = dict(state.params)
    if not any(group in params for group in found):
        raise InputError(
            f"{source} holds {', '.join(found) or 'nothing'}; this task has {', '.join(params)}"
        )
    for group, tree in found.items():
        if group not in params:
            raise InputError(
                f"{source} holds a group {group!r}, the task {', '.join(params)}; of a run with "
                "corrections make a bundle first (`cosyjax bundle`), and start from that"
            )
        params[group] = _graft(params[group], tree, f"{source}: {group}")
    ema = {g: jax.tree.map(jnp.copy, params[g]) for g in state.ema}
    return state.replace(params=params, ema=ema)


def _graft(own: Any, found: Any, where: str) -> Any:
    if not isinstance(own, Mapping):
        if tuple(own.shape) != tuple(np.shape(found)):
            raise InputError(f"{where}: shape {np.shape(found)}; the model has {own.shape}")
        host = np.asarray(found, own.dtype)
        return jax.make_array_from_callback(own.shape, own.sharding, lambda index: host[index])
    unknown = [name for name in found if name not in own]
    if unknown:
        raise InputError(f"{where}.{unknown[0]}: the model has no such parameter")
    return {k: _graft(v, found[k], f"{where}.{k}") if k in found else v for k, v in own.items()}


def versions() -> dict[str, str]:
    """Versions of what computed a checkpoint."""
    names = ("cosyjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _check_room(folder: Path, state: TrainState) -> None:
    leaves = jax.tree.leaves(state)
    needed = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")


@contextlib.contextmanager
def _reporting(folder: Path) -> Iterator[None]:
    """Turns what a full disk raises, here or in a writer's thread, into an InputError."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        if not full and not any(word in str(error).lower() for word in _FULL_WORDS):
            raise
        detail = str(error).strip().splitlines()[0][:200]
        raise InputError(
            f"{folder}: the disk is full ({detail}). The checkpoints before are whole; make room "
            "and run the same command again"
        ) from error


@contextlib.contextmanager
def _explaining(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        detail = str(error).strip().splitlines()[0][:300]
        raise InputError(f"{where} does not fit the model of this config: {detail}") from error
