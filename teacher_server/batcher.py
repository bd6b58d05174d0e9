"""Makes an asynchronous Engine of a BatchEngine: packs waiting jobs by token budget, one batch at a time."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from PIL import Image

from protos.errors import ErrorDetail, InternalFault, TeacherError, Unavailable
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import TeacherInfo
from teacher_server.engines.engine import BatchEngine, Job, PreparedPrompt

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Waiting:
    job: Job
    done: asyncio.Future[Scores]
    since_s: float


class Batcher:
    """First come first served, except that responses to the first one's prompt may join its batch early.

    The engine is made, and always called, on one thread of its own; prompts are prepared on another, so that
    decoding and preprocessing run while the engine scores.
    """

    def __init__(self, engine: BatchEngine, on_engine: ThreadPoolExecutor, wait_s: float) -> None:
        self._engine = engine
        self._on_engine = on_engine
        self._on_prepare = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._wait_s = wait_s
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self._runner = asyncio.create_task(self._run())

    @classmethod
    async def start(cls, make_engine: Callable[[], BatchEngine], wait_s: float) -> Batcher:
        """Load the engine on its thread and start taking jobs."""
        on_engine = ThreadPoolExecutor(1, thread_name_prefix="engine")
        engine = await asyncio.get_running_loop().run_in_executor(on_engine, make_engine)
        return cls(engine, on_engine, wait_s)

    @property
    def info(self) -> TeacherInfo:
        """See Engine.info."""
        return self._engine.info

    async def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        """See Engine.prepare."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._on_prepare, self._engine.prepare, prompt, images)

    async def score(self, job: Job) -> Scores:
        """See Engine.score. A job whose awaiting task is cancelled leaves the queue."""
        if self._closed:
            raise Unavailable("the teacher is shutting down; ask another replica")
        waiting = _Waiting(job, asyncio.get_running_loop().create_future(), time.monotonic())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.done

    async def died(self) -> None:
        """See Engine.died: an engine on a thread of this process lives as long as the process."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Let the running batch end, fail what still waits, free the threads."""
        self._closed = True
        self._arrived.set()
        await self._runner
        for waiting in self._queue:
            if not waiting.done.done():
                waiting.done.set_exception(Unavailable("the teacher shut down"))
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
                jobs = [waiting.job for waiting in batch]
                answers = await loop.run_in_executor(self._on_engine, self._score, jobs)
                self._answer(batch, answers, started_s)
            if not self._closed:
                self._arrived.clear()

    def _next_batch(self) -> list[_Waiting]:
        """The oldest job, its prompt's others, then the queue's order, within the token budget."""
        waiting = [w for w in self._queue if not w.done.done()]
        if not waiting:
            self._queue.clear()
            return []
        first = waiting[0].job.prompt.digest
        waiting.sort(key=lambda w: w.job.prompt.digest != first)  # stable: arrival order otherwise
        batch: list[_Waiting] = []
        longest = contexts = 0
        for candidate in waiting[: self._engine.max_batch_jobs]:
            longest = max(longest, candidate.job.longest)
            contexts += 2
            if batch and longest * contexts > self._engine.max_batch_tokens:
                break
            batch.append(candidate)
        taken = set(map(id, batch))
        self._queue = deque(w for w in self._queue if id(w) not in taken and not w.done.done())
        return batch

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
