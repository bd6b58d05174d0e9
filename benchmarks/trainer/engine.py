"""The simulated engine as a student's teacher: its own tokenizer and vocabulary, supports as wide as it asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.service.engine import Device, SimulatedEngine
from protos.arrays import Floats
from protos.scores import Scores
from protos.teacher_info import Limits, SpecialIds
from teacher_server.engines.engine import Job


@dataclass(frozen=True)
class Taught:
    """The student, as far as its teacher has to be like it."""

    tokenizer_fingerprint: str
    processor_fingerprint: str
    image_id: int
    """Placeholder of an image."""
    vocab_size: int


class TrainingEngine(SimulatedEngine):
    """Scores are random, and so is the support: as many ids as 2k, the sampled one and the candidates, no two alike."""

    def __init__(
        self, device: Device, max_batch_tokens: int, teacher_id: str, limits: Limits, taught: Taught
    ) -> None:
        super().__init__(device, max_batch_tokens, teacher_id, limits)
        self._rng = np.random.default_rng(0)
        self.info = replace(
            self.info,
            tokenizer_fingerprint=taught.tokenizer_fingerprint,
            processor_fingerprint=taught.processor_fingerprint,
            special_ids=SpecialIds(taught.image_id, forbidden_in_response=(taught.image_id,)),
            vocab_size=taught.vocab_size,
            capabilities=(*self.info.capabilities, "candidates"),
        )

    def _answer(self, job: Job) -> Scores:
        item, rng, rows = job.item, self._rng, len(job.item.response_ids)
        given = 0 if item.candidates is None else len(item.candidates.ids) // rows
        vocab_size = item.vocab_size or self.info.vocab_size
        width = min(2 * item.k + 1 + given, vocab_size)
        stride = vocab_size // width
        ids = np.arange(width) * stride + rng.integers(0, stride, (rows, width))

        def logprobs(size: int) -> Floats:
            return -rng.exponential(8.0, size).astype(np.float32)

        return Scores(
            row_splits=np.arange(0, rows * width + 1, width, dtype=np.int32),
            support_ids=ids.astype(np.int32).ravel(),
            mm_logprobs=logprobs(rows * width),
            text_logprobs=logprobs(rows * width),
            mm_tail=logprobs(rows),
            text_tail=logprobs(rows),
            tail_mask=np.full(rows, width < vocab_size),
            vds=rng.exponential(0.5, rows).astype(np.float32),
            sampled_mm_logprobs=logprobs(rows),
            sampled_text_logprobs=logprobs(rows),
            response_ids=item.response_ids,
        )
