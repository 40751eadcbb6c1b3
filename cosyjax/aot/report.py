"""What a compiled program says of its run on chips that are not here.

The prediction is a roofline: products, memory and links each need a time at the data sheet's rate,
and the longest of them bounds a run from below. Nothing here has been run.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cosyjax.aot.topology import Chip

FITS = 0.9  # of the memory: the rest is for what the compiler does not see


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip."""

    arguments: int = 0
    temporary: int = 0
    outputs: int = 0  # that do not take an argument's place
    code: int = 0
    limit: float = 0.0

    @property
    def share(self) -> float:
        """Of what there is."""
        used = self.arguments + self.temporary + self.outputs + self.code
        return used / self.limit if self.limit else 0.0


@dataclasses.dataclass(frozen=True)
class Work:
    """What one chip does in one run, loops included."""

    flops: float = 0.0  # of products; what is computed again counts again
    kernel_flops: float = 0.0  # of those, in kernels written by hand
    passes: float = 0.0  # FLOPs weighed by their passes through a bf16 unit
    hbm_bytes: float = 0.0
    ici_bytes: float = 0.0  # from other chips of the slice
    dcn_bytes: float = 0.0  # from other slices

    def seconds(self, chip: Chip) -> dict[str, float]:
        """The time that each part takes at least."""
        return {
            "compute": self.passes / chip.flops,
            "memory": self.hbm_bytes / chip.hbm_bytes_per_s,
            "links": self.ici_bytes / chip.ici_bytes_per_s,
            "network": self.dcn_bytes / chip.dcn_bytes_per_s,
        }


@dataclasses.dataclass(frozen=True)
class Audit:
    """What must hold of a program besides its speed."""

    operands: dict[str, float] = dataclasses.field(default_factory=dict)  # FLOPs by operand type
    rounded: tuple[str, ...] = ()  # norms, sums, exponentials in less than float32
    host_transfers: tuple[str, ...] = ()
    open_loops: tuple[str, ...] = ()  # whose length depends on data; counted for one turn
    instructions: int = 0  # of the program's text
    collectives: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def bf16_share(self) -> float:
        """Of the products' FLOPs."""
        total = sum(self.operands.values())
        low = sum(flops for name, flops in self.operands.items() if name == "bf16")
        return low / total if total else 0.0


@dataclasses.dataclass(frozen=True)
class Report:
    """One program on one topology."""

    program: str
    topology: str
    chips: int
    mesh: dict[str, int]
    rows: int  # of the batch, over all chips
    units: float  # tokens, or what else the stage counts, over all chips
    audio_s: float  # over all chips
    params: int
    peak_flops: float  # of a chip
    model_flops: float | None = None  # of a chip's share, by the sizes of the model
    quick: bool = False  # compiled with the least effort: what follows is of that program
    error: str = ""  # why there is no program; then what follows is empty
    lower_s: float = 0.0
    compile_s: float = 0.0
    compile_cpu_s: float = 0.0  # of this machine: beside other work the wall's time says little
    memory: Memory = Memory()
    work: Work = Work()
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    audit: Audit = Audit()

    @property
    def fits(self) -> bool:
        """It compiles, and leaves a tenth of the memory free."""
        return not self.error and self.memory.share <= FITS

    @property
    def run_s(self) -> float:
        """The longest of the bounds: a run cannot be faster."""
        return max(self.seconds.values(), default=0.0)

    @property
    def bound(self) -> str:
        """Which of the bounds that is."""
        return max(self.seconds, key=lambda name: self.seconds[name]) if self.seconds else ""

    @property
    def mfu(self) -> float | None:
        """Share of the peak that the model's own FLOPs take in `run_s`; None: not known."""
        if self.model_flops is None or not self.run_s:
            return None
        return self.model_flops / self.peak_flops / self.run_s

    @property
    def mfu_in_turn(self) -> float | None:
        """`mfu` where products, memory and links never work at the same time."""
        if self.mfu is None:
            return None
        return self.mfu * self.run_s / sum(self.seconds.values())

    def as_json(self) -> dict[str, Any]:
        """Fields, and what follows from them."""
        found = dataclasses.asdict(self)
        names = ("fits", "run_s", "bound", "mfu", "mfu_in_turn")
        found |= {name: getattr(self, name) for name in names}
        found["memory"]["share"] = self.memory.share
        found["audit"]["bf16_share"] = self.audit.bf16_share
        return found
