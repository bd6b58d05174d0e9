"""Makes an asynchronous Engine of a BatchEngine: packs waiting jobs by token budget, one batch at a time, in turns."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from PIL import Image

from protos.errors import ErrorDetail, InternalFault, TeacherError, Unavailable
from protos.item import Priority
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import TeacherInfo
from teacher_server.chat_format import ChatFormat
from teacher_server.engines.engine import BatchEngine, Job, PreparedPrompt
from teacher_server.engines.prefix_stats import PrefixStats
from teacher_server.fair_queue import FairQueue, Turn
from teacher_server.metrics import Metrics, Place

log = logging.getLogger(__name__)

LOOK_AHEAD = 1024
"""So many of a client's waiting jobs are looked through for others of a prompt, whatever it has sent."""


@dataclass(eq=False)
class _Waiting:
    job: Job
    done: asyncio.Future[Scores]
    since_s: float
    place: Place = field(init=False)


class _Batch:
    """Grows while its padded tokens, over both contexts, fit the budget; the first job always does."""

    def __init__(self, engine: BatchEngine, score_batch_tokens: int, first: Turn[_Waiting]) -> None:
        self.priority: Priority = first.priority
        self.budget = engine.max_batch_tokens
        if first.priority == "score":
            self.budget = min(self.budget, score_batch_tokens)
        self._max_jobs = engine.max_batch_jobs
        self._longest = first.item.job.longest
        self.waiting = [first.item]

    @property
    def tokens(self) -> int:
        return self._longest * 2 * len(self.waiting)

    def has_room(self, job: Job) -> bool:
        if self._max_jobs is not None and len(self.waiting) >= self._max_jobs:
            return False
        return max(self._longest, job.longest) * 2 * (len(self.waiting) + 1) <= self.budget

    def add(self, turn: Turn[_Waiting]) -> None:
        self._longest = max(self._longest, turn.item.job.longest)
        self.waiting.append(turn.item)


class Batcher:
    """Clients take turns by tokens; responses to the first one's prompt may join its batch early.

    A batch that only jobs of priority "score" wait for is kept small, so that one of "train" need not wait long.

    The engine is made, and always called, on one thread of its own; prompts are prepared on another, so that
    decoding and preprocessing run while the engine scores.
    """

    def __init__(
        self,
        engine: BatchEngine,
        on_engine: ThreadPoolExecutor,
        wait_s: float,
        score_batch_tokens: int,
        metrics: Metrics | None = None,
    ) -> None:
        self._engine = engine
        self._metrics = metrics or Metrics()
        self._metrics.capacity(engine.max_batch_tokens)
        self._score_batch_tokens = score_batch_tokens
        self._on_engine = on_engine
        self._on_prepare = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._wait_s = wait_s
        self._queue: FairQueue[_Waiting] = FairQueue()
        self._arrived = asyncio.Event()
        self._closed = False
        self._runner = asyncio.create_task(self._run())

    @classmethod
    async def start(
        cls,
        make_engine: Callable[[], BatchEngine],
        wait_s: float,
        score_batch_tokens: int,
        metrics: Metrics | None = None,
    ) -> Batcher:
        """Load the engine on its thread and start taking jobs."""
        on_engine = ThreadPoolExecutor(1, thread_name_prefix="engine")
        engine = await asyncio.get_running_loop().run_in_executor(on_engine, make_engine)
        return cls(engine, on_engine, wait_s, score_batch_tokens, metrics)

    @property
    def info(self) -> TeacherInfo:
        """See Engine.info."""
        return self._engine.info

    @property
    def chat(self) -> ChatFormat | None:
        """See Engine.chat."""
        return self._engine.chat

    @property
    def prefix_stats(self) -> PrefixStats | None:
        """What the engine's prefix cache was worth, if it keeps count."""
        return getattr(self._engine, "prefix_stats", None)

    async def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        """See Engine.prepare."""
        if self._closed:
            raise Unavailable("the teacher is shutting down; ask another replica")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._on_prepare, self._engine.prepare, prompt, images)

    async def score(self, job: Job) -> Scores:
        """See Engine.score. A job whose awaiting task is cancelled leaves the queue."""
        if self._closed:
            raise Unavailable("the teacher is shutting down; ask another replica")
        waiting = _Waiting(job, asyncio.get_running_loop().create_future(), time.monotonic())
        turn = self._queue.push(waiting, job.client, job.cost, job.item.priority, job.weight)
        waiting.place = self._metrics.queued(job.client, job.item.priority, job.cost)
        self._arrived.set()
        try:
            return await waiting.done
        finally:
            waiting.place.leave()
            self._queue.withdraw(turn)

    async def died(self) -> None:
        """See Engine.died: an engine on a thread of this process lives as long as the batcher runs."""
        await asyncio.wait({self._runner})

    async def close(self) -> None:
        """Let the running batch end, fail what still waits, free the threads."""
        self._closed = True
        self._arrived.set()
        await self._runner
        while (turn := self._next_turn()) is not None:
            self._queue.take(turn)
            turn.item.done.set_exception(Unavailable("the teacher shut down"))
        self._on_engine.shutdown()
        self._on_prepare.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            await self._arrived.wait()
            if self._wait_s and self._queue:
                await asyncio.sleep(self._wait_s)
            while not self._closed and (batch := self._next_batch()):
                started_s = time.monotonic()
                jobs = [waiting.job for waiting in batch.waiting]
                self._metrics.batch(batch.priority, len(jobs), batch.tokens, batch.budget)
                with self._metrics.in_engine(batch.priority, len(jobs), batch.tokens):
                    answers = await loop.run_in_executor(self._on_engine, self._score, jobs)
                self._answer(batch.waiting, answers, started_s)
            if not self._closed:
                self._arrived.clear()

    def _next_batch(self) -> _Batch | None:
        """Whose turn it is, the others of its prompt, then whose turn is next, within the token budget."""
        first = self._next_turn()
        if first is None:
            return None
        self._queue.take(first)
        batch = _Batch(self._engine, self._score_batch_tokens, first)
        for turn in self._queue.line_of(first, LOOK_AHEAD):
            same_prompt = turn.item.job.prompt.digest == first.item.job.prompt.digest
            if same_prompt and not turn.item.done.done() and batch.has_room(turn.item.job):
                self._queue.take_along(turn)
                batch.add(turn)
        while (turn := self._next_turn()) is not None:
            if turn.priority != first.priority or not batch.has_room(turn.item.job):
                break
            self._queue.take(turn)
            batch.add(turn)
        for waiting in batch.waiting:
            waiting.place.leave()
        return batch

    def _next_turn(self) -> Turn[_Waiting] | None:
        """Whose turn it is, of those that still wait."""
        while (turn := self._queue.peek()) is not None and turn.item.done.done():
            self._queue.withdraw(turn)
        return turn

    def _score(self, jobs: list[Job]) -> list[Scores | TeacherError]:
        try:
            answers = self._engine.score_batch(jobs)
            assert len(answers) == len(jobs), "one answer per job"
            return answers
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            log.exception("engine_failed error_id=%s jobs=%d", error_id, len(jobs))
            fault = InternalFault(
                f"the engine failed; error id {error_id} stands in the server's log",
                ErrorDetail(error_id=error_id),
            )
            return [fault] * len(jobs)

    def _answer(
        self, batch: list[_Waiting], answers: list[Scores | TeacherError], started_s: float
    ) -> None:
        engine_s = time.monotonic() - started_s
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.done.done():
                continue
            if isinstance(answer, TeacherError):
                waiting.done.set_exception(answer)
            else:
                queue_s = started_s - waiting.since_s
                waiting.done.set_result(replace(answer, queue_s=queue_s, engine_s=engine_s))
