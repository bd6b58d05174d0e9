"""eta, the scale that lets gamma turn the gradient and leaves its length alone (Eq. 15)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from student_trainer.config import ObjectiveConfig
from student_trainer.loss import OBJECTIVES, steering_scale


class SteeringScale:
    """A fixed number; the mean of what the first steps measured, frozen afterwards; or what this step measures.

    Measuring takes two more backward passes per microbatch: the gradients of the standard term and of the one that
    steers are accumulated apart over the whole optimizer batch, then compared.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        steers = OBJECTIVES[config.name].steering is not None
        self._gamma = config.gamma
        self._dynamic = steers and config.eta == "dynamic"
        self._steps = config.eta_steps if steers and config.eta == "auto" else 0
        self._fixed = float(config.eta) if steers and not isinstance(config.eta, str) else 1.0
        self.measured: list[float] = []
        """By step; of "dynamic" the last alone."""
        self._parameters: Sequence[torch.nn.Parameter] = ()
        self._sums: list[list[Tensor]] = []

    @property
    def measuring(self) -> bool:
        """Whether this step still measures."""
        return self._dynamic or len(self.measured) < self._steps

    def value(self) -> float:
        """Eta as it stands."""
        return sum(self.measured) / len(self.measured) if self.measured else self._fixed

    def begin_step(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Start summing the two gradients of an optimizer step."""
        self._parameters = parameters
        self._sums = []

    def measure(self, standard_sum: Tensor, steering_sum: Tensor) -> None:
        """Add a microbatch; the graph is kept for the backward pass that follows."""
        grads = [
            torch.autograd.grad(
                term,
                list(self._parameters),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for term in (standard_sum, steering_sum)
        ]
        if not self._sums:
            self._sums = [list(g) for g in grads]
        else:
            for total, new in zip(self._sums, grads, strict=True):
                for accumulated, gradient in zip(total, new, strict=True):
                    accumulated += gradient

    def end_step(self) -> None:
        """Take the step's ratio, if it measured."""
        if not self._sums:
            return
        standard, steering = self._sums
        steered = [a + self._gamma * b for a, b in zip(standard, steering, strict=True)]
        if self._dynamic:
            self.measured.clear()
        self.measured.append(float(steering_scale(_norm(standard), _norm(steered))))
        self._sums = []


def _norm(grads: Sequence[Tensor]) -> Tensor:
    return torch.stack([g.double().square().sum() for g in grads]).sum().sqrt()
