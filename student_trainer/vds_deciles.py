"""Gradients of the terms on some of a batch's tokens, by their visual dependency score (VDS): the paper's Fig. 3.

R response tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from student_trainer.geometry import Geometry
from student_trainer.gradient_parts import GradientParts
from student_trainer.learner import GEOMETRY, Learner
from student_trainer.microbatch import Microbatch
from student_trainer.world import World

DECILES = 10
TOP = 7
"""The deciles from this one on are the top 30 %, on which language is preserved; the others the low 70 %."""
PAIRS = {"lang_vis": ("lang", "vis"), "std_vis": ("standard", "vis"), "std_lang": ("standard", "lang")}  # fmt: skip
"""Which gradients an angle is between."""


@dataclass(frozen=True)
class TokenGeometry:
    """Of the gradients on a set of tokens, which weigh equally."""

    tokens: int
    vds_low: float
    """Of its tokens, nats."""
    vds_high: float
    norms: dict[str, float]
    """By the names of `GEOMETRY`, of a gradient averaged over the tokens."""
    angles: dict[str, float]
    """By the names of `PAIRS`, degrees; NaN where a gradient is zero."""

    @classmethod
    def of(cls, vds: Tensor, geometry: Geometry) -> TokenGeometry:
        """`vds` f32 [n] of the tokens."""
        return cls(
            tokens=len(vds),
            vds_low=float(vds.min()),
            vds_high=float(vds.max()),
            norms={name: geometry.norm(name) for name in GEOMETRY},
            angles={name: geometry.angle(a, b) for name, (a, b) in PAIRS.items()},
        )

    def json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)


def decile_of(vds: Tensor) -> Tensor:
    """Decile of each token by the rank of its VDS, 0 the lowest, f32 [R] -> i64 [R].

    By rank, so that all are equally large, or differ by one token: VDS is near zero on most tokens of most answers, and
    deciles by value would be empty there. Of tokens with the same VDS the earlier one in the batch has the lower rank.
    """
    order = vds.argsort(stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(vds))
    return ranks * DECILES // len(vds)


def token_gradients(
    learner: Learner, microbatches: Sequence[Microbatch], chosen: Tensor
) -> GradientParts:
    """Gradients of the terms' means over the `chosen` tokens, bool [R]; three copies of the weights at a time.

    Microbatches without such a token are left out; the others are run whole, since a token needs those before it.
    """
    lengths = [len(microbatch.weights) for microbatch in microbatches]
    weights = (chosen.double() / chosen.sum()).split(lengths)
    some = [
        replace(microbatch, weights=own.to(microbatch.weights.device))
        for microbatch, own in zip(microbatches, weights, strict=True)
        if own.any()
    ]
    return learner.parts(some, GEOMETRY, None)


def token_geometry(
    learner: Learner, microbatches: Sequence[Microbatch], vds: Tensor, chosen: Tensor, world: World
) -> TokenGeometry:
    """Norms and angles on the `chosen` tokens, bool [R], of one process."""
    gradients = token_gradients(learner, microbatches, chosen)
    return TokenGeometry.of(vds[chosen], gradients.geometry(world))
