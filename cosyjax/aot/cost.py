"""What a compiled program does: products, bytes from memory and between chips, loops included.

Every instruction is counted as often as the loops around it run. Products are counted inside of
fusions; bytes at the borders of fusions, where results go to memory and come from it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cosyjax.aot.hlo import HBM, HOST, Computation, Instruction, Module, Shape
from cosyjax.aot.trips import trip_count

# Operands in full float32 take so many passes through a unit that multiplies bfloat16.
PASSES = {"highest": 6, "high": 3}
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
FREE |= {"call", "after-all", "partition-id", "replica-id", "copy-done", "slice-done", "async-done"}
FREE |= {"opt-barrier", "async-start", "async-update", "iota"}
NETWORK = "xla_megascale_runtime"  # takes data from slice to slice
HOST_CALLS = ("infeed", "outfeed", "send", "recv", "send-done", "recv-done")


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product or convolution."""

    flops: float  # of one run
    times: float
    dtype: str  # of its operands
    passes: int  # through a bf16 unit
    op_name: str


@dataclasses.dataclass(frozen=True)
class Visit:
    """An instruction where it stands."""

    one: Instruction
    inside: Computation
    times: float
    fused: bool


@dataclasses.dataclass(frozen=True)
class Loop:
    """How often a loop runs; 1 is assumed where that depends on data."""

    op_name: str
    trips: int
    known: bool


def walk(module: Module) -> Iterator[Visit]:
    """Every instruction that runs, with how often."""
    yield from _walk(module, module.entry, 1.0, False)


def _walk(module: Module, inside: Computation, times: float, fused: bool) -> Iterator[Visit]:
    for one in inside.instructions:
        yield Visit(one, inside, times, fused)
        if one.opcode == "while":
            trips, _ = trip_count(module, inside, one)
            body = module.computations[one.attribute("body").lstrip("%")]
            yield from _walk(module, body, times * trips, fused)
        elif one.opcode == "fusion":
            for name in one.called:
                yield from _walk(module, module.computations[name], times, True)
        elif one.opcode in ("call", "async-start", "custom-call"):
            for name in one.called:
                yield from _walk(module, module.computations[name], times, fused)
        elif one.opcode == "conditional":
            # One branch runs: each is counted for its share.
            for name in one.called:
                share = times / len(one.called)
                yield from _walk(module, module.computations[name], share, fused)


def loops(module: Module) -> list[Loop]:
    """All loops; those whose length depends on data are not `known`."""
    found = []
    for visit in walk(module):
        if visit.one.opcode == "while":
            trips, known = trip_count(module, visit.inside, visit.one)
            found.append(Loop(visit.one.op_name, trips, known))
    return found


def products(module: Module) -> list[Product]:
    """Every product and convolution."""
    found = []
    for visit in walk(module):
        count = {"convolution": convolution_flops, "dot": dot_flops}.get(visit.one.opcode)
        if count is None:
            continue
        operands = visit.inside.operand_shapes(visit.one)
        dtype = "/".join(sorted({shapes[0].dtype for shapes in operands}))
        precision = re.search(r"operand_precision={(\w+)", visit.one.rest)
        passes = PASSES.get(precision[1], 1) if precision and "f32" in dtype else 1
        flops = count(visit.one, [shapes[0] for shapes in operands])
        found.append(Product(flops, visit.times, dtype, passes, visit.one.op_name))
    return found


def dot_flops(one: Instruction, operands: Sequence[Shape]) -> float:
    """Two for every multiplication and addition."""
    dims = re.search(r"lhs_contracting_dims={([\d,]*)}", one.rest)
    contracted = [int(word) for word in dims[1].split(",") if word] if dims else []
    return 2.0 * one.shapes[0].elements * float(np.prod([operands[0].dims[d] for d in contracted]))


def convolution_flops(one: Instruction, operands: Sequence[Shape]) -> float:
    """Two for every multiplication of numbers that are there, not of padding or gaps."""
    left, right, result = _labels(one)
    x, kernel, y = operands[0], operands[1], one.shapes[0]
    groups = int(one.attribute("batch_group_count") or 1)
    total = 2.0 * x.dims[left["b"]] / groups * kernel.dims[right["i"]] * kernel.dims[right["o"]]
    for place, name in enumerate(sorted(k for k in left if k.isdigit())):
        sizes = x.dims[left[name]], kernel.dims[right[name]], y.dims[result[name]]
        total *= _valid(sizes, {key: _window(one, key, place) for key in WINDOW})
    return total


WINDOW = {"stride": 1, "pad": 0, "lhs_dilate": 1, "rhs_dilate": 1}


def _labels(one: Instruction) -> list[dict[str, int]]:
    """Which dimension is which: {"b": 0, "f": 2, "0": 1} of input, kernel and result."""
    words = re.split(r"_|->", one.attribute("dim_labels"))
    return [{letter: place for place, letter in enumerate(word)} for word in words]


def _window(one: Instruction, key: str, place: int) -> int:
    """A number of the window along one spatial dimension; of a padding the lower one."""
    window = re.search(r"window={([^}]*)}", one.rest)
    found = re.search(rf"{key}=([\d_x\-]+)", window[1]) if window else None
    return int(found[1].split("x")[place].split("_")[0]) if found else WINDOW[key]


def _valid(sizes: tuple[int, int, int], window: dict[str, int]) -> int:
    """Pairs of a kernel's tap and a result's place that meet a number of the input."""
    size, taps, results = sizes
    at = np.arange(results)[:, None] * window["stride"] - window["pad"]
    at = at + np.arange(taps) * window["rhs_dilate"]
    inside = (at >= 0) & (at % window["lhs_dilate"] == 0)
    return int(np.sum(inside & (at // window["lhs_dilate"] < size)))


def hbm_bytes(module: Module) -> float:
    """Bytes that instructions read from the chip's memory and write to it."""
    return sum(
        visit.times * moved(module, visit.inside, visit.one)
        for visit in walk(module)
        if not visit.fused and visit.one.opcode not in FREE
    )


def moved(module: Module, inside: Computation, one: Instruction) -> int:
    """Bytes of one run of an instruction."""
    if one.opcode in ("copy-start", "slice-start"):
        # (to, from, flag): what is moved is as large as the smaller of the two
        size = min(shape.bytes for shape in one.shapes[:2])
        return size * sum(shape.space == HBM for shape in one.shapes[:2])
    in_hbm = lambda shapes: sum(shape.bytes for shape in shapes if shape.space == HBM)
    if one.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * in_hbm(one.shapes)
    if one.opcode in ("dynamic-update-slice", "scatter"):
        update = one.operands[1 if one.opcode == "dynamic-update-slice" else 2]
        return 2 * in_hbm(inside.by_name[update].shapes)
    reads = inside.operand_shapes(one)
    if one.opcode != "fusion":
        return in_hbm(one.shapes) + sum(in_hbm(shapes) for shapes in reads)
    called = module.computations[one.called[0]]
    read = sum(
        min(in_hbm(shapes), _read(module, called, place))
        for place, shapes in enumerate(reads)
        if in_hbm(shapes)
    )
    written = _written(module, called, called.root)
    return read + sum(
        min(shape.bytes, size) for shape, size in zip(one.shapes, written) if shape.space == HBM
    )


def _read(module: Module, inside: Computation, place: int) -> int:
    """Bytes of a fusion's parameter that are read: of a slice only itself."""
    start = inside.parameters.get(place)
    return _used(module, inside, start) if start is not None else 0


def _used(module: Module, inside: Computation, start: Instruction) -> int:
    total = 0
    for user in inside.users.get(start.name, []):
        if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == start.name:
            total += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == start.name:
            continue  # written in place
        elif user.opcode == "bitcast":
            total += _used(module, inside, user)
        elif user.opcode == "fusion":
            called = module.computations[user.called[0]]
            places = [i for i, name in enumerate(user.operands) if name == start.name]
            total += sum(_read(module, called, place) for place in places)
        else:
            return start.bytes
    return min(total, start.bytes)


def _written(module: Module, inside: Computation, root: Instruction) -> list[int]:
    """Bytes of each result of a fusion that are written: of an update only itself."""
    if root.opcode == "tuple":
        parts = [inside.by_name[name] for name in root.operands]
        return [size for part in parts for size in _written(module, inside, part)]
    if root.opcode == "bitcast" and root.operands[0] in inside.by_name:
        return _written(module, inside, inside.by_name[root.operands[0]])
    if root.opcode == "dynamic-update-slice":
        return [inside.by_name[root.operands[1]].bytes]
    if root.opcode == "fusion":
        called = module.computations[root.called[0]]
        return _written(module, called, called.root)
    return [shape.bytes for shape in root.shapes]


def host_transfers(module: Module) -> list[str]:
    """Names of instructions that wait for the host or move data to it.

    What slices send each other goes through their hosts as well, but waits for no program there.
    """
    on_host: Callable[[Instruction], bool] = lambda one: any(s.space == HOST for s in one.shapes)
    return [
        visit.one.op_name or visit.one.name
        for visit in walk(module)
        if (visit.one.opcode in HOST_CALLS or on_host(visit.one)) and NETWORK not in visit.one.rest
    ]
