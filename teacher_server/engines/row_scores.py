"""Full-vocabulary statistics of response rows: union support, tails and exact VDS.

R rows, D hidden size, V vocabulary. Row t scores token t of a response. Everything is float32 and stands for at
most `chunk_rows` rows at a time, so that [T, V] never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from protos.item import Candidates, ScoreItem
from protos.scores import Scores

Head = Callable[[Tensor], Tensor]
"""Hidden states [R, D] -> float32 logits [R, V]."""


class NotFinite(ArithmeticError):
    """The teacher's logits hold NaN or infinity."""


def score_rows(
    mm_hidden: Tensor, text_hidden: Tensor | None, head: Head, item: ScoreItem, chunk_rows: int
) -> Scores:
    """Score a response of T tokens.

    Args:
        mm_hidden: [T, D], the state before each response token, with the images.
        text_hidden: the same without them; None where the prompt has no image: text equals mm.
        head: the output projection, in float32.
        item: response, candidates and k.
        chunk_rows: rows whose [R, V] exist at a time.

    Raises:
        NotFinite: some logits are NaN or infinite.

    """
    device = mm_hidden.device
    response = torch.tensor(item.response_ids, dtype=torch.long, device=device)
    chunks: list[Scores] = []
    for first in range(0, len(response), chunk_rows):
        rows = slice(first, min(first + chunk_rows, len(response)))
        mm_logprobs = head(mm_hidden[rows]).log_softmax(-1)
        text_logprobs = mm_logprobs
        if text_hidden is not None:
            text_logprobs = head(text_hidden[rows]).log_softmax(-1)
        if not bool(mm_logprobs.isfinite().all() & text_logprobs.isfinite().all()):
            raise NotFinite(f"logits of rows {rows.start} to {rows.stop - 1} are not finite")
        members = _support(mm_logprobs, text_logprobs, response[rows], item, rows)
        chunks.append(_pack(mm_logprobs, text_logprobs, response[rows], members))
    return Scores.join(chunks)


def join_items(items: Sequence[ScoreItem]) -> ScoreItem:
    """One item with the rows of all; k and vocab_size must be the same."""
    candidates = None
    if any(item.candidates is not None for item in items):
        counts = [
            np.zeros(len(item.response_ids), dtype=np.int32)
            if item.candidates is None
            else np.diff(item.candidates.splits)
            for item in items
        ]
        ids = [item.candidates.ids for item in items if item.candidates is not None]
        splits = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        candidates = Candidates(splits.astype(np.int32), np.concatenate(ids))
    response_ids = np.concatenate([item.response_ids for item in items])
    return replace(items[0], response_ids=response_ids, candidates=candidates)


def visual_dependency(mm_logprobs: Tensor, text_logprobs: Tensor) -> Tensor:
    """VDS = KL(q_T(.|I,x) || q_T(.|x)), nats, [..., V] -> [...], clamped at 0 (paper Eq. 12)."""
    return (mm_logprobs.exp() * (mm_logprobs - text_logprobs)).sum(-1).clamp_min(0)


def top_k_mask(logprobs: Tensor, k: int) -> Tensor:
    """Bool [R, V] with exactly min(k, V) members a row; of equal values the lower ids."""
    vocabulary = logprobs.shape[-1]
    if k >= vocabulary:
        return torch.ones_like(logprobs, dtype=torch.bool)
    smallest = logprobs.topk(k, dim=-1).values[:, -1:]
    above = logprobs > smallest
    tied = logprobs == smallest
    wanted = k - above.sum(-1, keepdim=True)
    if bool((tied.sum(-1, keepdim=True) > wanted).any()):
        tied &= tied.cumsum(-1) <= wanted
    return above | tied


def _support(
    mm_logprobs: Tensor, text_logprobs: Tensor, response: Tensor, item: ScoreItem, rows: slice
) -> Tensor:
    """Bool [R, V]: both contexts' top-k, the candidates and the sampled token, within the student's vocabulary."""
    members = torch.zeros_like(mm_logprobs, dtype=torch.bool)
    shared = item.vocab_size or members.shape[-1]
    members[:, :shared] = top_k_mask(mm_logprobs[:, :shared], item.k)
    if text_logprobs is not mm_logprobs:
        members[:, :shared] |= top_k_mask(text_logprobs[:, :shared], item.k)
    if item.candidates is not None:
        splits = torch.from_numpy(item.candidates.splits[rows.start : rows.stop + 1].astype("i8"))
        ids = torch.from_numpy(item.candidates.ids[splits[0] : splits[-1]].astype("i8"))
        row = torch.repeat_interleave(torch.arange(len(splits) - 1), splits.diff())
        members[row.to(members.device), ids.to(members.device)] = True
        members[:, shared:] = False
    members.scatter_(1, response[:, None], True)
    return members


def _pack(mm_logprobs: Tensor, text_logprobs: Tensor, response: Tensor, members: Tensor) -> Scores:
    counts = members.sum(-1)
    tail_mask = counts < members.shape[-1]
    row, ids = members.nonzero(as_tuple=True)  # row by row, ids ascending

    def tail(logprobs: Tensor) -> Tensor:
        outside = logprobs.masked_fill(members, float("-inf")).logsumexp(-1)
        return outside.where(tail_mask, 0.0)

    def sampled(logprobs: Tensor) -> Tensor:
        return logprobs.gather(1, response[:, None])[:, 0]

    splits = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Scores(
        row_splits=splits.int().cpu().numpy(),
        support_ids=ids.int().cpu().numpy(),
        mm_logprobs=mm_logprobs[row, ids].cpu().numpy(),
        text_logprobs=text_logprobs[row, ids].cpu().numpy(),
        mm_tail=tail(mm_logprobs).cpu().numpy(),
        text_tail=tail(text_logprobs).cpu().numpy(),
        tail_mask=tail_mask.cpu().numpy(),
        vds=visual_dependency(mm_logprobs, text_logprobs).cpu().numpy(),
        sampled_mm_logprobs=sampled(mm_logprobs).cpu().numpy(),
        sampled_text_logprobs=sampled(text_logprobs).cpu().numpy(),
        response_ids=response.int().cpu().numpy(),
    )
