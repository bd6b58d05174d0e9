"""What a run's steps waited for, and which of its stages bounds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

STAGES = {
    "sampler": "time/sampler_wait_s",
    "teacher": "time/teacher_wait_s",
    "learner": "time/update_s",
}
"""Metric of the time that the loop spends on each stage, or stands still for it."""
NOTICEABLE = 0.05
"""Share of the time that a stage which works beside the others may be waited for without holding them up."""


class StepTime:
    """Sums over steps, from their metrics."""

    def __init__(self, lines: Iterable[Mapping[str, float]] = ()) -> None:
        self.steps = 0
        names = ("time/step_s", "rollout/lag", *STAGES.values())
        self._sums = dict.fromkeys(names, 0.0)
        for line in lines:
            self.add(line)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Count a step in; lines that are about no step count for nothing."""
        if "time/step_s" in metrics:
            self.steps += 1
            for name in self._sums:
                self._sums[name] += metrics.get(name, 0.0)

    @property
    def mean_s(self) -> float:
        """Seconds of a step; 0 without any."""
        return self._sums["time/step_s"] / max(1, self.steps)

    @property
    def shares(self) -> dict[str, float]:
        """Of the step time, by stage."""
        whole = self._sums["time/step_s"] or 1.0
        return {stage: self._sums[name] / whole for stage, name in STAGES.items()}

    @property
    def bound_by(self) -> str:
        """The stage to make faster.

        Where stages follow each other it is the longest. Where sampling runs beside training (`max_lag` 1) the loop
        stands still only for what is slower than the learner: the stage that is waited for longest, or the learner
        where that wait is no more than 5 % of the time.
        """
        shares = self.shares
        if self._sums["rollout/lag"] > 0:
            longest = max(("sampler", "teacher"), key=shares.__getitem__)
            return longest if shares[longest] > NOTICEABLE else "learner"
        return max(shares, key=shares.__getitem__)

    def __str__(self) -> str:
        shares = self.shares
        return (
            f"bound_by={self.bound_by} sampler_wait={shares['sampler']:.0%} teacher_wait={shares['teacher']:.0%} "
            f"update={shares['learner']:.0%} step_s={self.mean_s:.3g} steps={self.steps}"
        )
