"""What chips send each other, read from a compiled program."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from cosyjax.aot.cost import NETWORK, Visit, walk
from cosyjax.aot.hlo import Instruction, Module

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
BETWEEN = "between slices: "


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange among groups of chips."""

    kind: str  # of KINDS, or BETWEEN and what the network does
    bytes: int  # of the whole that a group gathers, reduces or exchanges
    times: float
    group: int  # chips that exchange with one another
    slices: int  # that a group spreads over
    op_name: str

    @property
    def ici_bytes(self) -> float:
        """Bytes that a chip gets from its own slice, in all runs."""
        return self._share(self.group // self.slices) * self.times

    @property
    def dcn_bytes(self) -> float:
        """Bytes that a chip gets from other slices: the slice's chips share that work."""
        if self.kind.startswith(BETWEEN):
            return self.bytes * self.times
        return self._share(self.slices) / max(self.group // self.slices, 1) * self.times

    def _share(self, members: int) -> float:
        if self.kind == "collective-permute":
            return float(self.bytes) if members > 1 else 0.0
        passes = 2.0 if self.kind == "all-reduce" else 1.0
        return passes * self.bytes * (members - 1) / max(members, 1)


def collectives(module: Module, chips_per_slice: int) -> list[Collective]:
    """Every exchange once, in the order of the program.

    A TPU's compiler cuts one that hides behind products into steps; all of them bear its channel.
    """
    found: dict[tuple[str, str, int], Collective] = {}
    for visit in walk(module):
        kind = visit.one.opcode.removesuffix("-start")
        if kind == "recv" and NETWORK in visit.one.rest:
            made = _between_slices(visit)
        elif kind in KINDS:
            made = _collective(kind, visit, module, chips_per_slice)
        else:
            continue
        channel = visit.one.attribute("channel_id") or visit.one.name
        found.setdefault((kind, channel, made.bytes), made)
    return list(found.values())


def _collective(kind: str, visit: Visit, module: Module, chips_per_slice: int) -> Collective:
    one = visit.one
    groups = replica_groups(one, module.num_partitions)
    group = groups[0] if len(groups) else np.arange(1)
    if kind == "collective-permute":
        pairs = np.asarray(re.findall(r"\{(\d+),(\d+)\}", one.rest), int).reshape(-1, 2)
        apart = int(np.any(pairs[:, 0] // chips_per_slice != pairs[:, 1] // chips_per_slice)) + 1
        return Collective(kind, _largest(one), visit.times, 2, apart, one.op_name)
    size = _largest(one)
    if kind == "reduce-scatter":
        size *= len(group)
    elif kind == "all-reduce" and _is_scattered(visit):
        kind = "reduce-scatter"
    slices = len(set((group // chips_per_slice).tolist()))
    return Collective(kind, size, visit.times, len(group), slices, one.op_name)


def _between_slices(visit: Visit) -> Collective:
    """What a chip gets from its like in other slices; the hosts add or gather on the way."""
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', visit.one.rest)
    what = found[1].lower().replace("_", "-") if found else "transfer"
    return Collective(BETWEEN + what, _largest(visit.one), visit.times, 2, 2, visit.one.op_name)


def _largest(one: Instruction) -> int:
    return max((shape.bytes for shape in one.shapes), default=0)


def _is_scattered(visit: Visit) -> bool:
    """A TPU's reduce-scatter: a fusion of an all-reduce with the slice that a chip keeps of it."""
    return visit.fused and visit.inside.name.startswith("all-reduce-scatter")


def replica_groups(one: Instruction, num_partitions: int) -> np.ndarray:
    """[groups, members] numbers of chips, from each of the three ways to write them."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] *\{([^}]*)\}", one.rest)
    if mesh:
        axes = dict(re.findall(r"'([\w.]+)'=(\d+)", mesh[1]))
        ids = np.arange(int(np.prod([int(size) for size in axes.values()])))
        ids = ids.reshape([int(size) for size in axes.values()])
        named = re.findall(r"'([\w.]+)'", mesh[2])
        along = [list(axes).index(name) for name in named]
        others = [axis for axis in range(ids.ndim) if axis not in along]
        count = int(np.prod([ids.shape[axis] for axis in along]))
        return ids.transpose(*others, *along).reshape(-1, count)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", one.rest)
    if iota:
        shape, dims = ([int(n) for n in iota[i].split(",")] for i in (1, 2))
        ids = np.arange(int(np.prod(dims))).reshape(dims)
        if iota[3]:
            ids = ids.transpose([int(n) for n in iota[3].split(",")])
        return ids.reshape(shape)
    listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", one.rest)
    rows = re.findall(r"\{([\d,]+)\}", listed[1]) if listed else []
    if rows:
        return np.asarray([[int(n) for n in row.split(",")] for row in rows])
    return np.arange(num_partitions)[None]
