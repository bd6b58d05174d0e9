"""One optimizer step: weights from global counts, student terms on the teacher's support, gradients, update.

B responses of the global batch, R rows (response tokens) of a microbatch, K buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from protos.scores import Scores
from student_trainer.config import BatchConfig, ObjectiveConfig, OptimizerConfig
from student_trainer.loss import (
    OBJECTIVES,
    Terms,
    adaptive_level,
    language,
    response_weights,
    standard,
    token_weights,
    visual,
    visual_target,
    weighted_sum,
)
from student_trainer.prompting import StudentPrompt
from student_trainer.rollout import Rollout
from student_trainer.steering_scale import SteeringScale
from student_trainer.student import Student
from student_trainer.support import Support
from student_trainer.support_head import support_logprobs
from student_trainer.vds_thresholds import VdsThresholds


@dataclass(frozen=True, eq=False)
class ScoredRollout:
    """A response with the teacher's scores, row for row."""

    prompt: StudentPrompt
    rollout: Rollout
    scores: Scores

    def __post_init__(self) -> None:
        assert self.scores.rows == len(self.rollout.response_ids), "scores of another response"


@dataclass(frozen=True)
class _Counts:
    """Of the whole optimizer batch."""

    responses: int
    tokens: int


class Learner:
    """Owns the optimizer. Microbatches change memory, never the gradient."""

    def __init__(
        self,
        student: Student,
        objective: ObjectiveConfig,
        optimizer: OptimizerConfig,
        batch: BatchConfig,
        vocab_size: int,
    ) -> None:
        """`vocab_size`: ids that student and teacher share; the student is normalised over these, as it samples."""
        self._student = student
        self._vocab_size = vocab_size
        self._config = objective
        self._objective = OBJECTIVES[objective.name]
        self._batch = batch
        self._max_grad_norm = optimizer.max_grad_norm
        self._parameters = student.parameters
        self.scale = SteeringScale(objective)
        self.thresholds = VdsThresholds(objective)
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=optimizer.lr,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
        )
        warmup = max(1, optimizer.warmup_steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / warmup)
        )

    def step(self, batch: Sequence[ScoredRollout]) -> dict[str, float]:
        """Update the student once on the whole optimizer batch; returns its metrics."""
        self.optimizer.zero_grad(set_to_none=True)
        metrics = self.accumulate(batch)
        eta = self.scale.value()
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(eta)
        limit = self._max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit, error_if_nonfinite=True)
        metrics["loss/total"] *= eta
        metrics["grad/norm"] = float(norm)
        metrics["eta/value"] = eta
        metrics["optimizer/lr"] = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        return metrics

    def accumulate(self, batch: Sequence[ScoredRollout]) -> dict[str, float]:
        """Add the gradient of the unscaled objective (eta 1) to the parameters; returns its metrics."""
        vds = _vds(batch)
        thresholds = self.thresholds.update(vds)
        counts = _Counts(len(batch), len(vds))
        metrics: dict[str, float] = {}
        size = self._batch.microbatch
        self.scale.begin_step(self._parameters)
        for first in range(0, len(batch), size):
            part = batch[first : first + size]
            sums = self._accumulate_microbatch(part, thresholds, counts)
            for name, value in sums.items():
                metrics[name] = metrics.get(name, 0.0) + value
        self.scale.end_step()
        metrics |= {
            "vds/mean": float(vds.mean()),
            "vds/max": float(vds.max()),
            "vds/threshold_low": float(thresholds[0]),
            "vds/threshold": float(thresholds[1]),
        }
        return metrics

    def _accumulate_microbatch(
        self, part: Sequence[ScoredRollout], thresholds: tuple[Tensor, Tensor], counts: _Counts
    ) -> dict[str, float]:
        device = self._student.device
        support = Support.from_scores([scored.scores for scored in part], self._vocab_size, device)
        lengths = torch.tensor([scored.scores.rows for scored in part])
        if self._config.averaging == "token":
            weights = token_weights(lengths, counts.tokens)
        else:
            weights = response_weights(lengths, counts.responses)
        terms, watched = self._terms(part, support, thresholds)
        per_token = self._objective.per_token(terms, self._config.gamma, self._config.lambda_)
        total = weighted_sum(per_token, weights)
        if self.scale.measuring and self._objective.steering is not None:
            self.scale.measure(
                weighted_sum(terms.standard, weights),
                weighted_sum(self._objective.steering(terms), weights),
            )
        total.backward()
        with torch.no_grad():
            watched |= {"loss/total": per_token, "loss/standard": terms.standard}
            if terms.visual is not None:
                watched["loss/vis"] = terms.visual
            if self._objective.preservation is not None:
                preserved = self._objective.preservation(terms)
                watched["loss/lp" if terms.text_visual is None else "loss/vp"] = preserved
            return {name: float(weighted_sum(v, weights)) for name, v in watched.items()}

    def _terms(
        self, part: Sequence[ScoredRollout], support: Support, thresholds: tuple[Tensor, Tensor]
    ) -> tuple[Terms, dict[str, Tensor]]:
        """The objective's terms [R], and values [R] that are only watched."""
        mask, reads = support.bucket_mask, self._objective.reads
        teacher_mm, teacher_text = support.teacher_mm_logprobs, support.teacher_text_logprobs
        vds = _vds(part)
        preserved = (vds > thresholds[1]).to(mask.device)
        level = adaptive_level(vds, *thresholds).to(mask.device)
        student_mm = self._logprobs(part, support, "mm")
        inside = student_mm.detach()[:, :-1].exp().where(support.id_mask, 0.0).sum(-1)
        watched = {"support/student_mass": inside}
        terms = Terms(standard(student_mm, teacher_mm, mask), preserved, level)
        if not reads:
            return terms, watched
        # q* is a target: where nothing else is read, the text context needs no gradient.
        learns = "language" in reads or "text_visual" in reads or not self._config.detach_target
        with torch.set_grad_enabled(learns):
            student_text = self._logprobs(part, support, "text")
            lang = language(student_text, teacher_text, mask)
        watched["loss/lang"] = lang.detach()
        prior = student_text.detach() if self._config.detach_target else student_text
        target = visual_target(prior, teacher_mm, teacher_text, mask)
        found = replace(
            terms,
            language=lang if "language" in reads else None,
            visual=visual(student_mm, target, mask) if "visual" in reads else None,
            text_visual=visual(student_text, target, mask) if "text_visual" in reads else None,
        )
        return found, watched

    def _logprobs(
        self, part: Sequence[ScoredRollout], support: Support, context: Literal["mm", "text"]
    ) -> Tensor:
        """Student's log-probabilities [R, K] under one context."""
        hidden = self._student.hidden_rows(
            [scored.prompt for scored in part],
            [scored.rollout for scored in part],
            context,
        )
        return support_logprobs(hidden, self._project, support, self._batch.chunk_rows)

    def _project(self, hidden: Tensor) -> Tensor:
        return self._student.project(hidden)[:, : self._vocab_size]


def _vds(part: Sequence[ScoredRollout]) -> Tensor:
    """The teacher's VDS of all response tokens, f32 [R], nats."""
    return torch.from_numpy(np.concatenate([scored.scores.vds for scored in part]))
