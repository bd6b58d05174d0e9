"""gamma, lambda and eta of each step: fixed, measured, or chosen by rules (docs/method.md, "Strength that chooses
itself").
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from student_trainer.geometry import Geometry, gamma_at_angle, gamma_at_share, steered_norm
from student_trainer.loss import OBJECTIVES, steering_scale
from student_trainer.objective_config import ObjectiveConfig

PRESERVED_SHARE = 0.1
"""lambda "auto" begins where preservation's gradient has this share of the standard one's length."""
SMOOTHING = 0.9
"""How much of a smoothed loss each step keeps."""
RISE, FALL = 0.1, 0.01
"""Largest relative changes of lambda in a step, as logarithms: holding too little is paid for at once, holding too much
hardly."""
MEASUREMENTS = 5
"""Measurements whose median is taken: one batch's ratio of norms may be far off."""
LEAST_SHARE = 0.1
"""Of where lambda "auto" began; below it no late rise could be answered in time."""
SLACK = 0.05
"""Rise of the language loss that lambda "auto" puts up with, as a share of the lowest one so far."""
ALLOWANCE = 0.25
"""What it puts up with besides, as a share of the lowest standard loss of the same tokens."""
FLOOR = 0.02
"""Nats of language loss below which relative changes say little."""


@dataclass
class SmoothedLoss:
    """A loss smoothed over steps, and the lowest that it has been."""

    smoothed: float | None = None
    """None before the first step."""
    lowest: float = 0.0

    def add(self, loss: float) -> float:
        """Take in a step's; returns the smoothed one."""
        if self.smoothed is None:
            self.smoothed = self.lowest = loss
        self.smoothed = SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        self.lowest = min(self.lowest, self.smoothed)
        return self.smoothed


@dataclass(frozen=True)
class Weights:
    """Of the objective's parts in a step."""

    gamma: float
    lambda_: float
    eta: float

    def of_parts(self) -> dict[str, float]:
        """By the name of the part."""
        weights = {"standard": 1.0, "steering": self.gamma, "preservation": self.lambda_}
        return {name: self.eta * weight for name, weight in weights.items()}


class SteeringControl:
    """Says before each step whether gradients are to be measured, and after it what the weights are."""

    def __init__(self, config: ObjectiveConfig) -> None:
        objective = OBJECTIVES.get(config.name)
        self._config = config
        self._steers = objective is not None and objective.steering is not None
        self._preserves = objective is not None and objective.preservation is not None
        self._auto_gamma = self._steers and config.gamma == "auto"
        self._auto_lambda = self._preserves and config.lambda_ == "auto"
        self._gamma = 0.0 if isinstance(config.gamma, str) or not self._steers else config.gamma
        self._lambda = (
            0.0 if isinstance(config.lambda_, str) or not self._preserves else config.lambda_
        )
        self._gammas: list[float] = []
        self._limits: list[float] = []
        self._etas: list[float] = []
        self._least = 0.0
        self._language, self._standard = SmoothedLoss(), SmoothedLoss()
        if not self._steers:
            self._etas = [1.0]
        elif not isinstance(config.eta, str):
            self._etas = [float(config.eta)]

    def measures(self, step: int) -> bool:
        """Whether the gradients of the parts are needed one by one in step `step` (from 0)."""
        config = self._config
        if self._auto_lambda and (self._lambda == 0 or step % config.measure_every == 0):
            return True
        if self._steers and config.eta == "dynamic":
            return True
        if self._auto_gamma:
            return not self._etas or step % config.measure_every == 0
        return self._steers and config.eta == "auto" and len(self._etas) < config.eta_steps

    def measured(self, geometry: Geometry) -> None:
        """Take in what a step that measures found."""
        config = self._config
        if self._auto_gamma:
            if config.gamma_angle is not None:
                gamma = gamma_at_angle(geometry, config.gamma_angle, config.gamma_max)
            else:
                gamma = gamma_at_share(geometry, config.gamma_share, config.gamma_max)
            self._gammas = [*self._gammas, gamma][-MEASUREMENTS:]
            self._gamma = statistics.median(self._gammas)
        if self._auto_lambda and geometry.norm("preservation") > 0:
            self._limit(geometry)
        if self._steers and isinstance(config.eta, str):
            if config.eta == "dynamic" or self._auto_gamma:
                self._etas.clear()  # of another gamma, or of the step before
            if len(self._etas) < config.eta_steps:
                steered = steered_norm(geometry, self._gamma)
                self._etas.append(steering_scale(geometry.norm("standard"), steered))

    def _limit(self, geometry: Geometry) -> None:
        """Begin lambda "auto", and keep preservation's gradient from outweighing the other two together."""
        standard, own = geometry.norm("standard"), geometry.norm("preservation")
        steering = self._gamma * geometry.norm("steering") if self._steers else 0.0
        self._limits = [*self._limits, (standard + steering) / own][-MEASUREMENTS:]
        if self._lambda == 0:
            self._lambda = PRESERVED_SHARE * standard / own
            self._least = LEAST_SHARE * min(self._lambda, self._config.lambda_max)
        self._lambda = min(self._lambda, self._most)

    @property
    def _most(self) -> float:
        """Largest lambda that "auto" may choose now."""
        return min(statistics.median(self._limits), self._config.lambda_max)

    def observed(self, language: float, standard: float) -> None:
        """Take in the mean losses of the tokens on which language is preserved, nats, after each step.

        lambda "auto": the smoothed language loss l is held to the lowest one so far, l_min, plus what may be put up
        with: 5 % of that, and a quarter of the lowest standard loss, which is what there is to gain. lambda grows by at
        most e^0.1 a step while l is above, and shrinks by at most e^0.01 while it is below, to a tenth of where it
        began at the least.
        """
        if not self._limits or not math.isfinite(language + standard):
            return
        self._standard.add(standard)
        rise = self._language.add(language) - self._language.lowest
        allowed = SLACK * (self._language.lowest + FLOOR) + ALLOWANCE * self._standard.lowest
        excess = min(max(rise / allowed - 1.0, -1.0), 1.0)
        factor = math.exp((RISE if excess > 0 else FALL) * excess)
        self._lambda = min(max(self._lambda * factor, self._least), self._most)

    @property
    def weights(self) -> Weights:
        """As they stand."""
        eta = sum(self._etas) / len(self._etas) if self._etas else 1.0
        return Weights(self._gamma, self._lambda, eta)

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {
            "etas": self._etas,
            "gamma": self._gamma,
            "gammas": self._gammas,
            "limits": self._limits,
            "lambda": self._lambda,
            "least": self._least,
            "language": asdict(self._language),
            "standard": asdict(self._standard),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`; raises ValueError where that is another version's."""
        if missing := self.state().keys() - state.keys():
            raise ValueError(
                f"the checkpoint has no {', '.join(sorted(missing))}: another version of this program wrote it; go on "
                "with that one"
            )
        self._etas, self._gammas = list(state["etas"]), list(state["gammas"])
        self._limits = list(state["limits"])
        self._gamma, self._lambda, self._least = state["gamma"], state["lambda"], state["least"]
        self._language, self._standard = (
            SmoothedLoss(**state["language"]),
            SmoothedLoss(**state["standard"]),
        )
