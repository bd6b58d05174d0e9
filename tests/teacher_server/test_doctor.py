"""The doctor against real servers and processes. Certificates are test_tls.py's."""

import asyncio
import contextlib
import http.server
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos.credentials import Credentials
from protos.info_codec import info_to_proto
from protos.sync_client import SyncTeacherClient
from protos.teacher_info import TeacherInfo
from protos.v1.teacher_pb2_grpc import TeacherServicer, add_TeacherServicer_to_server
from teacher_server import cli
from teacher_server.client_file import new_token
from teacher_server.line_check import Line
from teacher_server.serve import SERVICE
from tests.connected import connected
from tests.loopback import serving
from tests.teacher_server.clients import PROMPT, Clients, item, until

Doctor = Callable[..., str]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """What it prints, line by line, with its exit status at the end."""
    monkeypatch.delenv("VGS_TOKEN", raising=False)

    def ask(address: str, *flags: str) -> str:
        capsys.readouterr()
        status = cli.main(["doctor", address, *flags])
        printed = capsys.readouterr()
        assert not printed.err
        return f"{printed.out}status {status}"

    return ask


def failure(told: str) -> str:
    """The one thing that is wrong."""
    assert told.endswith("status 1")
    assert told.count("FAIL") == 1
    return told.partition("FAIL  ")[2]


@contextlib.contextmanager
def grpc_server(*add: Callable[[grpc.Server], None]) -> Iterator[str]:
    """With the services that are added."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    for one in add:
        one(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


# -------------------------------------------------------------------------------------- no teacher


def test_a_dead_port(doctor: Doctor):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    assert f"nobody listens at {address}" in failure(doctor(address))


def test_a_host_that_does_not_exist(doctor: Doctor):
    assert "there is no host 'no.host.invalid'" in failure(doctor("no.host.invalid:50051"))


@pytest.mark.parametrize("address", ["127.0.0.1", "50051", ":50051", "a:b", "a:0", "a:65536", ""])
def test_an_address_that_is_none(address: str, capsys):
    assert cli.main(["doctor", address]) == 2
    assert f"{address!r} is not HOST:PORT" in capsys.readouterr().err


def test_a_silent_port(doctor: Doctor):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        told = doctor(address, "--timeout-s", "0.5")
        assert f"ok    {address} takes connections" in told
        assert "says nothing for 0.5 s: the process is frozen" in failure(told)
        told = doctor(address, "--timeout-s", "0.5", "--tls")
        assert "says nothing for 0.5 s: the process is frozen" in failure(told)


def test_a_port_that_hangs_up(doctor: Doctor):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert "is no gRPC server (it hangs up)" in failure(doctor(address))
        assert "does not speak TLS" in failure(doctor(address, "--tls"))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


class _Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


def test_a_plain_http_server(doctor: Doctor):
    with http.server.HTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        assert "is no gRPC server (it answers b'" in failure(doctor(address))
        assert "does not speak TLS" in failure(doctor(address, "--tls"))
        server.shutdown()
        thread.join()


def test_the_teachers_own_http_port(qwen: Path, doctor: Doctor, caplog):
    caplog.set_level(logging.INFO)
    with serving(qwen, server={"http_port": 0}):
        told = next(r.getMessage() for r in caplog.records if r.getMessage().startswith("http "))
        answer = failure(doctor(told.partition("address=")[2]))
    assert "is no gRPC server (it answers b'HTTP/1.1 " in answer
    assert "the teacher's HTTP port?" in answer


def add_health(*services: str) -> Callable[[grpc.Server], None]:
    def add(server: grpc.Server) -> None:
        servicer = health.HealthServicer()
        for service in services:
            servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)

    return add


def test_a_grpc_server_without_a_teacher(doctor: Doctor):
    for services in ((), (add_health(""),), (add_health("", SERVICE),)):
        with grpc_server(*services) as address:
            told = doctor(address)
        assert "ok    plaintext, as you asked for" in told
        assert f"{address} is a gRPC server without a teacher" in failure(told)


# ------------------------------------------------------------------------------------ a real process


def test_a_frozen_process_and_what_a_real_servers_log_tells(
    qwen: Path, tmp_path: Path, doctor: Doctor, monkeypatch
):
    clients = Clients(tmp_path / "clients.toml", "lab")
    token_file, port_file = tmp_path / "token", tmp_path / "port"
    token_file.write_text(clients.tokens["lab"] + "\n")
    log = tmp_path / "server.log"
    command = [sys.executable, "-m", "teacher_server", "serve", "--model", str(qwen)]
    command += ["--log-level", "debug", "--engine.device", "cpu", "--server.port", "0"]
    command += ["--server.port-file", str(port_file), "--server.http-port", "None"]
    command += ["--server.clients-file", str(clients.path)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        ends_s = time.monotonic() + 90
        while not port_file.exists():
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < ends_s
            time.sleep(0.1)
        address = port_file.read_text()

        wrong = new_token()[0]
        assert "status 0" in doctor(address, "--token-file", str(token_file))
        monkeypatch.setenv("VGS_TOKEN", wrong)
        assert "your token is refused: the token is not known" in failure(doctor(address))
        with SyncTeacherClient(address, credentials=Credentials(clients.tokens["lab"])) as teacher:
            assert teacher.score(teacher.put_prompt(PROMPT), item()).rows == 5

        process.send_signal(signal.SIGSTOP)
        told = doctor(address, "--timeout-s", "1", "--token-file", str(token_file))
        assert f"ok    {address} takes connections" in told, "the kernel still takes them"
        assert "says nothing for 1 s: the process is frozen" in failure(told)
        process.send_signal(signal.SIGCONT)
        assert "status 0" in doctor(address, "--token-file", str(token_file))

        process.terminate()
        assert process.wait(30) == 0
        assert "nobody listens" in failure(doctor(address))
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait()
    said = log.read_text()
    assert "DEBUG" in said
    assert "stream_opened" in said
    assert "client=lab" in said
    for secret in (clients.tokens["lab"], wrong, clients.entries["lab"]["token_sha256"]):
        assert secret not in said


async def test_a_draining_server(qwen: Path, doctor: Doctor):
    # The idle engine waits for company, so the item under way holds the server open.
    server = serving(qwen, engine={"batch_wait_ms": 2500})
    address = server.__enter__()
    async with connected(address) as stream:
        put = await stream.put_prompt(PROMPT)
        under_way = asyncio.create_task(stream.score(put, item()))
        await asyncio.sleep(0)
        await stream.put_prompt(PROMPT)  # acknowledged, so the item before it has been read
        leaving = asyncio.create_task(asyncio.to_thread(server.__exit__, None, None, None))
        await until(lambda: stream.draining, "the server says that it drains")
        told = await asyncio.to_thread(doctor, address)
        assert "the server is NOT_SERVING: it drains" in failure(told)
        assert (await under_way).rows == 5
        await leaving


# ------------------------------------------------------------------------------------- who one is


def test_tokens(qwen: Path, tmp_path: Path, doctor: Doctor, monkeypatch):
    clients = Clients(tmp_path / "clients.toml", "lab")
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(clients.tokens["lab"] + "\n")
    bad.write_text(new_token()[0])
    with serving(qwen, server={"clients_file": clients.path}) as address:
        none = failure(doctor(address))
        assert "you showed no token" in none
        assert "--token-file" in none
        wrong = failure(doctor(address, "--token-file", str(bad)))
        assert "your token is refused: the token is not known here" in wrong
        assert bad.read_text() not in wrong
        assert "status 0" in doctor(address, "--token-file", str(good))
        monkeypatch.setenv("VGS_TOKEN", clients.tokens["lab"])
        assert "status 0" in doctor(address)
        assert "refused" in doctor(address, "--token-file", str(bad)), "the file comes first"
    assert cli.main(["doctor", address, "--token-file", str(tmp_path / "absent")]) == 2


def test_the_doctor_sends_no_token_over_a_network_in_plaintext(doctor: Doctor, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = listener.getsockname()
        monkeypatch.setattr(Line, "connect", lambda line: socket.create_connection(here, 5))
        seen: list[bytes] = []
        thread = threading.Thread(target=_answer_http2, args=(listener, seen))
        thread.start()
        monkeypatch.setenv("VGS_TOKEN", "vgs_secret")
        told = doctor("teacher.lab:50051")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "the token would reach" in failure(told)
    assert seen
    assert not any(b"vgs_secret" in one for one in seen)


def _answer_http2(listener: socket.socket, seen: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        while True:
            line, _ = listener.accept()
            with line, contextlib.suppress(ConnectionError):
                line.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
                seen.append(line.recv(1000))


# --------------------------------------------------------------------------------- who the teacher is


@pytest.fixture
def info(qwen_server: str) -> TeacherInfo:
    with SyncTeacherClient(qwen_server) as teacher:
        return teacher.info


def add_teacher(info: TeacherInfo) -> Callable[[grpc.Server], None]:
    class Described(TeacherServicer):
        def Describe(self, request: object, context: object) -> object:
            return info_to_proto(info)

    return lambda server: add_TeacherServicer_to_server(Described(), server)


def test_another_version(info: TeacherInfo, doctor: Doctor):
    with grpc_server(add_teacher(replace(info, versions={"vgs-opd": "0.0.1"}))) as address:
        told = doctor(address)
    assert "note  it tells nothing of its health" in told
    assert "note  the teacher runs vgs-opd 0.0.1, here is " in told
    assert told.endswith("status 0")
    older = replace(info, capabilities=("tokens", "topk"))
    with grpc_server(add_health("", SERVICE), add_teacher(older)) as address:
        assert "lacks candidates, credits, cancel: it is another version" in failure(
            doctor(address)
        )


def test_another_tokenizer(qwen_server: str, llava: Path, doctor: Doctor):
    told = failure(doctor(qwen_server, "--student", str(llava)))
    assert f"{llava} has another tokenizer" in told


def test_all_is_well(qwen_server: str, qwen: Path, doctor: Doctor):
    told = doctor(qwen_server, "--student", str(qwen)).splitlines()
    assert [line[:4] for line in told] == ["ok  "] * 5 + ["stat"]
    assert told[-2:] == ["ok    the student's tokenizer is the teacher's", "status 0"]
