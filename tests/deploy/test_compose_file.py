"""docker-compose.yml: what each profile starts, that the programs take their commands, and that nothing is open."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.smoke.compose_file import (
    Service,
    interpolate,
    read_environment,
    read_services,
    seconds,
)
from student_trainer.config import TrainConfig
from teacher_server.config import ServeConfig, VllmEngineConfig
from tests.deploy.commands import PROGRAMS, parsed

COMPOSE_FILE = Path("docker-compose.yml").resolve()
ENVIRONMENT = read_environment(Path(".env"))
PROFILES = {
    "toy": ["teacher", "trainer"],
    "multi": ["teacher", "teacher-2", "trainer-1", "trainer-2"],
    "score": ["teacher", "score"],
    "gpu": ["teacher-gpu", "rollouts", "trainer-gpu"],
    "score-gpu": ["teacher-gpu", "score"],
    "public": ["teacher-public"],
    "monitoring": ["prometheus", "grafana"],
}


def services(*profiles: str, **settings: str) -> dict[str, Service]:
    return read_services(COMPOSE_FILE, ENVIRONMENT | settings, set(profiles))


def entries() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(COMPOSE_FILE.read_text())["services"]


def settings(service: Service, files: Path) -> Any:
    """What the program makes of its command, with what is mounted read from where it lies."""
    here = {m.target: os.path.relpath(m.source) for m in service.mounts if not m.volume}
    return parsed([here.get(word, word) for word in service.command], files)


def ours() -> dict[str, dict[str, Any]]:
    return {name: entry for name, entry in entries().items() if "build" in entry}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("server.pem", "server.key", "ca.pem"):
        path = tmp_path / "run" / "certificates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_it_is_what_the_compose_specification_says():
    checker = Path(sys.executable).with_name("check-jsonschema")
    if not checker.exists():
        pytest.skip("check-jsonschema is not installed")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_plain_up_is_the_toy():
    assert ENVIRONMENT["COMPOSE_PROFILES"] == "toy"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_starts_what_it_says_in_order(profile: str):
    assert list(services(profile)) == PROFILES[profile]


def test_every_service_is_in_a_profile():
    assert {name for names in PROFILES.values() for name in names} == set(entries())
    assert all(entry["profiles"] for entry in entries().values())


@pytest.mark.parametrize("profile", PROFILES)
def test_the_programs_take_their_commands(profile: str, files: Path):
    for service in services(profile).values():
        if PROGRAMS & set(service.command):
            settings(service, files)


def test_who_asks_whom(files: Path):
    toy, gpu, multi = services("toy"), services("gpu"), services("multi")
    trainer = settings(toy["trainer"], files)
    assert trainer.teacher.address == "teacher:50051"
    assert trainer.steps == int(ENVIRONMENT["TOY_STEPS"])
    assert trainer.resume
    teacher = settings(gpu["teacher-gpu"], files)
    assert isinstance(teacher, ServeConfig)
    assert isinstance(teacher.engine, VllmEngineConfig)
    assert teacher.model == ENVIRONMENT["TEACHER_MODEL"]
    student = settings(gpu["trainer-gpu"], files)
    assert isinstance(student, TrainConfig)
    assert student.sampler.kind == "vllm"
    assert student.sampler.address == "rollouts:50061"
    assert gpu["teacher-gpu"].hostnames == ("teacher-gpu", "teacher")
    assert [settings(multi[f"trainer-{n}"], files).objective.name for n in (1, 2)] == [
        "vgs-lp",
        "standard",
    ]
    assert gpu["trainer-gpu"].command[:6] == (
        *("then_report.py", "runs/student", "torchrun", "--nproc-per-node", "1", "-m"),
    )


def test_a_grace_period_is_longer_than_the_drain(files: Path):
    for profile in ("toy", "multi", "gpu", "public"):
        for name, service in services(profile).items():
            if name.startswith("teacher"):
                config = settings(service, files)
                vllm = isinstance(config.engine, VllmEngineConfig)
                # The lines take 1 s, HTTP 5 s, vLLM's processes 5 s.
                rest_s = 20 if vllm else 10
                assert service.stop_grace_s >= config.server.grace_s + rest_s, name
                assert service.stop_signal == "SIGTERM"


def test_every_teacher_wants_tokens_and_the_public_one_tls(files: Path):
    for profile in ("toy", "multi", "gpu", "public"):
        for name, service in services(profile).items():
            if name.startswith("teacher"):
                server = settings(service, files).server
                assert server.clients_file is not None
                assert not server.insecure
                assert (server.tls is not None) == (name == "teacher-public")


def test_only_the_public_profile_publishes_more_than_loopback():
    for name, entry in entries().items():
        for port in entry.get("ports", []):
            gateway = str(port).startswith("127.0.0.1:")
            assert gateway or (name, port) == ("teacher-public", "${PUBLIC_PORT:-50051}:50051")
    assert "ports" not in entries()["trainer"]
    assert yaml.safe_load(COMPOSE_FILE.read_text())["networks"]["private"] == {"internal": True}


def test_no_container_sees_more_of_deploy_than_it_reads():
    for profile in PROFILES:
        for name, service in services(profile).items():
            sources = {Path(m.source).resolve() for m in service.mounts if not m.volume}
            for above in (COMPOSE_FILE.parent, COMPOSE_FILE.parent / "deploy"):
                assert above not in sources, name
            certificates = COMPOSE_FILE.parent / "deploy" / "certificates"
            assert (certificates in sources) == (name == "teacher-public")


@pytest.mark.parametrize("profile", ["gpu", "public"])
def test_a_teachers_file_may_lie_anywhere(profile: str, tmp_path: Path):
    own = {
        "TEACHER_CONFIG": str(tmp_path / "own.toml"),
        "PUBLIC_CONFIG": str(tmp_path / "own.toml"),
    }
    teacher = next(iter(services(profile, **own).values()))
    (mount,) = (m for m in teacher.mounts if m.target == "/app/teacher.toml")
    assert (mount.source, mount.read_only, mount.volume) == (own["TEACHER_CONFIG"], True, False)
    assert "--config /app/teacher.toml" in " ".join(teacher.command)


def test_what_samples_the_student_is_long_enough_for_it(files: Path):
    gpu = services("gpu")
    rollouts, student = settings(gpu["rollouts"], files), settings(gpu["trainer-gpu"], files)
    teacher = settings(gpu["teacher-gpu"], files)
    assert rollouts.engine.context_length == teacher.engine.max_model_len
    assert rollouts.engine.context_length > student.sampler.max_new_tokens
    assert gpu["rollouts"].environment["VLLM_NO_USAGE_STATS"] == "1"


def test_wrong_settings_are_not_tried_for_ever():
    restarts = {entry["restart"] for entry in entries().values() if "restart" in entry}
    assert restarts == {"on-failure:5"}


def test_everything_is_hardened():
    for name, entry in entries().items():
        assert entry["read_only"] is True, name
        assert entry["cap_drop"] == ["ALL"], name
        assert entry["security_opt"] == ["no-new-privileges:true"], name
        assert not str(entry["user"]).startswith(("0", "root")), name
        assert entry["init"] is True, name


def test_no_service_has_the_same_image_of_another_target():
    targets: dict[str, set[tuple[str, str]]] = {}
    for entry in ours().values():
        build = entry["build"]
        targets.setdefault(entry["image"], set()).add((build["dockerfile"], build["target"]))
    assert all(len(built) == 1 for built in targets.values())
    assert len(targets) == 6


def test_every_variable_is_in_the_environment_file():
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    assert asked == set(ENVIRONMENT) - {"COMPOSE_PROFILES"}
    for name, default in re.findall(r"\$\{(\w+):-([^}]+)\}", COMPOSE_FILE.read_text()):
        assert ENVIRONMENT[name] == default, name


def test_the_environment_file_holds_no_secret():
    assert ENVIRONMENT["HF_TOKEN"] == ""
    assert not {name for name in ENVIRONMENT if "SECRET" in name or "PASSWORD" in name}


def test_variables_are_those_of_compose():
    assert interpolate("a ${X} $Y ${Z:-z} $$HOME", {"X": "1", "Y": "2"}) == "a 1 2 z $HOME"
    assert interpolate("${X:-empty} ${X-unset}", {"X": ""}) == "empty "
    with pytest.raises(ValueError, match="X is not set: say it"):
        interpolate("${X:?say it}", {})


def test_durations():
    assert seconds("1m30s") == 90
    assert seconds("500ms") == 0.5
    with pytest.raises(ValueError, match="no duration"):
        seconds("soon")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "docker-compose.yml"
    path.write_text(text)
    return path


def test_what_the_smoke_test_would_not_heed_is_refused(tmp_path: Path):
    new = written(tmp_path, "services: {a: {image: b, ulimits: {nofile: 9}}}")
    with pytest.raises(ValueError, match="a: ulimits is new here"):
        read_services(new, {}, set())
    missing = "services: {a: {image: b, depends_on: [c]}, c: {image: d, profiles: [e]}}"
    with pytest.raises(ValueError, match="a depends on c, which is in none"):
        read_services(written(tmp_path, missing), {}, set())
    circle = "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}"
    with pytest.raises(ValueError, match="a -> b -> a"):
        read_services(written(tmp_path, circle), {}, set())


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_itself_takes_every_profile(profile: str):
    """Where there is a docker-compose: it needs no engine for that."""
    beside = str(Path(sys.executable).with_name("docker-compose"))
    for command in ([beside], ["docker-compose"], ["docker", "compose"]):
        try:
            found = subprocess.run([*command, "version"], capture_output=True, timeout=20)
        except OSError:
            continue
        if found.returncode == 0:
            break
    else:
        pytest.skip("there is no docker compose")
    done = subprocess.run(
        [*command, "--profile", profile, "config", "--services"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COMPOSE_PROFILES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(PROFILES[profile])
