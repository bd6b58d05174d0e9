"""The services of a compose file as processes of this machine, with the same commands.

Each service has a loopback address of its own, so that all may use the ports that they use in containers, and a folder
that looks as /app does in its container. What only a container can do (users, capabilities, a read-only root, networks)
is not done.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deploy.smoke.compose_file import Healthcheck, Service

ROOT = Path(__file__).parents[2]
WORKING_FOLDER = "/app"
KILLED = 128 + signal.SIGKILL
WAIT_S = 0.1


class ServiceFailed(RuntimeError):
    """A service ended, or was not healthy, where another one needs it."""


class RunningService:
    """One service's process."""

    def __init__(self, service: Service, network: Network, folder: Path) -> None:
        self.service = service
        self.address = network.addresses[service.name]
        self.log = folder / "logs" / f"{service.name}.log"
        self.started_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._network = network
        self._app = folder / "app" / service.name
        self._home = folder / "home" / service.name
        self._places: dict[str, Path] = {}
        for each in (self._app, self._home, self.log.parent):
            each.mkdir(parents=True, exist_ok=True)
        for mount in service.mounts:
            source = folder / "volumes" / mount.source if mount.volume else Path(mount.source)
            if mount.volume:
                source.mkdir(parents=True, exist_ok=True)
            if not source.exists():
                raise ServiceFailed(f"{service.name} mounts {source}, which is not there")
            self._mount(source, mount.target)

    def _mount(self, source: Path, target: str) -> None:
        if not target.startswith(WORKING_FOLDER + "/"):
            self._places[target] = source
            return
        link = self._app / target.removeprefix(WORKING_FOLDER + "/")
        link.unlink(missing_ok=True)
        link.symlink_to(source)

    def here(self, word: str) -> str:
        """A word of a command or an environment, with this machine's paths and addresses."""
        places = {WORKING_FOLDER: self._app, **self._places}
        targets = "|".join(re.escape(target) for target in sorted(places, key=len, reverse=True))
        # In one pass: what stands here may look like a place there.
        word = re.sub(rf"(?<![\w./])({targets})(?=/|$)", lambda found: str(places[found[0]]), word)
        for host, address in self._network.addresses.items():
            word = re.sub(rf"\b{re.escape(host)}(?=:\d+\b)", address, word)
        return re.sub(r"\b(?:0\.0\.0\.0|127\.0\.0\.1|localhost)\b", self.address, word)

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of this shell's but what finds the programs."""
        path = [str(ROOT / "deploy" / "bin"), str(Path(sys.executable).parent), "/usr/bin", "/bin"]
        own = {name: self.here(value) for name, value in self.service.environment.items()}
        return {
            "PATH": ":".join(path),
            "HOME": str(self._home),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
        } | own

    @property
    def command(self) -> list[str]:
        """As it is started here."""
        return [self.here(word) for word in self.service.command]

    def start(self) -> RunningService:
        """Without waiting for it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self._app,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started_s = time.monotonic()
        return self

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 + N where signal N ended it."""
        assert self._process is not None, "started"
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def healthy(self, check: Healthcheck) -> bool:
        """Ask once."""
        try:
            asked = subprocess.run(
                [self.here(word) for word in check.command],
                cwd=self._app,
                env=self.environment,
                capture_output=True,
                timeout=check.timeout_s,
            )
        except subprocess.TimeoutExpired:
            return False
        return asked.returncode == 0

    def wait_healthy(self) -> None:
        """Raises ServiceFailed once it has failed as often as its healthcheck allows, or has ended."""
        check = self.service.healthcheck
        assert check is not None, f"{self.service.name} is waited for, and has no healthcheck"
        failures = 0
        while not self.healthy(check):
            if self.exit_code is not None:
                raise ServiceFailed(f"{self.service.name} ended with {self.exit_code}{self.tail()}")
            if time.monotonic() - self.started_s > check.start_period_s:
                failures += 1
            if failures >= check.retries:
                raise ServiceFailed(f"{self.service.name} is unhealthy{self.tail()}")
            time.sleep(min(check.interval_s, 1.0))  # sooner than a container's: nobody else waits

    def stop(self) -> int:
        """Send the stop signal, give it its grace, then kill; returns the exit code."""
        assert self._process is not None, "started"
        if self._process.poll() is None:
            self._process.send_signal(signal.Signals[self.service.stop_signal])
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.service.stop_grace_s)
        self.kill()
        code = self.exit_code
        assert code is not None
        return code

    def kill(self) -> None:
        """It and whatever it started: its session is its own."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 25) -> str:
        """The end of what it printed, each line behind its name."""
        last = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "".join(f"\n{self.service.name} | {line}" for line in last)


class Network:
    """Addresses by name."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        # Whoever else runs this on the machine has another net.
        net = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
        self.addresses: dict[str, str] = {}
        for number, service in enumerate(services.values(), start=2):
            for host in service.hostnames:
                self.addresses.setdefault(host, f"{net}.{number}")


class Stack:
    """All services of a compose file."""

    def __init__(self, services: Mapping[str, Service], folder: Path) -> None:
        if sys.platform != "linux":
            raise ServiceFailed("without a container engine this needs Linux, for its loopback net")
        network = Network(services)
        self.running = {
            name: RunningService(service, network, folder) for name, service in services.items()
        }
        self._started: list[RunningService] = []

    def __getitem__(self, name: str) -> RunningService:
        return self.running[name]

    def up(self, said: Callable[[str], None] = lambda line: None) -> None:
        """Start all, each once what it depends on is as it wants it. Raises ServiceFailed where that never comes."""
        for running in self.running.values():
            for dependency in running.service.depends_on:
                self._wait_for(self.running[dependency.service], dependency.condition)
            said(f"{running.service.name}: {' '.join(running.service.command)}")
            self._started.append(running.start())

    def _wait_for(self, other: RunningService, condition: str) -> None:
        match condition:
            case "service_started":
                pass
            case "service_healthy":
                other.wait_healthy()
            case "service_completed_successfully":
                while other.exit_code is None:
                    time.sleep(WAIT_S)
                if other.exit_code:
                    raise ServiceFailed(
                        f"{other.service.name} ended with {other.exit_code}{other.tail()}"
                    )
            case _:
                raise ServiceFailed(f"{condition!r} is no condition of a dependency")

    def wait(self, timeout_s: float) -> None:
        """Until one of them ends; raises TimeoutError."""
        ends_s = time.monotonic() + timeout_s
        while all(running.exit_code is None for running in self._started):
            if time.monotonic() > ends_s:
                raise TimeoutError(f"nothing ended in {timeout_s:g} s")
            time.sleep(WAIT_S)

    def down(self) -> dict[str, int]:
        """Stop all, the last one first; their exit codes."""
        return {running.service.name: running.stop() for running in reversed(self._started)}

    def kill(self) -> None:
        """At once, also what was started without `up`."""
        for running in self.running.values():
            running.kill()


@contextlib.contextmanager
def stack(services: Mapping[str, Service], folder: Path) -> Iterator[Stack]:
    """A stack that leaves no process behind."""
    made = Stack(services, folder)
    try:
        yield made
    finally:
        made.kill()
