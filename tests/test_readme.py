"""What the README tells people to paste, pasted."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from student_trainer.config import TrainConfig
from tests.faults.teacher_process import free_port

README = Path("README.md").read_text()
GRPC, HTTP = "localhost:50051", "localhost:8080"


def pasted(pattern: str) -> str:
    """What stands in the README where `pattern` has parentheses."""
    found = re.search(pattern, README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def toy() -> Iterator[dict[str, str]]:
    """By the address in the README, that of the same server here; curl and the client wait for it."""
    command = pasted(r"^teacher-server (serve [^\n]*?) &$")
    grpc, http = free_port(), free_port()
    ports = ["--server.port", str(grpc), "--server.http-port", str(http)]
    process = subprocess.Popen(
        [sys.executable, "-m", "teacher_server", *command.split(), *ports],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield {GRPC: f"localhost:{grpc}", HTTP: f"localhost:{http}"}
    finally:
        process.terminate()
        assert process.wait(30) == 0


def output_of(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_of_the_readme_works_as_pasted(toy: dict[str, str]):
    command = pasted(r"^(curl .*?^END)$")
    assert HTTP in command
    answer = json.loads(output_of(["bash", "-c", command.replace(HTTP, toy[HTTP])]))
    vds = {token["text"]: token["vds"] for token in reversed(answer["tokens"])}
    assert vds[" 2"] > 1 > vds[" right"]
    assert answer["summary"]["sequence_gain"] > 1


def test_the_python_of_the_readme_works_as_pasted(toy: dict[str, str]):
    code = pasted(r"^```python\n(.*?)^```$")
    assert GRPC in code
    lines = output_of([sys.executable, "-c", code.replace(GRPC, toy[GRPC])]).splitlines()
    vds = {text: float(nats) for nats, text in (line.split() for line in reversed(lines))}
    assert vds["2"] > 1 > vds["right"]


def test_the_readmes_settings_are_settings():
    config = TrainConfig.model_validate(tomllib.loads(pasted(r"^```toml\n(.*?)^```$")))
    assert (config.steps, config.batch.prompts) == (93, 512)
    assert config.objective.name == "vgs-lp"
