"""Which processes a run joins, by what its launcher says or its surroundings tell."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from cosyjax.errors import InputError
from cosyjax.train import distributed

TASK = {
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "SLURM_NTASKS_PER_NODE": "8",
}
EIGHT = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}


@pytest.fixture()
def joined(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict[str, Any]]]:
    """What jax.distributed was asked for; nothing is started."""
    calls: list[tuple[tuple, dict[str, Any]]] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(distributed, "_use_gloo_on_cpu", lambda: None)
    for name in (*TASK, *EIGHT, "TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_a_run_is_alone_where_nothing_tells_of_others(joined) -> None:
    distributed.start()
    distributed.start("localhost:1", 0, 1)
    assert joined == []


def test_what_the_launcher_says_counts_more_than_the_scheduler_around(joined, monkeypatch) -> None:
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    distributed.start("localhost:1", 1, 2)
    [(args, options)] = joined
    assert args == ("localhost:1", 2, 1) and options["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize(
    "environ, told",
    [
        (TASK, True),
        ({**TASK, "SLURM_NTASKS": "1"}, False),
        ({k: v for k, v in TASK.items() if k != "SLURM_STEP_NODELIST"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_COORDINATOR_ADDRESS": "a"}, True),
    ],
    ids=["srun", "one task", "batch shell", "slice", "addresses", "one host", "multislice"],
)
def test_slurm_and_gke_tell_of_the_others(joined, monkeypatch, environ, told) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    distributed.start()
    assert len(joined) == told


def test_auto_asks_where_it_runs_and_stands_alone(joined) -> None:
    distributed.start("auto")
    assert joined[0][0] == () and joined[0][1]["local_device_ids"] is None
    with pytest.raises(InputError, match="stands alone"):
        distributed.start("auto", 0, 2)


def test_auto_on_a_machine_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize(**options: Any) -> None:  # as JAX does where it recognises no cluster
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(InputError, match="neither a TPU VM nor a task of Slurm"):
        distributed.start("auto")


@pytest.mark.parametrize(
    "changes, own",
    [
        (EIGHT, [3]),
        ({"CUDA_VISIBLE_DEVICES": "3"}, [0]),
        ({**EIGHT, "SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0"}, list(range(8))),
        ({**EIGHT, "SLURM_NTASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, [4, 5, 6, 7]),
        ({**EIGHT, "SLURM_NTASKS_PER_NODE": "3"}, None),
        ({}, None),
    ],
    ids=["one each", "bound", "a node each", "half a node each", "uneven", "no GPU"],
)
def test_a_slurm_task_takes_its_share_of_the_gpus_it_sees(changes, own) -> None:
    assert distributed.slurm_gpus({**TASK, **changes}) == own
