"""Settings of policy optimisation by rewards; docs/method.md has the equations."""

from __future__ import annotations

from collections import Counter

from pydantic import Field, model_validator

from student_trainer.settings import Settings


class RewardConfig(Settings):
    r"""One of the functions whose weighted sum is a response's reward."""

    name: str
    r""""answer": 1 where the last \boxed{} is right. "format": 1 where the response is <reason>...</reason> and then a
    text with one \boxed{}. "package.module:function": your own, called with response and expected answer."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """What it counts in the sum; negative for a penalty."""


class GrpoConfig(Settings):
    """Group relative policy optimisation (GRPO), alone or mixed with distillation."""

    alpha: float = Field(default=0.3, ge=0, le=1)
    """Share of distillation (Eq. 22); the rest is the rewards'. The objective "grpo" has no distillation and ignores
    it."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """A token whose probability fell below 1 - clip_low of what it was sampled with is not pushed down further."""
    clip_high: float = Field(default=0.2, gt=0)
    """Nor is one that rose above 1 + clip_high pushed up further."""
    normalise: bool = True
    """Divide a group's advantages by the deviation of its rewards (GRPO); false: only subtract the mean (Dr. GRPO)."""
    rewards: tuple[RewardConfig, ...] = (
        RewardConfig(name="answer"),
        RewardConfig(name="format", weight=0.1),
    )
    """What a response earns. The paper names no weights: by default an answer counts ten times its format."""

    @model_validator(mode="after")
    def _rewards_count_once(self) -> GrpoConfig:
        if not self.rewards:
            raise ValueError('grpo.rewards is empty; name at least one, such as "answer"')
        twice = [n for n, times in Counter(r.name for r in self.rewards).items() if times > 1]
        if twice:
            raise ValueError(
                f"grpo.rewards has {', '.join(twice)} more than once; give it one weight"
            )
        return self
