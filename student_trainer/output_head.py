"""The student's output projection as numbers: what every head that goes through rows in chunks is given.

R rows, D hidden size, V vocabulary, V' >= V rows of the weight (checkpoints pad it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CAST_IDS = 8192
"""Rows of a weight of another dtype that are widened at a time; 64 MiB at D = 2,048."""


@dataclass(frozen=True, eq=False)
class OutputHead:
    """The output projection as numbers. Arithmetic is float32, or float64 where the states are, under autocast too."""

    weight: Tensor
    """[V', D], of any float dtype; often the input embedding as well."""
    bias: Tensor | None
    """[V']"""
    softcap: float | None
    """Logits z become softcap * tanh(z / softcap)."""
    vocab_size: int
    """V; ids at or above it are left out of every sum."""
    into_grad: bool = False
    """Backward passes add the weight's gradient to `weight.grad` themselves and hand none on: [V', D] less memory each.
    For a float32 leaf and `backward()` alone: hooks on the weight and `torch.autograd.grad` would miss it."""

    def __post_init__(self) -> None:
        assert 0 < self.vocab_size <= len(self.weight), "more ids than the weight has rows"
        assert not self.into_grad or self.weight.is_leaf, "only a leaf keeps its gradient"

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, D] -> [R, V] in plain autograd: what the chunks are held to."""
        with torch.autocast(hidden.device.type, enabled=False):
            states = wide(hidden)
            weight = self.weight[: self.vocab_size].to(states.dtype)
            bias = None if self.bias is None else self.bias[: self.vocab_size].to(states.dtype)
            logits = torch.nn.functional.linear(states, weight, bias)
            cap = self.softcap
            return logits if cap is None else cap * torch.tanh(logits / cap)

    def logits_into(self, buffer: Tensor, states: Tensor) -> None:
        """Write the logits of wide states [R, D] over a buffer [R, V]; outside autograd."""
        for ids, weight in self._blocks(states.dtype):
            torch.mm(states, weight.T, out=buffer[:, ids])
        if self.bias is not None:
            buffer.add_(self.bias[: self.vocab_size])
        if self.softcap is not None:
            buffer.div_(self.softcap).tanh_().mul_(self.softcap)

    def states_gradient(self, logits_gradient: Tensor) -> Tensor:
        """[R, V] of the logits before the cap -> [R, D]; outside autograd."""
        rows, width = len(logits_gradient), self.weight.shape[1]
        gradient = logits_gradient.new_zeros(rows, width)
        for ids, weight in self._blocks(gradient.dtype):
            gradient.addmm_(logits_gradient[:, ids], weight)
        return gradient

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The first V rows in `dtype`: whole where they are of it, else without a widened copy of all."""
        step = self.vocab_size if self.weight.dtype == dtype else CAST_IDS
        for first in range(0, self.vocab_size, step):
            ids = slice(first, min(first + step, self.vocab_size))
            yield ids, self.weight[ids].to(dtype)


def wide(tensor: Tensor) -> Tensor:
    """Float64 as it is, anything else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
