"""The student's log-probabilities on a support, without ever holding [R, V].

R rows, D hidden size, V vocabulary, U support ids, K = U + 1 buckets (the tail is the last). Rows go through the output
projection in chunks, and each chunk is computed again in the backward pass: neither direction keeps more than
[chunk_rows, V].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from student_trainer.support import Support

Projection = Callable[[Tensor], Tensor]
"""Hidden states [R, D] -> logits [R, V] of any float dtype."""


def support_logprobs(
    hidden: Tensor, projection: Projection, support: Support, chunk_rows: int
) -> Tensor:
    """Log-probabilities [R, K] of the support's ids and of the tail; masked entries are 0.

    The tail is a logsumexp over the logits outside the support: log(1 - sum p) would lose its digits, and its
    gradient, where they matter.
    """
    chunks: list[Tensor] = []
    for first in range(0, len(hidden), chunk_rows):
        rows = slice(first, first + chunk_rows)
        arguments = (
            hidden[rows],
            support.ids[rows],
            support.id_mask[rows],
            support.tail_mask[rows],
        )
        if torch.is_grad_enabled():
            chunk = checkpoint(_chunk, projection, *arguments, use_reentrant=False)
        else:
            chunk = _chunk(projection, *arguments)
        chunks.append(chunk)
    return torch.cat(chunks)


def _chunk(
    projection: Projection, hidden: Tensor, ids: Tensor, id_mask: Tensor, tail_mask: Tensor
) -> Tensor:
    logits = projection(hidden)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_z = logits.logsumexp(-1, keepdim=True)
    inside = (logits.gather(1, ids) - log_z).where(id_mask, 0.0)
    row, column = id_mask.nonzero(as_tuple=True)
    members = torch.zeros_like(logits, dtype=torch.bool)
    members[row, ids[row, column]] = True
    # A covered row keeps its logits here: the logsumexp of nothing would have a NaN gradient.
    outside = logits.masked_fill(members & tail_mask[:, None], float("-inf"))
    tail = (outside.logsumexp(-1, keepdim=True) - log_z).where(tail_mask[:, None], 0.0)
    return torch.cat([inside, tail], dim=1)
