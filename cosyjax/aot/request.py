"""From a config and a topology to reports: what `cosyjax compile` does."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cosyjax.aot import topology as topologies
from cosyjax.aot.compilable import Compilable
from cosyjax.aot.judge import judge
from cosyjax.aot.largest import largest
from cosyjax.aot.report import Report
from cosyjax.aot.serve_programs import ServeConfig, serve_programs
from cosyjax.aot.topology import Topology
from cosyjax.aot.train_program import train_program, with_rows
from cosyjax.errors import InputError, nearest
from cosyjax.infer.bundle_config import BundleConfig
from cosyjax.io.atomic import atomic_file
from cosyjax.ops import product
from cosyjax.train.config import TrainConfig

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """Programs of a config, for a topology."""

    config: TrainConfig | BundleConfig
    topology: Topology
    names: tuple[str, ...] = ()  # of the programs; none: all
    serve: ServeConfig = ServeConfig()
    quick: bool = False  # the compiler does as little as it can, see `judge`

    def with_rows(self, rows: int) -> Request:
        """The same for so many rows of each chip."""
        if isinstance(self.config, TrainConfig):
            config = with_rows(self.config, rows * self.topology.total_chips)
            return dataclasses.replace(self, config=config)
        return dataclasses.replace(self, serve=dataclasses.replace(self.serve, rows=rows))

    @property
    def rows(self) -> int:
        """Of each chip."""
        if isinstance(self.config, TrainConfig):
            return max(self.config.data.batch_size // self.topology.total_chips, 1)
        return self.serve.rows


def programs(request: Request) -> dict[str, Compilable]:
    """The programs that are asked for, not yet traced.

    Raises:
      InputError: no such program, no compiler, or a config that does not fit the topology.
    """
    devices = topologies.devices(request.topology)
    with product.tracing_for("tpu"):
        if isinstance(request.config, TrainConfig):
            made = {"train": train_program(request.config, devices)}
        else:
            made = serve_programs(request.config, request.serve, devices)
    for name in request.names:
        if name not in made:
            raise InputError(f"no program {name!r} of this config; {nearest(name, made)}")
    return {name: one for name, one in made.items() if name in (request.names or made)}


def compile_all(request: Request, tell: Tell, save: Path | None = None) -> list[Report]:
    """Compiles every program that is asked for; with `save` one, which is kept there."""
    made = programs(request)
    if save is not None and request.quick:
        raise InputError("--save keeps what a pod runs, --quick makes it slow; leave one out")
    if save is not None and len(made) != 1:
        raise InputError(
            f"--save keeps one program; choose with --programs among {', '.join(made)}"
        )
    reports = []
    for one in made.values():
        tell(f"compiling {one.name} for {request.topology.name} ...")
        report, compiled = judge(one, request.topology, quick=request.quick)
        reports.append(report)
        if save is not None and compiled is not None:
            keep(compiled, save)
    return reports


def compile_largest(request: Request, tell: Tell) -> list[Report]:
    """The report of the largest batch of each program."""

    def attempt(name: str) -> Callable[[int], Report]:
        one = dataclasses.replace(request, names=(name,))
        return lambda rows: compile_all(one.with_rows(rows), lambda line: None)[0]

    return [largest(attempt(name), request.rows, tell) for name in programs(request)]


def keep(compiled: Any, path: Path) -> None:
    """Writes a compiled program, for `jax.experimental.serialize_executable` on the pod.

    The file holds what the device runs and the forms of arguments and results. It is read by the
    same version of JAX alone, and, as every pickle, only from those whom one trusts.
    """
    from jax.experimental import serialize_executable

    with atomic_file(path) as partial:
        partial.write_bytes(pickle.dumps(serialize_executable.serialize(compiled)))


def load(path: Path, devices: Sequence[Any]) -> Any:
    """The program that `keep` has written, on the devices of a pod of the same topology.

    Raises:
      InputError: no such file, or one that this version of JAX does not take.
    """
    from jax.experimental import serialize_executable

    if not path.is_file():
        raise InputError(f"{path}: no such file; `cosyjax compile --save` writes one")
    try:
        program, given, results = pickle.loads(path.read_bytes())
        return serialize_executable.deserialize_and_load(
            program, given, results, execution_devices=devices
        )
    except (pickle.UnpicklingError, EOFError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a program of this JAX on these devices: {error}") from None


def as_rows(reports: Sequence[Report]) -> list[Mapping[str, Any]]:
    """For `table` and for JSON."""
    return [report.as_json() for report in reports]
