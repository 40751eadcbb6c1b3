"""Manifests for GKE: of the form that Kubernetes takes, for every slice, with restarts in them."""

from __future__ import annotations

import copy
import math
from typing import Any

import jsonschema
import pytest
import yaml

from tests.launch.conftest import Stage
from tests.launch.schemas import JOB, JOBSET

WORDS = ("--config", "configs/lm.py", "--workdir", "/bucket/runs/lm")
ODD = ("--set", "data.x=[{'a': \"b\\c\"}]", "--set", "name=$(HOME) @IMAGE@ &")
MINE = {"NAME": "lm", "TYPE": "v5e-256", "IMAGE": "r/i@sha256:1", "BUCKET": "b"}


def manifest(stage: Stage, verb: str, *words: str, **changes: str) -> dict[str, Any]:
    ran = stage.run("gke.sh", "-n", verb, *words, **{**MINE, **changes})
    assert ran.returncode == 0, ran.stderr
    return yaml.safe_load(ran.stdout)


def slices(jobset: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """How many slices, and the job and pod of each."""
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    return replicated["replicas"], job, job["template"]["spec"]


@pytest.mark.parametrize("name", ["v5e-1", "v5e-8", "v5e-16", "v5e-256", "v5p-128", "v5p-4096"])
def test_a_job_has_the_hosts_and_chips_of_its_slice(stage: Stage, name: str) -> None:
    jobset = manifest(stage, "train", *WORDS, TYPE=name, SLICES="3")
    jsonschema.validate(jobset, JOBSET)
    count, job, pod = slices(jobset)
    selector = pod["nodeSelector"]
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    sizes = selector["cloud.google.com/gke-tpu-topology"].split("x")
    assert count == 3 and job["completions"] == job["parallelism"]
    assert math.prod(map(int, sizes)) == job["completions"] * chips
    assert ("v5p" in selector["cloud.google.com/gke-tpu-accelerator"]) == ("v5p" in name)


@pytest.mark.parametrize(
    "changes", [{}, {"SPOT": "1"}, {"QUEUE": "q"}, {"SPOT": "1", "QUEUE": "q"}]
)
def test_spot_and_queue_are_there_where_they_are_asked_for(
    stage: Stage, changes: dict[str, str]
) -> None:
    for verb, words, schema in (("train", WORDS, JOBSET), ("prepare", ("/bucket/a",), JOB)):
        for name in ("v5e-8", "") if verb == "prepare" else ("v5e-16",):
            found = manifest(stage, verb, *words, TYPE=name, **changes)
            jsonschema.validate(found, schema)
            text = yaml.safe_dump(found)
            assert text.count("gke-spot") == (2 if "SPOT" in changes else 0)
            assert ("kueue.x-k8s.io/queue-name: q" in text) == ("QUEUE" in changes)
            assert ("google.com/tpu" in text) == bool(name)


def test_a_preemption_starts_all_slices_again_as_often_as_it_comes(stage: Stage) -> None:
    jobset = manifest(stage, "train", *WORDS, RESTARTS="7", GRACE_S="90")
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    [rule] = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    _, job, pod = slices(jobset)
    taken, saved = job["podFailurePolicy"]["rules"]
    assert taken["onPodConditions"][0]["type"] == "DisruptionTarget"
    [container] = pod["containers"]
    # What a run that was asked to end exits with must be what the policy looks for.
    status = int(container["args"][container["args"].index("--stopped-status") + 1])
    assert saved["onExitCodes"]["values"] == [status] and status != 0
    assert saved["onExitCodes"]["containerName"] == container["name"]
    assert taken["action"] == saved["action"] == "FailJob" and job["backoffLimit"] == 0
    assert pod["terminationGracePeriodSeconds"] == 90


def test_words_arrive_as_they_were_given(stage: Stage) -> None:
    _, _, pod = slices(manifest(stage, "train", *WORDS, *ODD))
    [container] = pod["containers"]
    wanted = ["train", *WORDS, *ODD, "--stopped-status", "75"]
    assert container["command"] + container["args"] == ["cosyjax", *wanted]
    assert container["image"] == "r/i@sha256:1"


def test_what_a_pod_mounts_is_there(stage: Stage) -> None:
    for verb, words in (("train", WORDS), ("prepare", ("/bucket/a", "/bucket/o", "--parts", "8"))):
        found = manifest(stage, verb, *words, TYPE="v5e-8")
        spec = found["spec"]
        pod = slices(found)[2] if verb == "train" else spec["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
        csi = volumes[mounts["/bucket"]]["csi"]["volumeAttributes"]
        assert set(mounts.values()) == set(volumes) and csi["bucketName"] == "b"
        # On the network of the host the driver must be told to use the pod's own account.
        assert ("hostNetworkPodKSA" in csi) == ("hostNetwork" in pod)


def test_data_is_prepared_by_numbered_pods(stage: Stage) -> None:
    found = manifest(stage, "prepare", "/bucket/a", "/bucket/o", TYPE="", PROCESSES="32")
    jsonschema.validate(found, JOB)
    spec = found["spec"]
    assert spec["completions"] == spec["parallelism"] == 32
    args = spec["template"]["spec"]["containers"][0]["args"]
    assert args[3:] == ["--process", "$(JOB_COMPLETION_INDEX)", "--num-processes", "32"]


def test_a_typo_in_a_manifest_is_seen(stage: Stage) -> None:
    jobset = manifest(stage, "train", *WORDS)
    for path in (
        ("spec", "failurePolicy", "maxRestart"),
        ("spec", "replicatedJobs", 0, "template", "spec", "backofLimit"),
        ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "nodeSelectors"),
        ("metadata", "anotations"),
    ):
        broken = copy.deepcopy(jobset)
        place: Any = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = 1
        with pytest.raises(jsonschema.ValidationError, match=str(path[-1])):
            jsonschema.validate(broken, JOBSET)


def test_a_dry_run_tells_the_line_of_xpk_and_starts_nothing(stage: Stage) -> None:
    stage.program("kubectl", "")
    changes = {**MINE, "SLICES": "2", "SPOT": "1", "CLUSTER": "c", "ZONE": "z", "PROJECT": "p"}
    ran = stage.run("gke.sh", "-n", "train", *WORDS, **changes)
    assert stage.calls() == []
    line = ran.stderr.splitlines()[-1] + " "
    for word in ("workload create", "--tpu-type=v5litepod-256", "--num-slices=2", "--spot"):
        assert f" {word} " in line
    assert "cosyjax\\ train\\ --config" in line and "--zone=z" in line


def test_the_manifest_goes_to_kubectl_and_its_refusal_is_the_launchers(stage: Stage) -> None:
    stage.program("kubectl", 'cat >"$STAGE/manifest"; [ ! -e "$STAGE/refuses" ]')
    ran = stage.run("gke.sh", "train", *WORDS, **MINE)
    assert ran.returncode == 0 and "kubectl get jobset lm" in ran.stderr
    assert stage.calls() == [["kubectl", "create", "-f", "-"]]
    sent = yaml.safe_load((stage.folder / "manifest").read_text())
    assert sent == manifest(stage, "train", *WORDS)
    (stage.folder / "refuses").touch()
    ran = stage.run("gke.sh", "train", *WORDS, **MINE)
    assert ran.returncode == 1 and "watch it" not in ran.stderr


@pytest.mark.parametrize(
    "words, changes, message",
    [
        (("train", *WORDS), {"TYPE": "v5e-12"}, "no such slice"),
        (("train", *WORDS), {"TYPE": ""}, "TYPE is not set"),
        (("train", *WORDS), {"NAME": "My_run"}, "small letters"),
        (("train", *WORDS), {"SLICES": "2.5"}, "SLICES=2.5"),
        (("train", "--workdir", "gs://b/runs/lm"), {}, "give a folder below it"),
        (("prepare", "in", "/bucket/out"), {}, "slices of one host"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    stage: Stage, words: tuple[str, ...], changes: dict[str, str], message: str
) -> None:
    stage.program("kubectl", "")
    ran = stage.run("gke.sh", *words, **{**MINE, **changes})
    assert ran.returncode == 2 and message in ran.stderr and stage.calls() == []
