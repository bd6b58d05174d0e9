"""Gradients of an objective's parts, kept apart over the microbatches of a step.

The update is their weighted sum, so that the weights can be chosen after the gradients are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from student_trainer.geometry import Geometry
from student_trainer.world import World


class GradientParts:
    """A gradient over all parameters for each name; holds as many copies of the trained weights as there are names."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._parts: dict[str, list[Tensor]] = {}

    def take(self, name: str) -> None:
        """Move what a backward pass left in the parameters' `.grad` into part `name`."""
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = [torch.zeros_like(p) for p in self._parameters]
        for total, parameter in zip(part, self._parameters, strict=True):
            if parameter.grad is not None:
                total += parameter.grad
                parameter.grad = None

    def add_ranks(self, world: World) -> None:
        """Sum each part over the ranks; once, after the last microbatch."""
        for name in sorted(self._parts):
            world.add_gradients(self._parts[name])

    def geometry(self, world: World) -> Geometry:
        """Norms and angles of the parts."""
        names = sorted(self._parts)
        return Geometry(
            {
                (a, b): world.dot(self._parts[a], self._parts[b])
                for i, a in enumerate(names)
                for b in names[i:]
            }
        )

    def combine(self, weights: Mapping[str, float]) -> None:
        """Leave the weighted sum of the parts in the parameters' `.grad`."""
        for i, parameter in enumerate(self._parameters):
            total = torch.zeros_like(parameter)
            for name, weight in weights.items():
                if name in self._parts:
                    total += weight * self._parts[name][i]
            parameter.grad = total


def gradient_of(parameter: torch.nn.Parameter) -> Tensor:
    """Its `.grad`; where no backward pass came by, as in a batch without pictures, zeros from now on.

    Another rank may have one, and the optimizer is to treat all steps alike.
    """
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
