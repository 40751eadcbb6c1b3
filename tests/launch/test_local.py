"""Processes of one machine: all start again when one dies, and none is left behind."""

from __future__ import annotations

import signal

import pytest

from tests.launch.conftest import Stage, alive, wait_until

TRAIN = ("train", "--config", "c.py:k=v", "--workdir", "run")
# Process numbers as the launcher gives them; "" where there is one process.
NUMBER = """
number=$(sed -nE "s/.*--process ([0-9]+).*/\\1/p" <<<"$*")
echo $$ >>"$STAGE/pids"
"""
# The first start reaches step 2 and loses process 1; the second ends well.
LOSES_ONE = """
if [ -d run/checkpoints/2 ]; then exit 0; fi
sleep 1000 &
echo $! >>"$STAGE/pids"
if [ "$number" = 1 ]; then
    until [ "$(wc -l <"$STAGE/pids")" -ge 4 ]; do sleep 0.02; done
    mkdir -p run/checkpoints/2
    kill -KILL $$
fi
wait
"""


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_a_dry_run_prints_the_commands_and_starts_nothing(stage: Stage) -> None:
    stage.program("cosyjax", "")
    ran = stage.run("local.sh", "-n", *TRAIN, PROCESSES="2", GPUS_EACH="4")
    assert ran.returncode == 0 and stage.calls() == []
    lines = ran.stdout.splitlines()
    assert len(lines) == 2 and lines[1].startswith("env CUDA_VISIBLE_DEVICES=4\\,5\\,6\\,7 cosyjax")
    assert "--process 1 --num-processes 2 --coordinator 127.0.0.1:" in lines[1]
    alone = stage.run("local.sh", *TRAIN, DRY_RUN="1").stdout
    assert alone == "cosyjax train --config c.py:k=v --workdir run\n" and stage.calls() == []


def test_when_one_process_is_killed_all_start_again(stage: Stage) -> None:
    stage.program("cosyjax", NUMBER + LOSES_ONE)
    ran = stage.run("local.sh", *TRAIN, PROCESSES="2")
    assert ran.returncode == 0, ran.stderr
    assert "status 137; start 2 goes on from 2" in ran.stderr
    numbers = sorted(option(words, "--process") for words in stage.calls())
    assert numbers == ["0", "0", "1", "1"]
    assert len({option(words, "--coordinator") for words in stage.calls()}) == 2
    assert len(stage.pids()) == 6 and not any(map(alive, stage.pids()))


def test_sigterm_is_passed_on_and_the_status_of_the_run_is_the_launchers(stage: Stage) -> None:
    trap = 'trap "sleep 0.1; echo saved >>saved; exit $((${number:-0} * 7))" TERM\n'
    stage.program("cosyjax", NUMBER + trap + "touch ready$number\nwhile :; do sleep 0.02; done")
    launcher = stage.start("local.sh", *TRAIN, PROCESSES="2")
    wait_until(lambda: all((stage.folder / f"ready{i}").exists() for i in range(2)))
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 7 and len(stage.calls()) == 2
    assert (stage.folder / "saved").read_text() == "saved\nsaved\n"
    assert not any(map(alive, stage.pids()))


def test_what_does_not_save_in_time_is_killed(stage: Stage) -> None:
    stage.program("cosyjax", NUMBER + 'trap "" TERM\ntouch ready\nwhile :; do sleep 0.02; done')
    launcher = stage.start("local.sh", *TRAIN, GRACE_S="1")
    wait_until(lambda: (stage.folder / "ready").exists())
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 137 and not any(map(alive, stage.pids()))


def test_processes_of_a_launcher_that_is_killed_are_asked_to_end(stage: Stage) -> None:
    stage.program("cosyjax", NUMBER + "touch ready$number\nexec sleep 1000")
    launcher = stage.start("local.sh", *TRAIN, PROCESSES="2")
    wait_until(lambda: all((stage.folder / f"ready{i}").exists() for i in range(2)))
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not any(map(alive, stage.pids())))


@pytest.mark.parametrize(
    "body, variables, starts, told",
    [
        ("exit 5", {}, 3, "gave up: status 5, and no new checkpoint in 3 starts"),
        ("exit 2", {}, 1, "bad input"),
        ("exit 75", {}, 1, "the same command goes on"),
        ("mkdir -p run/checkpoints/$$; exit 5", {"RESTARTS": "4"}, 5, "after 4 restarts"),
        ("mkdir -p run/checkpoints/7; exit 2", {}, 2, "bad input"),
    ],
    ids=["fruitless", "bad input", "asked to end", "often", "bad input later"],
)
def test_a_run_that_cannot_go_on_is_given_up(
    stage: Stage, body: str, variables: dict[str, str], starts: int, told: str
) -> None:
    stage.program("cosyjax", body)
    ran = stage.run("local.sh", *TRAIN, **variables)
    assert ran.returncode == int(body.split()[-1]) and told in ran.stderr
    assert len(stage.calls()) == starts


def test_processes_of_prepare_finish_their_share_before_all_start_again(stage: Stage) -> None:
    body = """
    if [ "$number" = 1 ] && [ ! -e out/audio/train/part-1/part.json ]; then
        mkdir -p out/audio/train/part-1 && touch out/audio/train/part-1/part.json
        kill -KILL $$
    fi
    sleep 0.2
    echo "$number" >>finished"""
    stage.program("cosyjax", NUMBER + body)
    ran = stage.run("local.sh", "prepare", "in", "out", "--parts", "4", PROCESSES="2")
    assert ran.returncode == 0 and "goes on from 1 in" in ran.stderr
    finished = (stage.folder / "finished").read_text().split()
    assert finished[0] == "0" and sorted(finished) == ["0", "0", "1"]
    assert all("--coordinator" not in words for words in stage.calls())


@pytest.mark.parametrize(
    "words, variables, told",
    [
        (("tarin",), {}, "launch/local.sh [-n] train"),
        (("train", "--config", "c.py"), {}, "train needs --workdir"),
        (("prepare", "--parts", "4"), {}, "prepare needs OUT"),
        ((*TRAIN, "--num-processes", "2"), {}, "the launcher itself tells"),
        (TRAIN, {"PROCESSES": "two"}, "PROCESSES=two"),
        (TRAIN, {"PROCESSES": "0"}, "at least 1"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    stage: Stage, words: tuple[str, ...], variables: dict[str, str], told: str
) -> None:
    stage.program("cosyjax", "")
    ran = stage.run("local.sh", *words, **variables)
    assert ran.returncode == 2 and told in ran.stderr and stage.calls() == []
