"""An engine without a model: everything around it is real."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from protos.arrays import Ids
from protos.prompt import Prompt
from protos.scores import PER_ENTRY, PER_ROW, Scores
from protos.teacher_info import Limits, SpecialIds, TeacherInfo
from teacher_server.chat_format import ChatFormat
from teacher_server.engines.engine import Job, PreparedPrompt

IMAGE, VIDEO = 5, 6
"""Placeholders."""
INFO = TeacherInfo(
    teacher_id="stand-in",
    model_id="stand-in",
    model_revision="",
    model_fingerprint="",
    tokenizer_fingerprint="ab" * 32,
    processor_fingerprint="cd" * 32,
    special_ids=SpecialIds(IMAGE, VIDEO, forbidden_in_response=(IMAGE, VIDEO), eos=(2,)),
    vocab_size=200,
    context_length=512,
    engine="stand-in",
    dtype="float32",
    deterministic=True,
)


class StandInEngine:
    """Scores each job at once, or those that come while it is held once it is let go."""

    def __init__(self, limits: Limits, held: bool = False) -> None:
        self.info = replace(INFO, limits=limits)
        self.chat: ChatFormat | None = None
        self.waiting: set[Job] = set()
        """Jobs that are held."""
        self._held = held
        self._loop: asyncio.AbstractEventLoop | None = None
        self._go = asyncio.Event()

    async def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        """An image takes a token for each 32 x 32 pixels, one at least."""
        assert all(image.mode == "RGB" for image in images)
        more = sum(max(1, image.width * image.height // 1024) - 1 for image in images)
        return PreparedPrompt(
            digest=prompt.digest,
            mm_length=len(prompt.mm_ids) + more,
            text_length=len(prompt.text_ids),
            expected_responses=prompt.expected_responses,
            contexts=None,
            memory_bytes=prompt.mm_ids.nbytes + prompt.text_ids.nbytes,
        )

    async def score(self, job: Job) -> Scores:
        """The response's own tokens are all of the support."""
        if self._held:
            self._loop = asyncio.get_running_loop()
            self.waiting.add(job)
            try:
                await self._go.wait()
            finally:
                self.waiting.discard(job)
        return scores_of(job.item.scored_ids)

    def let_go(self) -> None:
        """From another thread: all that wait now are scored, those that come later are held again."""
        assert self._loop is not None, "nothing was ever held"

        def pulse() -> None:
            self._go.set()
            self._go.clear()  # whoever waits is woken all the same

        self._loop.call_soon_threadsafe(pulse)

    async def died(self) -> None:
        """Never."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing to free."""


def scores_of(response: Ids) -> Scores:
    """One support entry a row, of probability 1/e in both contexts."""
    rows = len(response)
    ones = np.full(rows, -1.0, dtype=np.float32)
    parts: dict[str, Any] = dict.fromkeys([*PER_ENTRY, *PER_ROW], ones)
    parts |= {"support_ids": response, "response_ids": response, "vds": np.zeros_like(ones)}
    parts |= {"tail_mask": np.ones(rows, dtype=np.bool_)}
    return Scores(row_splits=np.arange(rows + 1, dtype=np.int32), **parts)
