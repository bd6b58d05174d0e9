"""Numbers of a real core over a real engine; and of each part alone where an engine would be in the way."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from protos.arrays import as_ids
from protos.errors import (
    CODES,
    DeadlineExceeded,
    InternalFault,
    InvalidItem,
    LimitExceeded,
    TeacherError,
    Unavailable,
)
from protos.item import Priority, ScoreItem
from teacher_server.batcher import Batcher
from teacher_server.client import Client
from teacher_server.core import TeacherCore
from teacher_server.engines.engine import Job, PreparedPrompt
from teacher_server.engines.prefix_cache import PrefixCache
from teacher_server.gate import Gate
from teacher_server.metrics import Metrics, code_of
from tests.pictures import noise
from tests.reference import Reference
from tests.tiny_core import Scrape, tiny_core

LAB, OTHER = Client("lab", "lab"), Client("other", "other")
STRANGER = Client("ipv4:127.0.0.1:4242")
RESPONSE = as_ids([40, 50, 60])
LENGTHS = PreparedPrompt(b"", 10, 10, 0, None, 0)


def item(tokens: int = 3, **settings: Any) -> ScoreItem:
    return ScoreItem(as_ids([40 + i for i in range(tokens)]), k=4, **settings)


def job(client: str = "lab", tokens: int = 40, priority: Priority = "train") -> Job:
    return Job(LENGTHS, ScoreItem(np.zeros(tokens, np.int32), k=1, priority=priority), client)


async def prepared(core: TeacherCore, reference: Reference, images: int = 1) -> asyncio.Task[Any]:
    prompt = reference.prompt("what?", tuple(noise(i) for i in range(images)), expected_responses=3)
    return asyncio.create_task(core.prepare(prompt))


# ------------------------------------------------------------------------------ core and engine


async def test_what_was_scored_is_counted(qwen: Path, qwen_reference: Reference):
    metrics = Metrics(["lab", "other"])
    async with tiny_core(qwen, metrics, max_batch_tokens=4096) as core:
        prompt = await prepared(core, qwen_reference)
        for _ in range(3):
            await core.score(prompt, item(5), LAB)
        await core.score(prompt, item(2, priority="score"), OTHER)
        lengths = {"mm": prompt.result().mm_length, "text": prompt.result().text_length}
    now = Scrape.of(metrics)
    assert now("teacher_items_total", client="lab", code="OK") == 3
    assert now("teacher_items_total", client="other", code="OK") == 1
    assert now("teacher_items_total") == now("teacher_items_received_total") == 4
    assert now("teacher_scored_tokens_total", client="lab") == 15
    assert now("teacher_scored_tokens_total", client="other") == 2
    assert now("teacher_prompts_total", code="OK") == now("teacher_prepare_seconds_count") == 1
    assert now("teacher_item_seconds_count", priority="train") == 3
    assert now("teacher_item_seconds_count", priority="score") == 1
    # One after the other: a batch each, its tokens padded to the longer context, and both contexts counted.
    assert now("teacher_batch_items_count") == now("teacher_batch_items_sum") == 4
    assert now("teacher_engine_seconds_count", priority="train") == 3
    assert now("teacher_engine_capacity_tokens") == 4096
    fill = 2 * 3 * (lengths["mm"] + 5) / 4096
    assert now("teacher_batch_fill_ratio_sum", priority="train") == pytest.approx(fill)
    assert now("teacher_queue_wait_seconds_count", client="lab", priority="train") == 3
    for context, length in lengths.items():
        assert now("teacher_prefix_tokens_total", context=context) == 4 * length
        assert now("teacher_prefix_cached_tokens_total", context=context) == 3 * length
    # Everything was given back.
    assert now("teacher_queue_items") == now("teacher_queue_tokens") == 0
    assert now("teacher_engine_items") == now("teacher_engine_tokens") == 0


async def test_times_add_up(qwen: Path, qwen_reference: Reference):
    metrics = Metrics()
    async with tiny_core(qwen, metrics) as core:
        prompt = await prepared(core, qwen_reference)
        scores = [await core.score(prompt, item(), LAB) for _ in range(3)]
    now = Scrape.of(metrics)
    assert now("teacher_engine_seconds_sum") == pytest.approx(
        sum(s.engine_s for s in scores), rel=0.2, abs=0.01
    )
    spent = now("teacher_queue_wait_seconds_sum") + now("teacher_engine_seconds_sum")
    assert 0 < spent <= now("teacher_item_seconds_sum")


async def test_who_serves_what(qwen: Path):
    metrics = Metrics()
    async with tiny_core(qwen, metrics) as core:
        version = core.info.versions["vgs-opd"]
        assert Scrape.of(metrics)(
            "teacher_build_info",
            teacher_id="tiny",
            model=qwen.name,
            engine="transformers",
            version=version,
        )


async def test_every_failure_has_its_code(qwen: Path, qwen_reference: Reference):
    metrics = Metrics(["lab"])
    async with tiny_core(qwen, metrics) as core:
        prompt = await prepared(core, qwen_reference)
        await prompt
        with pytest.raises(InvalidItem):
            await core.score(prompt, ScoreItem(as_ids([-1]), k=4), LAB)
        with pytest.raises(DeadlineExceeded):
            await core.score(prompt, item(deadline_s=1e-9), LAB)
        with pytest.raises(LimitExceeded):
            await core.score(prompt, item(3), Client("lab", "lab", max_tokens=2))
        taken_back = asyncio.create_task(core.score(prompt, item(), LAB))
        await asyncio.sleep(0)
        taken_back.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taken_back
        await core.score(prompt, item(), LAB)
        with pytest.raises(InvalidItem):
            await core.prepare(qwen_reference.prompt("what?", (b"junk",)))
    now = Scrape.of(metrics)
    found = {
        code: now("teacher_items_total", client="lab", code=code)
        for code in ("OK", *(c.name for c in CODES.values()))
    }
    once = ("OK", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED")
    assert {code for code, times in found.items() if times} == set(once)
    assert sum(found.values()) == now("teacher_items_received_total") == len(once)
    assert now("teacher_scored_tokens_total") == 3, "only what was scored"
    assert now("teacher_item_seconds_count") == 1
    assert now("teacher_prompts_total", code="INVALID_ARGUMENT") == 1
    assert now("teacher_queue_items") == now("teacher_engine_items") == 0


class Failing:
    """A batch engine that does as it is told."""

    max_batch_tokens = 1000
    max_batch_jobs: int | None = None
    info: Any = SimpleNamespace()

    def __init__(self, answers: TeacherError | Exception) -> None:
        self.answer = answers

    def prepare(self, prompt: Any, images: Any) -> PreparedPrompt:
        raise NotImplementedError

    def score_batch(self, jobs: Any) -> Any:
        if isinstance(self.answer, TeacherError):
            return [self.answer] * len(jobs)
        raise self.answer


@pytest.mark.parametrize("answer", [ZeroDivisionError("no text of mine"), Unavailable("gone")])
async def test_a_failing_engine_leaves_nothing_behind(answer: Exception):
    metrics = Metrics()
    batcher = await Batcher.start(lambda: Failing(answer), 0.0, 1000, metrics)
    failed = await asyncio.gather(*(batcher.score(job()) for _ in range(3)), return_exceptions=True)
    await batcher.close()
    expected = Unavailable if isinstance(answer, Unavailable) else InternalFault
    assert all(isinstance(error, expected) for error in failed)
    now = Scrape.of(metrics)
    assert now("teacher_queue_items") == now("teacher_engine_items") == 0
    assert now("teacher_queue_wait_seconds_count") == now("teacher_batch_items_sum") == 3


async def test_a_closed_batcher_leaves_nothing_behind():
    metrics = Metrics()
    batcher = await Batcher.start(lambda: Failing(Unavailable("gone")), 10.0, 1000, metrics)
    waiting = [asyncio.create_task(batcher.score(job())) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert Scrape.of(metrics)("teacher_queue_items", priority="train") == 2
    assert Scrape.of(metrics)("teacher_queue_tokens") == 2 * 100
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert Scrape.of(metrics)("teacher_queue_items") == 0
    batcher._runner.cancel()  # it would sleep its ten seconds out


# ----------------------------------------------------------------------------------------- gate


async def test_the_gate_counts_those_outside_and_inside():
    metrics = Metrics(["lab"])
    gate, leave = Gate(150, metrics), asyncio.Event()

    async def run(asked: Job) -> None:
        async with gate.turn(asked):
            await leave.wait()

    tasks = [asyncio.create_task(run(job())) for _ in range(2)]  # 100 tokens each
    tasks.append(asyncio.create_task(run(job(priority="score"))))
    await asyncio.sleep(0.01)
    now = Scrape.of(metrics)
    assert now("teacher_engine_capacity_tokens") == 150
    assert now("teacher_engine_items") == 1
    assert now("teacher_engine_tokens") == 100
    assert now("teacher_queue_items", priority="train") == 1
    assert now("teacher_queue_tokens", priority="score") == 100
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    assert Scrape.of(metrics)("teacher_queue_items", priority="score") == 0
    leave.set()
    await asyncio.gather(*tasks[:2])
    now = Scrape.of(metrics)
    assert now("teacher_queue_items") == now("teacher_queue_tokens") == 0
    assert now("teacher_engine_items") == now("teacher_engine_tokens") == 0
    assert now("teacher_engine_seconds_count", priority="train") == 2
    assert now("teacher_queue_wait_seconds_count", client="lab", priority="train") == 2
    assert now("teacher_queue_wait_seconds_count", priority="score") == 1, "given up, but it waited"


# -------------------------------------------------------------------------------- prefix cache


def prefix(length: int) -> Any:
    return SimpleNamespace(length=length)


def test_the_prefix_cache_counts_tokens_saved():
    cache = PrefixCache(1000)
    assert cache.get(b"a", responses=4) is None
    cache.put(b"a", (prefix(100), prefix(30)), responses=4)  # run once, of use to four
    assert cache.get(b"a", responses=2) is not None
    assert cache.stats.asked == {"mm": 600, "text": 180}
    assert cache.stats.cached == {"mm": 500, "text": 150}
    cache.put(b"b", (prefix(7),))
    assert cache.stats.asked["alone"] == 7
    assert cache.stats.cached["alone"] == 0
    assert cache.stats.hit_rate("mm") == pytest.approx(5 / 6)


# -------------------------------------------------------------------------------------- labels


def test_peers_make_no_series():
    metrics = Metrics(["lab"])
    for name in ("", "lab"):
        metrics.stream_opened(name)
        with metrics.item(name, "train") as served:
            served.tokens = 1
            metrics.queued(name, "train", 10).leave()
    before = set(Scrape.of(metrics).series)
    for port in range(300):
        peer = f"ipv4:10.0.0.1:{port}"
        with metrics.item(peer, "train") as served:
            served.tokens = 2
            metrics.queued(peer, "train", 10).leave()
        metrics.item_refused(peer, LimitExceeded("too much"))
        metrics.stream_opened("")
    now = Scrape.of(metrics)
    assert set(now.series) == before
    assert now.label_values("client") == {"", "lab"}
    assert now("teacher_items_total", client="", code="OK") == 301
    assert now("teacher_items_total", client="", code="RESOURCE_EXHAUSTED") == 300
    assert now("teacher_scored_tokens_total", client="lab") == 1


def test_a_client_is_known_from_its_first_stream_on():
    metrics = Metrics()
    metrics.stream_opened("lab")
    now = Scrape.of(metrics)
    assert now("teacher_streams_open", client="lab") == 1
    assert now("teacher_items_total", client="lab", code="INTERNAL") == 0, "a rate starts from zero"
    with metrics.item("lab", "train") as served:
        served.tokens = 5
    metrics.stream_closed("lab", "OK")
    metrics.stream_refused("UNAUTHENTICATED")
    now = Scrape.of(metrics)
    assert now("teacher_scored_tokens_total", client="lab") == 5
    assert now("teacher_streams_open", client="lab") == 0
    assert now("teacher_streams_ended_total", code="OK") == 1
    assert now("teacher_streams_ended_total", code="UNAUTHENTICATED") == 1


def test_servers_of_one_process_count_apart():
    one, two = Metrics(), Metrics()
    one.bytes_in(10)
    one.bytes_out(20)
    one.draining()
    assert Scrape.of(one)("teacher_message_bytes_total", direction="out") == 20
    assert Scrape.of(one)("teacher_draining") == 1
    assert Scrape.of(two)("teacher_draining") == 0
    with pytest.raises(AssertionError, match="no series"):
        Scrape.of(two)("teacher_message_bytes_total")


def test_no_series_tells_when_it_was_made():
    assert not [name for name, _ in Scrape.of(Metrics()).series if name.endswith("_created")]


def test_codes_are_those_of_the_table():
    assert code_of(None) == "OK"
    assert code_of(asyncio.CancelledError()) == "CANCELLED"
    assert code_of(ZeroDivisionError()) == "INTERNAL"
    for kind, code in CODES.items():
        assert code_of(kind("message")) == code.name


def test_a_place_is_left_once():
    metrics = Metrics()
    place = metrics.queued("", "score", 7)
    assert Scrape.of(metrics)("teacher_queue_tokens", priority="score") == 7
    place.leave()
    place.leave()
    now = Scrape.of(metrics)
    assert now("teacher_queue_tokens") == now("teacher_queue_items") == 0
    assert now("teacher_queue_wait_seconds_count") == 1
