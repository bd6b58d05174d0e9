"""The services of a compose file in containers, by whichever container engine answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PROJECT = "vgs-opd-smoke"
COMPILERS = ["cc", "gcc", "g++", "c++", "clang", "ld", "as", "make", "cmake", "nvcc", "rustc", "go"]
LOOK = (
    "id -u; "
    f"for program in {' '.join(COMPILERS)}; do command -v $program; done; "
    "find / -xdev -path /proc -prune -o -path '/opt/*' -type d -name tests -print "
    "-o -type f \\( -name '*.parquet' -o -name '*.safetensors' \\) -print; "
    "ls -A /app; touch /opt/x 2>&1"
)
"""What a container of an image prints: its user, then a line for each thing that should not be there."""


class ContainersFailed(RuntimeError):
    """An engine refused, or an image is not as it should be."""


class NoContainers(RuntimeError):
    """Nothing here runs a compose file in containers."""


def compose_command() -> list[str]:
    """How compose is called here; raises NoContainers."""
    if not _works(["docker", "info"]):
        raise NoContainers("no container engine answers")
    for command in (["docker", "compose"], ["docker-compose"]):
        if _works([*command, "version"]):
            return command
    raise NoContainers("a container engine answers, but there is no compose")


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class Containers:
    """One compose project, whose volumes are its own: the user's are left alone."""

    def __init__(self, compose: list[str], file: Path, environment: Mapping[str, str]) -> None:
        self._compose = [*compose, "--file", str(file), "--project-name", PROJECT]
        self._environment = {**os.environ, "DOCKER_BUILDKIT": "1", **environment}

    def _run(self, *arguments: str, timeout_s: float) -> int:
        return subprocess.run(
            [*self._compose, *arguments], env=self._environment, timeout=timeout_s
        ).returncode

    def build(self, timeout_s: float) -> None:
        """Raises ContainersFailed."""
        if self._run("build", timeout_s=timeout_s):
            raise ContainersFailed("the images could not be built")

    def up(self, exit_code_from: str, timeout_s: float) -> int:
        """Run until one ends; the exit code of the one that is named."""
        return self._run(
            "up", "--no-build", "--exit-code-from", exit_code_from, timeout_s=timeout_s
        )

    def down(self) -> None:
        """Containers, networks and volumes of the project."""
        self._run("down", "--volumes", "--timeout", "5", timeout_s=120)

    def exit_codes(self) -> dict[str, int]:
        """Of containers that have ended, by service."""
        return {
            container["Config"]["Labels"]["com.docker.compose.service"]: container["State"][
                "ExitCode"
            ]
            for container in self._inspected()
        }

    def check(self) -> list[str]:
        """Lines about containers and their images; raises ContainersFailed where one is not as it should be."""
        lines: list[str] = []
        for container in self._inspected():
            name, image = container["Name"].lstrip("/"), container["Config"]["Image"]
            if not container["HostConfig"]["ReadonlyRootfs"]:
                raise ContainersFailed(f"{name} may write to its root file system")
            user, *wrong = _printed(
                ["docker", "run", "--rm", "--read-only", "--entrypoint", "sh", image, "-c", LOOK]
            )
            refused = [line for line in wrong if "Read-only file system" in line]
            if user == "0" or container["Config"]["User"].split(":")[0] in ("", "0", "root"):
                raise ContainersFailed(f"{image} runs as root")
            if wrong != refused or not refused:
                raise ContainersFailed(f"{image} holds what it should not: {wrong}")
            size = int(_printed(["docker", "image", "inspect", "--format", "{{.Size}}", image])[0])
            lines.append(
                f"{image}: {size / 1e6:.0f} MB, user {user}, read-only root, no compiler, no test data"
            )
        return lines

    def _inspected(self) -> list[dict]:  # pyright: ignore[reportMissingTypeArgument]
        ids = _printed([*self._compose, "ps", "--all", "--quiet"], self._environment)
        return json.loads("\n".join(_printed(["docker", "inspect", *ids])))


def _printed(command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout.splitlines()


def free_port() -> int:
    """For what is published."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
