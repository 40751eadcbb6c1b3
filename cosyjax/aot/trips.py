"""How often the loops of a compiled program run.

The compiler writes a counted loop as a comparison of a counter with a number, and may unroll it:
the counter's step is read from the body.
"""

from __future__ import annotations

from collections.abc import Mapping

from cosyjax.aot.hlo import Computation, Instruction, Module

ALIASES = ("copy", "bitcast", "convert", "reshape")
Given = Mapping[int, tuple[Computation, str]]  # of a fusion's parameters: where they come from


def trip_count(module: Module, inside: Computation, loop: Instruction) -> tuple[int, bool]:
    """Returns (runs, True), or (1, False) for a loop whose length depends on data."""
    condition = module.computations[loop.attribute("condition").lstrip("%")]
    test, where, given = _resolve(module, condition, condition.root.name, {})
    if test is None or test.opcode != "compare" or "direction=LT" not in test.rest:
        return 1, False
    counter, at, fed = _resolve(module, where, test.operands[0], given)
    if counter is None or counter.opcode != "get-tuple-element":
        return 1, False
    place = int(counter.attribute("index"))
    limit = _number(module, where, test.operands[1], given, (inside, loop))
    start = _number(module, at, test.operands[0], given, (inside, loop))
    body = module.computations[loop.attribute("body").lstrip("%")]
    step = _step(module, body, body.root.operands[place], place, {})
    if limit is None or start is None or not step or limit <= start:
        return 1, False
    return -(-(limit - start) // step), True


def _resolve(
    module: Module, inside: Computation, name: str, given: Given
) -> tuple[Instruction | None, Computation, Given]:
    """The instruction that makes a value, seen through copies and the borders of fusions."""
    one = inside.by_name.get(name)
    while one is not None:
        if one.opcode in ALIASES:
            one = inside.by_name.get(one.operands[0])
        elif one.opcode == "parameter" and given:
            inside, name = given[int(one.rest.split(")", 1)[0])]
            one, given = inside.by_name.get(name), {}
        elif one.opcode == "fusion":
            given = {place: (inside, operand) for place, operand in enumerate(one.operands)}
            inside = module.computations[one.called[0]]
            one = inside.root
        else:
            break
    return one, inside, given


def _number(
    module: Module,
    inside: Computation,
    name: str,
    given: Given,
    loop: tuple[Computation, Instruction] | None,
) -> int | None:
    """The value of a constant, written there or handed to the loop; None where it is none."""
    one, inside, given = _resolve(module, inside, name, given)
    if one is None:
        return None
    if one.opcode == "constant":
        word = one.rest.split(")", 1)[0]
        return int(word) if word.lstrip("-").isdigit() else None
    if one.opcode != "get-tuple-element" or loop is None:
        return None
    outside, whole = loop
    handed = outside.by_name.get(whole.operands[0])
    if handed is None or handed.opcode != "tuple":
        return None
    return _number(module, outside, handed.operands[int(one.attribute("index"))], {}, None)


def _step(module: Module, inside: Computation, name: str, place: int, given: Given) -> int | None:
    """What a run of the body adds to the counter at `place` of its tuple."""
    one, inside, given = _resolve(module, inside, name, given)
    if one is None:
        return None
    if one.opcode == "get-tuple-element":
        return 0 if int(one.attribute("index")) == place else None
    if one.opcode != "add":
        return None
    for counter, other in (one.operands, one.operands[::-1]):
        more = _number(module, inside, other, given, None)
        before = _step(module, inside, counter, place, given) if more is not None else None
        if more is not None and before is not None:
            return before + more
    return None
