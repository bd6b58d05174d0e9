import asyncio
from typing import Any

import numpy as np

from protos.item import Priority, ScoreItem
from teacher_server.engines.engine import Job, PreparedPrompt
from teacher_server.gate import Gate

PROMPT = PreparedPrompt(b"", 10, 10, 0, None, 0)


def job(client: str, tokens: int = 40, priority: Priority = "train") -> Job:
    return Job(PROMPT, ScoreItem(np.zeros(tokens, np.int32), k=1, priority=priority), client)


async def run(gate: Gate, asked: Job, log: list[str], done: asyncio.Event) -> None:
    async with gate.turn(asked):
        log.append(asked.client)
        await done.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_room_is_kept_and_a_job_of_any_size_gets_in() -> None:
    gate, log, done = Gate(200), [], asyncio.Event()
    tasks = [asyncio.create_task(run(gate, job("a"), log, done)) for _ in range(3)]
    await settle()
    assert log == ["a", "a"]  # 100 tokens each: 2 x 40 + 10 + 10
    done.set()
    await asyncio.gather(*tasks)
    big = asyncio.create_task(run(gate, job("big", 10_000), log, done))
    await asyncio.wait_for(big, 1)
    assert log[-1] == "big"


async def test_a_late_client_does_not_wait_behind_a_flood() -> None:
    gate, log, done = Gate(100), [], asyncio.Event()
    flood = [asyncio.create_task(run(gate, job("flood"), log, done)) for _ in range(20)]
    await settle()
    late = asyncio.create_task(run(gate, job("late"), log, done))
    await settle()
    done.set()
    await asyncio.gather(late, *flood)
    assert log.index("late") <= 2


async def test_who_is_cancelled_leaves_its_room() -> None:
    gate, log, done = Gate(100), [], asyncio.Event()
    inside = asyncio.create_task(run(gate, job("inside"), log, done))
    waiting = asyncio.create_task(run(gate, job("waiting"), log, done))
    next_one = asyncio.create_task(run(gate, job("next"), log, done))
    await settle()
    waiting.cancel()
    inside.cancel()
    await settle()
    assert log == ["inside", "next"]
    done.set()
    results: list[Any] = await asyncio.gather(inside, waiting, next_one, return_exceptions=True)
    assert [isinstance(r, asyncio.CancelledError) for r in results] == [True, True, False]
    async with asyncio.timeout(1), gate.turn(job("after")):
        pass


async def test_training_enters_first() -> None:
    gate, log, done = Gate(100), [], asyncio.Event()
    first = asyncio.create_task(run(gate, job("first"), log, done))
    await settle()
    score = asyncio.create_task(run(gate, job("score", priority="score"), log, done))
    train = asyncio.create_task(run(gate, job("train"), log, done))
    await settle()
    done.set()
    await asyncio.gather(first, score, train)
    assert log == ["first", "train", "score"]


async def test_a_crowd_of_cancels_is_not_charged() -> None:
    gate, log, done = Gate(100), [], asyncio.Event()
    crowd = [asyncio.create_task(run(gate, job("gone"), log, done)) for _ in range(50)]
    other = asyncio.create_task(run(gate, job("other"), log, done))
    await settle()
    again = [asyncio.create_task(run(gate, job("gone"), log, done)) for _ in range(2)]
    await settle()
    for task in crowd:
        task.cancel()
    await settle()
    done.set()
    await asyncio.gather(other, *again)
    # One of its jobs was served, so the other client comes first; nothing more was held against it.
    assert log == ["gone", "other", "gone", "gone"]
