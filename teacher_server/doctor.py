"""`teacher-server doctor HOST:PORT`: what is wrong between here and a teacher.

gRPC says "unavailable" for a dead server, a wrong certificate, a missing one and plaintext where TLS is spoken. Each is
told apart here, from the outside in: port, TLS (`line_check`), health, token, teacher, tokenizer.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import grpc
import tyro
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field

from protos.address import host_of, is_loopback
from protos.channel import client_options
from protos.connection import SERVICE
from protos.info_codec import info_from_proto
from protos.teacher_info import TeacherInfo
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import TeacherStub
from teacher_server.credential_settings import CredentialSettings
from teacher_server.line_check import Ailment, Line, check_line

NEEDED = ("tokens", "topk", "candidates", "credits", "cancel")
"""What this version's trainer cannot do without."""
PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")


class DoctorConfig(CredentialSettings):
    """Where to look, and as whom."""

    address: Annotated[str, tyro.conf.Positional]
    """HOST:PORT of the teacher."""
    student: Path | None = None
    """Folder of a student, whose tokenizer is compared."""
    timeout_s: float = Field(default=5.0, gt=0)
    """For each step."""


def examine(config: DoctorConfig, say: Callable[[str], None] = print) -> bool:
    """Print what is well and what is not; returns whether something is wrong.

    Raises ValueError or OSError where the question itself is wrong: the address, or a file.
    """
    host, port = host_of(config.address), config.address.rpartition(":")[2]
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"{config.address!r} is not HOST:PORT, such as 127.0.0.1:50051")

    def well(what: str) -> None:
        say(f"ok    {what}")

    def note(what: str) -> None:
        say(f"note  {what}")

    credentials = config.credentials()
    line = Line(host, int(port), config.address, credentials, config.timeout_s, well)
    try:
        check_line(line)
        proxy = next((name for name in PROXY_VARIABLES if os.environ.get(name)), None)
        if proxy and not is_loopback(host):
            note(f"{proxy} is set: gRPC may go through that proxy, the checks above do not")
        info = _ask(line, note)
        _compare(info, config.student, well, note)
    except Ailment as ailment:
        say(f"FAIL  {ailment}")
        return True
    return False


def _ask(line: Line, note: Callable[[str], None]) -> TeacherInfo:
    try:
        channel = line.credentials.blocking_channel(line.address, client_options())
    except ValueError as error:
        raise Ailment(str(error)) from error
    with channel:
        _check_health(channel, line, note)
        stub: Any = TeacherStub(channel)  # methods of stubs are made at run time
        try:
            reply = stub.Describe(
                pb.DescribeRequest(),
                timeout=line.timeout_s,
                metadata=line.credentials.metadata("doctor"),
            )
        except grpc.RpcError as error:
            raise Ailment(_why_not_described(error, line)) from error
    return info_from_proto(reply)


def _check_health(channel: grpc.Channel, line: Line, note: Callable[[str], None]) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    try:
        answer = health.Check(request, timeout=line.timeout_s)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            note("it tells nothing of its health")
            return
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise Ailment(f"{line.address} is a gRPC server without a teacher") from error
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise line.silent from error
        raise Ailment(f"health check: {error.code().name}: {error.details()}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if status != "SERVING":
        raise Ailment(f"the server is {status}: it drains, or its engine died; its log says")
    line.well("health: SERVING")


def _why_not_described(error: Any, line: Line) -> str:
    match error.code():
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{line.address} is a gRPC server without a teacher"
        case grpc.StatusCode.UNAUTHENTICATED if line.credentials.token:
            return f"your token is refused: {error.details()}"
        case grpc.StatusCode.UNAUTHENTICATED:
            return f"you showed no token: {error.details()}; give --token-file, or set VGS_TOKEN"
        case grpc.StatusCode.PERMISSION_DENIED:
            return f"you are not allowed in: {error.details()}"
        case code:
            return f"Describe: {code.name}: {error.details()}"


def _compare(
    info: TeacherInfo,
    student: Path | None,
    well: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    well(
        f"teacher {info.teacher_id!r}: {info.model_id}, {info.engine} engine, {info.dtype}, context "
        f"{info.context_length}, vocabulary {info.vocab_size}"
    )
    missing = [word for word in NEEDED if word not in info.capabilities]
    if missing:
        raise Ailment(f"the teacher lacks {', '.join(missing)}: it is another version; update it")
    theirs = info.versions.get("vgs-opd", "")
    ours = importlib.metadata.version("vgs-opd")
    if theirs != ours:
        note(f"the teacher runs vgs-opd {theirs or 'of unknown version'}, here is {ours}")
    if student is None:
        note("no --student given: tokenizers were not compared")
        return
    from transformers import AutoTokenizer

    from protos.fingerprint import tokenizer_fingerprint

    own = tokenizer_fingerprint(AutoTokenizer.from_pretrained(student))
    if own != info.tokenizer_fingerprint:
        raise Ailment(
            f"{student} has another tokenizer ({own[:12]}) than the teacher "
            f"({info.tokenizer_fingerprint[:12]}): its ids mean other tokens; take a student of the teacher's family"
        )
    well("the student's tokenizer is the teacher's")
