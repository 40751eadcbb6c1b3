"""Several processes as one run: started before any other call of JAX."""

from __future__ import annotations

import os
from collections.abc import Mapping

import jax

from cosyjax.errors import InputError

AUTO = "auto"
TIMEOUT_S = 900  # for the last process to come: a node may have to fetch its image first
_GKE_WORKERS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
_MULTISLICE = "MEGASCALE_COORDINATOR_ADDRESS"
# What `srun` tells a task. The shell of a batch job lacks the first and is no task of a run.
_SLURM = ("SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def start(
    coordinator: str | None = None, process: int | None = None, num_processes: int | None = None
) -> None:
    """Joins the run's processes; alone where nothing says that there are others.

    Args:
      coordinator: host:port of process 0, the same for all; needs the other two. "auto", without
        them, lets JAX ask where it runs: for the workers of a TPU VM, which only their metadata
        server tells of each other. GKE and Slurm tell by their environment, without "auto".
      process: number of this process.
      num_processes: how many there are.

    Raises:
      InputError: only some of the three, a number out of range, or nothing there to ask.
    """
    given = (coordinator, process, num_processes)
    if coordinator == AUTO and given[1:] == (None, None):
        _join_cluster()
    elif any(value is not None for value in given):
        _join(*given)
    elif is_cluster(os.environ):
        _join_cluster()


def is_cluster(environ: Mapping[str, str]) -> bool:
    """Whether the environment tells of other processes: a task of Slurm, a worker on GKE."""
    workers = max(len(environ.get(name, "").split(",")) for name in _GKE_WORKERS)
    slurm = all(name in environ for name in _SLURM) and int(environ["SLURM_NTASKS"]) > 1
    return workers > 1 or bool(environ.get(_MULTISLICE)) or slurm


def slurm_gpus(environ: Mapping[str, str]) -> list[int] | None:
    """Which of the GPUs that this task sees are its own; None where Slurm does not say.

    JAX would take the one with the task's number on the node. That is wrong where Slurm shows every
    task its own GPU alone, and where one task has all GPUs of a node.
    """
    visible = [word for word in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    tasks = environ.get("SLURM_NTASKS_PER_NODE", "")
    if "SLURM_LOCALID" not in environ or not visible:
        return None
    if len(visible) == 1:
        return [0]
    if not tasks.isdigit() or len(visible) % int(tasks):
        return None
    share = len(visible) // int(tasks)
    first = int(environ["SLURM_LOCALID"]) * share
    return list(range(first, first + share))


def _join(coordinator: str | None, process: int | None, num_processes: int | None) -> None:
    if coordinator is None or process is None or num_processes is None or coordinator == AUTO:
        raise InputError(
            "--coordinator HOST:PORT, --process and --num-processes go together; "
            f"--coordinator {AUTO} stands alone"
        )
    if not 0 <= process < num_processes:
        raise InputError(f"--process {process}: it must lie in 0 .. {num_processes - 1}")
    if num_processes == 1:
        return
    _use_gloo_on_cpu()
    # A scheduler around us has nothing to say: these are not its tasks.
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process,
        cluster_detection_method="deactivate",
        initialization_timeout=TIMEOUT_S,
    )


def _join_cluster() -> None:
    _use_gloo_on_cpu()
    try:
        jax.distributed.initialize(
            local_device_ids=slurm_gpus(os.environ), initialization_timeout=TIMEOUT_S
        )
    except ValueError as error:
        raise InputError(
            f"--coordinator {AUTO}: neither a TPU VM nor a task of Slurm ({error}); give "
            "--coordinator HOST:PORT, --process and --num-processes"
        ) from error


def _use_gloo_on_cpu() -> None:
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
