"""Some responses of an optimizer batch as packed rows.

B responses, R rows: all their tokens, one response after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from student_trainer.loss import adaptive_level
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.support import Support


@dataclass(frozen=True)
class Microbatch:
    """What the loss needs to know of them, on the student's device."""

    rollouts: Sequence[ScoredRollout]
    support: Support | None
    """Where student and teacher are compared; None without a teacher."""
    sampled_ids: Tensor
    """i64 [R]"""
    weights: Tensor
    """f64 [R], sums to this microbatch's share of the optimizer batch."""
    preserved_mask: Tensor
    """bool [R], VDS above Q_0.7."""
    level: Tensor
    """f32 [R], of adaptive steering."""
    advantages: Tensor
    """f32 [R]"""
    behaviour_logprobs: Tensor | None
    """f32 [R], of the sampled tokens under the policy that sampled them; None where it was not recorded."""

    @classmethod
    def of(
        cls,
        rollouts: Sequence[ScoredRollout],
        weights: Tensor,
        thresholds: tuple[Tensor, Tensor],
        vocab_size: int,
        device: torch.device,
    ) -> Microbatch:
        """`weights` [R] as `response_weights` has them, `thresholds` (Q_0.4, Q_0.7)."""
        scores = [one.scores for one in rollouts if one.scores is not None]
        known = [one.rollout.logprobs for one in rollouts if one.rollout.logprobs is not None]
        lengths = torch.tensor([one.length for one in rollouts])
        advantages = torch.tensor([one.advantage for one in rollouts])
        vds = torch.from_numpy(np.concatenate([one.vds for one in rollouts]))
        ids = np.concatenate([one.rollout.response_ids for one in rollouts])
        return cls(
            rollouts,
            Support.from_scores(scores, vocab_size, device) if scores else None,
            torch.from_numpy(ids.astype(np.int64)).to(device),
            weights.to(device),
            (vds > thresholds[1]).to(device),
            adaptive_level(vds, *thresholds).to(device),
            advantages.repeat_interleave(lengths).float().to(device),
            torch.from_numpy(np.concatenate(known)).to(device)
            if len(known) == len(rollouts)
            else None,
        )

    def weightless(self) -> Microbatch:
        """The same responses, for nothing."""
        return replace(self, weights=torch.zeros_like(self.weights))

    def sampled_column(self, logprobs: Tensor) -> Tensor:
        """The sampled tokens' entries of log-probabilities [R, K] on the support, [R]: they are always in it."""
        assert self.support is not None, "without a teacher there is no support"
        found = (self.support.ids == self.sampled_ids[:, None]) & self.support.id_mask
        return logprobs[:, :-1].where(found, 0.0).sum(-1)
