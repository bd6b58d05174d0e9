"""A client of several servers: who is asked, who is refused, what is asked again."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protos.agreement import difference
from protos.arrays import as_ids
from protos.backoff import Backoff
from protos.client import MAX_LOSSES, TeacherClient
from protos.errors import InternalFault, LimitExceeded, PreconditionFailed, Unavailable
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.replica_set import TeacherAway
from protos.score_cache import ScoreCache
from tests.faults.proxy import Proxy
from tests.loopback import serving


def prompt(*ids: int, responses: int = 4) -> Prompt:
    return Prompt(as_ids(ids), as_ids(ids), expected_responses=responses)


def item(length: int = 5, **settings) -> ScoreItem:
    return ScoreItem(as_ids([50] * length), k=3, **settings)


@pytest.fixture(scope="module")
def pair(qwen: Path) -> Iterator[list[str]]:
    with serving(qwen) as first, serving(qwen) as second:
        yield [first, second]


async def test_prompts_are_spread_and_their_responses_stay(pair: list[str]):
    async with TeacherClient(pair) as teacher:
        puts = await asyncio.gather(*(teacher.put_prompt(prompt(40, n)) for n in range(40, 52)))
        where = Counter(put.replica.address for put in puts)
        assert set(where) == set(pair)
        assert max(where.values()) == 6
        before = [put.replica for put in puts]
        await asyncio.gather(*(teacher.score(put, item(n)) for put in puts for n in (1, 3, 9)))
        assert [put.replica for put in puts] == before
        for put in puts:
            await teacher.drop_prompt(put)
        assert all(abs(one.promised_tokens) < 1e-6 for one in teacher._replicas.replicas)


async def test_the_odd_replica_is_refused_by_name(qwen: Path, pair: list[str], caplog):
    with serving(qwen, teacher_id="another") as odd:
        async with TeacherClient([odd, *pair]) as teacher:
            assert teacher.info.teacher_id == "teacher"
            put = await teacher.put_prompt(prompt(40, 41))
            assert (await teacher.score(put, item())).teacher_id == "teacher"
            assert teacher.replicas == {odd: "refused", pair[0]: "up", pair[1]: "up"}
        assert f"{odd} is another teacher than its fellows: teacher_id is another" in caplog.text


async def test_a_foreign_tokenizer_is_refused_at_once(pair: list[str]):
    started_s = time.monotonic()
    with pytest.raises(PreconditionFailed, match="another tokenizer"):
        async with TeacherClient(pair, tokenizer_fingerprint="f" * 64):
            pass
    assert time.monotonic() - started_s < 10


async def test_a_dead_replica_does_not_hold_up_the_others(pair: list[str]):
    async with TeacherClient([pair[0], "127.0.0.1:1"]) as teacher:
        put = await teacher.put_prompt(prompt(40, 41))
        assert (await teacher.score(put, item())).rows == 5
        assert teacher.replicas[pair[0]] == "up"
        assert teacher.replicas["127.0.0.1:1"] in ("connecting", "away")


async def test_a_name_stands_for_all_its_addresses(qwen_server: str):
    port = qwen_server.rpartition(":")[2]
    async with TeacherClient(f"dns:///localhost:{port}") as teacher:
        assert "up" in teacher.replicas.values()
        assert f"127.0.0.1:{port}" in teacher.replicas


async def test_a_name_without_an_address_leaves_the_others_alone(qwen_server: str):
    async with TeacherClient(["dns:///nobody.invalid:50051", qwen_server]) as teacher:
        assert teacher.replicas == {qwen_server: "up"}
    with pytest.raises(Unavailable, match=r"can't resolve dns:///nobody.invalid"):
        async with TeacherClient("dns:///nobody.invalid:50051", connect_timeout_s=0.5):
            pass


async def test_all_responses_of_a_prompt_wait_for_one_outage_together(qwen: Path):
    with serving(qwen) as address:
        line = Proxy(address)
        running = contextlib.AsyncExitStack()
        through = await running.enter_async_context(line.running())
        async with TeacherClient(through, outage_s=1.0) as teacher:
            put = await teacher.put_prompt(prompt(40, 41))
            await running.aclose()
            line.cut()
            started_s = time.monotonic()
            asked = [teacher.score(put, item()) for _ in range(8)]
            async with asyncio.timeout(20):
                answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, TeacherAway) for answer in answers), answers
    assert time.monotonic() - started_s < 5, "not a second for each"


async def test_what_is_under_way_moves_to_the_other(qwen: Path):
    slow = {"batch_wait_ms": 300}
    with serving(qwen, engine=slow) as first, serving(qwen, engine=slow) as second:
        line = Proxy(first)
        async with line.running() as through, TeacherClient([through, second]) as teacher:
            puts = await asyncio.gather(*(teacher.put_prompt(prompt(40, n)) for n in range(40, 46)))
            held = Counter(put.replica.address for put in puts)
            assert held[through] == 3
            tasks = [asyncio.create_task(teacher.score(put, item())) for put in puts]
            await asyncio.sleep(0.1)
            line.refusing = True
            line.cut()
            assert [scores.rows for scores in await asyncio.gather(*tasks)] == [5] * 6
            assert {put.replica.address for put in puts} == {second}
            line.refusing = False
            async with asyncio.timeout(20):
                while teacher.replicas[through] != "up":
                    await asyncio.sleep(0.05)
            back = await teacher.put_prompt(prompt(40, 50))
            assert back.replica.address == through  # the least loaded again


async def test_a_response_that_ends_streams_is_given_up(qwen: Path):
    with serving(qwen, engine={"batch_wait_ms": 400}) as address:
        line = Proxy(address)
        async with line.running() as through, TeacherClient(through) as teacher:
            put = await teacher.put_prompt(prompt(40, 41))

            async def cut_whenever_it_is_asked() -> None:
                seen = None
                while True:
                    await asyncio.sleep(0.01)
                    if (
                        put.connection is not None
                        and put.connection is not seen
                        and put.connection._items
                    ):
                        seen = put.connection
                        line.cut()

            cutter = asyncio.create_task(cut_whenever_it_is_asked())
            with pytest.raises(InternalFault, match=f"{MAX_LOSSES} times this item met"):
                await teacher.score(put, item())
            cutter.cancel()
            assert (await teacher.score(put, item())).rows == 5


async def test_an_outage_has_an_end_and_is_told(qwen: Path, caplog):
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(serving(qwen))
        teacher = TeacherClient(address, outage_s=0.5)
        await teacher.connect()
        put = await teacher.put_prompt(prompt(40, 41))
        await asyncio.to_thread(stack.close)
        with pytest.raises(TeacherAway, match=r"away for [01] s: .*127.0.0.1"):
            await teacher.score(put, item())
        assert caplog.text.count("teacher_away") == 1
        await teacher.close()


async def test_a_straggler_is_hedged(qwen: Path):
    with serving(qwen, engine={"batch_wait_ms": 5000}) as slow, serving(qwen) as fast:
        async with TeacherClient([slow, fast], hedge_after_s=0.2) as teacher:
            put = await teacher.put_prompt(prompt(40, 41))
            while put.replica.address != slow:  # the test needs the slow one to be asked first
                put = await teacher.put_prompt(prompt(40, 41))
            started_s = time.monotonic()
            assert (await teacher.score(put, item())).rows == 5
            assert time.monotonic() - started_s < 4
            assert teacher.stats.scored_tokens == 5


async def test_no_room_is_waited_for(qwen: Path):
    limits = {"max_response_tokens": 8, "max_client_tokens": 8, "stream_window_tokens": 64}
    with serving(qwen, limits=limits) as address:
        async with TeacherClient(address) as teacher:
            put = await teacher.put_prompt(prompt(40, 41))
            answers = await asyncio.gather(*(teacher.score(put, item(8)) for _ in range(6)))
            assert [scores.rows for scores in answers] == [8] * 6
            together = asyncio.gather(
                *(teacher.score(put, item(8, deadline_s=0.05)) for _ in range(12)),
                return_exceptions=True,
            )
            assert any(isinstance(answer, LimitExceeded) for answer in await together)


async def test_the_cache_answers_without_the_teacher(qwen: Path, tmp_path: Path):
    with ScoreCache(tmp_path) as cache, contextlib.ExitStack() as stack:
        address = stack.enter_context(serving(qwen))
        async with TeacherClient(address, cache=cache, outage_s=0) as teacher:
            put = await teacher.put_prompt(prompt(40, 41))
            first = await teacher.score(put, item())
            await asyncio.to_thread(stack.close)
            assert (await teacher.score(put, item())).equal_to(first)
            with pytest.raises(TeacherAway):
                await teacher.score(put, item(6))
        assert cache.stats.hits == 1


async def test_agreement_names_the_field(qwen_server: str):
    async with TeacherClient(qwen_server) as teacher:
        info = teacher.info
    assert difference(info, replace(info, engine="vllm", versions={})) is None
    assert difference(info, replace(info, capabilities=(*info.capabilities, "more"))) is None
    assert difference(info, replace(info, dtype="bfloat16")) == (
        f"dtype is bfloat16, the others' is {info.dtype}"
    )
    less = replace(info, capabilities=tuple(set(info.capabilities) - {"f16"}))
    assert difference(info, less) == "capabilities lack f16"


def test_backoff_grows_jitters_and_has_a_bound():
    waits = [Backoff(0.1, 2.0) for _ in range(200)]
    firsts = [one.next_s() for one in waits]
    assert 0.01 <= min(firsts) < max(firsts) <= 0.1
    for _ in range(6):
        lasts = [one.next_s() for one in waits]
    assert max(lasts) <= 2.0
    assert sum(lasts) / len(lasts) > 0.8
    waits[0].reset()
    assert waits[0].next_s() <= 0.1
