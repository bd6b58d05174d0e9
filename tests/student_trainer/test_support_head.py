"""R rows, D hidden size, V vocabulary, U support ids, K = U + 1 buckets."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.trainer.loss_memory import allocations
from protos.scores import Scores
from student_trainer.loss import standard
from student_trainer.output_head import OutputHead
from student_trainer.support import Support
from student_trainer.support_head import sampled_logprobs, support_logprobs

D, V, PADDED = 4, 11, 13
ROWS = [[0, 3, 5], [7], list(range(V)), [1, 10], [2, 0]]
"""Id 0 is a member of the first and the last row, pads the second and the fourth; the third covers the vocabulary."""
PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
Leaves = tuple[Tensor, Tensor, Tensor]


def make_support(rows: list[list[int]], vocabulary: int) -> Support:
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    id_mask = torch.tensor([[i < len(row) for i in range(width)] for row in rows])
    tail_mask = torch.tensor([len(row) < vocabulary for row in rows])
    nothing = torch.zeros(len(rows), width + 1)
    return Support(ids, id_mask, tail_mask, nothing, nothing)


def identity(logits: Tensor) -> OutputHead:
    """A head under which states are logits."""
    width = logits.shape[1]
    return OutputHead(torch.eye(width, dtype=logits.dtype), None, None, width)


def of_logits(logits: Tensor, rows: list[list[int]], chunk_rows: int = 2) -> Tensor:
    support = make_support(rows, logits.shape[1])
    return support_logprobs(logits, identity(logits), support, chunk_rows)


def plain(logits: Tensor, support: Support) -> Tensor:
    """Over the whole vocabulary at once, in plain autograd."""
    logprobs = logits.log_softmax(-1)
    inside = logprobs.gather(1, support.ids).where(support.id_mask, 0.0)
    member = torch.nn.functional.one_hot(support.ids, logits.shape[1]).bool()
    members = (member & support.id_mask[:, :, None]).any(1)
    # A covered row keeps its logits: the logsumexp of nothing has a NaN gradient.
    outside = logprobs.masked_fill(members & support.tail_mask[:, None], float("-inf"))
    tail = outside.logsumexp(1).where(support.tail_mask, 0.0)
    return torch.cat([inside, tail[:, None]], dim=1)


def leaves(dtype: torch.dtype = torch.float64) -> Leaves:
    """Hidden, weight and bias; the weight has two rows that are no ids."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((len(ROWS), D), (PADDED, D), (PADDED,))
    hidden, weight, bias = (
        torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
        for shape in shapes
    )
    return hidden, weight, bias


def upstream(like: Tensor) -> Tensor:
    """Random, so that no error of one bucket hides behind another's."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(1)).to(like.dtype)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in PRODUCTS
        return func(*args, **(kwargs or {}))


def head_of(weight: Tensor, bias: Tensor | None, softcap: float | None) -> OutputHead:
    return OutputHead(weight, bias, softcap, V)


@pytest.mark.parametrize("chunk_rows", [1, 3, len(ROWS), 100])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_values_and_gradients_are_those_of_the_whole_vocabulary(
    dtype: torch.dtype, tolerance: float, biased: bool, softcap: float | None, chunk_rows: int
) -> None:
    support = make_support(ROWS, V)

    def evaluated(inputs: Leaves, ours: bool) -> list[Tensor]:
        hidden, weight, bias = inputs
        head = head_of(weight, bias if biased else None, softcap)
        values = (
            support_logprobs(hidden, head, support, chunk_rows)
            if ours
            else plain(head.logits(hidden), support)
        )
        wanted = inputs if biased else inputs[:2]
        grads = torch.autograd.grad(values, wanted, upstream(values))
        return [t.double() for t in (values, *grads)]

    narrow = leaves(dtype)
    hidden, weight, bias = (t.detach().double().requires_grad_() for t in narrow)
    got, expected = evaluated(narrow, True), evaluated((hidden, weight, bias), False)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=4 * tolerance)
    assert not got[2][V:].any()  # rows of the weight that are no ids


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_gradcheck(softcap: float | None) -> None:
    support = make_support(ROWS, V)

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return support_logprobs(hidden, head_of(weight, bias, softcap), support, 2)

    assert torch.autograd.gradcheck(function, leaves())


def test_one_sampled_id_per_row() -> None:
    hidden, weight, bias = leaves()
    head, ids = head_of(weight, bias, None), torch.tensor([0, 10, 3, 3, 0])
    got = sampled_logprobs(hidden, head, ids, 2)
    expected = head.logits(hidden).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(got, [hidden, weight, bias], upstream(got)),
        torch.autograd.grad(expected, [hidden, weight, bias], upstream(got)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_masked_entries_are_zero_whatever_comes_back() -> None:
    support = make_support(ROWS, V)
    hidden, weight, _ = leaves()
    values = support_logprobs(hidden, head_of(weight, None, None), support, 3)
    assert not values[~support.bucket_mask].any()
    (grad,) = torch.autograd.grad(values, hidden, torch.where(support.bucket_mask, 0.0, 1e6))
    assert not grad.any()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_buckets_sum_to_one_and_a_rows_gradient_to_zero(data: st.DataObject) -> None:
    """Whatever the logits: softmax does not see a constant added to all of them."""
    vocabulary = data.draw(st.integers(2, 9))
    count = data.draw(st.integers(1, 5))
    finite = st.floats(-300, 300, width=32)
    logits = torch.tensor(
        [
            data.draw(st.lists(finite, min_size=vocabulary, max_size=vocabulary))
            for _ in range(count)
        ],
        dtype=torch.float64,
        requires_grad=True,
    )
    ids = st.lists(st.integers(0, vocabulary - 1), min_size=1, unique=True)
    rows = [data.draw(ids) for _ in range(count)]
    support = make_support(rows, vocabulary)
    values = of_logits(logits, rows, data.draw(st.integers(1, 6)))
    masses = values.exp().where(support.bucket_mask, 0.0).sum(-1)
    torch.testing.assert_close(masses, torch.ones_like(masses))
    (grad,) = torch.autograd.grad(values, logits, upstream(values))
    torch.testing.assert_close(grad.sum(-1), torch.zeros_like(masses), rtol=0, atol=1e-12)


def test_a_small_tail_keeps_its_digits() -> None:
    """At 1e-30, log(1 - sum p) would be -inf in float32, and in float64 too."""
    logits = torch.tensor([[0.0, 0.0, -69.0, -70.0]], requires_grad=True)
    values = of_logits(logits, [[0, 1]])
    tail = torch.tensor([-69.0, -70.0]).double().logsumexp(0) - math.log(2)
    assert values[0, -1].item() == pytest.approx(tail.item(), rel=1e-7)
    (grad,) = torch.autograd.grad(values[0, -1], logits)
    share = torch.sigmoid(torch.tensor(1.0)).item()
    assert grad[0].tolist() == pytest.approx([-0.5, -0.5, share, 1 - share], rel=1e-6)


@pytest.mark.parametrize("rows", [[[0, 2]], [[1, 3]], [[3]], [[0, 1, 2, 3]]])
def test_extreme_logits(rows: list[list[int]]) -> None:
    """float32 is as good as its inputs: relative to the row's largest logit nothing is lost."""
    logits = torch.tensor([[1e4, -1e4, 1e4 - 0.5, -1e4 + 0.25]], requires_grad=True)
    exact = logits.detach().double().requires_grad_()
    got, expected = of_logits(logits, rows), plain(exact, make_support(rows, 4))
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(got, logits, upstream(got))
    (wanted,) = torch.autograd.grad(expected, exact, upstream(expected))
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-6, atol=1e-6)


def test_saturated_capped_logits_have_finite_gradients() -> None:
    hidden = torch.tensor([[1e4, -1e4, 3.0]], requires_grad=True)
    head = OutputHead(torch.eye(3), None, 2.0, 3)
    values = support_logprobs(hidden, head, make_support([[0]], 3), 1)
    (grad,) = torch.autograd.grad(values, hidden, upstream(values))
    (expected,) = torch.autograd.grad(
        plain(head.logits(hidden), make_support([[0]], 3)), hidden, upstream(values)
    )
    torch.testing.assert_close(grad, expected)
    assert not grad[0, :2].any()


def test_a_covered_vocabulary_makes_no_nan_on_the_way_back() -> None:
    hidden, weight, bias = leaves(torch.float32)
    values = support_logprobs(hidden, head_of(weight, bias, 5.0), make_support(ROWS, V), 2)
    with torch.autograd.set_detect_anomaly(True):
        values.sum().backward()
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
    values = support_logprobs(logits, identity(logits), support, 1)
    loss = standard(values, support.teacher_mm_logprobs, support.bucket_mask)
    # Uniform over three ids against log-probabilities -1, -2, -3: the mean difference.
    assert float(loss.detach()) == pytest.approx(2 - math.log(3))
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_gradients_only_where_they_are_asked_for() -> None:
    hidden, weight, bias = leaves()
    support = make_support(ROWS, V)
    inputs = {"hidden": hidden, "weight": weight, "bias": bias}

    def of(tensors: dict[str, Tensor]) -> Tensor:
        head = head_of(tensors["weight"], tensors["bias"], None)
        return support_logprobs(tensors["hidden"], head, support, 2)

    values = of(inputs)
    everything = torch.autograd.grad(values, [hidden, weight, bias], upstream(values))
    for (name, leaf), expected in zip(inputs.items(), everything, strict=True):
        alone = of({n: t if n == name else t.detach() for n, t in inputs.items()})
        assert torch.equal(torch.autograd.grad(alone, leaf, upstream(alone))[0], expected)
    with torch.no_grad():
        untracked = of(inputs)
    assert torch.equal(untracked, values)
    assert not untracked.requires_grad


def test_a_kept_graph_gives_the_same_gradients_again_and_no_second_ones() -> None:
    hidden, weight, _ = leaves()
    values = support_logprobs(hidden, head_of(weight, None, 3.0), make_support(ROWS, V), 2)
    loss = values.square().sum()
    first = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
    again = torch.autograd.grad(loss, [hidden, weight], create_graph=True)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        again[0].sum().backward()


@pytest.mark.parametrize("into_grad", [False, True])
def test_a_weight_that_is_the_embedding_too_gets_both_gradients(into_grad: bool) -> None:
    """And those of two passes."""
    _, weight, _ = leaves()
    read, support = torch.tensor([1, 4, 4, 0, 12]), make_support(ROWS, V)
    head = OutputHead(weight, None, None, V, into_grad)
    for factor in (1.0, 2.0):
        values = support_logprobs(weight[read] * factor, head, support, 2)
        values.backward(upstream(values))
    both = [plain(head.logits(weight[read] * factor), support) for factor in (1.0, 2.0)]
    (expected,) = torch.autograd.grad(both[0] + both[1], weight, upstream(both[0]))
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-12)


def test_rows_that_nothing_pulls_on_are_not_computed_again() -> None:
    """What preservation leaves out costs no backward pass; its states get zeros."""
    hidden, weight, _ = leaves()
    support = make_support(ROWS, V)
    head = head_of(weight, None, None)
    values, expected = (
        support_logprobs(hidden, head, support, 1),
        plain(head.logits(hidden), support),
    )
    pull = upstream(values).where(torch.tensor([0, 1, 0, 1, 0]).bool()[:, None], 0.0)
    with Products() as products:
        got = torch.autograd.grad(values, [hidden, weight], pull)
    # Logits, states and weight, for two rows of five.
    assert products.count == 6
    for one, other in zip(got, torch.autograd.grad(expected, [hidden, weight], pull), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_no_rows() -> None:
    _, weight, bias = leaves()
    hidden = torch.empty(0, D, dtype=torch.float64, requires_grad=True)
    support = Support(*(t[:0] for t in vars(make_support(ROWS, V)).values()))
    values = support_logprobs(hidden, head_of(weight, bias, None), support, 2)
    assert values.shape == (0, V + 1)
    values.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_widened_first(dtype: torch.dtype, monkeypatch) -> None:
    """States and weights of bfloat16, under autocast too; the weight is widened in blocks, never whole."""
    monkeypatch.setattr("student_trainer.output_head.CAST_IDS", 3)
    hidden, weight, bias = (t.detach().to(torch.bfloat16) for t in leaves())
    weight, bias = weight.to(dtype), bias.to(dtype)
    narrow = [t.requires_grad_() for t in (hidden, weight, bias)]
    exact = [t.detach().float().requires_grad_() for t in narrow]
    support = make_support(ROWS, V)
    expected = support_logprobs(exact[0], head_of(exact[1], exact[2], None), support, 2)
    with torch.autocast("cpu", torch.bfloat16):
        got = support_logprobs(hidden, head_of(weight, bias, None), support, 2)
        grads = torch.autograd.grad(got, narrow, upstream(got))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    wanted = torch.autograd.grad(expected, exact, upstream(expected))
    for grad, leaf, other in zip(grads, narrow, wanted, strict=True):
        assert grad.dtype == leaf.dtype
        torch.testing.assert_close(grad.float(), other.to(grad.dtype).float(), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("into_grad", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_one_buffer_of_logits_is_all_that_ever_exists(
    softcap: float | None, into_grad: bool
) -> None:
    rows, vocabulary, chunk_rows = 64, 4000, 8
    hidden = torch.randn(rows, D, requires_grad=True)
    weight = torch.randn(vocabulary, D, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    support = make_support([[i % 7, 400] for i in range(rows)], vocabulary)
    head = OutputHead(weight, None, softcap, vocabulary, into_grad)
    whole, buffer, gradient = 4 * rows * vocabulary, 4 * chunk_rows * vocabulary, 4 * D * vocabulary
    reference = allocations(lambda: plain(head.logits(hidden), support).sum().backward())
    assert max(reference) >= whole
    ours = allocations(lambda: support_logprobs(hidden, head, support, chunk_rows).sum().backward())
    # A bool mask of the buffer would be a quarter of it; slopes of the cap are a sixteenth.
    large = [buffer, buffer] if into_grad else [gradient, buffer, buffer]
    assert sorted(size for size in ours if size > buffer / 5) == large
