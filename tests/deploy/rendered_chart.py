"""What Helm makes of the chart."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python")

CHART = Path("deploy/kubernetes")


def render(values: dict[str, Any], folder: Path = CHART) -> list[dict[str, Any]]:
    """The manifests of release `distil` in namespace `team`."""
    with helm.Chart.load(str(folder)) as chart:
        files = chart.render(values, name="distil", namespace="team")
    documents = (yaml.safe_load_all(text) for name, text in files.items() if name.endswith(".yaml"))
    return [each for each in itertools.chain(*documents) if each]


def example(name: str) -> dict[str, Any]:
    """Values of a shipped example."""
    return yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text())


def of_kind(kind: str, documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Objects by name."""
    return {each["metadata"]["name"]: each for each in documents if each["kind"] == kind}


def job_specs(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of Jobs, and of JobSets' only one."""
    for each in documents:
        if each["kind"] == "Job":
            yield each["metadata"]["name"], each["spec"]
        if each["kind"] == "JobSet":
            (job,) = each["spec"]["replicatedJobs"]
            yield each["metadata"]["name"], job["template"]["spec"]


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name of what makes it, and the pod's specification."""
    for each in documents:
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]
    for name, job in job_specs(documents):
        yield name, job["template"]["spec"]


def lay_out(pod: dict[str, Any], documents: list[dict[str, Any]], folder: Path) -> dict[str, Path]:
    """Write the pod's configuration maps and secrets below `folder`; where each mount path's are."""
    places: dict[str, Path] = {}
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    secrets = of_kind("Secret", documents)
    for volume in pod["volumes"]:
        place = folder / mounts[volume["name"]].lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        places[mounts[volume["name"]]] = place
        data: dict[str, str] = {}
        if "configMap" in volume:
            data = of_kind("ConfigMap", documents)[volume["configMap"]["name"]]["data"]
        elif "secret" in volume and volume["secret"]["secretName"] in secrets:
            data = secrets[volume["secret"]["secretName"]]["stringData"]
        elif "secret" in volume:  # somebody else's
            data = dict.fromkeys(("tls.crt", "tls.key", "ca.crt", "clients.toml", "token"), "")
        for file, text in data.items():
            (place / file).write_text(text)
    return places
