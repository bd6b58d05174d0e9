r"""The student's log-probabilities on a support, with one buffer [C, V] for all rows in either direction.

R rows, C rows of a chunk, D hidden size, V vocabulary, U support ids, K = U + 1 buckets (the tail is the last).

With logits z of a row, p = softmax(z), S its support, P the mass outside it, and g the incoming gradients, G their sum:

    inside      log p_i         d/dz_j = g_j - G p_j                            for j in S
    the tail    log P           d/dz_j = exp(z_j - lse_out) (g_tail - G P)      for j outside S

lse_out is the logsumexp over the logits outside. log(1 - sum p) would lose its digits, and 1 / P its gradient, where
the tail is small. A row without a tail follows the same rule with g_tail = 0. The backward pass computes a chunk's
logits again and turns them in place into their gradient; rows that nothing pulls on it leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from student_trainer.output_head import OutputHead, wide
from student_trainer.support import Support

CAP_BLOCKS = 16
"""A capped logit needs its slope beside it: for a sixteenth of the vocabulary at a time."""


def support_logprobs(hidden: Tensor, head: OutputHead, support: Support, chunk_rows: int) -> Tensor:
    """Log-probabilities of the support's ids and of the tail, [R, D] -> f32 (f64 for f64) [R, K]; masked ones are 0.

    Differentiable once. `head.into_grad` saves the [V', D] that each call's gradient of the weight takes.
    """
    buckets = _Buckets(support.ids, support.id_mask, support.tail_mask)
    return _apply(hidden, head, buckets, chunk_rows)


def sampled_logprobs(hidden: Tensor, head: OutputHead, ids: Tensor, chunk_rows: int) -> Tensor:
    """Log-probability of one id per row, [R, D] and i64 [R] -> f32 (f64 for f64) [R]. Differentiable once."""
    present = torch.ones_like(ids, dtype=torch.bool)
    buckets = _Buckets(ids[:, None], present[:, None], ~present)
    return _apply(hidden, head, buckets, chunk_rows)[:, 0]


@dataclass(frozen=True, eq=False)
class _Buckets:
    """A support without its teacher."""

    ids: Tensor
    """i64 [R, U]"""
    id_mask: Tensor
    """bool [R, U]"""
    tail_mask: Tensor
    """bool [R]"""

    def of(self, rows: slice | Tensor) -> _Buckets:
        return _Buckets(self.ids[rows], self.id_mask[rows], self.tail_mask[rows])

    @property
    def mask(self) -> Tensor:
        """Bool [R, K]"""
        return torch.cat([self.id_mask, self.tail_mask[:, None]], dim=1)


def _apply(hidden: Tensor, head: OutputHead, buckets: _Buckets, chunk_rows: int) -> Tensor:
    logprobs = _SupportLogprobs.apply(hidden, head.weight, head.bias, head, buckets, chunk_rows)
    assert isinstance(logprobs, Tensor)
    return logprobs


class _SupportLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: OutputHead,
        buckets: _Buckets,
        chunk_rows: int,
    ) -> Tensor:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        rows, width = buckets.mask.shape
        logprobs = hidden.new_empty(rows, width, dtype=dtype)
        outside = hidden.new_empty(3, rows, dtype=dtype)
        buffer = hidden.new_empty(min(chunk_rows, rows), head.vocab_size, dtype=dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for first in range(0, rows, chunk_rows):
                chunk = slice(first, min(first + chunk_rows, rows))
                logits = buffer[: chunk.stop - first]
                head.logits_into(logits, wide(hidden[chunk]))
                logprobs[chunk], outside[:, chunk] = _logprobs(logits, buckets.of(chunk))
        ctx.save_for_backward(hidden, weight, bias, logprobs, outside)
        ctx.head, ctx.buckets, ctx.chunk_rows = head, buckets, chunk_rows
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, logprobs, outside = ctx.saved_tensors
        head: OutputHead = replace(ctx.head, weight=weight, bias=bias)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        sums = logprobs.dtype
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        grad_weight = _sum_of_weight(head, sums) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=sums) if wants_bias else None
        gradient = gradient.where(ctx.buckets.mask, 0.0)
        pulled = (gradient != 0).any(1).nonzero()[:, 0]
        buffer = logprobs.new_empty(min(ctx.chunk_rows, len(pulled)), head.vocab_size)
        with torch.autocast(hidden.device.type, enabled=False):
            for first in range(0, len(pulled), ctx.chunk_rows):
                rows = pulled[first : first + ctx.chunk_rows]
                states, logits = wide(hidden[rows]), buffer[: len(rows)]
                head.logits_into(logits, states)
                known = (gradient[rows], logprobs[rows], outside[:, rows])
                _into_gradient(logits, ctx.buckets.of(rows), head.softcap, *known)
                if grad_hidden is not None:
                    grad_hidden[rows] = head.states_gradient(logits).to(grad_hidden.dtype)
                if grad_weight is not None:
                    grad_weight[: head.vocab_size].addmm_(logits.T, states)
                if grad_bias is not None:
                    grad_bias[: head.vocab_size].add_(logits.sum(0))
        if grad_weight is not None:
            grad_weight = None if grad_weight is weight.grad else grad_weight.to(weight.dtype)
        grad_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _sum_of_weight(head: OutputHead, dtype: torch.dtype) -> Tensor:
    """Where the gradient of the weight is added up, [V', D]."""
    weight = head.weight
    if not head.into_grad or weight.dtype != dtype:
        return torch.zeros_like(weight, dtype=dtype)
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def _logprobs(logits: Tensor, buckets: _Buckets) -> tuple[Tensor, Tensor]:
    """Log-probabilities [C, K] of the buckets; largest logit, scaled sum and mass outside, [3, C]. Uses up the logits.

    Everything is relative to the largest logit: a logsumexp near 10,000 would be off by 0.001 in float32.
    """
    inside = logits.gather(1, buckets.ids).masked_fill_(~buckets.id_mask, float("-inf"))
    _leave_out(logits, buckets)
    # Where nothing is outside, -inf - -inf would be NaN.
    largest = logits.amax(1).clamp_min_(torch.finfo(logits.dtype).min)
    scaled_sum = logits.sub_(largest[:, None]).exp_().sum(1)
    zero = torch.maximum(inside.amax(1), largest)
    tail = largest - zero + scaled_sum.log()
    logprobs = torch.cat([inside - zero[:, None], tail[:, None]], dim=1).log_softmax(1)
    # At least the largest adds 1, so this changes only a sum of nothing.
    outside = torch.stack([largest, scaled_sum.clamp_min(1), logprobs[:, -1].exp()])
    return logprobs.where(buckets.mask, 0.0), outside


def _into_gradient(
    logits: Tensor,
    buckets: _Buckets,
    softcap: float | None,
    gradient: Tensor,
    logprobs: Tensor,
    outside: Tensor,
) -> None:
    """Turn capped logits [C, V] into the gradient of those before the cap, given that of the buckets [C, K]."""
    largest, scaled_sum, mass = outside[:, :, None]
    total = gradient.sum(1, keepdim=True)
    inside = gradient[:, :-1] - total * logprobs[:, :-1].exp()
    if softcap is not None:
        inside = inside * _cap_slope(logits.gather(1, buckets.ids), softcap)
    _leave_out(logits, buckets)
    scale = (gradient[:, -1:] - total * mass) / scaled_sum
    for block in (logits,) if softcap is None else logits.chunk(CAP_BLOCKS, dim=1):
        slope = None if softcap is None else _cap_slope(block, softcap)
        block.sub_(largest).exp_().mul_(scale)
        if slope is not None:
            block.mul_(slope)
    logits.scatter_add_(1, buckets.ids, inside.where(buckets.id_mask, 0.0))


def _leave_out(logits: Tensor, buckets: _Buckets) -> None:
    """Put -inf where a row has its ids. Padding, which is id 0, takes the smaller of a logit and infinity."""
    bound = torch.full_like(buckets.ids, float("inf"), dtype=logits.dtype)
    bound.masked_fill_(buckets.id_mask, float("-inf"))
    logits.scatter_reduce_(1, buckets.ids, bound, "amin")


def _cap_slope(capped: Tensor, softcap: float) -> Tensor:
    """d/dz of softcap * tanh(z / softcap); 0 for an id that was left out."""
    return (capped / softcap).clamp_(-1, 1).square_().neg_().add_(1)
