"""Kinds that operators add to Kubernetes, as strictly as the chart uses them: a field that is not here is an error.

From the definitions of JobSet (jobset.x-k8s.io/v1alpha2, and what its webhook refuses) and of the Prometheus operator
(monitoring.coreos.com/v1). Whoever takes a further field of theirs into the chart adds it here.
"""

from typing import Any

from jsonschema import Draft202012Validator

Schema = dict[str, Any]


def record(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    """An object with these fields and no other."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


def array(of: Schema, least: int = 0) -> Schema:
    """A list."""
    return {"type": "array", "items": of, "minItems": least}


def one_of(*words: str) -> Schema:
    """One of these words."""
    return {"enum": list(words)}


def kind(version: str, name: str, spec: Schema) -> Schema:
    """An object of the cluster."""
    metadata = record(("name", "labels"), name=LABEL, labels=LABELS)
    return record(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": version},
        kind={"const": name},
        metadata=metadata,
        spec=spec,
    )


TEXT: Schema = {"type": "string", "minLength": 1}
WHOLE: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
FLAG: Schema = {"type": "boolean"}
LABEL: Schema = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}
DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"}

RULE = record(
    ("name", "action"),
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action=one_of("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
    onJobFailureReasons=array(
        one_of(
            "BackoffLimitExceeded",
            "DeadlineExceeded",
            "FailedIndexes",
            "MaxFailedIndexesExceeded",
            "PodFailurePolicy",
        )
    ),
)
JOB_SET = record(
    ("replicatedJobs",),
    network=record(enableDNSHostnames=FLAG, subdomain=LABEL),
    failurePolicy=record(("maxRestarts",), maxRestarts=WHOLE, rules=array(RULE)),
    replicatedJobs=array(
        record(
            ("name", "template"),
            name=LABEL,
            replicas=WHOLE,
            template=record(("spec",), spec={"type": "object"}),  # Kubernetes' own
        ),
        least=1,
    ),
)

SECRET_KEY = record(("name", "key"), name=LABEL, key=TEXT)
ENDPOINT = record(
    ("port",),
    port=TEXT,
    path={"type": "string", "pattern": "^/"},
    interval=DURATION,
    scheme=one_of("http", "https"),
    authorization=record(("credentials",), credentials=SECRET_KEY),
    tlsConfig=record(ca=record(("secret",), secret=SECRET_KEY), serverName=TEXT),
)
SERVICE_MONITOR = record(
    ("endpoints", "selector"),
    jobLabel=TEXT,
    selector=record(("matchLabels",), matchLabels=LABELS),
    endpoints=array(ENDPOINT, least=1),
)

OPERATOR_KINDS = {
    "JobSet": kind("jobset.x-k8s.io/v1alpha2", "JobSet", JOB_SET),
    "ServiceMonitor": kind("monitoring.coreos.com/v1", "ServiceMonitor", SERVICE_MONITOR),
}


def validate(document: Schema) -> None:
    """Raises jsonschema.ValidationError for what an operator would not take, or not understand."""
    Draft202012Validator(OPERATOR_KINDS[document["kind"]]).validate(document)
