"""What the trainer asks of a stage: parameters in groups, and a loss for each group in turn.

A stage is a frozen dataclass (its fields are its config) with the methods of `Task`. Most have a
single group. The vocoder has two, whose losses alternate within a step; a fine-tuned LM has a
small trained group beside a frozen one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

Params = dict[str, Any]  # {group: tree}
Batch = Mapping[str, jax.Array]
# Scalars are averaged and logged. Arrays are not logged: a turn's go to its `finish`, and those
# of an evaluation are counts, summed over its batches and given to `summarize`.
Metrics = dict[str, jax.Array]
# (all groups, batch, key) -> (loss of this turn, metrics); only its own group is differentiated.
LossFn = Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]


class Turn(NamedTuple):
    """One update of one group within a step."""

    group: str
    loss: LossFn
    # (the group's tree after the optimizer, the turn's metrics) -> tree. Moves what no gradient
    # moves, such as the running statistics of a batch norm; None leaves the tree alone.
    finish: Callable[[Any, Metrics], Any] | None = None


class Cost(NamedTuple):
    """What one step on a batch of this shape processes, padding included; for the progress line."""

    flops: float  # forward and backward, analytic
    tokens: float  # speech and text tokens, or frames where a stage has no tokens
    audio_s: float  # seconds of audio


class Sample(NamedTuple):
    """Something to listen to at an evaluation."""

    name: str
    wav: np.ndarray  # [N] float32
    sample_rate_hz: int


class Task(Protocol):
    """A stage of training.

    Batches hold no "records": those stay on the host. A metric named "weight", "num_targets" or
    "num_frames" is what its loss averages over: microbatches and held-out batches are weighted by
    it, rows count evenly where there is none.
    """

    def init(self, key: jax.Array) -> Params:
        """Draws fresh parameters, boxed: leaves carry the names of their logical axes."""

    def turns(self) -> tuple[Turn, ...]:
        """The updates of a step, in order. A group without a turn stays frozen."""

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Metrics:
        """Held-out metrics of a batch; must hold "loss". Rows of padding count nothing."""

    def cost(self, batch: Mapping[str, tuple[int, ...]]) -> Cost:
        """Cost of a step on arrays of these shapes."""

    def samples(self, params: Params, batch: Batch, key: jax.Array) -> list[Sample]:
        """Speaks something; an empty list where the stage has nothing to listen to."""

    def modules(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        """What goes into a bundle: ({module: config}, {module: canonical tree})."""


@runtime_checkable
class Summarizing(Protocol):
    """A task whose evaluation gives arrays."""

    def summarize(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Scalars of a whole evaluation from the sums of its arrays; {} where there are none."""


@runtime_checkable
class Loading(Protocol):
    """A task that starts from something else than another run: a bundle, official weights."""

    def load(self, path: str) -> Params:
        """Trees of host arrays at `init_from`, possibly partial; what they lack stays as drawn."""
