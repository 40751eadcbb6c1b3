"""Reports as text and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosyjax.io import plots

HEAD = ("program", "topology", "mesh", "rows", "memory", "bound", "run", "MFU", "compiled in (CPU)")
Row = Mapping[str, Any]  # `Report.as_json()`


def lines(reports: Sequence[Row]) -> list[str]:
    """A table for a terminal."""
    rows = [HEAD, *(_cells(row) for row in reports)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]


def markdown(reports: Sequence[Row]) -> list[str]:
    """The same for a document."""
    rows = [HEAD, ("---",) * len(HEAD), *(_cells(row) for row in reports)]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _cells(row: Row) -> tuple[str, ...]:
    mesh = " x ".join(str(size) for size in row["mesh"].values())
    head = (row["program"], row["topology"], mesh, f"{row['rows']:,}")
    if row["error"]:
        return (*head, row["error"][:60], "", "", "", "")
    fits = "" if row["fits"] else ", too much"
    mfu = "" if row["mfu"] is None else f"{row['mfu']:.2f} ({row['mfu_in_turn']:.2f})"
    return (
        *head,
        f"{row['memory']['share']:.0%}{fits}",
        row["bound"],
        f"{row['run_s'] * 1e3:,.1f} ms",
        mfu,
        f"{row['compile_cpu_s']:.0f} s" + ", quick" * row["quick"],
    )


def details(row: Row) -> list[str]:
    """What one program does, a line each."""
    if row["error"]:
        return [f"{row['program']}: {row['error']}"]
    work, memory, audit = row["work"], row["memory"], row["audit"]
    gib = lambda name: f"{memory[name] / 2**30:.2f} GiB {name}"
    found = [
        f"{row['program']} on {row['topology']}, of one chip",
        "  memory: "
        + ", ".join(map(gib, ("arguments", "temporary", "outputs", "code")))
        + f"; {memory['share']:.0%} of {memory['limit'] / 2**30:.2f} GiB",
        f"  work: {work['flops'] / 1e12:.3f} TFLOP in products, {work['hbm_bytes'] / 1e9:.2f} GB "
        f"of memory, {work['ici_bytes'] / 1e9:.3f} GB over links, "
        f"{work['dcn_bytes'] / 1e9:.3f} GB over the network",
        "  at least: " + ", ".join(f"{k} {v * 1e3:.2f} ms" for k, v in row["seconds"].items()),
        f"  products: {audit['bf16_share']:.1%} in bf16 ("
        + ", ".join(f"{k} {v / 1e12:.3f} T" for k, v in audit["operands"].items())
        + ")",
        f"  in less than float32 although it matters: {len(audit['rounded'])}",
        f"  waits for the host: {len(audit['host_transfers'])}",
        f"  program: {audit['instructions']:,} instructions; loops of a length that depends on "
        f"data, counted for one turn: {len(audit['open_loops'])}",
    ]
    if row["model_flops"]:
        more = work["flops"] / row["model_flops"]
        found.append(
            f"  the model needs {row['model_flops'] / 1e12:.3f} TFLOP (the program does "
            f"{more:.2f} times that): MFU {row['mfu']:.2f}, or {row['mfu_in_turn']:.2f} if "
            "products, memory and links take turns"
        )
    for kind, one in audit["collectives"].items():
        found.append(
            f"  {kind}: {one['count']:.0f} in the program, {one['runs']:.0f} runs, "
            f"{one['ici'] / 1e6:.1f} MB over links, {one['dcn'] / 1e6:.1f} MB over the network"
        )
    return found


def draw(reports: Sequence[Row], path: Path) -> None:
    """The bounds of each program beside each other, and the memory that it takes."""
    done = [row for row in reports if not row["error"]]
    if not done:
        return
    height = 1.0 + 0.35 * len(done)
    figure, (times, memory) = plots.make_figure(2, (9.0, 2 * height), [1, 1])
    for index, part in enumerate(done[0]["seconds"]):
        places = [place + 0.2 * (index - 1.5) for place in range(len(done))]
        times.barh(places, [row["seconds"][part] * 1e3 for row in done], 0.2, label=part)
    times.set(xlabel="ms that each part takes at least", xscale="log")
    memory.barh(range(len(done)), [100 * row["memory"]["share"] for row in done], color="gray")
    memory.axvline(90, color="red", lw=1)
    memory.set(xlabel="% of the chip's memory", xlim=(0, 110))
    for axis in (times, memory):
        axis.set_yticks(range(len(done)), [f"{row['program']} {row['topology']}" for row in done])
        axis.invert_yaxis()
    times.legend()
    plots.save_figure(figure, path)
