"""TPU slices by name: their shape, what a chip can do, and their devices without the chips.

A name is `<generation>-<chips>`: v5e-256 is a whole v5e pod, v5p-128 has 128 chips (Cloud names
count the two cores of a v5p chip: its v5p-256). Figures are those of Cloud TPU's data sheets.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

from cosyjax.errors import InputError, nearest

GIB = 2**30


class Chip(NamedTuple):
    """What one chip of a generation can do."""

    flops: float  # bf16 products, a second
    hbm_bytes: float  # what programs may use
    hbm_bytes_per_s: float
    ici_bytes_per_s: (
        float  # between the chips of a slice; half the data sheet's, which adds both ways
    )
    dcn_bytes_per_s: float  # between slices


class Generation(NamedTuple):
    """A kind of chip and the shapes of its slices."""

    chip: Chip
    kind: str  # what JAX calls its devices, as in `train.meter`
    shapes: dict[int, tuple[int, ...]]  # {chips: torus}


FLAT: dict[int, tuple[int, ...]] = {
    1: (1, 1),
    4: (2, 2),
    8: (2, 4),
    16: (4, 4),
    32: (4, 8),
    64: (8, 8),
    128: (8, 16),
}
FLAT[256] = (16, 16)
SOLID: dict[int, tuple[int, ...]] = {
    4: (2, 2, 1),
    8: (2, 2, 2),
    16: (2, 2, 4),
    32: (2, 4, 4),
    64: (4, 4, 4),
    128: (4, 4, 8),
}
SOLID |= {256: (4, 8, 8), 512: (8, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16)}

# Memory: what the compiler itself names as available when it refuses a program.
GENERATIONS = {
    "v5e": Generation(Chip(197e12, 15.75 * GIB, 819e9, 200e9, 3.125e9), "TPU v5 lite", FLAT),
    "v5p": Generation(Chip(459e12, 95.74 * GIB, 2765e9, 600e9, 6.25e9), "TPU v5", SOLID),
    "v6e": Generation(Chip(918e12, 31.25 * GIB, 1638e9, 400e9, 12.5e9), "TPU v6 lite", FLAT),
}
# Read by libtpu when it is loaded: no search for chips, no questions to a metadata server, and
# several compilers side by side.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of one generation."""

    generation: str
    num_chips: int  # of a slice
    num_slices: int = 1

    @property
    def name(self) -> str:
        """As the command line takes it, with the number of slices."""
        times = f"{self.num_slices}x" if self.num_slices > 1 else ""
        return f"{times}{self.generation}-{self.num_chips}"

    @property
    def total_chips(self) -> int:
        return self.num_chips * self.num_slices

    @property
    def chip(self) -> Chip:
        return GENERATIONS[self.generation].chip

    @property
    def torus(self) -> tuple[int, ...]:
        """How the chips of a slice are connected."""
        return GENERATIONS[self.generation].shapes[self.num_chips]


def parse(name: str, num_slices: int = 1) -> Topology:
    """Reads `<generation>-<chips>`.

    Raises:
      InputError: an unknown generation, a slice that does not exist, or no slices.
    """
    generation, dash, chips = name.partition("-")
    if not dash or not chips.isdigit():
        raise InputError(f"topology {name!r}: <generation>-<chips>, such as v5e-16")
    if generation not in GENERATIONS:
        raise InputError(f"topology {name!r}: {nearest(generation, GENERATIONS)}")
    shapes = GENERATIONS[generation].shapes
    if int(chips) not in shapes:
        sizes = ", ".join(map(str, shapes))
        raise InputError(f"topology {name!r}: slices of {generation} have {sizes} chips")
    if num_slices < 1:
        raise InputError(f"--slices {num_slices}: at least 1")
    return Topology(generation, int(chips), num_slices)


def prepare() -> None:
    """Sets what libtpu and JAX read when they are first used; call it before both."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def devices(topology: Topology) -> Any:
    """The devices of a topology, for a mesh to compile for; they cannot run anything.

    Raises:
      InputError: no TPU compiler is installed.
    """
    prepare()
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise InputError(
            "compiling for TPUs needs libtpu: pip install 'cosyjax[tpu]' (no TPU is needed)"
        ) from None
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": topology.num_slices}
    flat = len(topology.torus) == 2
    if flat and topology.num_chips <= 8:  # one machine
        options["chips_per_host_bounds"] = (*topology.torus, 1)
    if topology.num_slices == 1:
        del options["num_slices"]
    found = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{topology.generation}:{'x'.join(map(str, topology.torus))}",
        **options,
    )
    return list(found.devices)
