"""The head is the identity here: hidden states are logits. R rows, V vocabulary."""

import numpy as np
import pytest
import torch
from torch import Tensor

from protos.item import Candidates, ScoreItem
from protos.scores import Scores
from teacher_server.engines.row_scores import (
    NotFinite,
    score_rows,
    top_k_ids,
    visual_dependency,
)


def identity(hidden: Tensor) -> Tensor:
    return hidden


def heavy_tailed(rows: int, vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Zipf's law with noise, and the same with a nudge: much mass far from the top, as in a language model."""
    generator = torch.Generator().manual_seed(seed)
    rank = torch.stack([torch.randperm(vocabulary, generator=generator) for _ in range(rows)])
    mm = -1.1 * (rank + 1.0).log() + torch.randn(rows, vocabulary, generator=generator)
    return mm, mm + 0.5 * torch.randn(rows, vocabulary, generator=generator)


def item(response: list[int], k: int, **more: object) -> ScoreItem:
    return ScoreItem(np.array(response, dtype=np.int32), k, **more)  # type: ignore[arg-type]


def supports(scores: Scores) -> list[list[int]]:
    pairs = zip(scores.row_splits[:-1], scores.row_splits[1:], strict=True)
    return [scores.support_ids[a:b].tolist() for a, b in pairs]


def top(logits: Tensor, k: int) -> set[int]:
    """By value, then by id."""
    return set(sorted(range(len(logits)), key=lambda i: (-logits[i].item(), i))[:k])


@pytest.mark.parametrize(("rows", "vocabulary", "k"), [(7, 50, 4), (5, 1000, 16), (3, 150_000, 32)])
def test_scores_are_those_of_the_whole_vocabulary(rows: int, vocabulary: int, k: int) -> None:
    mm, text = heavy_tailed(rows, vocabulary)
    response = [int(i) for i in np.random.default_rng(0).integers(vocabulary, size=rows)]
    scores = score_rows(mm, text, identity, item(response, k), chunk_rows=2)
    mm_full, text_full = mm.double().log_softmax(-1), text.double().log_softmax(-1)
    assert scores.response_ids.tolist() == response
    assert scores.tail_mask.all()
    for t, (ids, token) in enumerate(zip(supports(scores), response, strict=True)):
        assert ids == sorted(top(mm[t], k) | top(text[t], k) | {token})
        outside = torch.ones(vocabulary, dtype=torch.bool)
        outside[ids] = False
        entries = slice(scores.row_splits[t], scores.row_splits[t + 1])
        vds = (mm_full[t].exp() * (mm_full[t] - text_full[t])).sum()
        expected = {
            "mm_logprobs": (scores.mm_logprobs[entries], mm_full[t][ids]),
            "text_logprobs": (scores.text_logprobs[entries], text_full[t][ids]),
            "mm_tail": (scores.mm_tail[t], mm_full[t][outside].logsumexp(0)),
            "text_tail": (scores.text_tail[t], text_full[t][outside].logsumexp(0)),
            "vds": (scores.vds[t], vds),
            "sampled_mm": (scores.sampled_mm_logprobs[t], mm_full[t, token]),
            "sampled_text": (scores.sampled_text_logprobs[t], text_full[t, token]),
        }
        for name, (got, wanted) in expected.items():
            np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-5, err_msg=name)
            assert got.dtype == np.float32


def test_of_equal_values_the_lower_ids_are_taken() -> None:
    values = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    for k, expected in {
        2: [[1, 2], [0, 1]],
        3: [[1, 2, 4], [0, 1, 2]],
        4: [[0, 1, 2, 4], [0, 1, 2, 3]],
    }.items():
        assert top_k_ids(values, k).sort().values.tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 5, 12, 13, 100])
def test_a_top_k_has_exactly_its_size(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 3, (40, 12), generator=generator).float()  # ties everywhere
    ids = top_k_ids(values, k)
    assert ids.shape == (40, min(k, 12))
    for row, members in zip(values, ids.tolist(), strict=True):
        assert set(members) == top(row, k)
        assert len(members) == len(set(members))


@pytest.mark.parametrize("vocabulary", [1024, 3001, 4095])
@pytest.mark.parametrize("distinct", [3, 500, 10**6])
def test_the_top_k_of_a_large_vocabulary(vocabulary: int, distinct: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    values = torch.randint(0, distinct, (5, vocabulary), generator=generator).float()
    ids = top_k_ids(values, 7)
    for row, members in zip(values, ids.tolist(), strict=True):
        assert set(members) == top(row, 7)


@pytest.mark.parametrize("depth", [20.0, 60.0, 90.0, 200.0, 1000.0])
def test_a_tail_far_below_the_rest_keeps_its_digits(depth: float) -> None:
    """Beyond 88 nats its probabilities are 0 in float32."""
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    logits[:, 10:] -= depth
    scores = score_rows(logits, logits.clone(), identity, item([0, 1, 2], k=10), chunk_rows=8)
    expected = logits.double().log_softmax(-1)[:, 10:].logsumexp(-1)
    np.testing.assert_allclose(scores.mm_tail, expected, rtol=1e-6)
    np.testing.assert_allclose(scores.text_tail, expected, rtol=1e-6)


@pytest.mark.parametrize("k", [6, 1000])
def test_a_covered_vocabulary_has_no_tail(k: int) -> None:
    mm, text = heavy_tailed(3, 6)
    scores = score_rows(mm, text, identity, item([0, 5, 2], k), chunk_rows=8)
    assert supports(scores) == [list(range(6))] * 3
    assert not scores.tail_mask.any()
    assert scores.mm_tail.tolist() == scores.text_tail.tolist() == [0.0] * 3
    np.testing.assert_allclose(np.exp(scores.mm_logprobs).reshape(3, 6).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("chunk_rows", [1, 2, 8])
def test_candidates_join_the_support_of_their_row(chunk_rows: int) -> None:
    mm = torch.tensor([[9.0, 8, 0, 0, 0, 0, 0, 0]] * 4)
    text = torch.tensor([[9.0, 0, 8, 0, 0, 0, 0, 0]] * 4)
    candidates = Candidates.from_rows([[7, 3, 7], [], [0], [6]])
    asked = item([4, 4, 0, 1], 2, candidates=candidates)
    scores = score_rows(mm, text, identity, asked, chunk_rows)
    assert supports(scores) == [[0, 1, 2, 3, 4, 7], [0, 1, 2, 4], [0, 1, 2], [0, 1, 2, 6]]


def test_ids_beyond_the_students_vocabulary_stay_out() -> None:
    mm = torch.tensor([[0.0, 1, 2, 3, 9, 9]] * 2)
    text = torch.tensor([[3.0, 2, 1, 0, 9, 9]] * 2)
    candidates = Candidates.from_rows([[5, 1], [4]])
    asked = item([2, 2], 1, candidates=candidates, vocab_size=4)
    scores = score_rows(mm, text, identity, asked, chunk_rows=1)
    assert supports(scores) == [[0, 1, 2, 3], [0, 2, 3]]
    # They still have their mass: log-probabilities and tails are the whole vocabulary's.
    full = mm[0].double().log_softmax(-1)
    np.testing.assert_allclose(scores.mm_logprobs[:4], full[:4], atol=1e-6)
    np.testing.assert_allclose(scores.mm_tail[0], full[4:].logsumexp(0), atol=1e-6)
    assert scores.tail_mask.all()


def test_without_an_image_text_equals_mm() -> None:
    mm, _ = heavy_tailed(4, 30)
    scores = score_rows(mm, None, identity, item([1, 2, 3, 4], 5), chunk_rows=3)
    assert scores.vds.tolist() == [0.0] * 4
    for name in ("logprobs", "tail"):
        assert np.array_equal(getattr(scores, f"mm_{name}"), getattr(scores, f"text_{name}"))
    assert np.array_equal(scores.sampled_mm_logprobs, scores.sampled_text_logprobs)
    assert scores.equal_to(score_rows(mm, mm, identity, item([1, 2, 3, 4], 5), chunk_rows=3))


def test_vds_is_not_negative_and_has_the_direction_of_the_paper() -> None:
    mm, text = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert visual_dependency(mm, text).tolist() == pytest.approx([0.5 * np.log(3)])
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert visual_dependency(p, q).item() == pytest.approx(np.log(2) - 0.5 * np.log(3))
    rounded, _ = heavy_tailed(50, 1000)
    logprobs = rounded.log_softmax(-1)
    assert (visual_dependency(logprobs, logprobs + 1e-7) >= 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("context", ["mm", "text"])
def test_logits_that_are_not_finite_are_reported_with_their_rows(bad: float, context: str) -> None:
    mm, text = heavy_tailed(5, 20)
    (mm if context == "mm" else text)[3, 7] = bad
    with pytest.raises(NotFinite, match="rows 2 to 3 are not finite"):
        score_rows(mm, text, identity, item([0] * 5, 4), chunk_rows=2)


@pytest.mark.parametrize("vocabulary", [37, 150_000])
def test_chunks_change_no_bit(vocabulary: int) -> None:
    mm, text = heavy_tailed(5, vocabulary)
    candidates = Candidates.from_rows([[1, 2], [], [3], [4, 5, 6], [0]])
    asked = item([9, 8, 7, 6, 5], 8, candidates=candidates)
    whole = score_rows(mm, text, identity, asked, chunk_rows=5)
    for chunk_rows in (1, 3, 100):
        assert score_rows(mm, text, identity, asked, chunk_rows).equal_to(whole), chunk_rows
