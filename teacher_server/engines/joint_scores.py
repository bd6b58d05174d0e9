"""Responses scored together: fewer and larger operations than one by one, and an error stays its own.

T response tokens, D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from protos.item import Candidates, Mode, ScoreItem
from protos.scores import Scores
from teacher_server.engines.row_scores import Head, NotFinite, score_rows


def score_items(
    items: Sequence[ScoreItem],
    states: Sequence[Sequence[Tensor]],
    head: Head,
    chunk_rows: int,
) -> list[Scores | NotFinite]:
    """Score responses that may ask for different things; one answer per item, in order.

    Args:
        items: responses, candidates and k.
        states: for each item (mm, text), or (mm,) where text equals mm, each [T, D]: see row_scores.score_rows.
        head: the output projection, in float32.
        chunk_rows: rows whose [R, V] exist at a time.

    """
    states = [_scored(item, contexts) for item, contexts in zip(items, states, strict=True)]
    items = [item.without_mask() for item in items]
    alike: defaultdict[tuple[Mode, int, int, int], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        alike[item.mode, item.k, item.vocab_size, len(states[i])].append(i)
    answers: dict[int, Scores | NotFinite] = {}
    for members in alike.values():
        answers |= _score_alike(members, items, states, head, chunk_rows)
    return [answers[i] for i in range(len(items))]


def _scored(item: ScoreItem, contexts: Sequence[Tensor]) -> Sequence[Tensor]:
    """States of the tokens that are scored."""
    if item.response_mask is None:
        return contexts
    rows = torch.from_numpy(np.flatnonzero(item.response_mask))
    return [states[rows.to(states.device)] for states in contexts]


def _score_alike(
    members: Sequence[int],
    items: Sequence[ScoreItem],
    states: Sequence[Sequence[Tensor]],
    head: Head,
    chunk_rows: int,
) -> dict[int, Scores | NotFinite]:
    contexts = [torch.cat(parts) for parts in zip(*(states[i] for i in members), strict=True)]
    text = contexts[1] if len(contexts) > 1 else None
    item = _join([items[i] for i in members])
    try:
        together = score_rows(contexts[0], text, head, item, chunk_rows)
    except NotFinite as error:
        if len(members) == 1:
            return {members[0]: error}
        alone = [_score_alike([i], items, states, head, chunk_rows) for i in members]
        return {i: answer for each in alone for i, answer in each.items()}
    ends = np.cumsum([0, *(len(items[i].response_ids) for i in members)]).tolist()
    return {
        i: together.slice_rows(first, end)
        for i, (first, end) in zip(members, pairwise(ends), strict=True)
    }


def _join(items: Sequence[ScoreItem]) -> ScoreItem:
    """One item with the rows of all; mode, k and vocab_size must be the same, and nothing masked."""
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
