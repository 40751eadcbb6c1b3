"""Reads the text of a compiled program: computations, instructions, shapes and where they lie.

The text is the only account of a program that names loops, collectives and memory spaces; XLA's own
`cost_analysis` counts the body of a loop once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import NamedTuple

ITEM_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s16": 16}
ITEM_BITS |= {"u16": 16, "f32": 32, "s32": 32, "u32": 32, "f64": 64, "s64": 64, "u64": 64}
HBM = 0  # memory spaces; of a TPU: 1 is on the chip's core, 2 and 4 hold flags, 5 is the host
HOST = 5

_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations|branch_computations)=")


class Shape(NamedTuple):
    """One array."""

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...]  # dimensions, the one that varies fastest first
    tile: tuple[int, ...]  # the last dimensions are padded to multiples of it
    space: int  # memory space

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes in memory, padding of tiles included."""
        sizes = [self.dims[dim] for dim in self.order] if self.order else list(self.dims[::-1])
        for place, unit in enumerate(self.tile[::-1]):
            if place < len(sizes):
                sizes[place] = -(-sizes[place] // unit) * unit
        return math.prod(sizes) * ITEM_BITS.get(self.dtype, 0) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: what it gives, from what, and the rest of the line."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # several where the result is a tuple
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def bytes(self) -> int:
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, name: str) -> str:
        """The word behind `name=`, "" where there is none."""
        found = re.search(rf"(?<![\w]){name}=([^,\s]+)", self.rest)
        return found[1] if found else ""

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs."""
        names: list[str] = []
        for found in _CALLED.finditer(self.rest):
            tail = self.rest[found.end() :]
            part = tail[: tail.index("}")] if tail.startswith("{") else tail.split(",", 1)[0]
            names += _OPERAND.findall(part.split(" ")[0] if not tail.startswith("{") else part)
        return tuple(names)

    @property
    def op_name(self) -> str:
        """Which line of the model it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A list of instructions, in the order in which they run."""

    name: str
    instructions: tuple[Instruction, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {one.name: one for one in self.instructions}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Which instructions read a result."""
        found: dict[str, list[Instruction]] = {}
        for one in self.instructions:
            for name in one.operands:
                found.setdefault(name, []).append(one)
        return found

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        made = (one for one in self.instructions if one.opcode == "parameter")
        return {int(one.rest.split(")", 1)[0]): one for one in made}

    @property
    def root(self) -> Instruction:
        return next((one for one in self.instructions if one.is_root), self.instructions[-1])

    def operand_shapes(self, one: Instruction) -> list[tuple[Shape, ...]]:
        """Shapes of what an instruction reads."""
        return [self.by_name[name].shapes for name in one.operands if name in self.by_name]


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program."""

    computations: dict[str, Computation]
    entry: Computation
    num_partitions: int  # chips that run it together

    @property
    def num_instructions(self) -> int:
        return sum(len(one.instructions) for one in self.computations.values())


def parse(text: str) -> Module:
    """Reads what `compiled.as_text()` gives.

    Raises:
      ValueError: no entry computation: the text is no program.
    """
    computations: dict[str, Computation] = {}
    entry, name, lines = "", "", list[str]()
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head and not name:
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif line == "}" and name:
            made = (_INSTRUCTION.match(one) for one in lines)
            found = tuple(_instruction(m[2], m[3], bool(m[1])) for m in made if m)
            computations[name], name = Computation(name, found), ""
        elif _INSTRUCTION.match(line):
            lines.append(line)
        elif lines:  # what a kernel says of itself goes over several lines
            lines[-1] += line
    if entry not in computations:
        raise ValueError("the text holds no ENTRY computation")
    parts = re.search(r"num_partitions=(\d+)", text[: text.index("\n")])
    return Module(computations, computations[entry], int(parts[1]) if parts else 1)


def _instruction(name: str, line: str, is_root: bool) -> Instruction:
    """`line`: type, opcode, operands in parentheses, attributes."""
    end = _closing(line, 0) + 1 if line.startswith("(") else line.index(" ")
    kind, tail = line[:end], line[end:].lstrip()
    start = tail.index("(")
    stop = _closing(tail, start)
    inside = tail[start + 1 : stop]
    opcode = tail[:start]
    # A parameter's number and a constant's value stand where others have operands.
    rest = (
        inside + ")" + tail[stop + 1 :] if opcode in ("parameter", "constant") else tail[stop + 1 :]
    )
    operands = tuple(_OPERAND.findall(inside))
    return Instruction(name, opcode, shapes_of(kind), operands, rest, is_root)


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return start + found.start()
    raise ValueError(f"unbalanced parentheses: {text[:80]}")


@functools.lru_cache(maxsize=100_000)
def shapes_of(kind: str) -> tuple[Shape, ...]:
    """Every array in the text of a type."""
    return tuple(_shape(*found) for found in _SHAPE.findall(kind))


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    order, _, how = layout.partition(":")
    tile = re.search(r"T\(([\d,]+)\)", how)
    space = re.search(r"S\((\d+)\)", how)
    numbers = lambda text: tuple(int(word) for word in text.split(",") if word)
    return Shape(
        dtype,
        numbers(dims),
        numbers(order),
        numbers(tile[1]) if tile else (),
        int(space[1]) if space else HBM,
    )
