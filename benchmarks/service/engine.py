"""A BatchEngine that computes nothing: it sleeps for as long as a device would work, and answers with packed scores.

All else is the real thing. Its log-probabilities are random, and a row's support need not hold the response's token.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from protos.arrays import Floats, Ids
from protos.errors import TeacherError
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import Limits, SpecialIds, TeacherInfo
from teacher_server.chat_format import ChatFormat
from teacher_server.engines.engine import Job, PreparedPrompt

VOCAB_SIZE = 151_936
"""Qwen3-VL's."""
IMAGE_PLACEHOLDER = 151_655
CONTEXT_LENGTH = 32_768
PIXELS_PER_TOKEN = 32 * 32
"""Of an image in the mm context."""
SHARED_IDS = 0.3
"""Mean number of ids that the top-k of both contexts and the sampled token have in common, for unlike contexts."""


@dataclass(frozen=True)
class Device:
    """What is simulated."""

    token_s: float
    """Device seconds for a response token, both contexts."""
    batch_s: float = 0.0
    """Device seconds for a batch, beside its tokens."""


class SimulatedEngine:
    """See BatchEngine."""

    max_batch_jobs: int | None = None

    def __init__(
        self, device: Device, max_batch_tokens: int, teacher_id: str, limits: Limits
    ) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.info = _info(teacher_id, limits)
        self.chat: ChatFormat | None = None
        self.served: Counter[str] = Counter()
        """Response tokens, by client."""
        self._device = device
        self._blocks: dict[int, Scores] = {}
        self._next_row = 0

    def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        """Nothing is kept but lengths."""
        image_tokens = sum(image.width * image.height // PIXELS_PER_TOKEN for image in images)
        return PreparedPrompt(
            prompt.digest,
            mm_length=len(prompt.mm_ids) + image_tokens,
            text_length=len(prompt.text_ids),
            expected_responses=prompt.expected_responses,
            contexts=None,
            memory_bytes=prompt.mm_ids.nbytes + prompt.text_ids.nbytes,
        )

    def score_batch(self, jobs: Sequence[Job]) -> list[Scores | TeacherError]:
        """Sleep first: a device's answers are there when it is done."""
        ends_s = time.monotonic() + self.device_s(jobs)
        answers: list[Scores | TeacherError] = [self._answer(job) for job in jobs]
        time.sleep(max(0.0, ends_s - time.monotonic()))
        for job in jobs:
            self.served[job.client] += len(job.item.response_ids)
        return answers

    def device_s(self, jobs: Sequence[Job]) -> float:
        """How long the simulated device takes."""
        tokens = sum(len(job.item.response_ids) for job in jobs)
        return self._device.batch_s + self._device.token_s * tokens

    def _answer(self, job: Job) -> Scores:
        """Rows of the block, not always the same ones: views, but for the splits."""
        block, rows = self._block(job.item.k), len(job.item.response_ids)
        if self._next_row + rows > block.rows:
            self._next_row = 0
        first = self._next_row
        self._next_row += rows
        return replace(block.slice_rows(first, first + rows), response_ids=job.item.response_ids)

    def _block(self, k: int) -> Scores:
        if k not in self._blocks:
            self._blocks[k] = make_block(k, self.info.limits.max_response_tokens)
        return self._blocks[k]


def make_block(k: int, rows: int) -> Scores:
    """Random scores; a row's support has at most 2k + 1 ids, as the contexts' top-k and the sampled token."""
    rng = np.random.default_rng(k)
    widths = 2 * k + 1 - rng.binomial(2 * k, SHARED_IDS / (2 * k), rows)
    splits = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    entries = int(splits[-1])

    def logprobs(size: int) -> Floats:
        return -rng.exponential(8.0, size).astype(np.float32)

    return Scores(
        row_splits=splits,
        support_ids=_ascending(splits, rng),
        mm_logprobs=logprobs(entries),
        text_logprobs=logprobs(entries),
        mm_tail=logprobs(rows),
        text_tail=logprobs(rows),
        tail_mask=np.ones(rows, np.bool_),
        vds=rng.exponential(0.5, rows).astype(np.float32),
        sampled_mm_logprobs=logprobs(rows),
        sampled_text_logprobs=logprobs(rows),
        response_ids=np.zeros(rows, np.int32),
    )


def _ascending(splits: Ids, rng: np.random.Generator) -> Ids:
    """Distinct ids within a row: sums of positive steps."""
    widest = int(np.diff(splits).max())
    steps = rng.integers(1, VOCAB_SIZE // (widest + 1), splits[-1], dtype=np.int64)
    totals = np.cumsum(steps)
    before = np.concatenate([[0], totals])[splits[:-1]]
    return (totals - np.repeat(before, np.diff(splits))).astype(np.int32)


def _info(teacher_id: str, limits: Limits) -> TeacherInfo:
    return TeacherInfo(
        teacher_id=teacher_id,
        model_id="simulated",
        model_revision="",
        model_fingerprint="simulated",
        tokenizer_fingerprint="simulated",
        processor_fingerprint="simulated",
        special_ids=SpecialIds(IMAGE_PLACEHOLDER, forbidden_in_response=(IMAGE_PLACEHOLDER,)),
        vocab_size=VOCAB_SIZE,
        context_length=CONTEXT_LENGTH,
        engine="simulated",
        dtype="float32",
        deterministic=False,
        limits=limits,
        capabilities=(
            "tokens",
            "topk",
            "f16",
            "row_chunks",
            "deadlines",
            "credits",
            "cancel",
            "priority",
        ),
    )
