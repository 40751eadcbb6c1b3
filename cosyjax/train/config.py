"""The config of a training run: values only, one dataclass, JSON in every checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from cosyjax import config, sharding
from cosyjax.errors import InputError, nearest
from cosyjax.train.registry import find_stage

MAX_PARTS = 32  # of a parameter
SCHEDULES = ("cosine", "constant", "wsd")

# What a resumed run may set anew. All else belongs to the numbers that the run has computed.
FREE_ON_RESUME = (
    "num_steps",
    "eval_every",
    "eval_batches",
    "checkpoint_every",
    "log_every",
    "keep_last",
    "keep_best",
    "samples",
    "init_from",
    "mesh",
    "rules",
    "tensorboard",
    "wandb",
    "profile_steps",
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the device mesh; -1 for one of them means all devices that remain."""

    data: int = -1  # copies of the parameters
    fsdp: int = 1  # parameters, optimiser state and batch cut along "embed"
    tensor: int = 1  # heads, mlp and vocabulary cut

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise InputError(f"mesh {sizes}: sizes are at least 1, and one of them may be -1")


def pod_mesh(num_chips: int, width: int = 1, num_slices: int = 1) -> MeshConfig:
    """The mesh of a pod: parameters cut over as many chips of a slice as divide their width.

    Beyond MAX_PARTS a chip's part is small beside what it works with; and over the whole of a slice
    of three dimensions XLA gathers by all-reduces, which move twice as much.

    Args:
      num_chips: of all slices.
      width: of the parameters along "embed"; 1 where every chip holds them whole.
      num_slices: each holds whole copies.

    Raises:
      InputError: no chips, or slices of unequal size.
    """
    if num_chips < 1 or num_slices < 1 or num_chips % num_slices:
        raise InputError(f"chips={num_chips} in slices={num_slices}: at least 1, and as many each")
    fsdp = math.gcd(num_chips // num_slices, width, MAX_PARTS)
    return MeshConfig(data=num_chips // fsdp, fsdp=fsdp)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a schedule of the learning rate."""

    peak_lr: float = 3e-4
    schedule: str = "cosine"  # after the warm-up: cosine, constant, or wsd (hold, then decay)
    warmup_steps: int = 0  # linear from peak_lr / warmup_steps
    final_lr: float = 0.0  # at the last step; of cosine and wsd
    decay_steps: int = 0  # of wsd: how many steps the decay at the end takes
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0  # of matrices and kernels; norms and biases have none
    clip_norm: float = 1.0  # largest global norm of a group's gradient; 0 for none

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule={self.schedule!r}; {nearest(self.schedule, SCHEDULES)}")
        if self.peak_lr < 0 or self.final_lr < 0 or self.weight_decay < 0 or self.clip_norm < 0:
            raise InputError("peak_lr, final_lr, weight_decay and clip_norm are not negative")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise InputError(f"b1={self.b1}, b2={self.b2} must lie in [0, 1)")
        if self.warmup_steps < 0 or self.decay_steps < 0:
            raise InputError("warmup_steps and decay_steps are not negative")
        if self.schedule == "wsd" and not self.decay_steps:
            raise InputError("schedule='wsd' needs decay_steps, e.g. a tenth of num_steps")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One run of one stage."""

    stage: str  # a name in `registry.STAGES`
    task: Any  # the stage's task: model sizes and losses
    data: Any  # the stage's pipeline: sources and batch_size
    optimizer: OptimizerConfig = OptimizerConfig()  # of every group without its own
    group_optimizers: dict[str, OptimizerConfig] = dataclasses.field(default_factory=dict)
    num_steps: int = 1000
    seed: int = 0  # of parameters, data order and the noise of every step
    accumulate: int = 1  # microbatches per update
    ema_decay: float = 0.0  # moving average of parameters, used to evaluate; 0 for none
    ema_groups: tuple[str, ...] = ()  # groups that have one; none named: all that train
    mesh: MeshConfig = MeshConfig()
    rules: tuple[tuple[str, str | None], ...] = tuple(sharding.DEFAULT_RULES)
    eval_every: int = 0  # steps between held-out evaluations; 0: only at the end; -1: never
    eval_batches: int = 0  # held-out batches of an evaluation; 0: all
    samples: bool = True  # write what the task speaks at an evaluation
    checkpoint_every: int = 0  # steps; 0: only at the end and when the held-out loss is best
    keep_last: int = 2  # checkpoints
    keep_best: int = 1  # by held-out loss
    log_every: int = 1  # steps between lines of metrics.jsonl
    init_from: str = ""  # a workdir, or what the task reads: a bundle, official weights
    tensorboard: bool = False  # also write event files; needs tensorboardX
    wandb: str = ""  # project to log to, if wandb is installed
    profile_steps: tuple[int, int] | None = None  # trace from step a up to step b

    def __post_init__(self) -> None:
        for name in ("num_steps", "accumulate", "keep_last", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("eval_batches", "checkpoint_every", "keep_best"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)} must not be negative")
        if not 0.0 <= self.ema_decay < 1.0:
            raise InputError(f"ema_decay={self.ema_decay} must lie in [0, 1)")
        if self.eval_every < -1:
            raise InputError(f"eval_every={self.eval_every}: steps, 0 (at the end) or -1 (never)")
        if self.profile_steps and not 0 <= self.profile_steps[0] < self.profile_steps[1]:
            raise InputError(f"profile_steps={self.profile_steps} must be two rising step numbers")

    def optimizer_of(self, group: str) -> OptimizerConfig:
        """The optimiser of a group of parameters."""
        return self.group_optimizers.get(group, self.optimizer)


def read_config(values: Mapping[str, Any]) -> TrainConfig:
    """Builds a TrainConfig from the JSON of a checkpoint.

    Raises:
      InputError: an unknown stage or key, or a wrong type.
    """
    stage = find_stage(str(values.get("stage")))
    parts = {
        "task": config.from_dict(stage.task, values["task"], "task."),
        "data": config.from_dict(stage.data, values["data"], "data."),
    }
    return config.from_dict(TrainConfig, {**values, **parts})


def fill_defaults(values: Mapping[str, Any], like: TrainConfig) -> dict[str, Any]:
    """The JSON of an older checkpoint with the fields that have come since, at their defaults.

    A field that was added leaves by its default everything as it was. What cannot be read as a
    config of `like`'s classes comes back as it is.
    """
    try:
        parts = {
            name: config.from_dict(type(getattr(like, name)), values[name], f"{name}.")
            for name in ("task", "data")
        }
        return config.to_dict(config.from_dict(TrainConfig, {**values, **parts}))
    except (InputError, KeyError):
        return dict(values)


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{dotted field: (old, new)} of two configs as JSON."""
    before, after = _flatten(old), _flatten(new)
    return {
        name: (before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }


def check_resumable(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str] = ()
) -> list[str]:
    """Returns a line per changed field that may change: of FREE_ON_RESUME, and `free` of the data.

    Raises:
      InputError: a field changed that the numbers of the run depend on.
    """
    changed = changed_fields(old, new)
    line = lambda name: f"{name}: {changed[name][0]!r} -> {changed[name][1]!r}"
    allowed = {*FREE_ON_RESUME, *(f"data.{name}" for name in free)}
    heads = lambda name: {name.split(".")[0], ".".join(name.split(".")[:2])}
    bound = [name for name in changed if not heads(name) & allowed]
    if bound:
        raise InputError(
            "the workdir holds a run of another config: "
            + "; ".join(map(line, bound))
            + ". Set these back, choose another --workdir, or start anew with --no-resume "
            "(the old run is moved aside)"
        )
    return [line(name) for name in changed]


def _flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Leaves by dotted name; a list counts as one value."""
    if not isinstance(values, Mapping):
        return {path: list(values) if isinstance(values, tuple) else values}
    flat: dict[str, Any] = {}
    for key, item in values.items():
        flat |= _flatten(item, f"{path}.{key}" if path else key)
    return flat
