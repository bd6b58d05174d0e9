"""What clients do to a server: prompts with responses, asked as fast as they are answered or at an even pace."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.service.engine import IMAGE_PLACEHOLDER
from protos.arrays import Ids, as_ids
from protos.client import PutPrompt, TeacherClient
from protos.item import Priority, ScoreDType, ScoreItem
from protos.prompt import Prompt

K = 64
GROUP = 8
"""Responses to a prompt."""
FIRST_ID, IDS = 1000, 100_000
JPEG_SIDE = 448


@dataclass(frozen=True)
class Shape:
    """Lengths in tokens; a response's is drawn evenly between its bounds."""

    prompt: int = 56
    response: tuple[int, int] = (200, 200)
    picture: bytes = b""
    """A file, or none."""
    k: int = K
    dtype: ScoreDType = "f32"
    priority: Priority = "train"


@dataclass
class Answers:
    """One entry for each response that was scored."""

    done_s: list[float] = field(default_factory=list[float])
    """When, on the monotonic clock."""
    tokens: list[int] = field(default_factory=list[int])
    queue_s: list[float] = field(default_factory=list[float])
    latency_s: list[float] = field(default_factory=list[float])
    """As the client sees it."""

    def tokens_since(self, since_s: float) -> int:
        """Response tokens scored since a time."""
        return sum(t for at, t in zip(self.done_s, self.tokens, strict=True) if at >= since_s)


class Asker:
    """One client's work, drawn from a seed."""

    def __init__(self, teacher: TeacherClient, shape: Shape, seed: int) -> None:
        self.answers = Answers()
        self._teacher = teacher
        self._shape = shape
        self._rng = np.random.default_rng(seed)
        self._chance = random.Random(seed)

    async def backlog(self, responses: int) -> None:
        """Until cancelled, keep about so many under way."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(max(1, responses // GROUP)):
                tasks.create_task(self._groups())

    async def pace(self, tokens_per_s: float) -> None:
        """Until cancelled, ask for one response after the other at even intervals, give or take half of one."""
        each_s = sum(self._shape.response) / 2 / tokens_per_s
        await asyncio.sleep(self._chance.random() * each_s)
        starts_s, asked = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                prompt = await self.put()
                for _ in range(GROUP):
                    due_s = starts_s + each_s * (asked + self._chance.uniform(0, 0.5))
                    await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                    tasks.create_task(self.score(prompt))
                    asked += 1

    async def groups(self, count: int) -> None:
        """So many prompts at once, each with its responses."""
        await asyncio.gather(*(self.group() for _ in range(count)))

    async def group(self) -> None:
        """A prompt and its responses, as a trainer asks for them."""
        prompt = await self.put()
        try:
            await asyncio.gather(*(self.score(prompt) for _ in range(GROUP)))
        finally:
            await self._teacher.drop_prompt(prompt)

    async def put(self) -> PutPrompt:
        """A prompt that was never seen before."""
        words = self._ids(self._shape.prompt)
        pictures = (self._shape.picture,) if self._shape.picture else ()
        mm_ids = np.concatenate([as_ids([IMAGE_PLACEHOLDER] * len(pictures)), words])
        return await self._teacher.put_prompt(
            Prompt(mm_ids, words, pictures, expected_responses=GROUP)
        )

    async def score(self, prompt: PutPrompt) -> None:
        """One response, noted when it is answered."""
        shape = self._shape
        ids = self._ids(self._chance.randint(*shape.response))
        item = ScoreItem(ids, k=shape.k, dtype=shape.dtype, priority=shape.priority)
        started_s = time.monotonic()
        scores = await self._teacher.score(prompt, item)
        done_s = time.monotonic()
        self.answers.done_s.append(done_s)
        self.answers.tokens.append(len(ids))
        self.answers.queue_s.append(scores.queue_s)
        self.answers.latency_s.append(done_s - started_s)

    async def _groups(self) -> None:
        while True:
            await self.group()

    def _ids(self, count: int) -> Ids:
        return self._rng.integers(FIRST_ID, FIRST_ID + IDS, count, dtype=np.int32)


@contextlib.asynccontextmanager
async def under_way(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the context, which ends it; an error in it ends the context."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        yield
        for task in tasks:
            task.cancel()


def photograph(seed: int = 0) -> bytes:
    """A JPEG of the size that a vision model likes, smooth as photographs are."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((JPEG_SIDE, JPEG_SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
