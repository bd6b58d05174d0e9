"""`make compose-smoke`: docker-compose.yml from end to end.

In containers where an engine answers; otherwise as local processes, whose commands, environments, healthchecks and
order are read from that file. The last line says which.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.smoke.compose_file import read_environment, read_services
from deploy.smoke.containers import (
    Containers,
    ContainersFailed,
    NoContainers,
    compose_command,
    free_port,
)
from deploy.smoke.processes import ROOT, ServiceFailed, stack

COMPOSE_FILE = ROOT / "docker-compose.yml"
BUILD_TIMEOUT_S = 3600.0
NOBODY = "1000:1000"
FAILURES = (ServiceFailed, ContainersFailed, TimeoutError, subprocess.TimeoutExpired, ValueError)


def main() -> int:
    """0 where the run ended as it should."""
    parser = argparse.ArgumentParser(prog="python -m deploy.smoke", description=__doc__)
    parser.add_argument("--exit-code-from", default="trainer", help="the service that ends the run")
    parser.add_argument(
        "--leaves", default="digits/report.html", help="file it leaves among the runs"
    )
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of the toy")
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds that the run may take"
    )
    parser.add_argument(
        "--processes", action="store_true", help="do without an engine that is there"
    )
    parser.add_argument("--no-build", action="store_true", help="take images that are there")
    asked = parser.parse_args()
    # What was started has sessions of its own, and would stay.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began_s = time.monotonic()
    compose, why = None, "asked to"
    if not asked.processes:
        try:
            compose = compose_command()
        except NoContainers as reason:
            why = str(reason)
    with tempfile.TemporaryDirectory(prefix="compose-smoke-") as scratch:
        runs = Path(scratch) / "runs"
        runs.mkdir()
        settings = {"TOY_STEPS": str(asked.steps), "RUNS": str(runs)}
        try:
            if compose is None:
                run_processes(asked, settings, Path(scratch))
            else:
                run_containers(asked, settings, compose)
            check_left(runs / asked.leaves)
        except FAILURES as error:
            print(f"compose-smoke: FAILED: {error}", file=sys.stderr)
            return 1
    took = f"{time.monotonic() - began_s:.0f} s"
    if compose is None:
        print(f"compose-smoke: passed in {took}, as local processes ({why})")
    else:
        print(f"compose-smoke: passed in {took}, in containers by {' '.join(compose)}")
    return 0


def run_processes(asked: argparse.Namespace, settings: dict[str, str], folder: Path) -> None:
    """Raises ServiceFailed or TimeoutError."""
    environment = read_environment(ROOT / ".env") | os.environ | settings
    profiles = set(environment["COMPOSE_PROFILES"].split(","))
    services = read_services(COMPOSE_FILE, environment, profiles)
    with stack(services, folder) as local:
        local.up(print)
        local.wait(asked.timeout)
        ended = local[asked.exit_code_from]
        if ended.exit_code is None:
            codes = {name: running.exit_code for name, running in local.running.items()}
            tails = "".join(local[name].tail() for name, code in codes.items() if code is not None)
            raise ServiceFailed(
                f"another service ended before {asked.exit_code_from}: {codes}{tails}"
            )
        print(ended.tail(8).lstrip("\n"))
        check_exit_codes(local.down())


def run_containers(asked: argparse.Namespace, settings: dict[str, str], compose: list[str]) -> None:
    """Raises ContainersFailed, or TimeoutExpired of subprocess."""
    settings = settings | {"GATEWAY_PORT": str(free_port())}
    if os.getuid():
        settings["RUN_AS"] = f"{os.getuid()}:{os.getgid()}"
    else:  # not as root, even for root
        settings["RUN_AS"] = NOBODY
        for each in (Path(settings["RUNS"]), Path(settings["RUNS"]).parent):
            each.chmod(0o777)
    project = Containers(compose, COMPOSE_FILE, settings)
    try:
        if not asked.no_build:
            project.build(BUILD_TIMEOUT_S)
        if code := project.up(asked.exit_code_from, asked.timeout):
            raise ContainersFailed(f"{asked.exit_code_from} ended with {code}")
        check_exit_codes(project.exit_codes())
        print(*project.check(), sep="\n")
    finally:
        project.down()


def check_exit_codes(codes: dict[str, int]) -> None:
    """A teacher that was stopped has drained and ended with 0, too."""
    print("exit codes:", ", ".join(f"{name} {code}" for name, code in sorted(codes.items())))
    if any(codes.values()) or not codes:
        raise ServiceFailed(f"not all services ended with 0: {codes}")


def check_left(path: Path) -> None:
    """Raises ServiceFailed where the run left no report."""
    if not path.is_file() or not path.stat().st_size:
        raise ServiceFailed(f"the run left no {path.name}")
    print(f"left: {path.name}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
