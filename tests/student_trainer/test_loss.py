"""R rows, K buckets. Expected values are worked by hand in the comments."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from student_trainer.loss import (
    CONTEXTS,
    OBJECTIVES,
    Terms,
    adaptive_level,
    kl,
    language,
    language_preservation,
    response_weights,
    standard,
    steering_scale,
    token_weights,
    visual,
    visual_dependency,
    visual_preservation,
    visual_target,
    weighted_sum,
)
from student_trainer.objective_config import ObjectiveName

LN2, LN3 = math.log(2), math.log(3)


def logs(*rows: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(rows, dtype=dtype).log()


def everything(rows: int, buckets: int) -> Tensor:
    return torch.ones(rows, buckets, dtype=torch.bool)


def bucketed(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities over the unmasked buckets; masked entries are 0."""
    return logits.masked_fill(~mask, float("-inf")).log_softmax(-1).where(mask, 0.0)


@pytest.mark.parametrize("divergence", [kl, standard, language, visual, visual_dependency])
def test_every_divergence_is_kl_of_first_to_second(divergence) -> None:
    p = logs([1 / 2, 1 / 4, 1 / 4], [3 / 4, 1 / 8, 1 / 8])
    q = logs([1 / 4, 1 / 4, 1 / 2], [1 / 4, 3 / 8, 3 / 8])
    # Row 0: 1/2 ln 2 + 0 - 1/4 ln 2; row 1: 3/4 ln 3 - 2 (1/8) ln 3.
    expected = torch.tensor([LN2 / 4, LN3 / 2], dtype=torch.float64)
    torch.testing.assert_close(divergence(p, q, everything(2, 3)), expected)


def test_kl_is_not_symmetric() -> None:
    p, q = logs([1 / 2, 1 / 2]), logs([1 / 4, 3 / 4])
    # 1/2 ln 2 + 1/2 ln 2/3, and 1/4 ln 1/2 + 3/4 ln 3/2.
    assert kl(p, q, everything(1, 2)).item() == pytest.approx(LN2 - LN3 / 2)
    assert kl(q, p, everything(1, 2)).item() == pytest.approx(0.75 * LN3 - LN2)


def test_visual_target_puts_the_teachers_evidence_on_the_students_prior() -> None:
    student_text, teacher_mm, teacher_text = (
        logs([1 / 2, 1 / 2]),
        logs([3 / 4, 1 / 4]),
        logs([1 / 4, 3 / 4]),
    )
    target = visual_target(student_text, teacher_mm, teacher_text, everything(1, 2))
    # 1/2 * 3 and 1/2 * 1/3, divided by their sum 5/3.
    torch.testing.assert_close(target, logs([9 / 10, 1 / 10]))
    # 1/2 ln (1/2 / 9/10) + 1/2 ln (1/2 / 1/10) = ln 5/3
    value = visual(logs([1 / 2, 1 / 2]), target, everything(1, 2))
    assert value.item() == pytest.approx(math.log(5 / 3))


def test_visual_target_without_evidence_is_the_students_prior() -> None:
    prior, teacher = logs([0.7, 0.2, 0.1]), logs([0.3, 0.3, 0.4])
    torch.testing.assert_close(visual_target(prior, teacher, teacher, everything(1, 3)), prior)


def test_language_preservation_keeps_marked_rows_only() -> None:
    kept = language_preservation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, True]))
    assert kept.tolist() == [1.0, 0.0, 3.0]


def test_steering_scale_is_the_ratio_of_norms() -> None:
    assert steering_scale(3.0, 6.0) == 0.5
    assert steering_scale(0.0, 0.0) == 1.0


def test_visual_preservation_keeps_marked_rows_only() -> None:
    kept = visual_preservation(torch.tensor([1.0, 2.0]), torch.tensor([False, True]))
    assert kept.tolist() == [0.0, 2.0]


def test_adaptive_levels_at_and_between_the_quantiles() -> None:
    vds = torch.tensor([0.0, 0.4, 0.5, 0.7, 0.8])
    level = adaptive_level(vds, torch.tensor(0.4), torch.tensor(0.7))
    assert level.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]


TERMS = Terms(
    standard=torch.tensor([1.0, 1.0]),
    preserved_mask=torch.tensor([True, False]),
    level=torch.tensor([1.0, 0.5]),
    language=torch.tensor([4.0, 4.0]),
    visual=torch.tensor([10.0, 10.0]),
    text_visual=torch.tensor([6.0, 6.0]),
)
"""With gamma 2 and lambda 1/2 worked by hand below."""


def summed(name: str, terms: Terms) -> Tensor:
    """An objective's parts with gamma 2 and lambda 1/2, [R]."""
    weights = {"standard": 1.0, "steering": 2.0, "preservation": 0.5}
    parts = OBJECTIVES[name].parts
    return torch.stack([weights[n] * part.per_token(terms) for n, part in parts.items()]).sum(0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("standard", [1.0, 1.0]),
        ("standard-lp", [1 + 0.5 * 4, 1.0]),
        ("vgs", [1 + 2 * 10.0, 1 + 2 * 10.0]),
        ("vgs-lp", [1 + 2 * 10 + 0.5 * 4, 1 + 2 * 10.0]),
        ("adaptive-vgs", [1 + 2 * 10 + 0.5 * 4, 1 + 2 * 0.5 * 10]),
        ("language-steering", [1 + 2 * 4 + 0.5 * 6, 1 + 2 * 4.0]),
    ],
)
def test_objectives(name: str, expected: list[float]) -> None:
    assert summed(name, TERMS).tolist() == expected


def test_every_objective_has_its_setting() -> None:
    assert {*OBJECTIVES, "grpo"} == set(get_args(ObjectiveName))


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_an_objective_reads_what_its_parts_name(name: str) -> None:
    read = {part.term for part in OBJECTIVES[name].parts.values()}
    sufficient = replace(TERMS, **dict.fromkeys(set(CONTEXTS) - read))
    assert summed(name, sufficient).isfinite().all()
    for term in read:
        with pytest.raises(AssertionError, match=f"nobody computed {term}"):
            summed(name, replace(sufficient, **{term: None}))


def test_token_weights_are_equal() -> None:
    assert token_weights(torch.tensor([1, 3]), 8).tolist() == [1 / 8] * 4


def test_response_weights_average_over_tokens_then_responses() -> None:
    weights = response_weights(torch.tensor([1, 2, 4]), global_responses=5)
    assert weights.tolist() == pytest.approx([0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])
    assert weights.dtype == torch.float64


def test_weighted_sums_of_microbatches_add_up() -> None:
    values, lengths = torch.arange(7.0), torch.tensor([1, 2, 4])
    whole = weighted_sum(values, response_weights(lengths, 3))
    parts = weighted_sum(values[:3], response_weights(lengths[:2], 3)) + weighted_sum(
        values[3:], response_weights(lengths[2:], 3)
    )
    # (0 + (1 + 2) / 2 + (3 + 4 + 5 + 6) / 4) / 3
    assert whole.item() == pytest.approx(2.0)
    assert parts.item() == pytest.approx(2.0)


@pytest.mark.parametrize("term", ["standard", "language", "visual", "visual of the prior"])
def test_gradients(term: str) -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 0, 0]]).bool()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 4, dtype=torch.float64, generator=generator)
    teacher_mm, teacher_text = bucketed(logits[2], mask), bucketed(logits[3], mask)

    def loss(student_mm: Tensor, student_text: Tensor) -> Tensor:
        p, prior = bucketed(student_mm, mask), bucketed(student_text, mask)
        match term:
            case "standard":
                return standard(p, teacher_mm, mask)
            case "language":
                return language(prior, teacher_text, mask)
            case "visual":
                target = visual_target(bucketed(logits[1], mask), teacher_mm, teacher_text, mask)
            case _:
                target = visual_target(prior, teacher_mm, teacher_text, mask)
        return visual(p, target, mask)

    inputs = [row.clone().requires_grad_() for row in logits[:2]]
    assert torch.autograd.gradcheck(loss, inputs)


def test_rows_without_buckets_are_zero_with_zero_gradient() -> None:
    mask = torch.zeros(2, 3, dtype=torch.bool)
    p, prior, mm, text = (torch.zeros(2, 3, requires_grad=True) for _ in range(4))
    total = standard(p, mm, mask) + visual(p, visual_target(prior, mm, text, mask), mask)
    assert total.tolist() == [0.0, 0.0]
    total.sum().backward()
    for tensor in (p, prior, mm, text):
        assert tensor.grad is not None
        assert tensor.grad.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("nats", [80.0, 500.0])
def test_extreme_logits_stay_finite(nats: float) -> None:
    student = torch.tensor([[nats, 0.0, -nats], [0.0, nats, 0.0]], requires_grad=True)
    prior = torch.tensor([[-nats, 0.0, nats], [nats, 0.0, 0.0]], requires_grad=True)
    teacher_mm = torch.tensor([[-nats, 0.0, nats], [0.0, -nats, 0.0]]).log_softmax(-1)
    teacher_text = torch.tensor([[nats, 0.0, 0.0], [0.0, nats, nats]]).log_softmax(-1)
    mask = everything(2, 3)
    p, q = student.log_softmax(-1), prior.log_softmax(-1)
    target = visual_target(q, teacher_mm, teacher_text, mask)
    terms = [
        standard(p, teacher_mm, mask),
        language(q, teacher_text, mask),
        visual(p, target, mask),
    ]
    assert terms[0][0].item() == pytest.approx(2 * nats)  # all mass on what the teacher rules out
    for term in terms:
        assert term.isfinite().all()
        grads = torch.autograd.grad(
            term.sum(), [student, prior], retain_graph=True, materialize_grads=True
        )
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    p, q, r = (3 * torch.randn(3, 4, 5)).log_softmax(-1).to(dtype)
    mask = everything(4, 5)
    assert kl(p, q, mask).dtype == torch.float32
    assert torch.equal(kl(p, q, mask), kl(p.float(), q.float(), mask))
    target = visual_target(p, q, r, mask)
    assert target.dtype == torch.float32
    assert torch.equal(target, visual_target(p.float(), q.float(), r.float(), mask))


@pytest.mark.parametrize("padding", [0.0, -7.0, 3.0])
def test_padding_changes_neither_value_nor_gradient(padding: float) -> None:
    torch.manual_seed(0)
    plain = [x.log_softmax(-1) for x in torch.randn(4, 3, 5)]
    wide = [torch.cat([x, torch.full((3, 2), padding)], dim=1) for x in plain]
    mask = torch.cat([everything(3, 5), ~everything(3, 2)], dim=1)

    def values_and_grads(rows: list[Tensor], mask: Tensor) -> list[Tensor]:
        student_mm, student_text, teacher_mm, teacher_text = [x.clone() for x in rows]
        leaves = [student_mm.requires_grad_(), student_text.requires_grad_()]
        target = visual_target(student_text, teacher_mm, teacher_text, mask)
        terms = [
            standard(student_mm, teacher_mm, mask),
            language(student_text, teacher_text, mask),
            visual(student_mm, target, mask),
        ]
        grads = torch.autograd.grad(torch.stack(terms).sum(), leaves)
        if mask.shape[1] > 5:
            assert all(not grad[:, 5:].any() for grad in grads)
        return [*terms, *(grad[:, :5] for grad in grads)]

    for narrow, padded in zip(
        values_and_grads(plain, everything(3, 5)), values_and_grads(wide, mask), strict=True
    ):
        torch.testing.assert_close(narrow, padded, rtol=1e-6, atol=1e-7)


def test_a_student_that_is_the_teacher_has_nothing_to_learn() -> None:
    torch.manual_seed(0)
    mm, text = torch.randn(2, 4, 6).log_softmax(-1)
    mask = everything(4, 6)
    target = visual_target(text, mm, text, mask)
    for term in (standard(mm, mm, mask), language(text, text, mask), visual(mm, target, mask)):
        torch.testing.assert_close(term, torch.zeros(4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_gradient_on_the_whole_vocabulary_is_that_of_plain_kl(
    dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    rows, vocabulary = 5, 40
    student = (3 * torch.randn(rows, vocabulary, dtype=torch.float64)).to(dtype).requires_grad_()
    teacher = (3 * torch.randn(rows, vocabulary, dtype=torch.float64)).to(dtype)
    no_tail = torch.zeros(rows, 1, dtype=dtype)
    mask = torch.cat([everything(rows, vocabulary), ~everything(rows, 1)], dim=1)
    standard(
        torch.cat([student.log_softmax(-1), no_tail], dim=1),
        torch.cat([teacher.log_softmax(-1), no_tail], dim=1),
        mask,
    ).sum().backward()
    # d KL / d logit = p (log p - log q - KL)
    log_p, log_q = student.detach().double().log_softmax(-1), teacher.double().log_softmax(-1)
    ratio, p = log_p - log_q, log_p.exp()
    expected = p * (ratio - (p * ratio).sum(-1, keepdim=True))
    assert student.grad is not None
    torch.testing.assert_close(student.grad.double(), expected, rtol=0, atol=tolerance)
