"""TLS and mutual TLS: what a client gets, what the doctor says, and certificates that change while the server runs."""

import asyncio
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from pydantic import ValidationError

from protos.client import TeacherClient
from protos.credentials import Credentials
from protos.errors import NotAllowed, Unauthenticated, Unavailable
from protos.sync_client import SyncTeacherClient
from student_trainer import teachers
from student_trainer.teacher_config import TeacherConfig
from teacher_server import cli
from teacher_server.config import ServeConfig, ServerConfig
from tests.connected import connected
from tests.loopback import serving
from tests.teacher_server.certificates import Authority, Pair
from tests.teacher_server.clients import PROMPT, Clients, item, until

TIMEOUT_S = 1.0
"""For a client to give up connecting."""


@dataclass(frozen=True)
class Parties:
    """An authority that both sides trust, one that nobody does, and what each of them signed."""

    ours: Authority
    foreign: Authority
    server: Pair
    trainer: Pair
    stranger: Pair
    """As good as the trainer's, and in no clients file."""
    expired: Pair
    forged: Pair
    """With the trainer's name, of the other authority."""


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    folder = tmp_path_factory.mktemp("certificates")
    ours, foreign = Authority(folder, "ours"), Authority(folder, "foreign")
    return Parties(
        ours,
        foreign,
        server=ours.issue("server", "127.0.0.1"),
        trainer=ours.issue("trainer", "trainer-7.lab", common_name="Trainer 7"),
        stranger=ours.issue("stranger", "stranger.lab"),
        expired=ours.issue("expired", "trainer-7.lab", expired=True),
        forged=foreign.issue("forged", "trainer-7.lab"),
    )


def tls(pair: Pair, client_ca: Authority | None = None) -> dict[str, Any]:
    """Of the server's settings."""
    own = {"certificate_file": pair.certificate_file, "key_file": pair.key_file}
    return {"tls": own | ({"client_ca_file": client_ca.ca_file} if client_ca else {})}


def shown(ca: Authority, pair: Pair | None = None, **more: Any) -> Credentials:
    if pair is not None:
        more |= {"certificate_file": pair.certificate_file, "key_file": pair.key_file}
    return Credentials(ca_file=ca.ca_file, **more)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    clients = Clients(tmp_path_factory.mktemp("clients") / "clients.toml", "by-token")
    clients.entries["trainer-7"] = {"certificate_name": "trainer-7.lab", "max_tokens": 777}
    clients.add("both", certificate_name="stranger.lab")
    clients.write()
    return clients


@pytest.fixture(scope="module")
def servers(qwen: Path, parties: Parties, clients: Clients) -> Iterator[dict[str, str]]:
    mutual = tls(parties.server, parties.ours)
    with (
        serving(qwen) as plain,
        serving(qwen, server=tls(parties.server)) as encrypted,
        serving(qwen, server=tls(parties.ours.issue("old", "127.0.0.1", expired=True))) as expired,
        serving(qwen, server=tls(parties.ours.issue("other", "teacher.lab"))) as named,
        serving(qwen, server=mutual) as open_to_certificates,
        serving(qwen, server=mutual | {"clients_file": clients.path}) as guarded,
    ):
        yield {
            "plain": plain,
            "tls": encrypted,
            "expired": expired,
            "named": named,
            "mutual": open_to_certificates,
            "guarded": guarded,
        }


def doctor(address: str, shown: Credentials, capsys: pytest.CaptureFixture[str]) -> str:
    """What it prints, with its exit status at the end."""
    flags = ["--tls"] if shown.tls else []
    for name in ("ca_file", "certificate_file", "key_file", "server_name"):
        if value := getattr(shown, name):
            flags += ["--" + name.replace("_", "-"), str(value)]
    capsys.readouterr()
    status = cli.main(["doctor", address, *flags, "--timeout-s", "2"])
    return capsys.readouterr().out + f"status {status}"


# -------------------------------------------------------------------------------------- good and bad


async def test_a_line_that_is_as_it_should_be(servers: dict[str, str], parties: Parties):
    good = [
        ("tls", shown(parties.ours)),
        ("tls", shown(parties.ours, parties.forged)),  # nobody asked for it
        ("named", shown(parties.ours, server_name="teacher.lab")),
        ("mutual", shown(parties.ours, parties.trainer)),
        ("guarded", shown(parties.ours, parties.trainer)),
    ]
    for server, credentials in good:
        async with TeacherClient(servers[server], credentials=credentials) as teacher:
            scores = await teacher.score(await teacher.put_prompt(PROMPT), item())
            assert scores.rows == 5


BAD = {
    "a foreign authority": ("tls", "foreign", None, {}, "not of an authority in"),
    "an expired server": ("expired", "ours", None, {}, "out of date (certificate has expired)"),
    "another name": ("named", "ours", None, {}, "is for another name"),
    "a name of one's own": ("tls", "ours", None, {"server_name": "x.lab"}, "is for another name"),
    "no certificate": ("mutual", "ours", None, {}, "it wants a certificate of yours"),
    "a forged one": ("mutual", "ours", "forged", {}, "not of an authority in the server's"),
    "an expired one": ("mutual", "ours", "expired", {}, "certificate: certificate has expired"),
    "plaintext to TLS": ("tls", None, None, {}, "speaks TLS, and you don't"),
    "plaintext to mutual TLS": ("mutual", None, None, {}, "speaks TLS, and you don't"),
    "TLS to plaintext": ("plain", "ours", None, {}, "does not speak TLS"),
    "the system's authorities": ("tls", None, None, {"tls": True}, "the system's authorities"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_doctor_names_the_cause_where_grpc_does_not(
    case: str, servers: dict[str, str], parties: Parties, capsys
):
    server, ca, pair, more, cause = BAD[case]
    if ca is None:
        credentials = Credentials(**more)
    else:
        credentials = shown(getattr(parties, ca), pair and getattr(parties, pair), **more)

    async def connect() -> float:
        teacher = TeacherClient(
            servers[server], credentials=credentials, connect_timeout_s=TIMEOUT_S
        )
        started_s = time.monotonic()
        with pytest.raises(Unavailable, match="teacher-server doctor"):
            await teacher.connect()
        await teacher.close()
        return time.monotonic() - started_s

    assert asyncio.run(connect()) < TIMEOUT_S + 3
    told = doctor(servers[server], credentials, capsys)
    assert f"ok    {servers[server]} takes connections" in told
    assert told.count("FAIL") == 1
    assert cause in told.partition("FAIL")[2]
    assert told.endswith("status 1")


def test_the_doctor_finds_nothing_where_nothing_is_wrong(
    servers: dict[str, str], parties: Parties, capsys
):
    for server, credentials in (
        ("plain", Credentials()),
        ("tls", shown(parties.ours)),
        ("mutual", shown(parties.ours, parties.trainer)),
        ("guarded", shown(parties.ours, parties.trainer)),
    ):
        told = doctor(servers[server], credentials, capsys)
        assert "FAIL" not in told
        assert told.endswith("status 0")


def test_the_doctor_names_files_that_are_no_pair(
    servers: dict[str, str], parties: Parties, tmp_path: Path, capsys
):
    mixed = Pair(parties.trainer.certificate_file, parties.server.key_file)
    told = doctor(servers["mutual"], shown(parties.ours, mixed), capsys)
    assert "are no pair of PEM files" in told
    empty = tmp_path / "empty.pem"
    empty.touch()
    told = doctor(servers["tls"], Credentials(ca_file=empty), capsys)
    assert f"{empty} holds no certificates" in told
    assert cli.main(["doctor", servers["tls"], "--ca-file", str(tmp_path / "absent.pem")]) == 2
    assert "absent.pem is not a file" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- names


async def test_a_certificates_name_tells_who_a_client_is(
    servers: dict[str, str], parties: Parties, clients: Clients
):
    async with connected(
        servers["guarded"], credentials=shown(parties.ours, parties.trainer)
    ) as known:
        assert known.info.limits.max_client_tokens == 777
    token = {"token": clients.tokens["by-token"]}
    async with connected(
        servers["guarded"], credentials=shown(parties.ours, parties.trainer, **token)
    ) as known:
        assert known.info.limits.max_client_tokens != 777, "a token that is shown decides"
    token = {"token": clients.tokens["both"]}
    async with connected(
        servers["guarded"], credentials=shown(parties.ours, parties.stranger, **token)
    ):
        pass
    for credentials, error, why in (
        (shown(parties.ours, parties.stranger), NotAllowed, r"stranger\.lab.* no client of this"),
        (shown(parties.ours, parties.trainer, **token), Unauthenticated, "not known here"),
        (shown(parties.ours, parties.trainer, token="vgs_wrong"), Unauthenticated, "not known"),
    ):
        with pytest.raises(error, match=why):
            async with TeacherClient(servers["guarded"], credentials=credentials):
                pass


async def test_without_a_clients_file_a_certificates_name_is_the_clients(
    servers: dict[str, str], parties: Parties, caplog
):
    caplog.set_level("INFO")
    async with connected(
        servers["mutual"], credentials=shown(parties.ours, parties.trainer)
    ) as one:
        await one.put_prompt(PROMPT)
    assert f"stream_opened stream={one.id} client=trainer-7.lab" in caplog.text


def test_the_doctor_tells_a_certificate_that_is_nobodys(
    servers: dict[str, str], parties: Parties, capsys
):
    told = doctor(servers["guarded"], shown(parties.ours, parties.stranger), capsys)
    assert "ok    the server does not refuse your certificate" in told
    assert "you are not allowed in: the certificate of 'stranger.lab'" in told
    assert told.endswith("status 1")


# -------------------------------------------------------------------------------------------- renewal


async def accepted(address: str, credentials: Credentials) -> bool:
    async with connected(address, credentials=credentials):
        return True


async def refused(address: str, credentials: Credentials) -> bool:
    try:
        async with TeacherClient(address, credentials=credentials, connect_timeout_s=TIMEOUT_S):
            return False
    except Unavailable:
        return True


async def test_a_certificate_is_swapped_while_the_server_runs(
    qwen: Path, parties: Parties, tmp_path: Path, caplog
):
    caplog.set_level("INFO")
    live = Pair(tmp_path / "live.pem", tmp_path / "live.key")
    parties.server.copy_to(live)
    renewed = parties.foreign.issue("renewed", "127.0.0.1")
    before, after = shown(parties.ours), shown(parties.foreign)
    with serving(qwen, server=tls(live)) as address:
        async with connected(address, credentials=before) as open_stream:
            put = await open_stream.put_prompt(PROMPT)
            assert await refused(address, after)

            # Halfway: the certificate is new, the key is not.
            live.certificate_file.write_bytes(renewed.certificate_file.read_bytes())
            assert await accepted(address, before)
            assert "certificate_refused kept=previous" in caplog.text
            assert "are no pair" in caplog.text
            assert "certificate_renewed" not in caplog.text
            live.certificate_file.unlink()
            assert await accepted(address, before)

            renewed.copy_to(live)
            assert await accepted(address, after)
            assert "certificate_renewed" in caplog.text
            assert await refused(address, before)
            assert (await open_stream.score(put, item())).rows == 5

            live.certificate_file.write_text("rubbish")
            assert await accepted(address, after)
        assert caplog.text.count("certificate_renewed") == 1


async def test_an_authority_of_clients_is_swapped(qwen: Path, parties: Parties, tmp_path: Path):
    trusted = Authority(tmp_path, "trusted")
    trusted.ca_file.write_bytes(parties.ours.ca_file.read_bytes())
    with serving(qwen, server=tls(parties.server, trusted)) as address:
        ours, forged = (shown(parties.ours, p) for p in (parties.trainer, parties.forged))
        async with connected(address, credentials=ours) as open_stream:
            put = await open_stream.put_prompt(PROMPT)
            assert await refused(address, forged)
            trusted.ca_file.write_bytes(parties.foreign.ca_file.read_bytes())
            assert await accepted(address, forged)
            assert await refused(address, ours)
            assert (await open_stream.score(put, item())).rows == 5


async def test_a_revoked_certificate_name_ends_its_stream(
    qwen: Path, parties: Parties, tmp_path: Path
):
    clients = Clients(tmp_path / "clients.toml")
    clients.entries["trainer-7"] = {"certificate_name": "trainer-7.lab"}
    clients.write()
    server = tls(parties.server, parties.ours) | {"clients_file": clients.path}
    with serving(qwen, server=server) as address:
        credentials = shown(parties.ours, parties.trainer)
        async with TeacherClient(address, credentials=credentials) as teacher:
            del clients.entries["trainer-7"]
            clients.write()
            await until(lambda: teacher.replicas[address] == "refused", "refused")
            with pytest.raises(NotAllowed, match=r"trainer-7\.lab"):
                await teacher.put_prompt(PROMPT)


# -------------------------------------------------------------------------------------- documentation

ROOT = Path(__file__).parents[2]


def blocks(kind: str) -> list[str]:
    text = (ROOT / "docs" / "security-setup.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_the_commands_of_the_documentation(
    qwen: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["sh", "-ec", blocks("sh")[0]], check=True, capture_output=True)
    assert (tmp_path / "server.key").stat().st_mode & 0o77 == 0

    assert cli.main(["token", "vision-lab"]) == 0
    token, entry = capsys.readouterr().out.split("\n\n", 1)
    (tmp_path / "token").write_text(token.splitlines()[1] + "\n")
    clients, server, trainer = blocks("toml")
    example = re.search(r'token_sha256 = ".*"', clients)
    made = re.search(r'token_sha256 = ".*"', entry)
    assert example is not None
    assert made is not None
    (tmp_path / "clients.toml").write_text(clients.replace(example[0], made[0]))

    settings = ServeConfig.model_validate(tomllib.loads(server)).server
    assert settings.host == "0.0.0.0"
    teacher = TeacherConfig.model_validate(tomllib.loads(trainer)["teacher"])
    shows = teachers.credentials(teacher)
    assert shows.token == (tmp_path / "token").read_text().strip()
    assert shows.certificate_file is not None
    flags = [word for word in blocks("sh")[3].split() if word != "\\"]
    assert flags[:2] == ["teacher-server", "doctor"]
    flags[flags.index("MODEL")] = str(qwen)
    chosen = settings.model_dump(mode="json", exclude_unset=True) | {"host": "127.0.0.1"}
    with (
        serving(qwen, server=chosen) as address,
        SyncTeacherClient(address, credentials=shows) as client,
    ):
        assert client.info.limits.max_client_tokens == 65_536
        flags[2] = address
        assert cli.main(flags[1:]) == 0


# --------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.7", "teacher.lab", "localhost.lab", "", "127.0.0.1.lab"]
)
def test_an_open_host_wants_a_guard(host: str, parties: Parties, clients: Clients):
    with pytest.raises(ValidationError, match=r"reachable by others.*--server\.insecure"):
        ServerConfig(host=host)
    for guard in (tls(parties.server), {"clients_file": clients.path}, {"insecure": True}):
        assert ServerConfig.model_validate({"host": host} | guard).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_wants_none(host: str):
    assert ServerConfig(host=host).host == host


def test_files_that_are_no_pair_are_named_before_the_port_is_blamed(
    qwen: Path, parties: Parties, tmp_path: Path
):
    mixed = Pair(parties.server.certificate_file, parties.trainer.key_file)
    with (
        pytest.raises(
            ValueError, match=r"ours-server\.pem and key_file .*trainer\.key are no pair"
        ),
        serving(qwen, server=tls(mixed)),
    ):
        pass
    rubbish = Authority(tmp_path, "rubbish")
    rubbish.ca_file.write_text("rubbish")
    with (
        pytest.raises(ValueError, match=r"rubbish-ca\.pem holds no certificates"),
        serving(qwen, server=tls(parties.server, rubbish)),
    ):
        pass
    absent = {"certificate_file": tmp_path / "absent.pem", "key_file": mixed.key_file}
    with pytest.raises(ValidationError, match=r"absent\.pem is not a file"):
        ServeConfig.model_validate({"server": {"tls": absent}})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reflection_can_be_turned_off(qwen: Path, servers: dict[str, str]):
    with grpc.insecure_channel(servers["plain"]) as channel:
        assert ProtoReflectionDescriptorDatabase(channel).get_services()
    with (
        serving(qwen, server={"reflection": False}) as address,
        grpc.insecure_channel(address) as channel,
        pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"),
    ):
        ProtoReflectionDescriptorDatabase(channel).get_services()
