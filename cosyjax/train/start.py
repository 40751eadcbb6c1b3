"""Where a run starts, in this order: its own workdir, another checkpoint or bundle, scratch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax

from cosyjax.config import to_dict
from cosyjax.errors import InputError
from cosyjax.train import checkpoint, report
from cosyjax.train.checkpoint import Checkpoints
from cosyjax.train.config import TrainConfig, check_resumable
from cosyjax.train.program import Program
from cosyjax.train.state import TrainState

OWN_FILES = (checkpoint.FOLDER, report.METRICS, "curves.png", "samples", "config.json")


class Start(NamedTuple):
    """State, data and how the data is read on."""

    state: TrainState
    iterator: grain.DatasetIterator
    position: dict[str, Any]  # seed of the data, number of loaders and processes
    step: int


def find_start(
    program: Program, workdir: Path, checkpoints: Checkpoints, tell: Callable[[str], None]
) -> Start:
    """Restores, initialises from elsewhere, or draws anew.

    Raises:
      InputError: the workdir's config differs where it must not, or `init_from` does not fit.
    """
    config = program.config
    step = checkpoints.latest()
    if step is not None:
        return _resume(program, checkpoints, step, tell)
    state = program.init(jax.random.key(config.seed))
    if config.init_from:
        state = _init_from(config, state)
        tell(f"initialised from {config.init_from}")
    position = _position(program, config.seed)
    return Start(state, _open(program, position), position, 0)


def _resume(
    program: Program, checkpoints: Checkpoints, step: int, tell: Callable[[str], None]
) -> Start:
    lines = check_resumable(_as_json(checkpoints.config(step)), _as_json(to_dict(program.config)))
    restored = checkpoints.restore(step, program.layout)
    position = _position(program, restored.position["seed"])
    same = position == restored.position
    if not same:
        # Positions are per process. Another seed, so that what was just seen does not come again.
        position["seed"] = program.config.seed + step
    iterator = _open(program, position)
    if same:
        checkpoints.restore_data(step, iterator)
    tell(f"resumed at step {step}" + "".join(f"; {line}" for line in lines))
    if not same:
        tell(
            f"the checkpoint's data was read by {restored.position['loaders']} process(es), now "
            f"{position['loaders']}: the data starts over in a new order"
        )
    return Start(restored.state, iterator, position, step)


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    import json

    return json.loads(json.dumps(values))


def _position(program: Program, seed: int) -> dict[str, Any]:
    loader = program.loader
    return {"seed": seed, "loaders": loader.count, "processes": loader.processes}


def _open(program: Program, position: dict[str, Any]) -> grain.DatasetIterator:
    loader = program.loader
    dataset = program.config.data.dataset(
        "train", seed=position["seed"], process=loader.index, num_processes=loader.count
    )
    return iter(dataset)


def _init_from(config: TrainConfig, state: TrainState) -> TrainState:
    source = Path(config.init_from)
    if checkpoint.holds_checkpoint(source):
        found = checkpoint.read_workdir(source)[1]
    elif hasattr(config.task, "load"):
        found = config.task.load(config.init_from)
    else:
        raise InputError(
            f"init_from={config.init_from!r} holds no checkpoint, and stage {config.stage!r} "
            "reads nothing else; give the workdir of a run"
        )
    return checkpoint.replace_params(state, found, config.init_from)
