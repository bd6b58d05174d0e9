"""What every front end shares: limits are enforced here, then the engine is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from protos.errors import (
    DeadlineExceeded,
    ErrorDetail,
    PreconditionFailed,
    TeacherError,
    Unimplemented,
)
from protos.fingerprint import echo
from protos.item import ScoreItem
from protos.prompt import AnyPrompt, Prompt
from protos.scores import Scores
from protos.teacher_info import TeacherInfo
from teacher_server.chat_format import ChatFormat
from teacher_server.client import ANONYMOUS, Client
from teacher_server.engines.engine import Engine, Job, PreparedPrompt
from teacher_server.images import decode_images
from teacher_server.ledger import Ledger
from teacher_server.metrics import Metrics
from teacher_server.tracing import span
from teacher_server.validation import (
    check_expanded_length,
    check_image_count,
    check_item,
    check_prompt,
    check_text,
    check_text_size,
)

T = TypeVar("T")
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
        self._on_text = ThreadPoolExecutor(1, thread_name_prefix="text")
        # Pictures are many times their files: they must not pile up before a slow engine.
        self._decoded = asyncio.Semaphore(PROMPTS_DECODED)

    @property
    def info(self) -> TeacherInfo:
        """Identity and limits."""
        return self._engine.info

    async def prepare(self, prompt: AnyPrompt) -> PreparedPrompt:
        """Check, render what came as messages, decode and expand a prompt."""
        with self.metrics.prompt(), span("teacher.prepare", images=len(prompt.images)):
            if isinstance(prompt, Prompt):
                return await self._prepare(prompt)
            check_image_count(len(prompt.images), self.info)
            check_text_size("messages_json", prompt.messages, self.info)
            rendered = await self._in_chat(lambda chat: chat.prompt(prompt))
            prepared = await self._prepare(rendered)
            size = prepared.memory_bytes + len(prompt.messages.encode())
            return replace(
                prepared, digest=prompt.digest, messages=prompt.messages, memory_bytes=size
            )

    async def _prepare(self, prompt: Prompt) -> PreparedPrompt:
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
        tokens = item.cost(self.info.limits.max_response_tokens)
        if item.text is not None:  # a guess from above, which must not be what goes beyond a quota
            tokens = min(tokens, client.max_tokens or self.info.limits.max_client_tokens)
        with (
            self.metrics.item(client.key, item.priority) as served,
            self.ledger.under_way(client, tokens, item.memory_bytes),
            span("teacher.score", client=client.name, priority=item.priority, tokens=tokens),
        ):
            scores = await self._score_in_time(prompt, item, client)
            served.tokens = scores.rows
            return scores

    async def _score_in_time(
        self, prompt: Awaitable[PreparedPrompt], item: ScoreItem, client: Client
    ) -> Scores:
        try:
            async with asyncio.timeout(item.deadline_s):
                prepared = await _usable(prompt)
                given = item if item.text is None else await self._tokenised(item, prepared)
                check_item(given, prepared.mm_length, prepared.text_length, self.info)
                scores = await self._engine.score(Job(prepared, given, client.key, client.weight))
                if item.token_texts:
                    scores = replace(scores, token_texts=await self._texts(given))
        except TimeoutError as error:
            if isinstance(error, TeacherError):
                raise
            raise DeadlineExceeded(
                f"the deadline of {item.deadline_s:g} s passed before the scores were ready; allow more time or "
                "send less at a time",
                ErrorDetail("deadline_ms", f"{1000 * (item.deadline_s or 0):g}"),
            ) from error
        echoed = item.response_ids if item.text is None else scores.response_ids
        return replace(scores, teacher_id=self.info.teacher_id, echo=echo(prepared.digest, echoed))

    async def _tokenised(self, item: ScoreItem, prompt: PreparedPrompt) -> ScoreItem:
        """The item with its response as ids, and for turns with a mask."""
        check_text(item, self.info)
        if item.response_text is not None:
            text = item.response_text
            ids = await self._in_chat(lambda chat: chat.response(text))
            return replace(item, response_ids=ids, response_text=None)
        if not prompt.messages:
            raise PreconditionFailed(
                "response_turns goes on from messages, and the prompt came as ids; put it as messages, or send "
                "response_ids with a response_mask",
                ErrorDetail("response_turns"),
            )
        turns = item.response_turns or ""
        ids, mask = await self._in_chat(lambda chat: chat.turns(prompt.messages, turns))
        return replace(item, response_ids=ids, response_mask=mask, response_turns=None)

    async def _texts(self, item: ScoreItem) -> tuple[str, ...]:
        """Of the tokens that are scored, decoded in their place among the others."""
        texts = await self._in_chat(lambda chat: chat.texts(item.response_ids))
        if item.response_mask is None:
            return texts
        return tuple(text for text, scored in zip(texts, item.response_mask, strict=True) if scored)

    async def lone_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each id by itself; raises Unimplemented for an engine without a tokenizer."""
        return await self._in_chat(lambda chat: chat.lone_texts(ids))

    async def _in_chat(self, work: Callable[[ChatFormat], T]) -> T:
        """Text is handled on a thread of its own: rendering and tokenising take milliseconds."""
        chat = self._engine.chat
        if chat is None:
            raise Unimplemented(
                "this teacher has no chat template; send token ids and ask for no texts",
                ErrorDetail("capabilities", "chat"),
            )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._on_text, work, chat)

    async def died(self) -> None:
        """See Engine.died."""
        await self._engine.died()

    async def close(self) -> None:
        """Close the engine."""
        await self._engine.close()
        self._on_decode.shutdown()
        self._on_text.shutdown()


async def _usable(prompt: Awaitable[PreparedPrompt]) -> PreparedPrompt:
    try:
        return await asyncio.shield(prompt)
    except TeacherError as error:
        raise PreconditionFailed(
            f"the prompt was refused: {error.message}", error.detail
        ) from error
