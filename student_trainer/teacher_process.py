"""A teacher server as a child process: started, waited for until it is healthy, and gone when the block ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from student_trainer.errors import TrainerError

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.05


class TeacherDidNotStart(TrainerError, RuntimeError):
    """The child ended, or was not healthy in time."""


@contextlib.contextmanager
def teacher_process(config: Path, folder: Path, module: str = "teacher_server") -> Iterator[str]:
    """Address of a healthy server with `config`, on a free loopback port. Its log is `folder`/teacher.log.

    `module` is what is run, with the server's command line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port_file = folder / "teacher.address"
    port_file.unlink(missing_ok=True)
    log_path = folder / "teacher.log"
    command = [sys.executable, "-m", module, "serve", "--config", str(config)]
    command += ["--server.host", "127.0.0.1", "--server.port", "0", "--server.http-port", "None"]
    command += ["--server.port-file", str(port_file)]
    with log_path.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as child:
        try:
            yield _wait_until_healthy(child, port_file, log_path)
        finally:
            child.terminate()
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()


def _wait_until_healthy(child: subprocess.Popen[bytes], port_file: Path, log_path: Path) -> str:
    ends_s = time.monotonic() + START_TIMEOUT_S
    while not port_file.exists():
        if child.poll() is not None:
            last = log_path.read_text(errors="replace").strip().splitlines()[-1:]
            raise TeacherDidNotStart(f"the teacher ended with {child.returncode}: {''.join(last)}")
        if time.monotonic() > ends_s:
            raise TeacherDidNotStart(
                f"the teacher opened no port in {START_TIMEOUT_S:g} s; see {log_path}"
            )
        time.sleep(POLL_S)
    address = port_file.read_text()
    with grpc.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its methods are made at run time
        for status in health.Watch(
            health_pb2.HealthCheckRequest(),
            timeout=max(1.0, ends_s - time.monotonic()),
            wait_for_ready=True,
        ):
            if status.status == health_pb2.HealthCheckResponse.SERVING:
                return address
    raise TeacherDidNotStart(f"the teacher at {address} never became healthy; see {log_path}")
