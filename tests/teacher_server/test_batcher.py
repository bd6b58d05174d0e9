"""Which jobs go into a batch; the engine only notes what it was given."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from protos.errors import TeacherError, Unavailable
from protos.item import Priority, ScoreItem
from protos.scores import Scores
from teacher_server.batcher import Batcher
from teacher_server.engines.engine import Job, PreparedPrompt


class Notes:
    info: Any = None
    max_batch_jobs: int | None = None

    def __init__(self, max_batch_tokens: int) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.batches: list[list[Job]] = []

    def prepare(self, prompt: Any, images: Any) -> PreparedPrompt:
        raise NotImplementedError

    def score_batch(self, jobs: Sequence[Job]) -> list[Scores | TeacherError]:
        self.batches.append(list(jobs))
        return [Unavailable("noted")] * len(jobs)


def job(prompt: bytes, client: str, priority: Priority = "train", tokens: int = 10) -> Job:
    prepared = PreparedPrompt(prompt, 10, 10, 0, None, 0)
    item = ScoreItem(np.zeros(tokens, np.int32), k=1, priority=priority)
    return Job(prepared, item, client)  # 20 tokens in each context


async def batches(engine: Notes, jobs: list[Job], score_batch_tokens: int = 1000) -> list[str]:
    batcher = await Batcher.start(lambda: engine, 0.01, score_batch_tokens)
    try:
        await asyncio.gather(*(batcher.score(each) for each in jobs), return_exceptions=True)
    finally:
        await batcher.close()
    return [" ".join(f"{j.client}{j.prompt.digest.decode()}" for j in b) for b in engine.batches]


async def test_responses_to_the_first_prompt_join_its_batch() -> None:
    jobs = [job(b"1", "a"), job(b"2", "a"), job(b"1", "a"), job(b"2", "a"), job(b"1", "a")]
    assert await batches(Notes(120), jobs) == ["a1 a1 a1", "a2 a2"]


async def test_the_same_prompt_of_another_client_waits_its_turn() -> None:
    jobs = [job(b"1", "a"), job(b"2", "b"), job(b"1", "b"), job(b"1", "a")]
    assert await batches(Notes(80), jobs) == ["a1 a1", "b2 b1"]


async def test_scoring_waits_for_training_and_its_batches_are_small() -> None:
    jobs = [job(b"1", "s", "score") for _ in range(4)] + [job(b"1", "t") for _ in range(2)]
    found = await batches(Notes(1000), jobs, score_batch_tokens=80)
    assert found == ["t1 t1", "s1 s1", "s1 s1"]


async def test_a_flood_leaves_room_for_the_others() -> None:
    jobs = [job(str(i).encode(), "f") for i in range(6)] + [job(b"9", "a"), job(b"8", "b")]
    found = await batches(Notes(120), jobs)
    assert set(found[0].split()) == {"f0", "a9", "b8"}


async def test_jobs_one_after_the_other() -> None:
    engine = Notes(1000)
    batcher = await Batcher.start(lambda: engine, 0.0, 1000)
    for _ in range(3):
        with pytest.raises(Unavailable, match="noted"):
            await asyncio.wait_for(batcher.score(job(b"1", "a")), 5)
    dead = asyncio.create_task(batcher.died())
    await asyncio.sleep(0.05)
    assert not dead.done()
    await batcher.close()
    await asyncio.wait_for(dead, 1)
    assert len(engine.batches) == 3
