"""`teacher-server doctor HOST:PORT`: what is wrong between here and a teacher.

gRPC says "unavailable" for a dead server, a wrong certificate, a missing one and plaintext where TLS is spoken. Each is
told apart here, from the outside in: port, TLS, health, token, teacher, tokenizer.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import grpc.aio
import tyro
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.address import host_of
from protos.channel import client_options
from protos.connection import SERVICE
from protos.credentials import Credentials
from protos.info_codec import info_from_proto
from protos.teacher_info import TeacherInfo
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import TeacherStub
from teacher_server.settings import Settings

ALPN = "h2"
NEEDED = ("tokens", "topk", "candidates", "credits", "cancel")
"""What this version's trainer cannot do without."""


class DoctorConfig(Settings):
    """Where to look, and as whom."""

    address: Annotated[str, tyro.conf.Positional]
    """HOST:PORT of the teacher."""
    token_file: Path | None = None
    """File that holds the token alone; without it VGS_TOKEN of the environment, if set."""
    ca_file: Path | None = None
    """PEM of the authorities to trust. Naming one means TLS."""
    certificate_file: Path | None = None
    """PEM of your certificate, for mutual TLS."""
    key_file: Path | None = None
    """PEM of its key."""
    server_name: str = ""
    """Name that the server's certificate bears, if not the host's."""
    tls: bool = False
    """Speak TLS, and trust the system's authorities."""
    student: Path | None = None
    """Folder of a student, whose tokenizer is compared."""
    timeout_s: float = 5.0
    """For each step."""

    def credentials(self) -> Credentials:
        """As the client takes them; raises ValueError or OSError where a file is wrong."""
        token = os.environ.get("VGS_TOKEN", "")
        if self.token_file is not None:
            token = self.token_file.read_text().strip()
        return Credentials(
            token,
            self.tls,
            self.ca_file,
            self.certificate_file,
            self.key_file,
            self.server_name,
            plaintext_token=True,
        )


class Ailment(Exception):
    """What is wrong, and the mend."""


@dataclass
class _Findings:
    """Each step prints what it found."""

    say: Callable[[str], None]

    def well(self, what: str) -> None:
        self.say(f"ok    {what}")

    def note(self, what: str) -> None:
        self.say(f"note  {what}")


def examine(config: DoctorConfig, say: Callable[[str], None] = print) -> bool:
    """Print what is well and what is not; returns whether something is wrong."""
    findings = _Findings(say)
    host, port = host_of(config.address), config.address.rpartition(":")[2]
    if not host or not port.isdecimal():
        raise ValueError(f"{config.address!r} is not HOST:PORT, such as 127.0.0.1:50051")
    credentials = config.credentials()
    try:
        _reach(host, int(port), config, findings)
        if credentials.encrypted:
            _shake_hands(host, int(port), config, findings)
        else:
            _speaks_plaintext(host, int(port), config, findings)
        info = asyncio.run(_ask(config, credentials, findings))
        _compare(info, config, findings)
    except Ailment as ailment:
        say(f"FAIL  {ailment}")
        return True
    return False


def _reach(host: str, port: int, config: DoctorConfig, findings: _Findings) -> None:
    try:
        with socket.create_connection((host, port), timeout=config.timeout_s):
            findings.well(f"{config.address} takes connections")
    except socket.gaierror as error:
        raise Ailment(f"there is no host {host!r} ({error}): is the name right?") from error
    except ConnectionRefusedError as error:
        raise Ailment(
            f"nobody listens at {config.address}: the server is not running (or still loads its model), or listens "
            "elsewhere"
        ) from error
    except TimeoutError as error:
        raise Ailment(
            f"{config.address} does not answer within {config.timeout_s:g} s: a firewall drops it, the host is down, "
            "or the process is frozen"
        ) from error
    except OSError as error:
        raise Ailment(f"can't reach {config.address}: {error}") from error


def _shake_hands(host: str, port: int, config: DoctorConfig, findings: _Findings) -> None:
    context = ssl.create_default_context(cafile=config.ca_file and str(config.ca_file))
    context.set_alpn_protocols([ALPN])
    if config.certificate_file and config.key_file:
        try:
            context.load_cert_chain(config.certificate_file, config.key_file)
        except ssl.SSLError as error:
            raise Ailment(
                f"certificate_file {config.certificate_file} and key_file {config.key_file} are no pair: {error}"
            ) from error
    name = config.server_name or host
    try:
        with (
            socket.create_connection((host, port), timeout=config.timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=name) as line,
        ):
            findings.well(f"{line.version()}, certificate of {name!r} is good")
            _is_let_in(line)
    except ssl.SSLCertVerificationError as error:
        raise Ailment(_why_not_trusted(error, name, config)) from error
    except ssl.SSLError as error:
        if "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error):
            raise Ailment(
                "the server wants a certificate of yours: give certificate_file and key_file"
            ) from error
        if "ALERT" in str(error):
            raise Ailment(
                f"the server refuses your certificate ({error.reason}): it is expired, or of an authority that the "
                "server's client_ca_file does not hold"
            ) from error
        raise Ailment(
            f"{config.address} does not speak TLS ({error.reason}): leave ca_file and tls away, or give the server its "
            "certificate"
        ) from error
    except TimeoutError as error:
        raise Ailment(
            f"{config.address} takes connections and says nothing for {config.timeout_s:g} s: it does not speak TLS, "
            "or is frozen"
        ) from error
    except OSError as error:
        raise Ailment(
            f"{config.address} hung up while TLS was agreed on ({error}): it does not speak TLS, or wants a "
            "certificate of yours"
        ) from error


def _is_let_in(line: ssl.SSLSocket) -> None:
    """In TLS 1.3 the server refuses a certificate only after the handshake; its settings come first if it does not."""
    with contextlib.suppress(TimeoutError):
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        if not line.recv(9):
            raise ConnectionResetError("it closed the connection")


def _why_not_trusted(error: ssl.SSLCertVerificationError, name: str, config: DoctorConfig) -> str:
    what = error.verify_message
    if "expired" in what or "not yet valid" in what:
        return f"the server's certificate is out of date ({what}): renew it, or set the clock"
    if "mismatch" in what or "not valid for" in what:
        return f"the server's certificate is for another name ({what}): give --server-name, not {name!r}"
    trusted = config.ca_file or "the system's authorities"
    return f"the server's certificate is not of an authority in {trusted} ({what}): give the right --ca-file"


def _speaks_plaintext(host: str, port: int, config: DoctorConfig, findings: _Findings) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=config.timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            pass
    except OSError:
        findings.well("plaintext, as you asked for")
        return
    raise Ailment(
        f"{config.address} speaks TLS, and you don't: give --ca-file (or --tls if its certificate is a public one)"
    )


async def _ask(config: DoctorConfig, credentials: Credentials, findings: _Findings) -> TeacherInfo:
    metadata = credentials.metadata("doctor")
    async with credentials.channel(config.address, client_options()) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # methods of stubs are made at run time
        stub: Any = TeacherStub(channel)
        try:
            answer = await health.Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=config.timeout_s
            )
            status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            if status != "SERVING":
                raise Ailment(
                    f"the server is {status}: it drains, or its engine died; its log says"
                )
            findings.well("health: SERVING")
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise Ailment(f"{config.address} is a gRPC server without a teacher") from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Ailment(
                    f"{config.address} takes connections and does not answer: the process is frozen, or overloaded"
                ) from error
            raise Ailment(f"health check: {error.code().name}: {error.details()}") from error
        try:
            reply = await stub.Describe(
                pb.DescribeRequest(), timeout=config.timeout_s, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            raise Ailment(f"Describe: {error.code().name}: {error.details()}") from error
    return info_from_proto(reply)


def _compare(info: TeacherInfo, config: DoctorConfig, findings: _Findings) -> None:
    findings.well(
        f"teacher {info.teacher_id!r}: {info.model_id}, {info.engine} engine, {info.dtype}, context "
        f"{info.context_length}, vocabulary {info.vocab_size}"
    )
    missing = [word for word in NEEDED if word not in info.capabilities]
    if missing:
        raise Ailment(f"the teacher lacks {', '.join(missing)}: it is another version; update it")
    theirs = info.versions.get("vgs-opd", "")
    ours = importlib.metadata.version("vgs-opd")
    if theirs != ours:
        findings.note(f"the teacher runs vgs-opd {theirs or 'of unknown version'}, here is {ours}")
    if config.student is None:
        findings.note("no --student given: tokenizers were not compared")
        return
    from transformers import AutoTokenizer

    from protos.fingerprint import tokenizer_fingerprint

    own = tokenizer_fingerprint(AutoTokenizer.from_pretrained(config.student))
    if own != info.tokenizer_fingerprint:
        raise Ailment(
            f"{config.student} has another tokenizer ({own[:12]}) than the teacher "
            f"({info.tokenizer_fingerprint[:12]}): its ids mean other tokens; take a student of the teacher's family"
        )
    findings.well("the student's tokenizer is the teacher's")
