"""What a support and one tail bucket do to the terms: bounds for the divergences, exactness on the whole vocabulary.

R rows, V vocabulary, K buckets. A support is any set of ids; the tail is the logsumexp over all others.
"""

from typing import NamedTuple

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from student_trainer.loss import language, standard, visual, visual_dependency, visual_target


class Case(NamedTuple):
    """Four rows of logits, and two nested supports."""

    logits: Tensor
    """f64 [4, V]: student mm, student text, teacher mm, teacher text."""
    small: list[int]
    large: list[int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    vocabulary = draw(st.integers(2, 12))
    nats = st.floats(-30, 30, allow_subnormal=False)
    logits = draw(hnp.arrays(np.float64, (4, vocabulary), elements=nats))
    ids = draw(st.permutations(range(vocabulary)))
    large = draw(st.integers(1, vocabulary))
    small = draw(st.integers(1, large))
    return Case(torch.from_numpy(logits), ids[:small], ids[:large])


def buckets(logits: Tensor, support: list[int]) -> Tensor:
    """Log-probabilities [..., K] of the support's ids and, last, of the tail (0 where there is none)."""
    outside = sorted(set(range(logits.shape[-1])) - set(support))
    log_z = logits.logsumexp(-1, keepdim=True)
    inside = logits[..., support] - log_z
    if not outside:
        return torch.cat([inside, torch.zeros_like(log_z)], dim=-1)
    return torch.cat([inside, logits[..., outside].logsumexp(-1, keepdim=True) - log_z], dim=-1)


def terms(logits: Tensor, support: list[int]) -> dict[str, Tensor]:
    mask = torch.ones(len(support) + 1, dtype=torch.bool)
    mask[-1] = len(support) < logits.shape[-1]
    student_mm, student_text, teacher_mm, teacher_text = buckets(logits, support)
    target = visual_target(student_text, teacher_mm, teacher_text, mask)
    return {
        "standard": standard(student_mm, teacher_mm, mask),
        "language": language(student_text, teacher_text, mask),
        "visual_dependency": visual_dependency(teacher_mm, teacher_text, mask),
        "visual": visual(student_mm, target, mask),
    }


def full_terms(logits: Tensor) -> dict[str, Tensor]:
    """Over the whole vocabulary, written out."""
    p_mm, p_text, q_mm, q_text = logits.log_softmax(-1)
    target = (p_text + q_mm - q_text).log_softmax(-1)

    def divergence(a: Tensor, b: Tensor) -> Tensor:
        return (a.exp() * (a - b)).sum(-1)

    return {
        "standard": divergence(p_mm, q_mm),
        "language": divergence(p_text, q_text),
        "visual_dependency": divergence(q_mm, q_text),
        "visual": divergence(p_mm, target),
    }


BOUNDED = ("standard", "language", "visual_dependency")


@settings(deadline=None, max_examples=300)
@given(cases())
def test_divergences_on_a_support_are_lower_bounds_that_grow_with_it(case: Case) -> None:
    small, large, full = (
        terms(case.logits, case.small),
        terms(case.logits, case.large),
        full_terms(case.logits),
    )
    for name in BOUNDED:
        slack = 1e-12 * max(1.0, full[name].item())
        assert -slack <= small[name].item(), name
        assert small[name].item() <= large[name].item() + slack, name
        assert large[name].item() <= full[name].item() + slack, name


@settings(deadline=None, max_examples=100)
@given(cases(), st.sampled_from([(torch.float64, 1e-12), (torch.float32, 1e-6)]))
def test_the_whole_vocabulary_is_exact(case: Case, precision: tuple[torch.dtype, float]) -> None:
    dtype, tolerance = precision
    ids = case.large + sorted(set(range(case.logits.shape[1])) - set(case.large))
    logits = (case.logits / 10).to(dtype)
    spread = float(logits.max() - logits.min())
    ours, plain = logits.clone().requires_grad_(), logits.double().requires_grad_()
    for name, value in terms(ours, ids).items():
        expected = full_terms(plain)[name]
        # A difference of log-probabilities has as many digits as the larger of them.
        close = {"rtol": tolerance, "atol": tolerance * (1 + spread)}
        torch.testing.assert_close(value.double(), expected, **close)
        got = torch.autograd.grad(value, ours, retain_graph=True)[0]
        wanted = torch.autograd.grad(expected, plain)[0]
        torch.testing.assert_close(got.double(), wanted, **close)


def test_visual_has_no_sign() -> None:
    """Its error on a support goes either way: it is no bound, and must not be taken for one."""
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(200):
        logits = 3 * torch.randn(4, 8, dtype=torch.float64, generator=generator)
        errors.append((terms(logits, [0, 1, 2])["visual"] - full_terms(logits)["visual"]).item())
    assert min(errors) < -0.1
    assert max(errors) > 0.1


def test_a_tail_of_two_equal_ids_loses_nothing() -> None:
    """Where both distributions spread their tails alike, the tail bucket is exact: p 1/2 1/4 1/4, q 1/4 3/8 3/8."""
    logits = torch.tensor([[0.5, 0.25, 0.25]] * 2 + [[0.25, 0.375, 0.375]] * 2).double().log()
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert terms(logits, [0])["standard"].item() == pytest.approx(expected)
    assert full_terms(logits)["standard"].item() == pytest.approx(expected)
