"""Compiles a program for a topology and reads what came out."""

from __future__ import annotations

import collections
import dataclasses
import re
import time
from typing import Any

import jax

from cosyjax.aot import cost, hlo, kernels
from cosyjax.aot.collectives import Collective, collectives
from cosyjax.aot.compilable import Compilable
from cosyjax.aot.report import Audit, Memory, Report, Work
from cosyjax.aot.topology import Topology
from cosyjax.ops import product

# What must not be rounded: sums of many numbers, and functions whose slope magnifies an error.
CAREFUL = ("exponential", "log", "log-plus-one", "rsqrt", "sqrt", "power", "sine", "cosine")
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
# XLA unrolls as far as the memory of one operation reaches, and convolutions in full float32 then
# compile for minutes each. What it costs: docs/experiments.md.
EFFORT, LEAST = "jax_exec_time_optimization_effort", -1.0
QUICK_OPTIONS = {"xla_tpu_scoped_vmem_limit_kib": "8192"}


def judge(given: Compilable, topology: Topology, *, quick: bool = False) -> tuple[Report, Any]:
    """Compiles and reports; a program that is too large for the memory is a report as well.

    Args:
      given: the program.
      topology: what it is for.
      quick: the compiler does as little as it can.

    Returns:
      The report, and the compiled program or None.
    """
    report = Report(
        program=given.name,
        topology=topology.name,
        chips=topology.total_chips,
        quick=quick,
        mesh=dict(given.mesh),
        rows=given.rows,
        units=given.units,
        audio_s=given.audio_s,
        params=given.params,
        peak_flops=topology.chip.flops,
        model_flops=None if given.flops is None else given.flops / topology.total_chips,
    )
    start = time.perf_counter()
    with product.tracing_for("tpu"):
        lowered = given.lower()
    lower_s = time.perf_counter() - start
    start, busy = time.perf_counter(), time.process_time()
    try:
        compiled = _quickly(lowered) if quick else lowered.compile()
    except Exception as error:  # of the compiler, whose classes are not public
        if OUT_OF_MEMORY not in str(error):
            raise
        return dataclasses.replace(report, error=_too_large(str(error)), lower_s=lower_s), None
    compile_s, cpu_s = time.perf_counter() - start, time.process_time() - busy
    module = hlo.parse(compiled.as_text())
    work, audit = examine(module, topology.num_chips, given.causal)
    return (
        dataclasses.replace(
            report,
            lower_s=lower_s,
            compile_s=compile_s,
            compile_cpu_s=cpu_s,
            memory=_memory(compiled.memory_analysis(), topology),
            work=work,
            seconds=work.seconds(topology.chip),
            audit=audit,
        ),
        compiled,
    )


def _quickly(lowered: Any) -> Any:
    """Compiles with the least effort; the setting is the process's own and put back."""
    before = getattr(jax.config, EFFORT)
    jax.config.update(EFFORT, LEAST)
    try:
        return lowered.compile(compiler_options=QUICK_OPTIONS)
    finally:
        jax.config.update(EFFORT, before)


def _too_large(error: str) -> str:
    """The compiler's own sentence on how much is missing."""
    line = re.search(r"Ran out of memory[^\n]*|[^\n]*exceeds? available[^\n]*", error)
    return "out of memory: " + (line[0] if line else error.splitlines()[0]).strip()[:300]


def _memory(stats: Any, topology: Topology) -> Memory:
    return Memory(
        arguments=stats.argument_size_in_bytes,
        temporary=stats.temp_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        limit=topology.chip.hbm_bytes,
    )


def examine(module: hlo.Module, chips_per_slice: int, causal: bool = True) -> tuple[Work, Audit]:
    """What a program does, and what it does not do; `causal`: see `kernels.products`."""
    by_hand = kernels.products(module, causal)
    products = cost.products(module) + by_hand
    sent = collectives(module, chips_per_slice)
    operands: dict[str, float] = collections.defaultdict(float)
    for one in products:
        operands[one.dtype + (f" x{one.passes}" if one.passes > 1 else "")] += one.flops * one.times
    work = Work(
        flops=sum(one.flops * one.times for one in products),
        kernel_flops=sum(one.flops * one.times for one in by_hand),
        passes=sum(one.flops * one.times * one.passes for one in products),
        hbm_bytes=cost.hbm_bytes(module),
        ici_bytes=sum(one.ici_bytes for one in sent),
        dcn_bytes=sum(one.dcn_bytes for one in sent),
    )
    audit = Audit(
        operands=dict(operands),
        rounded=tuple(sorted(set(_rounded(module)))),
        host_transfers=tuple(cost.host_transfers(module)),
        open_loops=tuple(loop.op_name for loop in cost.loops(module) if not loop.known),
        instructions=module.num_instructions,
        collectives=_by_kind(sent),
    )
    return work, audit


def _rounded(module: hlo.Module) -> list[str]:
    """Careful operations whose result is less than float32."""
    found = []
    for visit in cost.walk(module):
        one = visit.one
        sums = one.opcode == "reduce" and "add" in _combines(module, one)
        if (one.opcode in CAREFUL or sums) and one.shapes[0].dtype in ("bf16", "f16"):
            found.append(f"{one.opcode} in {one.shapes[0].dtype}: {one.op_name or one.name}")
    return found


def _combines(module: hlo.Module, one: hlo.Instruction) -> str:
    """The operation that a reduction repeats."""
    called = module.computations.get(one.called[0]) if one.called else None
    return called.root.opcode if called else ""


def _by_kind(sent: list[Collective]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for one in sent:
        row = table.setdefault(one.kind, {"count": 0, "runs": 0.0, "ici": 0.0, "dcn": 0.0})
        row["count"] += 1
        row["runs"] += one.times
        row["ici"] += one.ici_bytes
        row["dcn"] += one.dcn_bytes
    return dict(sorted(table.items()))
