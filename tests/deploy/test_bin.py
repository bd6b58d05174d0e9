"""The small programs of the images."""

import importlib.util
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import trustme

from protos.credentials import read_token
from teacher_server.client_file import ClientFile
from teacher_server.doorkeeper import Doorkeeper
from tests.loopback import serving

BIN = Path("deploy/bin").resolve()
HEALTHCHECK, WITH_TOKENS, THEN_REPORT = (
    BIN / name for name in ("healthcheck.py", "with_tokens.py", "then_report.py")
)
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": PATH, "PYTHONPATH": str(BIN.parents[1])} | variables
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_all_can_be_run():
    for path in BIN.iterdir():
        if path.is_file():
            assert os.access(path, os.X_OK), path
            assert path.read_text().startswith("#!/usr/bin/env python3\n")


def test_health_is_asked_over_plaintext_and_tls(qwen: Path, tmp_path: Path):
    with serving(qwen) as address:
        said = run(HEALTHCHECK, address)
        assert (said.returncode, said.stdout) == (0, "SERVING\n")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    files = {"certificate_file": tmp_path / "server.pem", "key_file": tmp_path / "server.key"}
    certificate.cert_chain_pems[0].write_to_path(files["certificate_file"])
    certificate.private_key_pem.write_to_path(files["key_file"])
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = {"tls": {name: str(path) for name, path in files.items()}}
    with serving(qwen, server=server) as address:
        assert run(HEALTHCHECK, address, "--ca-file", tmp_path / "ca.pem").returncode == 0
        assert run(HEALTHCHECK, address).returncode == 1


def test_nobody_there_is_no_health():
    said = run(HEALTHCHECK, "127.0.0.1:1")
    assert (said.returncode, said.stdout) == (1, "UNAVAILABLE\n")


def test_tokens_are_made_once_and_the_command_follows(tmp_path: Path):
    said = run(WITH_TOKENS, tmp_path, "trainer", "scorer", "--", "echo", "ready")
    assert (said.returncode, said.stdout) == (0, "ready\n")
    assert said.stderr == "made a token for trainer\nmade a token for scorer\n"
    first = {name: read_token(tmp_path / name) for name in ("trainer", "scorer")}
    assert first["trainer"] != first["scorer"]
    assert not set(first.values()) & set(said.stderr.split())
    Doorkeeper(ClientFile(tmp_path / "clients.toml"))
    clients = tmp_path / "clients.toml"
    clients.write_text(clients.read_text().replace("\n\n", "\nweight = 3.0\n\n", 1))
    said = run(WITH_TOKENS, tmp_path, "trainer", "prometheus", "--", "false")
    assert (said.returncode, said.stderr) == (1, "made a token for prometheus\n")
    assert read_token(tmp_path / "trainer") == first["trainer"]
    entries = tomllib.loads(clients.read_text())["clients"]
    assert set(entries) == {"trainer", "scorer", "prometheus"}
    assert entries["trainer"]["weight"] == 3.0
    assert not list(tmp_path.glob("*.partial"))


@pytest.fixture
def reporter(tmp_path: Path) -> dict[str, str]:
    """A student-trainer whose report is a line."""
    fake = tmp_path / "bin" / "student-trainer"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    return {"PATH": f"{fake.parent}:{PATH}"}


def test_a_report_follows_a_run_that_went_well(tmp_path: Path, reporter: dict[str, str]):
    said = run(THEN_REPORT, tmp_path / "run", "echo", "trained", **reporter)
    where = tmp_path / "run"
    assert said.stdout == f"trained\nreport {where} --out {where}/report.html\n"
    said = run(THEN_REPORT, where, "sh", "-c", "exit 75", **reporter)
    assert (said.returncode, said.stdout) == (75, "")


def test_a_run_that_may_not_be_written_says_so(tmp_path: Path):
    spec = importlib.util.spec_from_file_location("then_report", THEN_REPORT)
    assert spec is not None
    assert spec.loader is not None
    then_report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(then_report)
    assert then_report.unwritable(tmp_path / "runs" / "digits") is None
    if os.getuid():
        assert "RUN_AS" in then_report.unwritable(Path("/proc/digits"))


def test_sigterm_reaches_the_training(tmp_path: Path):
    trap = "trap 'echo interrupted; exit 130' TERM; echo training; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [sys.executable, THEN_REPORT, tmp_path / "run", "sh", "-c", trap], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"training\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"interrupted\n"
        assert process.wait(20) == 130


def test_sigterm_reaches_a_training_that_has_hardly_begun(tmp_path: Path):
    """Sent before who started it knows that it runs: it must not be left behind."""
    code = (
        "import os, runpy, signal, subprocess, sys\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, command):\n"
        "        super().__init__(command, stdin=subprocess.PIPE)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "subprocess.Popen = Popen\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, THEN_REPORT, tmp_path / "run", "sleep", "60"]
    # A training left behind would hold the pipe open.
    said = subprocess.run(command, timeout=20, check=False, capture_output=True)
    assert said.returncode == 128 + signal.SIGTERM
