"""Every variant against the equations written out once more, plainly: full vocabulary, float64, token by token."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from student_trainer.loss import (
    OBJECTIVES,
    Terms,
    adaptive_level,
    language,
    response_weights,
    standard,
    token_weights,
    visual,
    visual_target,
    weighted_sum,
)
from student_trainer.objective_config import ObjectiveConfig
from student_trainer.steering_control import SteeringControl
from student_trainer.vds_thresholds import VdsThresholds, quantile

LENGTHS = [3, 1, 5, 2]
ROWS, VOCABULARY = sum(LENGTHS), 7
GAMMA, LAMBDA, ETA = 1.7, 0.3, 0.6


def drawn(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, VOCABULARY, dtype=torch.float64, generator=generator)


def expected(name: str, mm: Tensor, text: Tensor, averaging: str, detached: bool) -> Tensor:
    """E[...] of the equations, with sums over the vocabulary as they stand in the paper."""
    teacher_mm, teacher_text = drawn(3).softmax(-1), drawn(4).softmax(-1)
    p_mm, p_text = mm.softmax(-1), text.softmax(-1)
    rows = zip(teacher_mm.tolist(), teacher_text.tolist(), strict=True)
    vds = [sum(q * math.log(q / r) for q, r in zip(a, b, strict=True)) for a, b in rows]
    q4, q7 = np.quantile(vds, 0.4), np.quantile(vds, 0.7)
    total = torch.zeros((), dtype=torch.float64)
    tokens = iter(range(ROWS))
    for length in LENGTHS:
        for _ in range(length):
            t = next(tokens)
            prior = p_text[t].detach() if detached else p_text[t]
            q_star = prior * teacher_mm[t] / teacher_text[t]
            q_star = q_star / q_star.sum()
            std = (p_mm[t] * (p_mm[t] / teacher_mm[t]).log()).sum()
            lang = (p_text[t] * (p_text[t] / teacher_text[t]).log()).sum()
            vis = (p_mm[t] * (p_mm[t] / q_star).log()).sum()
            text_vis = (p_text[t] * (p_text[t] / q_star).log()).sum()
            top = float(vds[t] > q7)
            gamma_t = 0.0 if vds[t] <= q4 else GAMMA / 2 if vds[t] <= q7 else GAMMA
            token = {
                "standard": std,
                "standard-lp": std + LAMBDA * top * lang,
                "vgs": std + GAMMA * vis,
                "vgs-lp": std + GAMMA * vis + LAMBDA * top * lang,
                "adaptive-vgs": std + gamma_t * vis + LAMBDA * top * lang,
                "language-steering": std + GAMMA * lang + LAMBDA * top * text_vis,
            }[name]
            share = 1 / ROWS if averaging == "token" else 1 / (length * len(LENGTHS))
            eta = 1.0 if name in ("standard", "standard-lp") else ETA  # Eq. 15 is about steering
            total = total + share * eta * token
    return total


def ours(name: str, mm: Tensor, text: Tensor, averaging: str, detached: bool) -> Tensor:
    mask = torch.ones(ROWS, VOCABULARY, dtype=torch.bool)
    teacher_mm, teacher_text = drawn(3).log_softmax(-1), drawn(4).log_softmax(-1)
    student_mm, student_text = mm.log_softmax(-1), text.log_softmax(-1)
    vds = (teacher_mm.exp() * (teacher_mm - teacher_text)).sum(-1)
    low, high = quantile(vds, 0.4), quantile(vds, 0.7)
    prior = student_text.detach() if detached else student_text
    target = visual_target(prior, teacher_mm, teacher_text, mask)
    terms = Terms(
        vds > high,
        adaptive_level(vds, low, high).double(),
        standard(student_mm, teacher_mm, mask),
        language(student_text, teacher_text, mask),
        visual(student_mm, target, mask),
        visual(student_text, target, mask),
    )
    config = ObjectiveConfig.model_validate(
        {"name": name, "gamma": GAMMA, "lambda": LAMBDA, "eta": ETA}
    )
    weights = SteeringControl(config).weights.of_parts()  # as the learner has them
    parts = OBJECTIVES[name].parts
    per_token = torch.stack([weights[n] * part.per_token(terms) for n, part in parts.items()]).sum(
        0
    )
    lengths = torch.tensor(LENGTHS)
    if averaging == "token":
        return weighted_sum(per_token, token_weights(lengths, ROWS))
    return weighted_sum(per_token, response_weights(lengths, len(LENGTHS)))


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("averaging", ["response", "token"])
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_value_and_gradient_are_the_equations(name: str, averaging: str, detached: bool) -> None:
    found = []
    for objective in (ours, expected):
        mm, text = drawn(1).requires_grad_(), drawn(2).requires_grad_()
        value = objective(name, mm, text, averaging, detached)
        grads = torch.autograd.grad(value, [mm, text], allow_unused=True, materialize_grads=True)
        found.append((value, *grads))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("q", [0.0, 0.4, 0.7, 0.999])
def test_quantiles_are_numpys(q: float) -> None:
    values = torch.rand(101, generator=torch.Generator().manual_seed(5))
    assert float(quantile(values, q)) == pytest.approx(np.quantile(values.double(), q), abs=1e-12)


def test_running_quantiles_forget_slowly() -> None:
    config = ObjectiveConfig(quantiles="running", quantile_decay=0.75)
    thresholds = VdsThresholds(config)
    first, second = torch.arange(101.0), torch.arange(101.0) * 2
    assert [float(q) for q in thresholds.update(first)] == [40, 70]
    assert [float(q) for q in thresholds.update(second)] == [50, 87.5]  # 3/4 old, 1/4 new
    again = VdsThresholds(config)
    again.state = list(thresholds.state)
    assert again.update(first) == thresholds.update(first), "a resumed run goes on from there"


def test_the_batchs_quantiles_know_no_past() -> None:
    thresholds = VdsThresholds(ObjectiveConfig())
    thresholds.update(torch.arange(101.0))
    assert [float(q) for q in thresholds.update(torch.arange(101.0) * 2)] == [80, 140]
