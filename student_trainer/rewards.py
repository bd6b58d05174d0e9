"""The reward of each response: a weighted sum of functions.

B responses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from student_trainer.grpo_config import RewardConfig
from student_trainer.reward_functions import RewardFunction, load_reward


class Rewards:
    """The functions that a configuration names, loaded."""

    def __init__(self, config: Sequence[RewardConfig]) -> None:
        """ValueError where a name is no function, or is there twice."""
        self._weights = {reward.name: reward.weight for reward in config}
        if len(self._weights) != len(config):
            raise ValueError(f"rewards {[r.name for r in config]}: give each name once")
        self._functions = {name: load_reward(name) for name in self._weights}

    def __call__(
        self, responses: Sequence[str], expected: Sequence[str]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Weighted sums f64 [B], and each function's own values f64 [B], not weighted.

        ValueError where a function fails or its value is not a finite number: neither counts as 0.
        """
        values = {
            name: np.array(
                [
                    _value(name, function, i, *pair)
                    for i, pair in enumerate(zip(responses, expected, strict=True))
                ],
                dtype=np.float64,
            )
            for name, function in self._functions.items()
        }
        total = np.zeros(len(responses))
        for name, weight in self._weights.items():
            total += weight * values[name]
        return total, values


def _value(name: str, function: RewardFunction, index: int, response: str, expected: str) -> float:
    try:
        value = float(function(response, expected))
    except Exception as error:
        raise ValueError(
            f"reward {name!r} failed on response {index}, {response[:80]!r}: {type(error).__name__}: {error}"
        ) from error
    if not math.isfinite(value):
        raise ValueError(
            f"reward {name!r} is {value} for response {index}, {response[:80]!r}; return a finite number"
        )
    return value
