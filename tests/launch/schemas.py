"""The part of JobSet (jobset.x-k8s.io/v1alpha2) and Job (batch/v1) that the manifests use.

Names and types as in the API; an unknown name is an error, so that a typo is one.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 1}
NOT_NEGATIVE: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"}
LABELS: Schema = {"type": "object", "additionalProperties": TEXT, "minProperties": 1}


def record(required: dict[str, Schema], **optional: Schema) -> Schema:
    """An object of these fields and no other."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def several(item: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*words: str) -> Schema:
    """One of these words."""
    return {"enum": list(words)}


METADATA = record({"name": NAME}, labels=LABELS, annotations=LABELS)
VOLUME: Schema = {
    "oneOf": [
        record({"name": NAME, "emptyDir": record({"medium": one_of("Memory")})}),
        record(
            {
                "name": NAME,
                "csi": record(
                    {
                        "driver": one_of("gcsfuse.csi.storage.gke.io"),
                        "volumeAttributes": record(
                            {"bucketName": TEXT, "mountOptions": TEXT},
                            hostNetworkPodKSA=one_of("true"),
                        ),
                    }
                ),
            }
        ),
    ]
}
CONTAINER = record(
    {
        "name": NAME,
        "image": TEXT,
        "command": several(TEXT),
        "args": several({"type": "string"}),
        "env": several(record({"name": TEXT, "value": TEXT})),
        "resources": record(
            {},
            requests=record({"cpu": TEXT, "memory": TEXT}),
            limits=record({"google.com/tpu": COUNT}),
        ),
        "volumeMounts": several(record({"name": NAME, "mountPath": TEXT})),
    },
    securityContext=record({"privileged": FLAG}),
)
TOLERATION = record(
    {"key": TEXT, "operator": one_of("Exists", "Equal"), "effect": one_of("NoSchedule")},
    value=TEXT,
)
POD = record(
    {
        "restartPolicy": one_of("Never"),  # as podFailurePolicy demands
        "serviceAccountName": TEXT,
        "containers": several(CONTAINER),
        "volumes": several(VOLUME),
    },
    hostNetwork=FLAG,
    dnsPolicy=one_of("ClusterFirstWithHostNet"),
    terminationGracePeriodSeconds=COUNT,
    nodeSelector=LABELS,
    tolerations=several(TOLERATION),
)
POD_FAILURE_RULE = record(
    {"action": one_of("FailJob", "Ignore", "Count", "FailIndex")},
    onPodConditions=several(record({"type": TEXT, "status": one_of("True")})),
    onExitCodes=record(
        {
            "containerName": NAME,
            "operator": one_of("In", "NotIn"),
            "values": several(NOT_NEGATIVE),
        }
    ),
)
JOB_SPEC = record(
    {
        "completionMode": one_of("Indexed"),
        "completions": COUNT,
        "parallelism": COUNT,
        "podFailurePolicy": record({"rules": several(POD_FAILURE_RULE)}),
        "template": record({"metadata": record({"annotations": LABELS}), "spec": POD}),
    },
    backoffLimit=NOT_NEGATIVE,
    backoffLimitPerIndex=NOT_NEGATIVE,
)
JOB = record(
    {
        "apiVersion": one_of("batch/v1"),
        "kind": one_of("Job"),
        "metadata": METADATA,
        "spec": JOB_SPEC,
    }
)
FAILURE_RULE = record(
    {
        "name": {"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
        "action": one_of(
            "FailJobSet",
            "RestartJobSet",
            "RestartJobSetAndIgnoreMaxRestarts",
            "RestartJob",
            "RestartJobAndIgnoreMaxRestarts",
        ),
        "onJobFailureReasons": several(
            one_of("BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy")
        ),
    }
)
JOBSET = record(
    {
        "apiVersion": one_of("jobset.x-k8s.io/v1alpha2"),
        "kind": one_of("JobSet"),
        "metadata": METADATA,
        "spec": record(
            {
                "failurePolicy": record(
                    {"maxRestarts": NOT_NEGATIVE, "rules": several(FAILURE_RULE)}
                ),
                "replicatedJobs": several(
                    record(
                        {"name": NAME, "replicas": COUNT, "template": record({"spec": JOB_SPEC})}
                    )
                ),
            }
        ),
    }
)
