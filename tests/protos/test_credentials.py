"""What a client shows, to whom, and whom it trusts."""

import socket
from pathlib import Path

import grpc
import pytest

from protos.client import TeacherClient
from protos.credentials import Credentials
from protos.errors import PreconditionFailed
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import TeacherStub

TOKEN = "vgs_secret"
FILE = Path("file.pem")


def test_a_token_is_shown_to_the_server_alone():
    credentials = Credentials(TOKEN)
    assert ("authorization", f"Bearer {TOKEN}") in credentials.metadata("id")
    assert TOKEN not in repr(credentials)
    assert Credentials().metadata("id") == (("vgs-stream-id", "id"),)


@pytest.mark.parametrize("token", ["two words", "line\n", "tab\t", "null\0", "delete\x7f", "naïve"])
def test_what_is_no_token_is_refused_without_being_shown(token: str):
    with pytest.raises(ValueError, match="is it the token alone") as refused:
        Credentials(token)
    assert token not in str(refused.value)


def test_a_certificate_needs_its_key_and_a_name_needs_tls():
    for half in ({"certificate_file": FILE}, {"key_file": FILE}):
        with pytest.raises(ValueError, match="one needs the other"):
            Credentials(**half)
    with pytest.raises(ValueError, match="there is no TLS"):
        Credentials(server_name="teacher.lab")
    for said in ({"tls": True}, {"ca_file": FILE}, {"certificate_file": FILE, "key_file": FILE}):
        assert Credentials(server_name="teacher.lab", **said).encrypted


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("127.0.0.1:50051", False),
        ("127.8.9.1:50051", False),
        ("[::1]:50051", False),
        ("localhost:50051", False),
        ("10.0.0.7:50051", True),
        ("0.0.0.0:50051", True),
        ("teacher.lab:50051", True),
        ("localhost.evil.example:50051", True),
        ("ipv4:10.0.0.7:50051", True),
        ("127.0.0.1,10.0.0.7:50051", True),
    ],
)
def test_a_token_crosses_no_network_in_plaintext(address: str, refused: bool):
    if refused:
        with pytest.raises(ValueError, match=f"reach {address} in plaintext") as error:
            Credentials(TOKEN).blocking_channel(address, [])
        assert TOKEN not in str(error.value)
    else:
        Credentials(TOKEN).blocking_channel(address, []).close()
    for allowed in (Credentials(TOKEN, plaintext_token=True), Credentials(TOKEN, tls=True)):
        allowed.blocking_channel(address, []).close()


async def test_a_client_with_a_token_does_not_even_connect(caplog):
    with pytest.raises(PreconditionFailed, match="in plaintext"):
        async with TeacherClient("10.0.0.7:50051", credentials=Credentials(TOKEN)):
            pass
    assert TOKEN not in caplog.text


def test_a_proxy_of_the_environment_is_not_given_a_token_for_loopback(
    qwen_server: str, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        credentials = Credentials(TOKEN)
        options = [("grpc.use_local_subchannel_pool", 1)]
        with credentials.blocking_channel(qwen_server, options) as channel:
            TeacherStub(channel).Describe(pb.DescribeRequest(), timeout=5)
        proxy.settimeout(0)
        with pytest.raises(BlockingIOError):
            proxy.accept()
        # Left alone, gRPC asks it.
        with grpc.insecure_channel(qwen_server, options=options) as channel:
            call = TeacherStub(channel).Describe.future(pb.DescribeRequest(), timeout=10)
            proxy.settimeout(5)
            line, _ = proxy.accept()
            with line:
                assert line.recv(100).startswith(b"CONNECT " + qwen_server.encode())
            call.cancel()


def test_the_systems_authorities_are_trusted_where_no_others_are_named(tmp_path: Path, monkeypatch):
    ours, grpcs = tmp_path / "system.pem", tmp_path / "grpc.pem"
    ours.touch()
    grpcs.touch()
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours))
    assert Credentials(tls=True).authorities_file == ours
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(grpcs))
    assert Credentials(tls=True).authorities_file == grpcs
    assert Credentials(ca_file=FILE).authorities_file == FILE
