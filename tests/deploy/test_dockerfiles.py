"""The images' recipes: hadolint's opinion, and what the two files promise each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy.requirements import requirements
from deploy.smoke.dockerfile import read_image

FILES = [Path("deploy/teacher.Dockerfile"), Path("deploy/student.Dockerfile")]
TARGETS = [
    (FILES[0], "cpu", "teacher-server"),
    (FILES[0], "vllm", "teacher-server"),
    (FILES[0], "score", "teacher-server"),
    (FILES[1], "cpu", "student-trainer"),
    (FILES[1], "cuda", "student-trainer"),
    (FILES[1], "rollout", "rollout-server"),
]
PACKAGES = [
    (FILES[0], "package", "teacher-server"),
    (FILES[1], "package", "student-trainer"),
    (FILES[1], "rollout-package", "rollout-server"),
]
PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]


def stage(path: Path, name: str) -> str:
    """Its instructions."""
    found = re.search(rf"^FROM \S+ AS {name}$.*?(?=^FROM |\Z)", path.read_text(), re.M | re.S)
    assert found, f"{path} has no stage {name}"
    return re.sub(r"\n+(?:#[^\n]*\n)*$", "\n", found[0])  # less what is said of the next one


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path):
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("path", "target", "program"), TARGETS)
def test_every_image_is_nobodys_and_says_its_version(path: Path, target: str, program: str):
    assert read_image(path, target).entrypoint == (program,)
    assert read_image(path, target).stop_signal == "SIGTERM"
    text = stage(path, target)
    assert re.search(r"^USER 1000:1000$", text, re.M)
    assert f"ARG VERSION={PROJECT['version']}\n" in text
    assert "org.opencontainers.image.version=$VERSION" in text
    assert ("HEALTHCHECK" in text) == ((path.stem, target) in {
        ("teacher", "cpu"), ("teacher", "vllm"), ("student", "rollout"),
    })  # fmt: skip


def test_the_two_images_share_their_largest_layer():
    assert stage(FILES[0], "torch") == stage(FILES[1], "torch")
    first = [stage(path, "cpu").splitlines()[:2] for path in FILES]
    assert first[0] == first[1] == [
        "FROM ${PYTHON_IMAGE} AS cpu",
        "COPY --from=torch /opt/venv /opt/venv",
    ]  # fmt: skip


def test_sources_are_the_last_that_is_copied():
    for path, target, _ in TARGETS:
        copies = re.findall(r"^COPY .*$", stage(path, target), re.M)
        assert copies[-1].endswith("/opt/vgs-opd /opt/vgs-opd"), (path, target)


@pytest.mark.parametrize(("path", "name", "program"), PACKAGES)
def test_commands_of_absent_packages_go(path: Path, name: str, program: str):
    removed = set(re.findall(r"/opt/vgs-opd/bin/([a-z-]+)", stage(path, name)))
    assert removed == set(PROJECT["scripts"]) - {program}


def test_models_of_the_hub_are_kept_in_one_place():
    for path, target, _ in TARGETS:
        if target != "score":
            assert "HF_HOME=/cache/huggingface" in stage(path, target), (path, target)


def test_a_students_image_takes_further_extras():
    asked = [sys.executable, "deploy/requirements.py", "student,wandb, lora"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    for extra in ("student", "wandb", "lora"):
        assert set(requirements(PROJECT, extra)) <= set(lines)
    assert len(lines) == len(set(lines))
    assert "ARG STUDENT_EXTRAS=student\n" in stage(FILES[1], "requirements")


def test_an_extra_of_extras_is_unfolded():
    assert "torch>=2.8" in requirements(PROJECT, "teacher")
    assert not any(line.startswith("vgs-opd") for line in requirements(PROJECT, "teacher"))
    assert not any(line.startswith("torch") for line in requirements(PROJECT, "score"))


def test_the_context_is_an_allow_list():
    lines = [line for line in Path(".dockerignore").read_text().splitlines() if line[0] != "#"]
    assert lines[0] == "*"
    assert not {"!examples", "!tests", "!runs", "!.git"} & set(lines)
    copied = {
        word
        for path in FILES
        for line in re.findall(r"^COPY (?!--from)(.+)$", path.read_text(), re.M)
        for word in line.split()[:-1]
    }
    for source in copied:
        assert Path(source).exists(), source
        assert f"!{source}" in lines, source
