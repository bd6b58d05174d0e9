"""The Helm chart: rendered by Helm's own code, held to Kubernetes' schemas, its commands parsed by the programs."""

import hashlib
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError

from teacher_server.client_file import ClientFile
from teacher_server.config import ServeConfig
from teacher_server.doorkeeper import Doorkeeper
from tests.deploy.commands import parsed
from tests.deploy.operator_kinds import OPERATOR_KINDS, validate
from tests.deploy.rendered_chart import CHART, example, job_specs, lay_out, of_kind, pods, render

kubernetes_validate = pytest.importorskip("kubernetes_validate")

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
VERSIONS = ["1.30", "1.34"]


def settings(name: str, pod: dict[str, Any], documents: list[dict[str, Any]], folder: Path) -> Any:
    """What the pod's program would run with; its configuration maps and secrets lie in `folder`."""
    lay_out(pod, documents, folder)
    container = pod["containers"][0]
    command = container.get("command", ["teacher-server"])
    words = [*command, *container.get("args", [])]
    return parsed([INDEX.sub("1", word) for word in words], folder)


INDEX = re.compile(r"\$\((?:POD|JOB_COMPLETION)_INDEX\)")
"""What Kubernetes puts the number of a pod in the place of."""

ALL = pytest.mark.parametrize(
    "values", [{}, *map(yaml.safe_load, (path.read_text() for path in EXAMPLES))],
    ids=["defaults", *(path.stem for path in EXAMPLES)],
)  # fmt: skip


@ALL
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_what_kubernetes_takes(values: dict[str, Any], version: str):
    for each in render(values):
        if each["kind"] in OPERATOR_KINDS:
            validate(each)
        else:
            kubernetes_validate.validate(each, version, strict=True)
        if each["kind"] == "JobSet":
            (job,) = each["spec"]["replicatedJobs"]
            inner = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}}
            kubernetes_validate.validate(inner | job["template"], version, strict=True)


@ALL
def test_no_two_objects_have_one_name(values: dict[str, Any]):
    names = [(each["kind"], each["metadata"]["name"]) for each in render(values)]
    assert len(names) == len(set(names))


@ALL
def test_every_pod_is_hardened(values: dict[str, Any]):
    for _, pod in pods(render(values)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"] + pod.get("initContainers", []):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["allowPrivilegeEscalation"] is False
            assert {"/tmp", "/cache"} <= {each["mountPath"] for each in container["volumeMounts"]}


@ALL
def test_the_programs_take_their_commands(values: dict[str, Any], tmp_path: Path):
    documents = render(values)
    for name, pod in pods(documents):
        read = settings(name, pod, documents, tmp_path / name)
        if isinstance(read, ServeConfig):
            drain = values.get("teacher", {}).get("preStopSeconds", 5) + read.server.grace_s
            engine = read.server.grace_s
            assert pod["terminationGracePeriodSeconds"] == drain + engine + 15
            assert read.server.clients_file is not None
            assert (read.server.tls is not None) == ("tls" in values)


def test_a_run_waits_for_as_long_as_a_teacher_may_load(tmp_path: Path):
    for name in ("many-trainers", "trainer-alone"):
        documents = render(example(name))
        for run, pod in pods(documents):
            read = settings(run, pod, documents, tmp_path / name / run)
            if not isinstance(read, ServeConfig):
                assert read.teacher.connect_timeout_s == read.teacher.outage_s == 90 * 60
    with pytest.raises(Exception, match="waitMinutes 20 is less than"):
        render({"trainers": [{"name": "a", "runsClaim": "runs", "waitMinutes": 20}]})


def test_a_teacher_is_upgraded_under_runs_that_can_not_be_changed(tmp_path: Path):
    values = example("many-trainers")
    before = dict(job_specs(render(values)))
    values["image"] |= {"tag": "0.2.0"}
    assert dict(job_specs(render(values))) == before
    values["trainer"] |= {"tag": yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]}
    assert dict(job_specs(render(values, next_version(tmp_path)))) == before


def next_version(folder: Path) -> Path:
    """The chart as its next release has it."""
    chart = shutil.copytree(CHART, folder / "chart")
    named = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(
        yaml.safe_dump(named | {"version": "9.9.9", "appVersion": "9.9.9"})
    )
    return chart


def test_models_are_fetched_into_the_cache():
    for values in (example("many-trainers"), example("toy")):
        for _, pod in pods(render(values)):
            for container in pod["containers"] + pod.get("initContainers", []):
                assert {"name": "HF_HOME", "value": "/cache/huggingface"} in container["env"]


def test_a_probe_asks_for_grpc_health_also_over_tls():
    (pod,) = (pod for _, pod in pods(render({})))
    container = pod["containers"][0]
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    assert [container[kind]["grpc"] for kind in kinds] == [{"port": 50051}] * 3
    (pod,) = (pod for _, pod in pods(render(example("autoscaled-tls"))))
    asked = pod["containers"][0]["readinessProbe"]["exec"]["command"]
    assert asked == ["healthcheck.py", "localhost:50051", "--ca-file", "/run/tls/ca.crt"]
    assert Path("deploy/bin/healthcheck.py").exists()


def test_tokens_are_random_and_the_clients_file_knows_them(tmp_path: Path):
    secrets = of_kind("Secret", render(example("many-trainers")))
    file = tmp_path / "clients.toml"
    file.write_text(secrets["distil-clients"]["stringData"]["clients.toml"])
    entries = tomllib.loads(file.read_text())["clients"]
    assert set(entries) == {"charts", "maths", "doctors", "prometheus"}
    for name, entry in entries.items():
        token = secrets[f"distil-token-{name}"]["stringData"]["token"]
        assert entry["token_sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert (entries["charts"]["weight"], entries["charts"]["max_tokens"]) == (2, 131072)
    Doorkeeper(ClientFile(file))
    again = of_kind("Secret", render(example("many-trainers")))
    assert again["distil-token-maths"] != secrets["distil-token-maths"]


def test_a_trainer_has_its_own_token_alone():
    for name, job in job_specs(render(example("many-trainers"))):
        (token,) = (
            each["secret"] for each in job["template"]["spec"]["volumes"] if "secret" in each
        )
        assert token["secretName"] == f"distil-token-{name.removeprefix('distil-')}"


def test_balancing_is_the_clients():
    documents = render(example("many-trainers"))
    service = of_kind("Service", documents)["distil-teacher"]["spec"]
    assert service["clusterIP"] == "None"
    for _, job in job_specs(documents):
        command = job["template"]["spec"]["containers"][0]["command"]
        assert "--teacher.address=dns:///distil-teacher.team.svc:50051" in command


def test_machines_of_a_run_find_each_other():
    documents = render(example("trainer-alone"))
    ((name, job),) = job_specs(documents)
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 4)
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    service = of_kind("Service", documents)[pod["subdomain"]]["spec"]
    assert service["publishNotReadyAddresses"] is True
    assert service["selector"].items() <= job["template"]["metadata"]["labels"].items()
    assert pod["containers"][0]["command"][:8] == [
        "torchrun", "--nproc-per-node=8", "--nnodes=4", "--node-rank=$(JOB_COMPLETION_INDEX)",
        f"--master-addr={name}-0.{name}", "--master-port=29500", "-m", "student_trainer",
    ]  # fmt: skip
    assert not of_kind("Deployment", documents)


def test_wrong_settings_end_a_job_set():
    (charts,) = of_kind("JobSet", render(example("many-trainers"))).values()
    (rule,) = charts["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    job = charts["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["podFailurePolicy"]["rules"][0]["action"] == "FailJob", "which has that reason"
    rule["name"] = "wrong-settings"
    with pytest.raises(ValidationError, match="wrong-settings"):
        validate(charts)


def test_a_job_set_names_its_machines_itself():
    ((_, charts),) = of_kind("JobSet", render(example("many-trainers"))).items()
    assert charts["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "distil-charts"}
    spec = charts["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["backoffLimit"] == 0, "the set starts all anew"
    command = spec["template"]["spec"]["containers"][0]["command"]
    assert "--master-addr=distil-charts-machines-0-0.distil-charts" in command


def test_a_run_on_one_gpu_keeps_its_exit_status():
    jobs = dict(job_specs(render(example("many-trainers"))))
    commands = {n: j["template"]["spec"]["containers"][0]["command"] for n, j in jobs.items()}
    assert commands["distil-doctors"][0] == "student-trainer"
    assert commands["distil-maths"][:3] == ["torchrun", "--nproc-per-node=8", "--standalone"]
    first = jobs["distil-doctors"]["podFailurePolicy"]["rules"][0]
    assert first["onExitCodes"] == {"containerName": "trainer", "operator": "In", "values": [2]}


def test_a_rollout_server_is_a_sidecar():
    jobs = dict(job_specs(render(example("many-trainers"))))
    (sidecar,) = jobs["distil-doctors"]["template"]["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    read = parsed(["rollout-server", *sidecar["args"]], Path())
    assert read.server.host == "127.0.0.1"
    assert read.engine.context_length == 18432
    assert sidecar["resources"]["limits"] == {"nvidia.com/gpu": "1"}


def test_an_autoscaled_teacher_has_no_fixed_number():
    documents = render(example("autoscaled-tls"))
    (deployment,) = of_kind("Deployment", documents).values()
    assert "replicas" not in deployment["spec"]
    (scaler,) = of_kind("HorizontalPodAutoscaler", documents).values()
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "teacher_queue_tokens"


def test_several_machines_serve_one_replica():
    documents = render(example("two-machines"))
    ((name, group),) = of_kind("StatefulSet", documents).items()
    assert group["spec"]["podManagementPolicy"] == "Parallel"
    container = group["spec"]["template"]["spec"]["containers"][0]
    assert "--engine.tensor-parallel-size=16" in container["args"]
    assert f"--engine.master-address={name}-0.{name}" in container["args"]
    service = of_kind("Service", documents)["distil-teacher"]["spec"]
    assert service["selector"]["apps.kubernetes.io/pod-index"] == "0", "the first machine answers"
    with pytest.raises(Exception, match="say replicas instead"):
        render({"teacher": {"machines": 2, "autoscaling": {"enabled": True}}})


def test_the_first_machine_drains_before_the_others_go():
    (group,) = of_kind("StatefulSet", render(example("two-machines"))).values()
    assert group["spec"]["updateStrategy"] == {"type": "OnDelete"}
    pod = group["spec"]["template"]["spec"]
    shell, option, script = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    first, second = (
        int(subprocess.check_output([shell, option, said], env={"POD_INDEX": index}))
        for index, said in zip("01", [script.replace("exec sleep", "echo")] * 2, strict=True)
    )
    assert (first, second) == (5, 41), "preStopSeconds; and graceSeconds, and the end of the lines"
    assert second + 5 < pod["terminationGracePeriodSeconds"]


def test_only_trainers_and_monitoring_reach_the_teacher():
    policy = of_kind("NetworkPolicy", render({}))["distil-teacher"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    grpc, http = policy["ingress"]
    (trainers,) = grpc["from"]
    assert trainers["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "trainer"
    assert http["ports"] == [{"port": "http", "protocol": "TCP"}]


def test_the_scrape_is_named_as_the_rules_expect():
    documents = render(example("many-trainers"))
    (monitor,) = of_kind("ServiceMonitor", documents).values()
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/component"
    service = of_kind("Service", documents)["distil-teacher"]
    assert service["metadata"]["labels"]["app.kubernetes.io/component"] == "teacher"
    assert 'job="teacher"' in Path("deploy/monitoring/alerts.yml").read_text()
    assert (
        monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    )


def test_the_scrape_shows_a_token_and_verifies_the_name_that_trainers_verify():
    (monitor,) = of_kind("ServiceMonitor", render(example("many-trainers"))).values()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"]["name"] == "distil-token-prometheus"
    (monitor,) = of_kind("ServiceMonitor", render(example("autoscaled-tls"))).values()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"]["name"] == "prometheus-token"
    assert endpoint["tlsConfig"]["serverName"] == "distil-teacher.team.svc"


def test_a_token_that_nobody_makes_is_missed_before_the_install():
    run = {"name": "a", "runsClaim": "runs"}
    scrape = {"serviceMonitor": {"enabled": True}}
    with pytest.raises(Exception, match="trainer a: client maths is none of clients"):
        render({"trainers": [run | {"client": "maths"}]})
    for values in ({"clientsSecret": "ours"}, {"teacher": {"enabled": False}}):
        with pytest.raises(Exception, match="trainer a: no token is made here"):
            render(values | {"trainers": [run]})
    with pytest.raises(Exception, match="name the secret that holds Prometheus' in tokenSecret"):
        render(scrape | {"clientsSecret": "ours"})
    with pytest.raises(Exception, match="add prometheus to clients"):
        render(scrape | {"clients": {"prometheus": None}})


def test_a_run_without_a_place_for_checkpoints_is_refused():
    with pytest.raises(Exception, match="trainer lost: say which runsClaim"):
        render({"trainers": [{"name": "lost"}]})


def test_a_misspelt_value_is_refused():
    with pytest.raises(Exception, match="replica"):
        render({"teacher": {"replica": 3}})
    with pytest.raises(Exception, match="gpu"):
        render({"trainers": [{"name": "a", "runsClaim": "runs", "gpu": 3}]})


def test_the_schema_of_the_values_knows_them_all():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) == set(schema["properties"])
    for section in ("teacher", "trainer", "image", "networkPolicy", "serviceMonitor", "hub", "tls"):
        assert set(values[section]) == set(schema["properties"][section]["properties"]), section


def test_chart_and_package_have_one_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version
