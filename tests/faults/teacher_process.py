"""A teacher in a process of its own, to be killed, frozen and brought back at the same address."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TeacherProcess:
    """`teacher-server serve` with the deterministic engine."""

    def __init__(self, model: Path, folder: Path, **sections: Any) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / f"teacher-{self.port}.log"
        self._config = folder / f"teacher-{self.port}.toml"
        server = {"port": self.port, "grace_s": 10} | sections.pop("server", {})
        engine = {"device": "cpu", "threads": 1, "deterministic": True} | sections.pop("engine", {})
        lines = [f"model = {json.dumps(str(model))}", 'log_level = "info"']
        for name, values in {"server": server, "engine": engine, **sections}.items():
            lines += [
                f"[{name}]",
                *(f"{key} = {json.dumps(value)}" for key, value in values.items()),
            ]
        self._config.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> TeacherProcess:
        """Without waiting for it."""
        command = [sys.executable, "-m", "teacher_server", "serve", "--config", str(self._config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--server.http-port", "None"],
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )
        return self

    def wait_healthy(self) -> TeacherProcess:
        assert self.process is not None
        ends_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < ends_s:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            with grpc.insecure_channel(self.address) as channel, contextlib.suppress(grpc.RpcError):
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=1
                )
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return self
            time.sleep(0.05)
        raise TimeoutError(f"the teacher was not healthy in {START_TIMEOUT_S:g} s; see {self.log}")

    def send(self, number: signal.Signals) -> None:
        """Only ever to the process that was started here."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(STOP_TIMEOUT_S)

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self.send(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGCONT)  # a frozen one would never see the next
            self.kill()


@contextlib.contextmanager
def teachers(
    model: Path, folder: Path, count: int, **sections: Any
) -> Iterator[list[TeacherProcess]]:
    """So many healthy ones, started side by side."""
    started = [TeacherProcess(model, folder, **dict(sections)) for _ in range(count)]
    try:
        for teacher in started:
            teacher.start()
        for teacher in started:
            teacher.wait_healthy()
        yield started
    finally:
        for teacher in started:
            teacher.close()
