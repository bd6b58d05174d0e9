"""Who may use a teacher, and how much of it: tokens, revocation, weights, quotas, and what a log tells of them."""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos.client import TeacherClient
from protos.connection import ConnectionSettings
from protos.errors import LimitExceeded, NotAllowed, PreconditionFailed, Unauthenticated
from protos.prompt import Prompt
from protos.teacher_info import MIB, Limits
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import TeacherStub
from teacher_server import cli, client_file
from teacher_server.client import Client
from teacher_server.client_file import ClientFile, Presented, new_token
from teacher_server.core import Job
from teacher_server.ledger import Ledger
from tests.connected import connected
from tests.loopback import serving
from tests.raw_stream import METHOD
from tests.teacher_server.clients import PROMPT, RELOAD_S, Clients, item, until


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return Clients(tmp_path / "clients.toml", "lab", "guest")


@pytest.fixture
def server(qwen: Path, clients: Clients) -> Iterator[str]:
    with serving(qwen, server={"clients_file": clients.path}) as address:
        yield address


def slow(milliseconds: int) -> dict[str, int]:
    """An idle engine waits so long before it takes a first item."""
    return {"batch_wait_ms": milliseconds}


# --------------------------------------------------------------------------------------------- tokens


def answers(address: str, authorization: str | None) -> tuple[str, str]:
    """Names of the codes that Describe and Score end with, for metadata as a hostile peer would write it."""
    metadata = () if authorization is None else (("authorization", authorization),)
    with grpc.insecure_channel(address) as channel:
        stub = TeacherStub(channel)
        calls = [
            lambda: stub.Describe(pb.DescribeRequest(), metadata=metadata, timeout=5),
            lambda: list(stub.Score(iter([]), metadata=metadata, timeout=5)),
        ]
        codes = []
        for call in calls:
            try:
                call()
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(error.code().name)
    return codes[0], codes[1]


def test_only_a_known_token_opens_the_door(server: str, clients: Clients):
    token = clients.tokens["lab"]
    digest = clients.entries["lab"]["token_sha256"]
    refused = [
        None,
        "",
        "Bearer",
        "Bearer ",
        token,
        f"Basic {token}",
        f"Bearer {token}x",
        f"Bearer {token[:-1]}",
        f"Bearer {token.upper()}",
        f"Bearer {digest}",  # what the file holds is no token
        f"Bearer {token} {token}",
    ]
    for authorization in refused:
        assert answers(server, authorization) == ("UNAUTHENTICATED",) * 2, authorization
        assert answers(server, f"Bearer {token}") == ("OK", "OK")
    assert answers(server, f"bearer {token}") == ("OK", "OK"), "the scheme's case does not matter"


async def test_a_client_is_refused_at_once_and_told_why(server: str, clients: Clients):
    for credentials, why in (
        (None, "wants a token"),
        (clients.credentials("lab"), None),
        (type(clients.credentials("lab"))(new_token()[0]), "not known here"),
    ):
        teacher = TeacherClient(server, credentials=credentials, connect_timeout_s=20)
        started_s = time.monotonic()
        try:
            if why is None:
                await teacher.connect()
            else:
                with pytest.raises(Unauthenticated, match=why):
                    await teacher.connect()
        finally:
            await teacher.close()
        assert time.monotonic() - started_s < 10


async def test_a_revoked_token_ends_its_stream_and_no_other(qwen: Path, clients: Clients):
    wait_s = RELOAD_S + 0.5  # an item under way is not answered before the stream has to be over
    with serving(
        qwen, server={"clients_file": clients.path}, engine=slow(int(1000 * wait_s))
    ) as address:
        async with (
            connected(address, credentials=clients.credentials("lab")) as lab,
            connected(address, credentials=clients.credentials("guest")) as guest,
        ):
            mine, theirs = await lab.put_prompt(PROMPT), await guest.put_prompt(PROMPT)
            revoked = asyncio.create_task(lab.score(mine, item()))
            kept = asyncio.create_task(guest.score(theirs, item(7)))
            await asyncio.sleep(0)
            await lab.put_prompt(PROMPT)  # acknowledged, so the item before it has been read
            del clients.entries["lab"]
            clients.write()
            with pytest.raises(Unauthenticated, match="not known here"):
                await asyncio.wait_for(revoked, RELOAD_S)
            with pytest.raises(Unauthenticated):
                await lab.put_prompt(PROMPT)
            assert (await kept).rows == 7
        assert answers(address, f"Bearer {clients.tokens['lab']}") == ("UNAUTHENTICATED",) * 2


async def test_a_trainer_learns_that_its_token_was_revoked(server: str, clients: Clients):
    async with TeacherClient(server, credentials=clients.credentials("lab")) as teacher:
        put = await teacher.put_prompt(PROMPT)
        del clients.entries["lab"]
        clients.write()
        await until(lambda: teacher.replicas[server] == "refused", "the client is refused")
        with pytest.raises(Unauthenticated, match="not known here"):
            await asyncio.wait_for(teacher.score(put, item()), 5)


async def test_a_client_is_added_while_the_server_runs(server: str, clients: Clients):
    token = clients.add("newcomer")
    assert answers(server, f"Bearer {token}") == ("UNAUTHENTICATED",) * 2
    clients.write()
    await until(lambda: answers(server, f"Bearer {token}") == ("OK", "OK"), "it is let in")


async def test_a_file_that_cannot_be_read_changes_nothing(server: str, clients: Clients, caplog):
    old = f"Bearer {clients.tokens['lab']}"
    clients.write_text("[clients.lab\n")
    await until(lambda: "clients_file_refused" in caplog.text, "the broken file is told")
    assert "is not TOML" in caplog.text
    assert answers(server, old) == ("OK", "OK")

    clients.path.unlink()
    await until(lambda: "clients_file_away" in caplog.text, "the missing file is told")
    assert answers(server, old) == ("OK", "OK")

    token = clients.add("newcomer")
    del clients.entries["lab"]
    clients.write()
    await until(lambda: answers(server, f"Bearer {token}") == ("OK", "OK"), "the next one counts")
    assert answers(server, old) == ("UNAUTHENTICATED",) * 2


async def test_the_watch_survives_a_fault(server: str, clients: Clients, caplog, monkeypatch):
    token = clients.add("newcomer")
    with monkeypatch.context() as patch:
        patch.setattr(client_file, "_read", lambda path: {}["a fault"])
        clients.write()
        await until(lambda: "clients_file_watch_failed" in caplog.text, "the fault is told")
    assert answers(server, f"Bearer {token}") == ("UNAUTHENTICATED",) * 2
    clients.write()
    await until(
        lambda: answers(server, f"Bearer {token}") == ("OK", "OK"), "the file is still watched"
    )


def test_junk_moves_nobody(server: str, clients: Clients):
    token = f"Bearer {clients.tokens['lab']}"
    junk = os.urandom(MIB) * 65
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server, options=options) as channel:
        score = channel.stream_stream(METHOD)
        for authorization, data, code in (
            ("", junk, "UNAUTHENTICATED"),
            ("Bearer wrong", junk[: 60 * MIB], "UNAUTHENTICATED"),
            (token, junk, "RESOURCE_EXHAUSTED"),
            ("Bearer " + "x" * 20_000, b"", "RESOURCE_EXHAUSTED"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                list(score(iter([data]), metadata=[("authorization", authorization)], timeout=20))
            assert refused.value.code().name == code
            assert answers(server, token) == ("OK", "OK")


# ----------------------------------------------------------------------------------------------- file

A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'[clients.a]\ntoken_sha256 = "{A}"\n[clients.b]\ntoken_sha256 = "{A}"', "same token"),
        (
            f'[clients.a]\ntoken_sha256 = "{A}"\n[clients.b]\ntoken_sha256 = "{A.upper()}"',
            "same token",
        ),
        (
            '[clients.a]\ncertificate_name = "x"\n[clients.b]\ncertificate_name = "x"',
            "same certificate",
        ),
        ('[clients.a]\ntoken_sha256 = "vgs_secret"', "clients.a.token_sha256: is not the hex"),
        ('[clients.a]\ntoken_sha256 = "' + "g" * 64 + '"', "is not the hex SHA-256"),
        ("[clients.a]\nweight = 1.0", "clients.a: has neither"),
        ('[clients.a]\ncertificate_name = " "', "certificate_name: is empty"),
        (f'[clients.a]\ntoken_sha256 = "{A}"\nweight = 0', "clients.a.weight"),
        (f'[clients.a]\ntoken_sha256 = "{A}"\nmax_tokens = 0', "clients.a.max_tokens"),
        (f'[clients.a]\ntoken_sha256 = "{A}"\ntoken = "vgs_secret"', "clients.a.token: Extra"),
        (f'[clients.""]\ntoken_sha256 = "{A}"', "is empty"),
        (f'[clients."a\\nb"]\ntoken_sha256 = "{A}"', "not printable"),
        ('clients = "vgs_secret"', "clients: Input should be"),
        ("", "clients: Field required"),
        ("vgs_secret", "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name_without_its_content(
    tmp_path: Path, text: str | bytes, says: str
):
    path = tmp_path / "clients.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"clients\.toml") as refused:
        ClientFile(path)
    assert says in str(refused.value)
    assert "vgs_secret" not in str(refused.value)


def test_a_token_decides_and_an_entry_with_both_wants_both(tmp_path: Path):
    clients = Clients(tmp_path / "clients.toml")
    by_token = clients.add("by-token")
    both = clients.add("both", certificate_name="both.lab")
    clients.entries["by-certificate"] = {"certificate_name": "trainer.lab"}
    clients.write()
    known = ClientFile(clients.path)

    def who(token: str | None, *names: str) -> str:
        shown = Presented.of(None if token is None else f"Bearer {token}", names)
        try:
            return known.identify(shown).name
        except (Unauthenticated, NotAllowed) as error:
            return type(error).__name__

    assert who(by_token) == "by-token"
    assert who(by_token, "trainer.lab") == "by-token"
    assert who(None, "trainer.lab") == who(None, "other", "trainer.lab") == "by-certificate"
    assert who(both, "both.lab") == "both"
    assert (
        who(both)
        == who(both, "trainer.lab")
        == who("vgs_wrong", "trainer.lab")
        == "Unauthenticated"
    )
    assert who(None, "both.lab") == who(None, "TRAINER.lab") == who(None, "") == "NotAllowed"
    assert who(None) == "Unauthenticated"


@pytest.mark.parametrize("name", ["lab", "vision.lab 2", 'a "quoted" one', "Bücher 😀"])
def test_the_token_command_writes_an_entry(name: str, tmp_path: Path, capsys):
    assert cli.main(["token", name]) == 0
    shown, entry = capsys.readouterr().out.split("\n\n", 1)
    token = shown.splitlines()[1]
    assert token not in entry
    path = tmp_path / "clients.toml"
    path.write_text(entry, encoding="utf-8")
    assert ClientFile(path).identify(Presented.of(f"Bearer {token}")).name == name


def test_every_entry_is_compared_whoever_asks(tmp_path: Path, monkeypatch):
    clients = Clients(tmp_path / "clients.toml", *(f"client-{n}" for n in range(20)))
    known = ClientFile(clients.path)
    compared: list[bytes] = []
    compare = client_file.hmac.compare_digest
    monkeypatch.setattr(
        client_file.hmac, "compare_digest", lambda a, b: compared.append(a) or compare(a, b)
    )
    for name in ("client-0", "client-19"):
        compared.clear()
        assert known.identify(Presented.of(f"Bearer {clients.tokens[name]}")).name == name
        assert len(compared) == len(set(compared)) == 20


def test_a_replaced_file_is_seen_whatever_its_date(tmp_path: Path):
    clients = Clients(tmp_path / "clients.toml", "lab")
    known = ClientFile(clients.path)
    before = clients.path.stat()
    assert not known.refresh()
    clients.add("lab")  # another token, so the file is as long as before
    clients.write()
    os.utime(clients.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = clients.path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert known.refresh()
    assert known.identify(Presented.of(f"Bearer {clients.tokens['lab']}")).name == "lab"


# ------------------------------------------------------------------------------------ weights, quotas


def quota(address: str, authorization: str) -> tuple[int, int]:
    """What Describe tells a client of its own."""
    with grpc.insecure_channel(address) as channel:
        metadata = (("authorization", authorization),)
        limits = TeacherStub(channel).Describe(pb.DescribeRequest(), metadata=metadata).limits
    return limits.max_client_tokens, limits.max_client_bytes


async def test_quotas_and_weights_change_while_a_stream_is_open(
    server: str, clients: Clients, monkeypatch
):
    weights: list[float] = []
    monkeypatch.setattr(
        "teacher_server.core.Job", lambda *parts: weights.append(parts[3]) or Job(*parts)
    )
    mine, guests = (f"Bearer {clients.tokens[name]}" for name in ("lab", "guest"))
    usual = (Limits.max_client_tokens, Limits.max_client_bytes)
    assert quota(server, mine) == quota(server, guests) == usual
    async with connected(server, credentials=clients.credentials("lab")) as lab:
        put = await lab.put_prompt(PROMPT)
        await lab.score(put, item(12))
        assert weights == [1.0]
        clients.entries["lab"] |= {"weight": 2.5, "max_tokens": 10, "max_bytes": 5000}
        clients.write()
        await until(lambda: quota(server, mine) == (10, 5000), "Describe tells the new quota")
        assert quota(server, guests) == usual
        await lab.score(put, item(10))
        assert weights == [1.0, 2.5]
        with pytest.raises(LimitExceeded, match=r"client lab to 12, the limit is 10") as full:
            await lab.score(put, item(12))
        assert full.value.detail.retry_after_ms == 0, "it can never fit"


async def test_what_is_beyond_a_quota_waits_for_its_turn(qwen: Path, clients: Clients):
    clients.entries["lab"]["max_tokens"] = 20
    clients.write()
    with serving(qwen, server={"clients_file": clients.path}, engine=slow(200)) as address:
        async with connected(address, credentials=clients.credentials("lab")) as stream:
            put = await stream.put_prompt(PROMPT)
            two = [stream.score(put, item(15)) for _ in range(2)]
            first, second = await asyncio.gather(*two, return_exceptions=True)
            assert not isinstance(first, BaseException)
            assert isinstance(second, LimitExceeded)
            assert "client lab to 30, the limit is 20" in second.message
            assert second.detail.retry_after_ms > 0

            # Over a second stream of the same client too.
            async with connected(address, credentials=clients.credentials("lab")) as other:
                held = await other.put_prompt(PROMPT)
                two = [stream.score(put, item(15)), other.score(held, item(15))]
                found = await asyncio.gather(*two, return_exceptions=True)
                assert sum(isinstance(one, LimitExceeded) for one in found) == 1

        async with TeacherClient(address, credentials=clients.credentials("lab")) as teacher:
            put = await teacher.put_prompt(PROMPT)
            scores = await asyncio.gather(*(teacher.score(put, item(15)) for _ in range(4)))
            assert [one.rows for one in scores] == [15] * 4
            with pytest.raises(LimitExceeded, match="the limit is 20"):
                await asyncio.wait_for(teacher.score(put, item(21)), 5)


async def test_bytes_kept_for_a_client_have_a_quota(qwen: Path, clients: Clients):
    clients.entries["lab"]["max_bytes"] = 25_000
    clients.write()
    long = Prompt(mm_ids=PROMPT.mm_ids.repeat(100), text_ids=PROMPT.text_ids.repeat(100))
    with serving(qwen, server={"clients_file": clients.path}) as address:
        async with (
            connected(address, credentials=clients.credentials("lab")) as lab,
            connected(address, credentials=clients.credentials("guest")) as guest,
        ):
            first = await lab.put_prompt(long)
            await lab.put_prompt(long)
            with pytest.raises(LimitExceeded, match=r"client lab to \d+, the limit is 25000"):
                await lab.put_prompt(long)
            for _ in range(3):
                await guest.put_prompt(long)
            assert (await lab.score(first, item())).rows == 5
            lab.forget_prompt(first)
            await lab.put_prompt(long)


async def test_all_clients_together_have_a_limit(qwen: Path, clients: Clients):
    limits = {
        "max_response_tokens": 20,
        "stream_window_tokens": 20,
        "max_client_tokens": 20,
        "max_total_tokens": 30,
    }
    server = {"clients_file": clients.path}
    with serving(qwen, server=server, limits=limits, engine=slow(1000)) as address:
        async with (
            connected(address, credentials=clients.credentials("lab")) as lab,
            connected(address, credentials=clients.credentials("guest")) as guest,
            TeacherClient(address, credentials=clients.credentials("guest")) as patient,
        ):
            put, held = await lab.put_prompt(PROMPT), await guest.put_prompt(PROMPT)
            under_way = asyncio.create_task(lab.score(put, item(17)))
            await asyncio.sleep(0)
            await lab.put_prompt(PROMPT)
            with pytest.raises(
                LimitExceeded, match="the limit of all clients together is 30"
            ) as full:
                await guest.score(held, item(15))
            assert full.value.detail.retry_after_ms > 0
            told = f"{full.value.message} {full.value.detail}"
            assert "17" not in told, "what others have under way is theirs to know"
            assert "32" not in told
            assert not under_way.done()
            waiting = await patient.put_prompt(PROMPT)
            scores = await asyncio.gather(under_way, patient.score(waiting, item(15)))
            assert [one.rows for one in scores] == [17, 15]


def test_an_account_is_empty_once_all_is_given_back():
    ledger = Ledger(Limits())
    client = Client("lab", "lab", max_tokens=10, max_bytes=100)
    with ledger.under_way(client, 0, 0):  # an empty response, whose prompt was dropped meanwhile
        with ledger.under_way(client, 7, 40), pytest.raises(LimitExceeded, match="lab to 11"):
            ledger.under_way(client, 4, 0).__enter__()
        with pytest.raises(LimitExceeded, match="lab to 101"):
            ledger.keep(client, 101)
    assert (ledger.tokens, ledger.kept_bytes, ledger._accounts) == (0, 0, {})


async def test_a_prompt_belongs_to_its_stream(server: str, clients: Clients):
    async with (
        connected(server, credentials=clients.credentials("lab")) as lab,
        connected(server, credentials=clients.credentials("guest")) as guest,
        connected(server, credentials=clients.credentials("lab")) as second,
    ):
        put = await lab.put_prompt(PROMPT)
        for other in (guest, second):
            with pytest.raises(PreconditionFailed, match=f"prompt {put.prompt_id} is not held"):
                await other.score(put, item())
            other.forget_prompt(put)
        async with connected(server, credentials=clients.credentials("guest")) as third:
            same_id = await third.put_prompt(Prompt(item(9).response_ids, item(9).response_ids))
            assert same_id.prompt_id == put.prompt_id
            # The echo tells that each was scored with its own prompt.
            assert (await lab.score(put, item())).rows == 5
            assert (await third.score(same_id, item())).rows == 5


# ------------------------------------------------------------------------------------------------ log


async def test_a_token_is_in_no_log(qwen: Path, clients: Clients, caplog):
    caplog.set_level(logging.DEBUG)
    wrong = new_token()[0]
    with serving(qwen, server={"clients_file": clients.path}) as address:
        credentials = clients.credentials("lab")
        async with TeacherClient(address, credentials=credentials) as teacher:
            await teacher.score(await teacher.put_prompt(PROMPT), item())
            for authorization in (f"Bearer {wrong}", f"Basic {wrong}", wrong):
                assert answers(address, authorization)[1] == "UNAUTHENTICATED"
            del clients.entries["lab"]
            clients.write()
            await until(lambda: teacher.replicas[address] == "refused", "the token is revoked")
            clients.write_text(f'[clients.lab]\ntoken = "{wrong}"\n')
            await until(lambda: "clients_file_refused" in caplog.text, "the broken file is told")
    for event in ("stream_opened", "stream_revoked", "client=lab", "replica_lost"):
        assert event in caplog.text
    for secret in (*clients.tokens.values(), wrong):
        assert secret not in caplog.text
        assert hashlib.sha256(secret.encode()).hexdigest() not in caplog.text
    assert clients.tokens["lab"] not in repr(credentials) + repr(
        ConnectionSettings(credentials=credentials)
    )
    assert clients.tokens["lab"] not in repr(Presented.of(f"Bearer {clients.tokens['lab']}"))
