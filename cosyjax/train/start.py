"""Where a run starts, in this order: its own workdir, another checkpoint or bundle, scratch.

The position in the data is saved by every process. Pipelines whose position is the same on all of
them, as those of `cosyjax.data`, go on exactly with any number of processes; others start over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax

from cosyjax.config import to_dict
from cosyjax.errors import InputError
from cosyjax.train import checkpoint, report
from cosyjax.train.checkpoint import Checkpoints
from cosyjax.train.config import TrainConfig, check_resumable, fill_defaults
from cosyjax.train.program import Program
from cosyjax.train.state import TrainState
from cosyjax.train.task import Loading

OWN_FILES = (checkpoint.FOLDER, report.METRICS, "curves.png", "samples", "tensorboard", "profile")


class Start(NamedTuple):
    """State, data and how the data is read on."""

    state: TrainState
    iterator: grain.DatasetIterator
    seed: int  # of the data; the config's unless the data had to start over
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
        state = _init_from(config, state, tell)
    return Start(state, _open(program, config.seed), config.seed, 0)


def _resume(
    program: Program, checkpoints: Checkpoints, step: int, tell: Callable[[str], None]
) -> Start:
    config = program.config
    saved = fill_defaults(checkpoints.config(step), config)
    old, new = _as_json(saved), _as_json(to_dict(config))
    lines = check_resumable(old, new, getattr(config.data, "free", ()))
    restored = checkpoints.restore(step, program.layout)
    tell(f"resumed at step {step}" + "".join(f"; {line}" for line in lines))
    positions, seed = checkpoints.data_positions(step), restored.data_seed
    same_count = len(positions) == jax.process_count()
    if not same_count and any(position != positions[0] for position in positions):
        # Another seed, so that what was just seen does not come again.
        tell(f"the data was read by {len(positions)} processes: it starts over in a new order")
        seed = config.seed + step
        return Start(restored.state, _open(program, seed), seed, step)
    iterator = _open(program, seed)
    iterator.set_state(positions[jax.process_index() if same_count else 0])
    return Start(restored.state, iterator, seed, step)


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))


def _open(program: Program, seed: int) -> grain.DatasetIterator:
    process, count = program.loader
    data = program.config.data
    return iter(data.dataset("train", seed=seed, process=process, num_processes=count))


def _init_from(config: TrainConfig, state: TrainState, tell: Callable[[str], None]) -> TrainState:
    source = Path(config.init_from)
    if checkpoint.holds_checkpoint(source):
        found = checkpoint.read_workdir(source)[1]
    elif isinstance(config.task, Loading):
        found = config.task.load(config.init_from)
    else:
        raise InputError(
            f"init_from={config.init_from!r} holds no checkpoint, and stage {config.stage!r} "
            "reads nothing else; give the workdir of a run"
        )
    own = {group: tree for group, tree in found.items() if group in state.params}
    count = lambda tree: len(jax.tree.leaves(tree))
    tell(f"{config.init_from} gives {count(own)} of {count(state.params)} arrays of parameters")
    return checkpoint.replace_params(state, found, config.init_from)
