"""R rows, D hidden size, V vocabulary, U support ids, K = U + 1 buckets."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from protos.scores import Scores
from student_trainer.loss import standard
from student_trainer.support import Support
from student_trainer.support_head import support_logprobs

D, V = 4, 11
ROWS = [[0, 3, 5], [7], list(range(V)), [1, 10], [2, 0]]
"""Id 0 is a member of the first and the last row, pads the second and the fourth; the third covers the vocabulary."""


def make_support(rows: list[list[int]], vocabulary: int) -> Support:
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    id_mask = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    tail_mask = torch.tensor([len(row) < vocabulary for row in rows])
    nothing = torch.zeros(len(rows), width + 1)
    return Support(ids, id_mask, tail_mask, nothing, nothing)


def plain(hidden: Tensor, weight: Tensor, rows: list[list[int]]) -> Tensor:
    """Row by row over the whole vocabulary."""
    width = max(len(row) for row in rows)
    result = []
    for state, row in zip(hidden, rows, strict=True):
        logprobs = torch.log_softmax(weight @ state, -1)
        outside = [i for i in range(len(weight)) if i not in row]
        entries = [logprobs[i] for i in row] + [logprobs.new_zeros(())] * (width - len(row))
        entries.append(logprobs[outside].logsumexp(0) if outside else logprobs.new_zeros(()))
        result.append(torch.stack(entries))
    return torch.stack(result)


def leaves(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(len(ROWS), D, dtype=torch.float64, generator=generator)
    weight = torch.randn(V, D, dtype=torch.float64, generator=generator)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def ours(hidden: Tensor, weight: Tensor, chunk_rows: int) -> Tensor:
    return support_logprobs(hidden, lambda h: h @ weight.T, make_support(ROWS, V), chunk_rows)


@pytest.mark.parametrize("chunk_rows", [1, 3, len(ROWS), 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_values_and_gradients_are_those_of_the_whole_vocabulary(
    dtype: torch.dtype, tolerance: float, chunk_rows: int
) -> None:
    hidden, weight = leaves(dtype)
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    got, expected = ours(hidden, weight, chunk_rows), plain(*wide, ROWS)
    close = {"rtol": tolerance, "atol": 4 * tolerance}
    torch.testing.assert_close(got.double(), expected, **close)
    # Random upstream gradients, so that no error of one bucket hides behind another's.
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    got_grads = torch.autograd.grad(got, [hidden, weight], upstream)
    expected_grads = torch.autograd.grad(expected, wide, upstream.double())
    for one, other in zip(got_grads, expected_grads, strict=True):
        torch.testing.assert_close(one.double(), other, **close)


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(lambda h, w: ours(h, w, 2), leaves(torch.float64))


def test_masked_entries_are_zero_and_buckets_sum_to_one() -> None:
    values = ours(*leaves(torch.float64), 3)
    mask = make_support(ROWS, V).bucket_mask
    assert not values[~mask].any()
    ones = torch.ones(len(ROWS), dtype=torch.float64)
    torch.testing.assert_close(values.exp().where(mask, 0.0).sum(-1), ones)


def test_without_gradients_the_values_are_the_same() -> None:
    hidden, weight = leaves(torch.float32)
    with torch.no_grad():
        assert torch.equal(ours(hidden, weight, 2), ours(hidden, weight, 2).detach())
    assert torch.equal(ours(hidden, weight, 2).detach(), ours(hidden.detach(), weight.detach(), 2))


def test_half_precision_logits_are_widened_first() -> None:
    hidden, weight = leaves(torch.float32)
    logits = (hidden @ weight.T).detach().bfloat16()
    got = support_logprobs(logits, lambda h: h, make_support(ROWS, V), 2)
    assert got.dtype == torch.float32
    expected = support_logprobs(logits.float(), lambda h: h, make_support(ROWS, V), 2)
    assert torch.equal(got, expected)


def test_a_small_tail_keeps_its_digits() -> None:
    """40 nats below the support, log(1 - sum p) would be -inf in float32."""
    logits = torch.tensor([[0.0, 0.0, -40.0, -41.0]], requires_grad=True)
    values = support_logprobs(logits, lambda h: h, make_support([[0, 1]], 4), 1)
    # log(e^-40 + e^-41) - log 2
    tail = torch.tensor([-40.0, -41.0]).double().logsumexp(0) - torch.tensor(2.0).double().log()
    assert values[0, -1].item() == pytest.approx(tail.item(), rel=1e-7)
    values[0, -1].backward()
    share = torch.sigmoid(torch.tensor(1.0)).item()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([-0.5, -0.5, share, 1 - share], rel=1e-5)


def test_nothing_as_wide_as_the_vocabulary_is_kept_for_backward() -> None:
    rows, vocabulary = 64, 500
    hidden = torch.randn(rows, D, requires_grad=True)
    weight = torch.randn(vocabulary, D, requires_grad=True)
    support = make_support([[i % 7, 400] for i in range(rows)], vocabulary)
    shapes: list[torch.Size] = []

    def note(tensor: Tensor) -> Tensor:
        shapes.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        (hidden @ weight.T).log_softmax(-1).gather(1, support.ids)
        assert torch.Size([rows, vocabulary]) in shapes  # the hook sees what plain code keeps
        shapes.clear()
        values = support_logprobs(hidden, lambda h: h @ weight.T, support, chunk_rows=8)
    assert torch.Size([8, D]) in shapes
    assert not [shape for shape in shapes if vocabulary in shape]
    values.sum().backward()


def test_a_covered_vocabulary_makes_no_nan_on_the_way_back() -> None:
    hidden, weight = leaves(torch.float32)
    with torch.autograd.set_detect_anomaly(True):
        ours(hidden, weight, 2).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_a_student_with_a_smaller_vocabulary_than_the_teacher_has_no_tail_to_lose(
    make_scores: Callable[..., Scores],
) -> None:
    """The teacher's padded logits leave it a tail where the support already holds every id of the student."""
    scores = make_scores([[0, 1, 2]], 4)
    assert scores.tail_mask.tolist() == [True]
    support = Support.from_scores([scores], vocab_size=3)
    assert support.bucket_mask.tolist() == [[True, True, True, False]]
    logits = torch.zeros(1, 3, requires_grad=True)
    values = support_logprobs(logits, lambda h: h, support, 1)
    loss = standard(values, support.teacher_mm_logprobs, support.bucket_mask)
    # Uniform over three ids against log-probabilities -1, -2, -3: the mean difference.
    assert float(loss.detach()) == pytest.approx(2 - math.log(3))
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
