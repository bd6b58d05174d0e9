import numpy as np
import pytest

from protos.item import Candidates, ScoreItem
from teacher_server.engines.row_scores import score_rows
from teacher_server.engines.vllm_request import (
    HalfRequest,
    Outcome,
    outcome_from_bytes,
    outcome_to_bytes,
)


@pytest.mark.parametrize("candidates", [None, Candidates.from_rows([[3, 4], [], [5]])])
def test_a_half_survives_its_journey(candidates: Candidates | None) -> None:
    item = ScoreItem(np.array([7, 1, 2], dtype=np.int32), 5, candidates, vocab_size=90)
    got = HalfRequest.from_kwargs(HalfRequest("7", "text", 12, item, 3).to_kwargs())
    assert (got.pair, got.context, got.first_row, got.rows) == ("7", "text", 12, 3)
    assert got.item is not None
    assert (got.item.k, got.item.vocab_size) == (5, 90)
    np.testing.assert_array_equal(got.item.response_ids, item.response_ids)
    assert (got.item.candidates is None) == (candidates is None)
    if candidates is not None and got.item.candidates is not None:
        np.testing.assert_array_equal(got.item.candidates.splits, candidates.splits)
        np.testing.assert_array_equal(got.item.candidates.ids, candidates.ids)


def test_a_half_without_an_item() -> None:
    assert HalfRequest.from_kwargs(HalfRequest("7", "mm", 0, None, 3).to_kwargs()).item is None


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_scores_survive_their_journey(rows: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(rows)
    mm, text = torch.randn(2, rows, 30, generator=generator)
    item = ScoreItem(np.arange(rows, dtype=np.int32), 3)
    scores = score_rows(mm, text, lambda hidden: hidden, item, chunk_rows=2)
    outcome, got = outcome_from_bytes(outcome_to_bytes(Outcome.SCORED, scores))
    assert outcome is Outcome.SCORED
    assert got is not None
    assert got.equal_to(scores)


@pytest.mark.parametrize("outcome", [Outcome.PARKED, Outcome.INCOMPLETE, Outcome.NOT_FINITE])
def test_other_outcomes_carry_nothing(outcome: Outcome) -> None:
    assert outcome_from_bytes(outcome_to_bytes(outcome)) == (outcome, None)
