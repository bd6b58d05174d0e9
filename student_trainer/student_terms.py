"""The student's side of the loss: one pass a context, and the terms that come of it.

R rows (response tokens) of a microbatch, K buckets. As long as q* is a target, nothing that has a gradient in one
context has one in the other: each pass ends with its own backward pass, and only one context's graph exists at a time.
A student without padding reads both contexts in one pass where both have a gradient; where text has none, its tokens
would only take part in the backward pass of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from student_trainer.loss import (
    CONTEXTS,
    Part,
    Terms,
    language,
    standard,
    visual,
    visual_target,
    weighted_sum,
)
from student_trainer.microbatch import Microbatch
from student_trainer.output_head import OutputHead
from student_trainer.policy_gradient import clipped, clipped_surrogate
from student_trainer.prior import Prior
from student_trainer.student import Context, Reader, Student
from student_trainer.support_head import sampled_logprobs, support_logprobs

Present = TypeVar("Present")
POLICY = "policy"
"""Name of the part that follows rewards; the others are those of `loss.OBJECTIVES`."""


@dataclass(frozen=True)
class Clip:
    """How far a token's probability may move from where it was sampled: ratios within [1 - low, 1 + high]."""

    low: float
    high: float


@dataclass
class Watched:
    """What a microbatch adds to the metrics."""

    values: dict[str, Tensor] = field(default_factory=dict)
    """[R] each, by the metric's name."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the objective's parts, weighted already."""

    def note(self, name: str, value: Tensor) -> None:
        """Keep per-token values without their graph."""
        self.values[name] = value.detach()

    def totals(self, weights: Tensor) -> dict[str, float]:
        """Weighted sums of all; the parts' names begin with "part/"."""
        found = {name: float(weighted_sum(v, weights)) for name, v in self.values.items()}
        return found | {f"part/{name}": value for name, value in self.sums.items()}


class StudentTerms:
    """Runs the passes that an objective's parts ask for."""

    def __init__(
        self, student: Student, prior: Prior, detach_target: bool, vocab_size: int, chunk_rows: int
    ) -> None:
        self._student = student
        self._prior = prior
        self._detach = detach_target
        self._vocab_size = vocab_size
        self._chunk_rows = chunk_rows

    def passes(
        self, batch: Microbatch, parts: Mapping[str, Part], clip: Clip | None, watched: Watched
    ) -> Iterator[dict[str, Tensor]]:
        """Weighted sums of the parts by name, one context after the other; `clip` asks for the policy part.

        The caller takes the backward pass of each dictionary before it asks for the next one.
        """
        wanted = {part.term for part in parts.values()}
        text_parts = {n: p for n, p in parts.items() if CONTEXTS[p.term] == "text"}
        mm_parts = {n: p for n, p in parts.items() if CONTEXTS[p.term] == "mm"}
        watched.note("weight/preserved", batch.preserved_mask.float())
        terms, text, mm, sums = Terms(batch.preserved_mask, batch.level), None, None, {}
        looks = bool(mm_parts) or clip is not None
        aims = bool(wanted & {"visual", "text_visual"})
        if text_parts or (aims and self._prior.student is None):
            text, mm = self._text_logprobs(batch, text_parts, aims, looks, watched)
        target = self._target(batch, text) if aims else None
        if text is not None:
            terms = self._text_terms(batch, terms, text, target, wanted)
            watched.note("loss/preserved_lang", batch.preserved_mask * _present(terms.language))
            sums = _weighted(text_parts, terms, batch)
        if self._detach and sums and mm is None:
            yield sums
            sums = {}
        if looks:
            if mm is None:
                mm = self._read(batch, {"mm": self._mm_reader(batch)})["mm"]
            terms, policy = self._mm_terms(batch, terms, mm, target, mm_parts, clip, watched)
            sums = sums | _weighted(mm_parts, terms, batch) | policy
        if sums:
            yield sums

    def _text_logprobs(
        self,
        batch: Microbatch,
        parts: Mapping[str, Part],
        aims: bool,
        looks: bool,
        watched: Watched,
    ) -> tuple[Tensor, Tensor | None]:
        """The student's log-probabilities [R, K] without the picture, with a gradient on the rows whose parts need one;
        and if `looks` those with the picture, where one pass reads both.

        q* as a target needs values on all rows and no gradient; preservation needs both on its own rows alone. Rows
        that nobody needs are zeros.
        """
        support = _present(batch.support)
        rows = torch.zeros_like(batch.preserved_mask)
        for part in parts.values():
            rows = rows | (batch.preserved_mask if part.tokens == "preserved" else True)
        learns = bool(rows.any()) or (self._student.uniform and bool(parts))
        if aims and not self._detach:
            rows, learns = torch.ones_like(rows), True

        def read(hidden: Tensor, head: OutputHead) -> Tensor:
            if aims:  # rows without a gradient cost the head no backward pass
                return support_logprobs(hidden, head, support, self._chunk_rows)
            found = torch.zeros_like(support.teacher_text_logprobs)
            some = support_logprobs(hidden[rows], head, support[rows], self._chunk_rows)
            return found.index_put((rows.nonzero()[:, 0],), some)

        readers: dict[Context, Reader] = {"text": read}
        if looks and learns and self._student.packing:
            readers["mm"] = self._mm_reader(batch)
        with torch.set_grad_enabled(learns):
            logprobs = self._read(batch, readers)
        text = logprobs["text"]
        if aims or any(part.tokens == "all" for part in parts.values()):
            lang = language(text.detach(), support.teacher_text_logprobs, support.bucket_mask)
            watched.note("loss/lang", lang)
        return text, logprobs.get("mm")

    def _target(self, batch: Microbatch, text_logprobs: Tensor | None) -> Tensor:
        """Log q* [R, K]."""
        support, anchor = _present(batch.support), self._prior.student

        def read(hidden: Tensor, head: OutputHead) -> Tensor:
            return support_logprobs(hidden, head, support, self._chunk_rows)

        if anchor is None:
            prior = _present(text_logprobs)
            prior = prior.detach() if self._detach else prior
        else:
            with torch.no_grad():
                prior = self._read(batch, {"text": read}, anchor)["text"]
        return visual_target(
            prior, support.teacher_mm_logprobs, support.teacher_text_logprobs, support.bucket_mask
        )

    def _text_terms(
        self, batch: Microbatch, terms: Terms, text: Tensor, target: Tensor | None, wanted: set[str]
    ) -> Terms:
        support = _present(batch.support)
        lang = language(text, support.teacher_text_logprobs, support.bucket_mask)
        terms = replace(terms, language=lang)
        if "text_visual" in wanted:
            towards = visual(text, _present(target), support.bucket_mask)
            terms = replace(terms, text_visual=towards)
        return terms

    def _mm_reader(self, batch: Microbatch) -> Reader:
        """Of log-probabilities with the picture: [R, K], or without a teacher [R], of the sampled tokens."""
        support = batch.support

        def read(hidden: Tensor, head: OutputHead) -> Tensor:
            if support is None:
                ids = batch.sampled_ids
                return sampled_logprobs(hidden, head, ids, self._chunk_rows)
            return support_logprobs(hidden, head, support, self._chunk_rows)

        return read

    def _mm_terms(
        self,
        batch: Microbatch,
        terms: Terms,
        mm: Tensor,
        target: Tensor | None,
        parts: Mapping[str, Part],
        clip: Clip | None,
        watched: Watched,
    ) -> tuple[Terms, dict[str, Tensor]]:
        """The terms with the picture, and the policy part where it is asked for."""
        support = batch.support
        if support is not None:
            mask = support.bucket_mask
            terms = replace(terms, standard=standard(mm, support.teacher_mm_logprobs, mask))
            watched.note("loss/standard", _present(terms.standard))
            watched.note("loss/preserved_standard", batch.preserved_mask * _present(terms.standard))
            mass = mm.detach()[:, :-1].exp().where(support.id_mask, 0.0).sum(-1)
            watched.note("support/student_mass", mass)
            if any(part.term == "visual" for part in parts.values()):
                terms = replace(terms, visual=visual(mm, _present(target), mask))
        if clip is None:
            return terms, {}
        sampled = mm if support is None else batch.sampled_column(mm)
        known = batch.behaviour_logprobs
        before = sampled.detach() if known is None else known
        surrogate = clipped_surrogate(sampled, before, batch.advantages, clip.low, clip.high)
        share = clipped(sampled.detach(), before, batch.advantages, clip.low, clip.high)
        watched.note("grpo/clipped_share", share.float())
        watched.note("loss/policy", -surrogate)
        return terms, {POLICY: weighted_sum(-surrogate, batch.weights)}

    def _read(
        self,
        batch: Microbatch,
        readers: Mapping[Context, Reader],
        student: Student | None = None,
    ) -> dict[Context, Tensor]:
        """What the readers make of their contexts, in one pass."""

        def over_shared_ids(reader: Reader) -> Reader:
            return lambda hidden, head: reader(hidden, replace(head, vocab_size=self._vocab_size))

        prompts = [one.prompt for one in batch.rollouts]
        rollouts = [one.rollout for one in batch.rollouts]
        limited: dict[Context, Reader] = {
            context: over_shared_ids(reader) for context, reader in readers.items()
        }
        return (student or self._student).read_together(prompts, rollouts, limited)


def _weighted(parts: Mapping[str, Part], terms: Terms, batch: Microbatch) -> dict[str, Tensor]:
    return {name: weighted_sum(p.per_token(terms), batch.weights) for name, p in parts.items()}


def _present(value: Present | None) -> Present:
    assert value is not None, "the parts ask for what was not computed"
    return value
