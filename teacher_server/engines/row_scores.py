"""Full-vocabulary statistics of response rows: union support, tails and exact VDS.

R rows, D hidden size, V vocabulary, U entries. Row t scores token t of a response. Everything is float32, and logits
of at most `chunk_rows` rows exist at a time in either context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from protos.item import Mode, ScoreItem
from protos.scores import Scores

Head = Callable[[Tensor], Tensor]
"""Hidden states [R, D] -> float32 logits [R, V]."""
CPU_BLOCK_ENTRIES = 2**20
"""Numbers in one copy of a block: 4 MB."""
CPU_GROUP = 32
SMALL_MASS = 1e-25
"""Below it float32 loses the smaller of the probabilities that a tail is the sum of."""


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
        item: response, mode, candidates and k; nothing of it is masked.
        chunk_rows: rows whose [R, V] exist at a time.

    Raises:
        NotFinite: some logits are NaN or infinite.

    """
    device = mm_hidden.device
    response = torch.tensor(item.response_ids, dtype=torch.long, device=device)
    chunks: list[Scores] = []
    for first in range(0, len(response), chunk_rows):
        rows = slice(first, min(first + chunk_rows, len(response)))
        wanted = _Wanted(
            item.mode, item.k, item.vocab_size, response[rows], _candidates(item, rows, device)
        )
        mm_logits = head(mm_hidden[rows])
        text_logits = None if text_hidden is None else head(text_hidden[rows])
        for block in _blocks(mm_logits):
            mm_logprobs = mm_logits[block].log_softmax(-1)
            text_logprobs = None if text_logits is None else text_logits[block].log_softmax(-1)
            for logprobs in (mm_logprobs, text_logprobs):
                # NaN or infinity among the logits makes the smallest of their log-softmax one.
                if logprobs is not None and not bool(logprobs.amin(-1).isfinite().all()):
                    raise NotFinite(
                        f"logits of rows {rows.start} to {rows.stop - 1} are not finite"
                    )
            score = _score_block if item.mode == "topk" else _score_block_without_support
            chunks.append(score(mm_logprobs, text_logprobs, wanted.of(block)))
    return Scores.join(chunks)


def visual_dependency(
    mm_logprobs: Tensor, text_logprobs: Tensor, mm_probs: Tensor | None = None
) -> Tensor:
    """VDS = KL(q_T(.|I,x) || q_T(.|x)), nats, [..., V] -> [...], clamped at 0 (paper Eq. 12).

    `mm_probs` are exp(mm_logprobs), where the caller has them.
    """
    mm_probs = mm_logprobs.exp() if mm_probs is None else mm_probs
    return (mm_logprobs - text_logprobs).mul_(mm_probs).sum(-1).clamp_min(0)


def top_k_ids(logprobs: Tensor, k: int) -> Tensor:
    """The ids [R, min(k, V)] of the largest; of equal values the lower ids, in no order within a row."""
    vocabulary = logprobs.shape[-1]
    if k >= vocabulary:
        return torch.arange(vocabulary, device=logprobs.device).expand_as(logprobs)
    values, ids = _largest(logprobs, k + 1)
    ids = ids[:, :k]
    tied = values[:, k - 1] == values[:, k]  # which of them topk took is chance
    if bool(tied.any()):
        # A stable sort keeps equal values in the order of their ids.
        ids[tied] = logprobs[tied].sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return ids


def _largest(logprobs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values and ids [R, count] of the largest, in descending order; which of equal ones is chance.

    On a CPU they are looked for in the `count` groups of neighbours with the largest maxima: no other group can hold
    one that is larger than the last of these maxima.
    """
    rows, vocabulary = logprobs.shape
    groups = vocabulary // CPU_GROUP
    if logprobs.device.type != "cpu" or groups < 4 * count:
        return logprobs.topk(count, dim=-1)
    maxima = logprobs[:, : groups * CPU_GROUP].unflatten(1, (groups, CPU_GROUP)).amax(-1)
    members = maxima.topk(count).indices[:, :, None] * CPU_GROUP + torch.arange(CPU_GROUP)
    rest = torch.arange(groups * CPU_GROUP, vocabulary).expand(rows, -1)
    members = torch.cat([members.flatten(1), rest], dim=1)
    values, where = logprobs.gather(1, members).topk(count)
    return values, members.gather(1, where)


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What is asked of R rows."""

    mode: Mode
    k: int
    vocab_size: int
    """Ids at or above it stay out of the support, but for the sampled one; 0: V."""
    response: Tensor
    """i64 [R]"""
    candidates: Tensor
    """i64 [R, C], -1 where a row has fewer."""

    def of(self, rows: slice) -> _Wanted:
        return replace(self, response=self.response[rows], candidates=self.candidates[rows])


def _candidates(item: ScoreItem, rows: slice, device: torch.device) -> Tensor:
    """i64 [R, C], padded with -1."""
    if item.candidates is None or item.mode != "topk":
        return torch.empty(rows.stop - rows.start, 0, dtype=torch.long, device=device)
    splits = item.candidates.splits[rows.start : rows.stop + 1].astype(np.int64)
    counts = np.diff(splits)
    padded = np.full((len(counts), int(counts.max(initial=0))), -1, dtype=np.int64)
    filled = np.arange(padded.shape[1]) < counts[:, None]
    padded[filled] = item.candidates.ids[splits[0] : splits[-1]]
    return torch.from_numpy(padded).to(device)


def _blocks(logits: Tensor) -> list[slice]:
    """Rows whose copies stay in a CPU's cache, on which every pass over [R, V] would else wait for memory."""
    rows, vocabulary = logits.shape
    size = rows if logits.device.type != "cpu" else max(1, CPU_BLOCK_ENTRIES // vocabulary)
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def _support(mm_logprobs: Tensor, text_logprobs: Tensor | None, wanted: _Wanted) -> Tensor:
    """Ids [R, U] in ascending order: both contexts' top-k, the candidates and the sampled token.

    Ids may stand more than once: rows have supports of different sizes.
    """
    shared = wanted.vocab_size or mm_logprobs.shape[-1]
    sampled = wanted.response[:, None]
    parts = [sampled, top_k_ids(mm_logprobs[:, :shared], wanted.k)]
    if text_logprobs is not None:
        parts.append(top_k_ids(text_logprobs[:, :shared], wanted.k))
    allowed = (wanted.candidates >= 0) & (wanted.candidates < shared)
    parts.append(wanted.candidates.where(allowed, sampled))
    return torch.cat(parts, dim=1).sort(dim=1).values


def _score_block(mm_logprobs: Tensor, text_logprobs: Tensor | None, wanted: _Wanted) -> Scores:
    vocabulary = mm_logprobs.shape[-1]
    ids = _support(mm_logprobs, text_logprobs, wanted)
    first_of_its_kind = torch.ones_like(ids, dtype=torch.bool)
    first_of_its_kind[:, 1:] = ids[:, 1:] != ids[:, :-1]
    counts = first_of_its_kind.sum(-1)
    tail_mask = counts < vocabulary
    mm_probs = mm_logprobs.exp()
    if text_logprobs is None:
        vds = torch.zeros_like(mm_logprobs[:, 0])
    else:
        vds = visual_dependency(mm_logprobs, text_logprobs, mm_probs)

    def entries(logprobs: Tensor, probs: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the support, the sampled token and the tail; `probs` are used up."""
        support = logprobs.gather(1, ids)[first_of_its_kind]
        sampled = logprobs.gather(1, wanted.response[:, None])[:, 0]
        tail = _tail(logprobs, probs, ids).where(tail_mask, 0.0)
        return support.cpu().numpy(), sampled.cpu().numpy(), tail.cpu().numpy()

    mm = entries(mm_logprobs, mm_probs)
    text = mm if text_logprobs is None else entries(text_logprobs, text_logprobs.exp())
    splits = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Scores(
        row_splits=splits.int().cpu().numpy(),
        support_ids=ids[first_of_its_kind].int().cpu().numpy(),
        mm_logprobs=mm[0],
        text_logprobs=text[0],
        mm_tail=mm[2],
        text_tail=text[2],
        tail_mask=tail_mask.cpu().numpy(),
        vds=vds.cpu().numpy(),
        sampled_mm_logprobs=mm[1],
        sampled_text_logprobs=text[1],
        response_ids=wanted.response.int().cpu().numpy(),
    )


def _score_block_without_support(
    mm_logprobs: Tensor, text_logprobs: Tensor | None, wanted: _Wanted
) -> Scores:
    rows = len(mm_logprobs)
    sampled = wanted.response[:, None]
    mm = mm_logprobs.gather(1, sampled)[:, 0].cpu().numpy()
    if wanted.mode == "sampled_only":
        vds = np.full(rows, np.nan, dtype=np.float32)  # not asked for is not zero
    elif text_logprobs is None:
        vds = np.zeros(rows, dtype=np.float32)
    else:
        vds = visual_dependency(mm_logprobs, text_logprobs).cpu().numpy()
    nothing = np.empty(0, dtype=np.float32)
    return Scores(
        row_splits=np.zeros(rows + 1, dtype=np.int32),
        support_ids=np.empty(0, dtype=np.int32),
        mm_logprobs=nothing,
        text_logprobs=nothing,
        mm_tail=np.zeros(rows, dtype=np.float32),
        text_tail=np.zeros(rows, dtype=np.float32),
        tail_mask=np.zeros(rows, dtype=np.bool_),
        vds=vds,
        sampled_mm_logprobs=mm,
        sampled_text_logprobs=mm
        if text_logprobs is None
        else text_logprobs.gather(1, sampled)[:, 0].cpu().numpy(),
        response_ids=wanted.response.int().cpu().numpy(),
    )


def _tail(logprobs: Tensor, probs: Tensor, ids: Tensor) -> Tensor:
    """Log of the mass outside `ids` [R, U], summed over what is outside, never as 1 - sum; [R], nats."""
    mass = probs.scatter_(1, ids, 0.0).sum(-1)
    tail = mass.log()
    small = mass < SMALL_MASS
    if bool(small.any()):
        outside = logprobs[small].scatter_(1, ids[small], float("-inf"))
        tail[small] = outside.logsumexp(-1)
    return tail
