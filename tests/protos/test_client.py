"""The client against a real server: credit, cancellation, the echo, a server that goes away."""

import asyncio
from pathlib import Path

import pytest

from protos.arrays import as_ids
from protos.client import TeacherClient
from protos.errors import (
    Cancelled,
    TeacherError,
    Unavailable,
)
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.sync_client import SyncTeacherClient
from tests.loopback import serving

PROMPT = Prompt(mm_ids=as_ids([40, 41, 42]), text_ids=as_ids([40, 41, 42]))


def item(length: int = 5, **settings) -> ScoreItem:
    return ScoreItem(as_ids([50] * length), k=3, **settings)


async def test_a_cancelled_item_leaves_the_others_alone(qwen_server: str):
    async with TeacherClient(qwen_server) as teacher:
        put = await teacher.put_prompt(PROMPT)
        tasks = [asyncio.create_task(teacher.score(put, item(40))) for _ in range(6)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[2], asyncio.CancelledError)
        assert sum(not isinstance(a, BaseException) for a in answers) == 5
        assert (await teacher.score(put, item())).rows == 5


async def test_a_server_that_stops_finishes_what_it_admitted(qwen: Path):
    server = serving(qwen)
    address = server.__enter__()
    async with TeacherClient(address, outage_s=0) as teacher:
        put = await teacher.put_prompt(PROMPT)
        tasks = [asyncio.create_task(teacher.score(put, item(30))) for _ in range(8)]
        await asyncio.sleep(0)
        await teacher.put_prompt(PROMPT)  # acknowledged, so everything before it has been read
        await asyncio.to_thread(server.__exit__, None, None, None)
        assert [scores.rows for scores in await asyncio.gather(*tasks)] == [30] * 8
        with pytest.raises(Unavailable):
            await teacher.score(put, item())


async def test_nobody_there():
    with pytest.raises(Unavailable, match=r"no teacher answers at 127.0.0.1:1 .*is it running"):
        async with TeacherClient("127.0.0.1:1", connect_timeout_s=0.3):
            pass


async def test_an_unconnected_client_says_so():
    with pytest.raises(Unavailable, match="not connected"):
        _ = TeacherClient("127.0.0.1:1").info


async def test_a_dropped_prompt_is_gone(qwen_server: str):
    async with TeacherClient(qwen_server) as teacher:
        put = await teacher.put_prompt(PROMPT)
        await teacher.drop_prompt(put)
        with pytest.raises(TeacherError, match="put it again"):
            await teacher.score(put, item())


def test_the_synchronous_face(qwen_server: str):
    with SyncTeacherClient(qwen_server) as teacher:
        assert teacher.info.engine == "transformers"
        prompt = teacher.submit_prompt(PROMPT)
        futures = [teacher.submit_score(prompt, item(n)) for n in (1, 2, 3)]
        assert [f.result().rows for f in futures] == [1, 2, 3]
        assert teacher.score(prompt.result(), item()).equal_to(
            teacher.score(prompt.result(), item())
        )
        assert teacher.stats.bytes_per_token > 0
    with pytest.raises(Unavailable):
        SyncTeacherClient("127.0.0.1:1", connect_timeout_s=0.2)


async def test_closing_wakes_those_who_wait_for_credit(qwen: Path):
    limits = {"max_response_tokens": 20, "stream_window_tokens": 20}
    with serving(qwen, limits=limits, engine={"batch_wait_ms": 500}) as address:
        teacher = TeacherClient(address)
        await teacher.connect()
        put = await teacher.put_prompt(PROMPT)
        tasks = [asyncio.create_task(teacher.score(put, item(20))) for _ in range(3)]
        await asyncio.sleep(0.1)
        await teacher.close()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert all(isinstance(answer, Cancelled) for answer in answers)
