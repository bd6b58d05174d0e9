"""`make compose-smoke` beside a container engine, of which only the program's name is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.smoke.containers import NoContainers, compose_command

ENGINE = """#!/bin/sh
case "$*" in
  info | "compose version" | *" down "*) exit 0 ;;
  *" up "*) exec sleep 60 ;;
esac
exit 1
"""


def install(folder: Path, text: str) -> str:
    """A PATH where `docker` is this script; there is no docker-compose."""
    (folder / "docker").write_text(text)
    (folder / "docker").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoContainers, match="no container engine answers"):
        compose_command()
    install(tmp_path, '#!/bin/sh\n[ "$1" = info ]\n')
    with pytest.raises(NoContainers, match="there is no compose"):
        compose_command()
    install(tmp_path, ENGINE)
    assert compose_command() == ["docker", "compose"]


def test_a_run_that_takes_too_long_has_failed(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "deploy.smoke", "--no-build", "--timeout", "0.2"],
        env=os.environ | {"PATH": install(tmp_path, ENGINE)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "compose-smoke: FAILED: " in done.stderr
    assert "timed out" in done.stderr
    assert "Traceback" not in done.stderr
