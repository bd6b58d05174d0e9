"""One stream against a real server: credit, cancellation on the wire, the echo, chunks."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from protos.arrays import as_ids
from protos.errors import (
    Cancelled,
    DeadlineExceeded,
    EchoMismatch,
    InternalFault,
    TeacherError,
)
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.scores import Scores
from protos.v1 import teacher_pb2 as pb
from tests.connected import connected
from tests.loopback import serving

PROMPT = Prompt(mm_ids=as_ids([40, 41, 42]), text_ids=as_ids([40, 41, 42]))


def item(length: int = 5, **settings) -> ScoreItem:
    return ScoreItem(as_ids([50] * length), k=3, **settings)


async def test_more_than_the_window_waits_for_credit(qwen: Path):
    limits = {"max_response_tokens": 20, "stream_window_tokens": 30}
    with serving(qwen, limits=limits) as address:
        async with connected(address) as teacher:
            put = await teacher.put_prompt(PROMPT)
            answers = await asyncio.gather(*(teacher.score(put, item(20)) for _ in range(12)))
            assert [scores.rows for scores in answers] == [20] * 12
            assert teacher.stats.scored_tokens == 240


async def test_an_item_beyond_the_credit_fails_by_itself(qwen: Path):
    limits = {"max_response_tokens": 20, "stream_window_tokens": 30}
    with serving(qwen, limits=limits) as address:
        async with connected(address) as teacher:
            put = await teacher.put_prompt(PROMPT)
            await teacher._credit.grant(10**6)  # a client that ignores what it was granted
            answers = await asyncio.gather(
                *(teacher.score(put, item(20)) for _ in range(4)), return_exceptions=True
            )
            refused = [a for a in answers if isinstance(a, TeacherError)]
            assert len(refused) == 3
            assert all(e.detail.retry_after_ms > 0 and "credit" in str(e) for e in refused)
            assert (await teacher.score(put, item(20))).rows == 20


async def test_the_clients_own_bound_holds(qwen_server: str):
    async with connected(qwen_server, max_inflight_tokens=10) as teacher:
        put = await teacher.put_prompt(PROMPT)
        answers = await asyncio.gather(*(teacher.score(put, item(n)) for n in (8, 25, 3, 9)))
        assert [scores.rows for scores in answers] == [8, 25, 3, 9]


async def test_a_cancel_on_the_wire_is_answered(qwen: Path):
    # The engine waits a second for company, so the item is still in the queue when the cancel comes.
    with serving(qwen, engine={"batch_wait_ms": 1000}) as address:
        async with connected(address) as teacher:
            put = await teacher.put_prompt(PROMPT)
            waiting = asyncio.create_task(teacher.score(put, item()))
            while not teacher._items:
                await asyncio.sleep(0)
            cancel = pb.Cancel(request_id=next(iter(teacher._items)))
            teacher._send(pb.ClientMessage(cancel=cancel))
            with pytest.raises(Cancelled, match="took the item back"):
                await waiting
            assert (await teacher.score(put, item())).rows == 5


async def test_a_foreign_echo_is_refused(qwen_server: str, monkeypatch):
    async with connected(qwen_server) as teacher:
        put = await teacher.put_prompt(PROMPT)
        monkeypatch.setattr("protos.connection.echo", lambda *_: b"another's")
        with pytest.raises(EchoMismatch, match="other ids or images"):
            await teacher.score(put, item())


async def test_rows_of_another_response_are_refused(qwen_server: str, monkeypatch):
    async with connected(qwen_server) as teacher:
        put = await teacher.put_prompt(PROMPT)
        torn = SimpleNamespace(join=lambda chunks: Scores.join(chunks).slice_rows(0, 2))
        monkeypatch.setattr("protos.connection.Scores", torn)
        with pytest.raises(EchoMismatch):
            await teacher.score(put, item())


async def test_a_chunk_that_is_missing_is_noticed(qwen: Path, monkeypatch):
    with serving(qwen, limits={"max_chunk_rows": 4}) as address:
        async with connected(address) as teacher:
            put = await teacher.put_prompt(PROMPT)
            take = teacher._take_chunk
            monkeypatch.setattr(
                teacher, "_take_chunk", lambda m: None if m.first_row == 4 else take(m)
            )
            with pytest.raises(EchoMismatch, match="rows 4 and on are missing"):
                await teacher.score(put, item(12))


async def test_a_fault_of_the_client_fails_what_waits(qwen_server: str, monkeypatch):
    async with connected(qwen_server) as teacher:
        put = await teacher.put_prompt(PROMPT)
        monkeypatch.setattr("protos.connection.scores_from_proto", lambda _: {}["absent"])
        with pytest.raises(InternalFault, match="absent"):
            await teacher.score(put, item())


async def test_a_prompt_has_a_deadline_too(qwen_server: str, monkeypatch):
    async with connected(qwen_server, deadline_s=0.2) as teacher:
        monkeypatch.setattr(teacher, "_send", lambda message: None)  # lost on the way
        with pytest.raises(DeadlineExceeded, match="did not take the prompt"):
            await teacher.put_prompt(PROMPT)


async def test_another_image_processor_is_a_warning(qwen_server: str, caplog):
    async with connected(qwen_server, processor_fingerprint="0" * 64):
        assert "preprocesses images otherwise" in caplog.text
