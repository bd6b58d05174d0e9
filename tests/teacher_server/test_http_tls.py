"""The HTTP port away from loopback: guarded as the gRPC port is, and over the same certificate."""

import os
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from teacher_server.config import ServerConfig, TlsConfig
from teacher_server.gateway.app import make_app
from teacher_server.gateway.http_server import running_gateway
from teacher_server.metrics import Metrics
from tests.teacher_server.certificates import Authority, Pair


def tls_of(pair: Pair, client_ca: Path | None = None) -> TlsConfig:
    return TlsConfig(
        certificate_file=pair.certificate_file, key_file=pair.key_file, client_ca_file=client_ca
    )


async def ask(address: str, authority: Authority, client: Pair | None = None) -> httpx.Response:
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    if client is not None:
        context.load_cert_chain(client.certificate_file, client.key_file)
    async with httpx.AsyncClient(verify=context, trust_env=False) as http:
        return await http.get(f"https://{address}/health/live")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "a", "ours")


async def test_a_renewed_certificate_needs_no_restart(tmp_path: Path, authority: Authority):
    other = Authority(tmp_path / "b", "other")
    pair = authority.issue("server", "127.0.0.1")
    app = make_app(None, Metrics(), lambda: None)
    async with running_gateway(app, "127.0.0.1", 0, tls_of(pair)) as address:
        assert (await ask(address, authority)).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(address, other)
        with pytest.raises(httpx.RemoteProtocolError):
            async with httpx.AsyncClient(trust_env=False) as http:
                await http.get(f"http://{address}/health/live")
        other.issue("server", "127.0.0.1").copy_to(pair)
        assert (await ask(address, other)).status_code == 200
        pair.certificate_file.write_text("half of it")
        os.utime(pair.certificate_file, (1, 1))
        assert (await ask(address, other)).status_code == 200, "the one before stays"


async def test_a_client_must_show_a_certificate_where_one_is_wanted(
    tmp_path: Path, authority: Authority
):
    tls = tls_of(authority.issue("server", "127.0.0.1"), authority.ca_file)
    app = make_app(None, Metrics(), lambda: None)
    async with running_gateway(app, "127.0.0.1", 0, tls) as address:
        client = authority.issue("client", "trainer-7")
        assert (await ask(address, authority, client)).status_code == 200
        with pytest.raises(httpx.HTTPError):
            await ask(address, authority)
        stranger = Authority(tmp_path / "b", "other").issue("client", "trainer-7")
        with pytest.raises(httpx.HTTPError):
            await ask(address, authority, stranger)


@pytest.mark.parametrize(
    ("settings", "fine"),
    [
        ({"http_host": "0.0.0.0"}, False),
        ({"http_host": "::"}, False),
        ({"http_host": "0.0.0.0", "insecure": True}, True),
        ({"http_host": "0.0.0.0", "clients_file": "clients.toml"}, True),
        ({"http_host": "0.0.0.0", "http_port": None}, True),
        ({"http_host": "localhost"}, True),
    ],
)
def test_an_open_port_needs_a_guard(settings: dict[str, Any], fine: bool):
    if fine:
        ServerConfig.model_validate(settings)
    else:
        with pytest.raises(ValidationError, match=r"http_host .* is reachable by others"):
            ServerConfig.model_validate(settings)
