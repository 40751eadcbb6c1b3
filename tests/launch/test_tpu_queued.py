"""Queued resources: had anew after a preemption, watched by a later launcher, given up at last."""

from __future__ import annotations

import math
import signal
import subprocess
from pathlib import Path

import pytest

from cosyjax.aot.topology import GENERATIONS
from tests.launch.conftest import LAUNCH, Stage, alive, wait_until

TRAIN = ("train", "--config", "c.py", "--workdir", "/bucket/runs/lm", "--set", "a=[{'b': 1}]")
MINE = {"NAME": "lm", "TYPE": "v5e-16", "ZONE": "z", "IMAGE": "x-docker.pkg.dev/i:1", "BUCKET": "b"}
# The resource is the file `state`; `states` holds what comes next, a line for each look at it. What
# is lost stays so until it is deleted, and a container goes with its machine.
GCLOUD = """
case "$*" in
    *" create "*) [ -e "$STAGE/refuses" ] && exit 1; echo WAITING_FOR_RESOURCES >"$STAGE/state" ;;
    *" delete "*) rm -f "$STAGE/state" "$STAGE/running" ;;
    *" describe "*)
        [ -e "$STAGE/offline" ] && rm "$STAGE/offline" && echo "no network" >&2 && exit 1
        [ -e "$STAGE/state" ] || { echo "ERROR: NOT_FOUND: lm" >&2; exit 1; }
        if [ -s "$STAGE/states" ] && ! grep -qE "SUSPENDED|FAILED" "$STAGE/state"; then
            sed -n 1p "$STAGE/states" >"$STAGE/state"
            sed -i 1d "$STAGE/states"
        fi
        cat "$STAGE/state" ;;
    *" ssh "*)
        for word in "$@"; do [[ $word != --command=* ]] || command=${word#*=}; done
        bash -c "$command" ;;
    "storage ls gs://b/runs/lm/checkpoints/")
        ls -d "$STAGE"/checkpoints/*/ 2>/dev/null | sed "s|$STAGE|gs://b/runs/lm|" ;;
esac
"""
# A container runs once and ends with the status of the next line of `ends`.
DOCKER = """
case $1 in
    inspect) [ -e "$STAGE/running" ] && echo true ;;
    run) touch "$STAGE/running" ;;
    logs) echo "said by the run" ;;
    wait)
        status=$(sed -n 1p "$STAGE/ends")
        [ "$status" = never ] && { echo $$ >>"$STAGE/pids"; exec sleep 1000; }
        sed -i 1d "$STAGE/ends"
        rm "$STAGE/running"
        echo "$status" ;;
esac
"""


@pytest.fixture()
def cloud(stage: Stage) -> Stage:
    stage.program("gcloud", GCLOUD)
    stage.program("docker", DOCKER)
    stage.program("sudo", 'exec "$@"')
    stage.program("mountpoint", "exit 1")
    stage.program("gcsfuse", "")
    stage.program("mkdir", '[ "$*" = "-p /bucket" ] || exec /bin/mkdir "$@"')
    return stage


def play(stage: Stage, states: str, ends: str) -> None:
    (stage.folder / "states").write_text("".join(f"{word}\n" for word in states.split()))
    (stage.folder / "ends").write_text("".join(f"{word}\n" for word in ends.split()))


def queued(stage: Stage, verb: str) -> list[list[str]]:
    head = ["gcloud", "compute", "tpus", "queued-resources", verb]
    return [words for words in stage.calls("gcloud") if words[:5] == head]


def told(ran: subprocess.CompletedProcess) -> list[str]:
    lines = [line.split(": ", 1)[1] for line in ran.stderr.splitlines() if ": " in line]
    return [line.removeprefix("lm is ") for line in lines if line.startswith("lm is ")]


def test_a_dry_run_prints_what_would_be_asked_for(cloud: Stage) -> None:
    ran = cloud.run("tpu_queued.sh", "-n", *TRAIN, **MINE, SPOT="1", SLICES="2", PROJECT="p")
    assert ran.returncode == 0 and cloud.calls() == []
    create = ran.stdout.splitlines()[1]
    for word in ("lm", "--zone=z", "--project=p", "--accelerator-type=v5litepod-16", "--spot"):
        assert f" {word} " in create + " "
    assert "--node-count=2 --node-prefix=lm" in create and "--node-id" not in create
    assert "on 8 workers of 4 chips" in ran.stdout and "--coordinator auto" in ran.stdout


def test_a_run_waits_for_its_slice_and_deletes_it_at_the_end(cloud: Stage) -> None:
    play(cloud, "WAITING_FOR_RESOURCES PROVISIONING ACTIVE", "0")
    ran = cloud.run("tpu_queued.sh", *TRAIN, **MINE)
    assert ran.returncode == 0, ran.stderr
    assert told(ran) == ["ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    assert "--node-id=lm" in queued(cloud, "create")[0]
    assert "--batch-size=all" in queued(cloud, "ssh")[0]
    [mount] = cloud.calls("gcsfuse")
    assert mount[-2:] == ["b", "/bucket"]
    # Workers see each other's folders at once.
    for name in ("--metadata-cache-ttl-secs", "--metadata-cache-negative-ttl-secs"):
        assert mount[mount.index(name) + 1] == "0"
    [container] = [words for words in cloud.calls("docker") if words[1] == "run"]
    wanted = ["cosyjax", *TRAIN, "--stopped-status", "75", "--coordinator", "auto"]
    assert container[container.index("cosyjax") :] == wanted
    assert "said by the run" in (cloud.folder / "lm.log").read_text()
    assert len(queued(cloud, "delete")) == 1 and not (cloud.folder / "state").exists()


def test_a_slice_that_is_preempted_is_deleted_and_had_anew(cloud: Stage) -> None:
    play(cloud, "ACTIVE", "never")
    launcher = cloud.start("tpu_queued.sh", *TRAIN, **MINE)
    wait_until(lambda: len(cloud.pids()) == 1)
    (cloud.folder / "states").write_text("SUSPENDING\nSUSPENDED\n")
    wait_until(lambda: len(queued(cloud, "create")) == 2)
    (cloud.folder / "states").write_text("PROVISIONING\nACTIVE\n")
    wait_until(lambda: len(cloud.pids()) == 2)
    (cloud.folder / "ends").write_text("0\n")
    (cloud.folder / "states").write_text("SUSPENDED\n")
    wait_until(lambda: len(queued(cloud, "create")) == 3)
    (cloud.folder / "states").write_text("ACTIVE\n")
    out, err = launcher.communicate(timeout=30)
    assert launcher.returncode == 0, err
    assert len(queued(cloud, "create")) == len(queued(cloud, "delete")) == 3
    assert len(queued(cloud, "ssh")) == 3 and not any(map(alive, cloud.pids()))
    assert "start 2" not in err, "a preemption is no failure"


def test_a_run_that_fails_on_an_active_slice_starts_again_there(cloud: Stage) -> None:
    play(cloud, "ACTIVE", "1 75 0")
    ran = cloud.run("tpu_queued.sh", *TRAIN, **MINE)
    assert ran.returncode == 0 and "status 1; start 2" in ran.stderr
    assert len(queued(cloud, "create")) == 1 and len(queued(cloud, "ssh")) == 3


def test_a_run_that_brings_no_checkpoint_is_given_up_and_its_slice_deleted(cloud: Stage) -> None:
    play(cloud, "ACTIVE", "1 1 1 1")
    ran = cloud.run("tpu_queued.sh", *TRAIN, **MINE)
    assert ran.returncode == 1 and "no new checkpoint in 3 starts" in ran.stderr
    assert len(queued(cloud, "ssh")) == 3 and len(queued(cloud, "delete")) == 1


def test_new_checkpoints_in_the_bucket_count(cloud: Stage) -> None:
    body = GCLOUD.replace("bash -c", '/bin/mkdir -p "$STAGE/checkpoints/$$"; bash -c')
    cloud.program("gcloud", body)
    play(cloud, "ACTIVE", "1 1 1 1 0")
    ran = cloud.run("tpu_queued.sh", *TRAIN, **MINE)
    assert ran.returncode == 0 and len(queued(cloud, "ssh")) == 5


@pytest.mark.parametrize("how", ["refuses", "FAILED"])
def test_a_slice_that_is_refused_again_and_again_is_given_up(cloud: Stage, how: str) -> None:
    play(cloud, "FAILED FAILED FAILED", "")
    if how == "refuses":
        (cloud.folder / "refuses").touch()
    ran = cloud.run("tpu_queued.sh", *TRAIN, **MINE)
    assert ran.returncode == 2 and "refused 3 times" in ran.stderr
    assert len(queued(cloud, "create")) == 3 and not queued(cloud, "ssh")


def test_a_launcher_that_is_stopped_leaves_the_run_and_the_next_one_watches_it(
    cloud: Stage,
) -> None:
    play(cloud, "ACTIVE", "never")
    launcher = cloud.start("tpu_queued.sh", *TRAIN, **MINE)
    wait_until(lambda: bool(cloud.pids()))
    launcher.send_signal(signal.SIGTERM)
    said = launcher.communicate(timeout=30)[1]
    assert launcher.returncode == 143 and "queued-resources delete lm" in said
    assert not queued(cloud, "delete") and (cloud.folder / "running").exists()
    (cloud.folder / "ends").write_text("0\n")
    (cloud.folder / "offline").touch()
    ran = cloud.run("tpu_queued.sh", *TRAIN, **MINE)
    assert ran.returncode == 0 and "no network" in ran.stderr
    assert len([words for words in cloud.calls("docker") if words[1] == "run"]) == 1
    assert len(queued(cloud, "create")) == 1


def test_data_is_prepared_by_several_resources_of_one_host(cloud: Stage) -> None:
    prepare = ("prepare", "/bucket/in", "/bucket/out", "--bundle", "/bucket/front")
    cloud.program("gcloud", GCLOUD.replace("$STAGE/state", "$STAGE/$5.state"))
    play(cloud, "", "0 0")
    cloud.program("docker", '[ "$1" != wait ] || echo 0')
    variables = {**MINE, "TYPE": "v5e-8", "PROCESSES": "2"}
    for name in ("lm-0", "lm-1"):
        (cloud.folder / f"{name}.state").write_text("ACTIVE\n")
    ran = cloud.run("tpu_queued.sh", *prepare, **variables)
    assert ran.returncode == 0, ran.stderr
    runs = [words for words in cloud.calls("docker") if words[1] == "run"]
    ends = sorted(words[words.index("cosyjax") :] for words in runs)
    wanted = ["cosyjax", *prepare, "--process"]
    assert ends == [[*wanted, str(i), "--num-processes", "2"] for i in range(2)]
    assert {words[5] for words in queued(cloud, "delete")} == {"lm-0", "lm-1"}


@pytest.mark.parametrize(
    "words, changes, message",
    [
        (TRAIN, {"TYPE": "v5e-17"}, "no such slice in launch/tpus.sh; v5e-1 v5e-4"),
        (TRAIN, {"BUCKET": ""}, "BUCKET is not set"),
        (("train", "--workdir", "runs/lm"), {}, "give a folder below it"),
        (("prepare", "in", "/bucket/out"), {}, "slices of one host"),
        (TRAIN, {"PROCESSES": "4"}, "one for every host of TYPE"),
    ],
)
def test_a_mistake_is_told_before_anything_is_asked_for(
    cloud: Stage, words: tuple[str, ...], changes: dict[str, str], message: str
) -> None:
    ran = cloud.run("tpu_queued.sh", *words, **{**MINE, **changes})
    assert ran.returncode == 2 and message in ran.stderr and not cloud.calls()


def test_the_table_of_slices_agrees_with_itself() -> None:
    table = subprocess.run(
        ["bash", "-c", f"source {LAUNCH / 'tpus.sh'}; tpu_table"], capture_output=True, text=True
    ).stdout
    rows = [line.split() for line in table.splitlines()]
    names = {"v5e-1", "v5e-8", "v5e-16", "v5e-256", "v5p-128", "v6e-256", "v5p-4096"}
    assert names <= {row[0] for row in rows}
    for name, accelerator, _, _, topology, hosts, chips in rows:
        family, number = name.split("-")
        assert int(number) == math.prod(map(int, topology.split("x"))) == int(hosts) * int(chips)
        cores = int(number) * (2 if family == "v5p" else 1)  # which Google counts
        assert accelerator.endswith(f"-{cores}")
        shapes = GENERATIONS[family].shapes
        assert math.prod(shapes[int(number)]) == int(number)
        assert "x".join(map(str, shapes[int(number)])) == topology


def test_the_table_of_slices_is_the_only_one() -> None:
    paths = [p for p in LAUNCH.rglob("*") if p.is_file() and p.name != "tpus.sh"]
    assert [p.name for p in paths if "litepod" in Path(p).read_text()] == []
