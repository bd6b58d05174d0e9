"""One optimizer step: weights from global counts, gradients of the objective's parts, update.

B responses of this rank, R rows (response tokens) of a microbatch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from student_trainer.config import TrainConfig
from student_trainer.errors import Diverged
from student_trainer.geometry import Geometry, steered_norm
from student_trainer.gradient_parts import GradientParts, gradient_of
from student_trainer.loss import (
    OBJECTIVES,
    Part,
    response_weights,
    steering_scale,
    token_weights,
)
from student_trainer.microbatch import Microbatch
from student_trainer.prior import Prior
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.sharding import whole
from student_trainer.steering_control import SteeringControl
from student_trainer.student import Student
from student_trainer.student_terms import POLICY, Clip, StudentTerms, Watched
from student_trainer.vds_thresholds import VdsThresholds
from student_trainer.world import World

GEOMETRY = {"standard": Part("standard"), "lang": Part("language"), "vis": Part("visual")}
"""Terms whose gradients the paper compares (its Fig. 3 and 7)."""


class Learner:
    """Owns the optimizer. Neither microbatches nor ranks change the gradient."""

    def __init__(
        self, student: Student, config: TrainConfig, vocab_size: int, world: World, prior: Prior
    ) -> None:
        """`vocab_size`: ids that student and teacher share; the student is normalised over these, as it samples."""
        self._student = student
        self._vocab_size = vocab_size
        self._config = config
        self._world = world
        self.prior = prior
        objective = config.objective
        row = OBJECTIVES.get(objective.name)
        self._parts = {} if row is None else row.parts
        grpo = config.rewards
        self._clip = None if grpo is None else Clip(grpo.clip_low, grpo.clip_high)
        self._alpha = 0.0 if row is None else 1.0 if grpo is None else grpo.alpha
        self._terms = StudentTerms(
            student, prior, objective.detach_target, vocab_size, config.batch.chunk_rows
        )
        self._parameters = student.parameters
        self.control = SteeringControl(objective)
        self.thresholds = VdsThresholds(objective)
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
        )
        warmup = max(1, config.optimizer.warmup_steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / warmup)
        )

    def step(self, batch: Sequence[ScoredRollout], step: int) -> dict[str, float]:
        """Update the student once on this rank's share of the optimizer batch, the run's `step` (from 0).

        Returns metrics of the whole batch; the same on all ranks. Raises Diverged, and the parameters are untouched.
        """
        metrics = self.accumulate(batch, step)
        metrics["grad/norm"] = self._clip_gradient()
        metrics["optimizer/lr"] = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.prior.update(self._student)
        return metrics

    def _clip_gradient(self) -> float:
        """Scale the gradient down to the largest norm that is allowed; returns the norm that it had."""
        limit = self._config.optimizer.max_grad_norm or float("inf")
        norm = torch.nn.utils.get_total_norm([gradient_of(p) for p in self._parameters])
        found = float(whole(norm))
        if not math.isfinite(found):
            raise Diverged(
                f"the gradient's norm is {found}; look for a fault in the data, or start a new run with a lower "
                "optimizer.lr (--model may be this run's last checkpoint)"
            )
        torch.nn.utils.clip_grads_with_norm_(self._parameters, limit, norm)
        return found

    def accumulate(self, batch: Sequence[ScoredRollout], step: int) -> dict[str, float]:
        """Leave the objective's gradient in the parameters; returns its metrics."""
        self.optimizer.zero_grad(set_to_none=True)
        vds = self._world.gather(_vds(batch))
        thresholds = self.thresholds.update(vds)
        microbatches = self._microbatches(batch, thresholds)
        measures = self.control.measures(step)
        metrics: dict[str, float] = {}
        angles: Geometry | None = None
        every = self._config.geometry_every
        if every and step % every == 0 and self._parts:
            angles = self.geometry(microbatches)
        if measures:
            apart = self.parts(microbatches, self._parts, self._clip, metrics)
            self.control.measured(apart.geometry(self._world))
            apart.combine(self._weights())
        else:
            self._backward(microbatches, metrics)
            self._world.add_gradients([gradient_of(p) for p in self._parameters])
        return self._summary(metrics, vds, thresholds, angles)

    def parts(
        self,
        microbatches: Sequence[Microbatch],
        parts: dict[str, Part],
        clip: Clip | None,
        metrics: dict[str, float] | None = None,
    ) -> GradientParts:
        """Gradients of some parts, and with `clip` of the policy's, one by one over the whole batch."""
        apart = GradientParts(self._parameters)
        for microbatch in microbatches:
            watched = Watched()
            for sums in self._terms.passes(microbatch, parts, clip, watched):
                left = len(sums)
                for name, value in sums.items():
                    left -= 1
                    if value.requires_grad:  # no token may be preserved in a microbatch
                        value.backward(retain_graph=left > 0)
                    apart.take(name)
                    watched.sums[name] = float(value.detach())
            if metrics is not None:
                _add(metrics, watched.totals(microbatch.weights))
        apart.add_ranks(self._world)
        return apart

    def geometry(self, microbatches: Sequence[Microbatch]) -> Geometry:
        """How the terms' gradients stand to each other."""
        return self.parts(microbatches, GEOMETRY, None).geometry(self._world)

    def _backward(self, microbatches: Sequence[Microbatch], metrics: dict[str, float]) -> None:
        """The weighted gradient at once: one backward pass for each context."""
        weights = self._weights()
        for microbatch in microbatches:
            watched = Watched()
            for sums in self._terms.passes(microbatch, self._parts, self._clip, watched):
                total = torch.stack([weights[name] * value for name, value in sums.items()]).sum()
                if total.requires_grad:  # no token may be preserved in a microbatch
                    total.backward()
                watched.sums |= {name: float(value.detach()) for name, value in sums.items()}
            _add(metrics, watched.totals(microbatch.weights))

    def _weights(self) -> dict[str, float]:
        """Of the parts in the loss (Eq. 17, 22)."""
        own = {n: self._alpha * w for n, w in self.control.weights.of_parts().items()}
        return own | {POLICY: 1 - self._alpha}

    def _microbatches(
        self, batch: Sequence[ScoredRollout], thresholds: tuple[Tensor, Tensor]
    ) -> list[Microbatch]:
        """Where weights are sharded all ranks make as many: one that has fewer repeats its first with no weight."""
        size, averaging = self._config.batch.microbatch, self._config.objective.averaging
        lengths = torch.tensor([one.length for one in batch])
        responses, tokens = self._world.sums([len(batch), int(lengths.sum())])
        made = [
            Microbatch.of(
                batch[first : first + size],
                token_weights(lengths[first : first + size], int(tokens))
                if averaging == "token"
                else response_weights(lengths[first : first + size], int(responses)),
                thresholds,
                self._vocab_size,
                self._student.device,
            )
            for first in range(0, len(batch), size)
        ]
        missing = self._world.most(len(made)) - len(made) if self._world.sharded else 0
        return made + [made[0].weightless()] * missing

    def _summary(
        self,
        metrics: dict[str, float],
        vds: Tensor,
        thresholds: tuple[Tensor, Tensor],
        angles: Geometry | None,
    ) -> dict[str, float]:
        """Sums over the ranks, and what is made of them."""
        names = sorted(metrics)
        metrics = dict(zip(names, self._world.sums([metrics[n] for n in names]), strict=True))
        share, weights = metrics.pop("weight/preserved"), self._weights()
        found = {n: metrics.pop(f"part/{n}") for n in weights if f"part/{n}" in metrics}
        metrics["loss/total"] = sum(weights[name] * value for name, value in found.items())
        for name, part in self._parts.items():
            if name == "steering" and part.term == "visual":
                metrics["loss/vis"] = found[name]
            elif name == "preservation":
                metrics["loss/lp" if part.term == "language" else "loss/vp"] = found[name]
        for name in ("lang", "standard"):
            preserved = metrics.pop(f"loss/preserved_{name}", None)
            if preserved is not None:
                metrics[f"loss/{name}_top"] = preserved / share if share else math.nan
        now = self.control.weights  # lambda may become another one for the next step
        if "loss/lang_top" in metrics:
            self.control.observed(metrics["loss/lang_top"], metrics["loss/standard_top"])
        if not self._parts:
            return metrics
        if angles is not None:
            steering = self._parts.get("steering")
            name = "lang" if steering is not None and steering.term == "language" else "vis"
            metrics |= geometry_metrics(angles, name, now.gamma)
        return metrics | {
            "eta/value": now.eta,
            "steering/gamma": now.gamma,
            "steering/lambda": now.lambda_,
            "vds/mean": float(vds.mean()),
            "vds/max": float(vds.max()),
            "vds/threshold_low": float(thresholds[0]),
            "vds/threshold": float(thresholds[1]),
        }

    def state(self) -> dict[str, Any]:
        """Numbers that a resumed run goes on from, beside weights and optimizer."""
        return {
            "steering": self.control.state(),
            "vds_thresholds": self.thresholds.state,
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.control.restore(state["steering"])
        self.thresholds.state = list(state["vds_thresholds"])
        self.schedule.load_state_dict(state["schedule"])


def geometry_metrics(geometry: Geometry, steering: str, gamma: float) -> dict[str, float]:
    """Of the gradients of `GEOMETRY`: norms, angles in degrees, and the eta of steering by `steering` with `gamma`."""
    pairs = (("lang", "vis"), ("standard", "vis"), ("standard", "lang"))
    eta = steering_scale(geometry.norm("standard"), steered_norm(geometry, gamma, steering))
    found = {f"geometry/norm_{n}": geometry.norm(n) for n in GEOMETRY}
    angles = {f"geometry/{a}_{b}_degrees": geometry.angle(a, b) for a, b in pairs}
    return found | angles | {"geometry/eta": eta}


def _vds(batch: Sequence[ScoredRollout]) -> Tensor:
    """The teacher's VDS of all response tokens, f32 [R], nats."""
    return torch.from_numpy(np.concatenate([one.vds for one in batch]))


def _add(metrics: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        metrics[name] = metrics.get(name, 0.0) + value
