"""A task small enough to train in a test: two linear groups in turn, data in memory.

The generator maps x to y; the critic learns what error the generator makes. `single=True` leaves
the critic frozen.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.train.registry import STAGES
from cosyjax.train.task import Batch, Cost, Metrics, Params, Sample, Turn

NUM_RECORDS = 48
EMBED, MLP = 8, 16

STAGES["toy"] = ("tests.train.toy:ToyTask", "tests.train.toy:ToyData")


@dataclasses.dataclass(frozen=True)
class ToyTask:
    """Two layers, or two groups of two layers."""

    embed: int = EMBED
    mlp: int = MLP
    single: bool = True
    noise: float = 0.1  # added to the input, from the step's key
    axes: tuple[str | None, ...] = ("embed", "mlp")

    def init(self, key: jax.Array) -> Params:
        """Boxed parameters."""
        keys = jax.random.split(key, 4)
        groups = ("generator", "critic")
        return {g: self._tree(keys[2 * i : 2 * i + 2]) for i, g in enumerate(groups)}

    def _tree(self, keys: jax.Array) -> Any:
        box = lambda x, *names: nn.LogicallyPartitioned(x, names=names)
        up = 0.3 * jax.random.normal(keys[0], (self.embed, self.mlp))
        down = 0.3 * jax.random.normal(keys[1], (self.mlp, self.embed))
        return {
            "up": {"kernel": box(up, *self.axes), "bias": box(jnp.zeros(self.mlp), "mlp")},
            "down": {"kernel": box(down, *self.axes[::-1])},
        }

    def turns(self) -> tuple[Turn, ...]:
        """The generator, then the critic."""
        turns = (Turn("generator", self.fit), Turn("critic", self.judge))
        return turns[:1] if self.single else turns

    def fit(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """Mean error over rows that hold a record."""
        noise = self.noise * jax.random.uniform(key, batch["x"].shape)
        return self._loss(params["generator"], batch["x"] + noise, batch["y"], batch["num"])

    def judge(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """The critic maps the generator's output back."""
        made = jax.lax.stop_gradient(_apply(params["generator"], batch["x"]))
        return self._loss(params["critic"], made, batch["x"], batch["num"])

    def _loss(
        self, tree: Any, x: jax.Array, y: jax.Array, num: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        errors = jnp.sum(jnp.square(_apply(tree, x) - y), axis=1) * num
        total = jnp.sum(num)
        return jnp.sum(errors) / jnp.maximum(total, 1.0), {"num_targets": total}

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Metrics:
        """Error without noise."""
        loss, metrics = self._loss(params["generator"], batch["x"], batch["y"], batch["num"])
        return {"loss": loss, "used": jnp.ones(4), **metrics}

    def summarize(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Of the whole held-out split."""
        return {"used": float(np.sum(counts["used"]))}

    def cost(self, batch: Mapping[str, tuple[int, ...]]) -> Cost:
        """Two products, three times."""
        rows = batch["x"][0]
        return Cost(12.0 * rows * self.embed * self.mlp, float(rows), 0.1 * rows)

    def samples(self, params: Params, batch: Batch, key: jax.Array) -> list[Sample]:
        """A tone."""
        wav = 0.1 * np.sin(np.arange(4000, dtype=np.float32))
        return [Sample("tone", wav, 16_000)]

    def modules(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        """Nothing."""
        return {}, {}

    def load(self, path: str) -> Params:
        """A partial tree."""
        return {"generator": {"up": {"bias": np.full(self.mlp, 2.0)}}}


def _apply(tree: Any, x: jax.Array) -> jax.Array:
    hidden = jnp.tanh(x @ tree["up"]["kernel"] + tree["up"]["bias"])
    return hidden @ tree["down"]["kernel"]


@dataclasses.dataclass(frozen=True)
class ToyData:
    """Rows whose weights differ, and one poisoned record on request."""

    batch_size: int = 8
    poison: int = -1  # record whose x is NaN
    repeat: bool = True
    delay_s: float = 0.0  # per record, so that a test can kill in between

    def dataset(
        self, split: str, *, seed: int, process: int = 0, num_processes: int = 1
    ) -> grain.IterDataset:
        """Rows of a process."""
        held = split == "heldout"
        numbers = np.arange(NUM_RECORDS, NUM_RECORDS + 16) if held else np.arange(NUM_RECORDS)
        dataset = grain.MapDataset.source(numbers).seed(seed)
        if not held:
            dataset = dataset.shuffle()
            dataset = dataset.repeat() if self.repeat else dataset
        # Row r of a batch is the same record for any number of processes.
        rows = self.batch_size // num_processes
        dataset = dataset.batch(self.batch_size)
        cut = slice(process * rows, (process + 1) * rows)
        return dataset.map(lambda batch: self._rows(batch[cut])).to_iter_dataset()

    def _rows(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(self.delay_s * len(numbers))
        drawn = [np.random.default_rng(int(n)).standard_normal((2, EMBED)) for n in numbers]
        x, y = np.stack(drawn, axis=1).astype(np.float32)
        x[numbers == self.poison] = np.nan
        num = (1.0 + numbers % 3).astype(np.float32)
        return {"x": x, "y": 0.5 * x + 0.1 * y, "num": num, "records": numbers.astype(np.int64)}

    def longest(self) -> dict[str, np.ndarray]:
        """A batch without records."""
        rows = {name: np.zeros((self.batch_size, EMBED), np.float32) for name in ("x", "y")}
        return rows | {"num": np.zeros(self.batch_size, np.float32)}

    def name_records(self, split: str, numbers: list[int]) -> list[str]:
        """Ids."""
        return [f"clip-{n}" for n in numbers]
