"""Several processes as one run: started before any other call of JAX."""

from __future__ import annotations

import os

import jax

from cosyjax.errors import InputError


def start(
    coordinator: str | None = None, process: int | None = None, num_processes: int | None = None
) -> None:
    """Joins the run's processes; alone where nothing says that there are others.

    Args:
      coordinator: host:port of process 0, the same for all; needs the other two.
      process: number of this process.
      num_processes: how many there are.

    Raises:
      InputError: only some of the three, or a number out of range.
    """
    given = (coordinator, process, num_processes)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise InputError("--coordinator, --process and --num-processes go together")
        assert process is not None and num_processes is not None
        if not 0 <= process < num_processes:
            raise InputError(f"--process {process}: it must lie in 0 .. {num_processes - 1}")
        if num_processes == 1:
            return
        _use_gloo_on_cpu()
        jax.distributed.initialize(coordinator, num_processes, process)
    elif _is_pod():
        jax.distributed.initialize()


def _is_pod() -> bool:
    """A pod's launcher lists its workers; each finds the coordinator by itself."""
    return len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or bool(
        os.environ.get("MEGASCALE_COORDINATOR_ADDRESS")
    )


def _use_gloo_on_cpu() -> None:
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
