"""From answers to advantages: what each is worth, and how it compares with the others to the same question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from student_trainer.grpo_config import GrpoConfig
from student_trainer.policy_gradient import advantages
from student_trainer.rewards import Rewards
from student_trainer.scored_rollout import ScoredRollout


class RewardStage:
    """Judges the responses of a batch as text."""

    def __init__(self, config: GrpoConfig, tokenizer: Any) -> None:
        self._rewards = Rewards(config.rewards)
        self._normalise = config.normalise
        self._tokenizer = tokenizer

    def judge(self, batch: Sequence[ScoredRollout]) -> tuple[list[ScoredRollout], dict[str, float]]:
        """The same responses with their advantages, and sums for the metrics by name."""
        texts = [
            self._tokenizer.decode(one.rollout.response_ids.tolist(), skip_special_tokens=True)
            for one in batch
        ]
        total, by_name = self._rewards(texts, [one.prompt.answer for one in batch])
        places: dict[int, int] = {}
        groups = [places.setdefault(id(one.prompt), len(places)) for one in batch]
        found = advantages(
            torch.from_numpy(total), torch.tensor(groups), normalise=self._normalise
        ).tolist()
        judged = [replace(one, advantage=a) for one, a in zip(batch, found, strict=True)]
        sums = {"reward/mean": float(total.sum())}
        sums |= {f"reward/{name}": float(values.sum()) for name, values in by_name.items()}
        sums["grpo/no_advantage_share"] = float((np.array(found) == 0).sum())
        return judged, sums
