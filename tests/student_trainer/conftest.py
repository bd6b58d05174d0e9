from collections.abc import Callable, Sequence

import numpy as np
import pytest

from protos.scores import Scores

MakeScores = Callable[[Sequence[Sequence[int]], int], Scores]


@pytest.fixture
def make_scores() -> MakeScores:
    """Scores with the support ids of each row; every log-probability is -(entry + 1), every tail -(row + 1) / 8."""

    def make(supports: Sequence[Sequence[int]], vocabulary: int) -> Scores:
        rows, counts = len(supports), [len(row) for row in supports]
        mm = -1 - np.arange(sum(counts), dtype=np.float32)
        tail_mask = np.array(counts) < vocabulary
        tail = np.where(tail_mask, -(1 + np.arange(rows)) / 8, 0).astype(np.float32)
        return Scores(
            row_splits=np.cumsum([0, *counts]).astype(np.int32),
            support_ids=np.concatenate(supports).astype(np.int32),
            mm_logprobs=mm,
            text_logprobs=2 * mm,
            mm_tail=tail,
            text_tail=2 * tail,
            tail_mask=tail_mask,
            vds=np.zeros(rows, dtype=np.float32),
            sampled_mm_logprobs=np.zeros(rows, dtype=np.float32),
            sampled_text_logprobs=np.zeros(rows, dtype=np.float32),
            response_ids=np.array([row[0] for row in supports], dtype=np.int32),
        )

    return make
