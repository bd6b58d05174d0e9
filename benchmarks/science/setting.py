"""One way to train the toy's student: an objective with its numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Number = float | str
GROUP = 8
"""Answers to a question where rewards are compared; a step has as many answers with and without."""
RATES = (1.25e-4, 2.5e-4, 5e-4, 1e-3)
TWO_RATES = (2.5e-4, 5e-4)
REWARD_RATES = (1.5e-5, 3e-5, 6e-5, 1.25e-4)
"""Of rewards alone: their gradient is noise for the most part, and at higher rates it undoes the student."""


@dataclass(frozen=True)
class Setting:
    """`name` is the objective's in the table, `objective` the one of student_trainer/loss.py."""

    name: str
    objective: str
    learning_rate: float
    gamma: Number = 0.0
    lambda_: Number = 0.0
    alpha: float | None = None
    """Of GRPO (Eq. 22); None: no rewards."""

    @property
    def key(self) -> str:
        """For file names."""
        return f"{self.name}_lr{self.learning_rate:g}_gamma{self.gamma}_lambda{self.lambda_}"

    @property
    def rewarded(self) -> bool:
        """Whether answers are judged."""
        return self.objective == "grpo" or self.alpha is not None

    def overrides(self, batch: int) -> dict[str, Any]:
        """Tables of the trainer's configuration; a step has `batch` answers."""
        group = GROUP if self.rewarded else 1
        tables: dict[str, Any] = {
            "objective": {
                "name": self.objective,
                "gamma": self.gamma,
                "lambda": self.lambda_,
            },
            "batch": {
                "prompts": batch // group,
                "responses_per_prompt": group,
                "microbatch": batch,
            },
        }
        if self.alpha is not None:
            tables["grpo"] = {"alpha": self.alpha}
        return tables


def candidates() -> dict[str, list[Setting]]:
    """By name in the table, what each may choose from on the validation questions: four settings each.

    "auto" has nothing but its rate to choose.
    """

    def rates(
        name: str, objective: str, tried: Sequence[float] = RATES, **fixed: Any
    ) -> list[Setting]:
        return [Setting(name, objective, rate, **fixed) for rate in tried]

    def grid(
        name: str, objective: str, pairs: Sequence[tuple[float, float]], **fixed: Any
    ) -> list[Setting]:
        return [
            Setting(name, objective, rate, gamma, lambda_, **fixed)
            for rate, (gamma, lambda_) in itertools.product(TWO_RATES, pairs)
        ]

    steered = ((1.0, 1.0), (2.0, 3.0))
    return {
        "standard": rates("standard", "standard"),
        "standard-lp": grid("standard-lp", "standard-lp", ((0.0, 1.0), (0.0, 3.0))),
        "vgs": grid("vgs", "vgs", ((0.5, 0.0), (2.0, 0.0))),
        "vgs-lp-paper": rates("vgs-lp-paper", "vgs-lp", gamma=2.0, lambda_=0.01),
        "vgs-lp": grid("vgs-lp", "vgs-lp", steered),
        "adaptive-vgs": grid("adaptive-vgs", "adaptive-vgs", steered),
        "language-steering": grid(
            "language-steering", "language-steering", ((0.5, 0.01), (2.0, 0.01))
        ),
        "auto": rates("auto", "vgs-lp", gamma="auto", lambda_="auto"),
        "grpo": rates("grpo", "grpo", REWARD_RATES),
        "grpo-standard": rates("grpo-standard", "standard", alpha=0.3),
        "grpo-vgs-lp": grid("grpo-vgs-lp", "vgs-lp", steered, alpha=0.3),
    }
