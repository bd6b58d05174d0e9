"""What every front end shares: limits are enforced here, then the engine is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from protos.errors import DeadlineExceeded, ErrorDetail, PreconditionFailed, TeacherError
from protos.fingerprint import echo
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import TeacherInfo
from teacher_server.client import ANONYMOUS, Client
from teacher_server.engines.engine import Engine, Job, PreparedPrompt
from teacher_server.images import decode_images
from teacher_server.ledger import Ledger
from teacher_server.metrics import Metrics
from teacher_server.tracing import span
from teacher_server.validation import check_expanded_length, check_item, check_prompt

PROMPTS_DECODED = 2
"""At a time: one is decoded while the engine prepares another."""


class TeacherCore:
    """Scores prompts and items that keep the rules; everything else is a TeacherError."""

    def __init__(self, engine: Engine, metrics: Metrics | None = None) -> None:
        self._engine = engine
        self.ledger = Ledger(engine.info.limits)
        """What clients hold at a time; front ends count the prompts that they keep for one in it too."""
        self.metrics = metrics or Metrics()
        self.metrics.describe(engine.info)
        self.metrics.prefixes = getattr(engine, "prefix_stats", None)  # not every engine has any
        self._on_decode = ThreadPoolExecutor(1, thread_name_prefix="decode")
        # Pictures are many times their files: they must not pile up before a slow engine.
        self._decoded = asyncio.Semaphore(PROMPTS_DECODED)

    @property
    def info(self) -> TeacherInfo:
        """Identity and limits."""
        return self._engine.info

    async def prepare(self, prompt: Prompt) -> PreparedPrompt:
        """Check, decode and expand a prompt."""
        with self.metrics.prompt(), span("teacher.prepare", images=len(prompt.images)):
            check_prompt(prompt, self.info)
            # An image takes its placeholder's room at least: what is too long without them is not decoded.
            check_expanded_length(len(prompt.mm_ids), len(prompt.text_ids), self.info)
            loop = asyncio.get_running_loop()
            async with self._decoded:
                images = await loop.run_in_executor(
                    self._on_decode, decode_images, prompt.images, self.info.limits
                )
                prepared = await self._engine.prepare(prompt, images)
            check_expanded_length(prepared.mm_length, prepared.text_length, self.info)
        return prepared

    async def score(
        self, prompt: Awaitable[PreparedPrompt], item: ScoreItem, client: Client = ANONYMOUS
    ) -> Scores:
        """Scores with the teacher's name and the echo of what was scored. Clients take turns.

        The item's deadline runs from this call; a `prompt` still being prepared is waited for.
        """
        tokens = len(item.response_ids)
        with (
            self.metrics.item(client.key, item.priority, tokens),
            self.ledger.under_way(client, tokens, item.memory_bytes),
            span("teacher.score", client=client.name, priority=item.priority, tokens=tokens),
        ):
            return await self._score_in_time(prompt, item, client)

    async def _score_in_time(
        self, prompt: Awaitable[PreparedPrompt], item: ScoreItem, client: Client
    ) -> Scores:
        try:
            async with asyncio.timeout(item.deadline_s):
                prepared = await _usable(prompt)
                check_item(item, prepared.mm_length, prepared.text_length, self.info)
                scores = await self._engine.score(Job(prepared, item, client.key, client.weight))
        except TimeoutError as error:
            if isinstance(error, TeacherError):
                raise
            raise DeadlineExceeded(
                f"the deadline of {item.deadline_s:g} s passed before the scores were ready; allow more time or "
                "send less at a time",
                ErrorDetail("deadline_ms", f"{1000 * (item.deadline_s or 0):g}"),
            ) from error
        return replace(
            scores,
            teacher_id=self.info.teacher_id,
            echo=echo(prepared.digest, scores.response_ids),
        )

    async def died(self) -> None:
        """See Engine.died."""
        await self._engine.died()

    async def close(self) -> None:
        """Close the engine."""
        await self._engine.close()
        self._on_decode.shutdown()


async def _usable(prompt: Awaitable[PreparedPrompt]) -> PreparedPrompt:
    try:
        return await asyncio.shield(prompt)
    except TeacherError as error:
        raise PreconditionFailed(
            f"the prompt was refused: {error.message}", error.detail
        ) from error
