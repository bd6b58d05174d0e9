"""The prompts that one stream put: held by id until they are dropped and nothing under way needs them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass

from protos.errors import DuplicateId, ErrorDetail, LimitExceeded
from protos.prompt import Prompt
from protos.request_codec import prompt_from_proto, unsupported_prompt_part
from protos.v1 import teacher_pb2 as pb
from teacher_server.client import Client
from teacher_server.core import TeacherCore
from teacher_server.engines.engine import PreparedPrompt
from teacher_server.validation import check_image_count, check_item_bytes, refuse_unsupported

log = logging.getLogger(__name__)

RETRY_AFTER_MS = 50
"""Hint where there is no room: prompts are dropped as their responses are answered."""


@dataclass(eq=False)
class HeldPrompt:
    """A prompt from its arrival on."""

    content: bytes
    """Sha256 of the message, to tell a repetition from a clash."""
    ready: asyncio.Task[PreparedPrompt]
    held_bytes: int = 0
    """As it came, and once it is prepared, as it is kept."""
    users: int = 0
    """Items under way that keep it alive, dropped or not."""
    forgotten: bool = False
    released: bool = False


class PromptStore:
    """Bounded in number and bytes; the bytes count in the core's ledger too, for `client`."""

    def __init__(self, core: TeacherCore, client: Client, stream: str) -> None:
        self._core = core
        self._client = client
        self._stream = stream
        self._limits = core.info.limits
        self._prompts: dict[int, HeldPrompt] = {}
        self._held_bytes = 0
        self._warned_of_processor = False

    def get(self, prompt_id: int) -> HeldPrompt | None:
        """None for one that was never put, was refused, or was dropped."""
        return self._prompts.get(prompt_id)

    def hold(self, message: pb.PutPrompt) -> HeldPrompt:
        """Register the prompt at once, so that what follows in the stream finds it; raises a TeacherError."""
        size = message.ByteSize()
        check_item_bytes(size, self._core.info)
        check_image_count(len(message.media), self._core.info)
        refuse_unsupported(unsupported_prompt_part(message))
        content = hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
        held = self._prompts.get(message.prompt_id)
        if held is not None:
            if held.content != content:
                raise DuplicateId(
                    f"prompt {message.prompt_id} was put before with other content; choose a new id",
                    ErrorDetail("prompt_id", str(message.prompt_id)),
                )
            return held
        if len(self._prompts) >= self._limits.max_prompts:
            limit = str(self._limits.max_prompts)
            raise LimitExceeded(
                f"the stream holds {limit} prompts, which is the limit; drop some",
                ErrorDetail("prompt_id", str(len(self._prompts) + 1), limit, RETRY_AFTER_MS),
            )
        prompt = prompt_from_proto(message)
        if isinstance(prompt, Prompt):
            self._warn_of_processor(prompt.processor_fingerprint)
        held = HeldPrompt(content, asyncio.create_task(self._core.prepare(prompt)))
        self._prompts[message.prompt_id] = held
        try:
            self._account(held, size)
        except LimitExceeded:
            held.ready.cancel()
            self.forget(message.prompt_id)
            raise
        return held

    async def prepared(self, prompt_id: int, held: HeldPrompt) -> PreparedPrompt:
        """Wait until it is decoded and expanded; one that fails is forgotten, and its error raised."""
        try:
            prepared = await asyncio.shield(held.ready)
            if self._prompts.get(prompt_id) is held:
                self._account(held, prepared.memory_bytes)
        except Exception:
            if self._prompts.get(prompt_id) is held:
                self.forget(prompt_id)
            raise
        return prepared

    def forget(self, prompt_id: int) -> None:
        """It is not to be found any more; no error if it never was."""
        held = self._prompts.pop(prompt_id, None)
        if held is None:
            return
        held.forgotten = True
        if held.ready.done():
            self._release(held)
        else:  # its bytes are held until the work on it ends
            held.ready.add_done_callback(lambda _: self._release(held))

    def use(self, held: HeldPrompt) -> None:
        """An item needs it from now on."""
        held.users += 1

    def leave(self, held: HeldPrompt) -> None:
        """An item needs it no more."""
        held.users -= 1
        self._release(held)

    def cancel(self) -> None:
        """Prepare nothing more."""
        for held in self._prompts.values():
            held.ready.cancel()

    def close(self) -> None:
        """Forget all."""
        for prompt_id in list(self._prompts):
            self.forget(prompt_id)

    def _account(self, held: HeldPrompt, size: int) -> None:
        total = self._held_bytes - held.held_bytes + size
        limit = self._limits.max_stream_bytes
        if total > limit:
            raise LimitExceeded(
                f"the stream's prompts would take {total} bytes, the limit is {limit}; drop some",
                ErrorDetail(
                    "prompt_id", str(total), str(limit), RETRY_AFTER_MS if size <= limit else 0
                ),
            )
        self._core.ledger.keep(self._client, size - held.held_bytes)
        self._held_bytes, held.held_bytes = total, size

    def _release(self, held: HeldPrompt) -> None:
        """Give its bytes back once nobody can need it."""
        if held.released or held.users or not (held.forgotten and held.ready.done()):
            return
        held.released = True
        self._held_bytes -= held.held_bytes
        self._core.ledger.keep(self._client, -held.held_bytes)

    def _warn_of_processor(self, fingerprint: str) -> None:
        own = self._core.info.processor_fingerprint
        if fingerprint not in ("", own) and not self._warned_of_processor:
            self._warned_of_processor = True
            log.warning(
                "other_processor stream=%s client=%.64r own=%s",
                *(self._stream, fingerprint, own),
            )
