"""B responses, R rows. Expected values are worked by hand in the comments, or by a reference written token by token."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from student_trainer.loss import response_weights, weighted_sum
from student_trainer.policy_gradient import (
    MAX_LOG_RATIO,
    advantages,
    clipped,
    clipped_surrogate,
    ratio,
)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ids(*values: int) -> Tensor:
    return torch.tensor(values)


def test_an_advantage_is_the_distance_from_the_groups_mean_in_deviations() -> None:
    # Group 7: mean 1/4, squared distances 9/16 + 3 (1/16) = 3/4, deviation sqrt((3/4) / 3) = 1/2.
    # Group 2: mean 2, squared distances 1 + 1, deviation sqrt(2 / 1).
    rewards, groups = f64(1, 3, 0, 0, 1, 0), ids(7, 2, 7, 7, 2, 7)
    half, root = 0.5 + 1e-6, math.sqrt(2) + 1e-6
    expected = f64(0.75 / half, 1 / root, -0.25 / half, -0.25 / half, -1 / root, -0.25 / half)
    torch.testing.assert_close(advantages(rewards, groups), expected, rtol=0, atol=1e-15)


def test_dr_grpo_subtracts_the_mean_alone() -> None:
    found = advantages(f64(1, 0, 0, 0, 5, 2), ids(0, 0, 0, 0, 1, 1), normalise=False)
    assert found.tolist() == [0.75, -0.25, -0.25, -0.25, 1.5, -1.5]


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_have_no_advantage_at_all(normalise: bool, dtype: torch.dtype) -> None:
    # The mean of three 0.1 is not 0.1 in floating point; dividing would blow the rest up.
    rewards = torch.tensor([0.1, 0.1, 0.1, 1.1, 0.7, 0.7, 0.7], dtype=dtype)
    found = advantages(rewards, ids(0, 0, 0, 1, 2, 2, 2), normalise=normalise)
    assert found.tolist() == [0.0] * 7
    assert found.dtype == dtype


def test_without_responses_there_are_no_advantages() -> None:
    assert advantages(f64(), ids()).shape == (0,)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.1, 1.0, 1.1])), min_size=1))
def test_advantages_add_up_to_nothing_and_ignore_scale_and_order(answers) -> None:
    groups, rewards = ids(*[g for g, _ in answers]), f64(*[r for _, r in answers])
    found = advantages(rewards, groups)
    for group in groups.unique():
        assert found[groups == group].sum().abs() < 1e-9
    torch.testing.assert_close(advantages(1000 * rewards + 3, groups), found, rtol=1e-4, atol=1e-9)
    flipped = advantages(rewards.flip(0), 5 - groups.flip(0)).flip(0)
    torch.testing.assert_close(flipped, found, rtol=0, atol=1e-9)


LN = math.log
HAND = [  # ratio, advantage, objective with clips 0.2 and 0.3, whether the clip is active, slope in log pi
    (1.0, 2.0, 2.0, False, 2.0),
    (1.25, 2.0, 2.5, False, 2.5),
    (1.5, 2.0, 2.6, True, 0.0),
    (0.5, 2.0, 1.0, False, 1.0),  # better than it was sampled: never held back
    (1.0, -2.0, -2.0, False, -2.0),
    (0.9, -2.0, -1.8, False, -1.8),
    (0.5, -2.0, -1.6, True, 0.0),
    (1.5, -2.0, -3.0, False, -3.0),
    (3.0, 0.0, 0.0, False, 0.0),
]


@pytest.mark.parametrize(("now", "advantage", "objective", "active", "slope"), HAND)
def test_the_objective_is_the_lower_of_the_two(now, advantage, objective, active, slope) -> None:
    sampled = f64(LN(now) - 1.5).requires_grad_()
    arguments = (sampled, f64(-1.5), f64(advantage), 0.2, 0.3)
    found = clipped_surrogate(*arguments)
    assert found.item() == pytest.approx(objective)
    assert clipped(*arguments).tolist() == [active]
    assert torch.autograd.grad(found.sum(), sampled)[0].item() == pytest.approx(slope)


def test_before_the_first_update_the_gradient_is_that_of_reinforce() -> None:
    sampled = f64(-0.1, -3.0, -0.7).requires_grad_()
    token_advantages = f64(1.5, -0.5, 0.0)
    objective = clipped_surrogate(sampled, sampled.detach().clone(), token_advantages, 0.2, 0.2)
    assert torch.equal(objective.detach(), token_advantages)
    assert torch.equal(torch.autograd.grad(objective.sum(), sampled)[0], token_advantages)


def reference_objective(sampled, behaviour, advantage, low, high):
    """One token, plain branches instead of min and clamp; sampled is a scalar that may need a gradient."""
    now = torch.exp(sampled - behaviour)
    if advantage > 0 and now.item() > 1 + high:
        return (1 + high) * advantage + 0 * now
    if advantage < 0 and now.item() < 1 - low:
        return (1 - low) * advantage + 0 * now
    return now * advantage


def reference_advantages(rewards: list[float], groups: list[int]) -> list[float]:
    found = []
    for reward, group in zip(rewards, groups, strict=True):
        own = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        if len(set(own)) == 1:
            found.append(0.0)
            continue
        mean = math.fsum(own) / len(own)
        variance = math.fsum((r - mean) ** 2 for r in own) / (len(own) - 1)
        found.append((reward - mean) / (math.sqrt(variance) + 1e-6))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 0.5), st.floats(0.05, 0.5), st.floats(0, 1))
def test_loss_and_gradient_equal_a_reference(seed: int, low: float, high: float, alpha: float):
    """J = mean_i [ (1 - alpha) mean_t GRPO_t - alpha mean_t loss_t ], from rewards to the gradient of logits."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (6,), generator=draw)
    groups = [0, 1, 0, 1, 2, 0]
    rewards = torch.randint(0, 3, (6,), generator=draw).double() / 10
    rows = int(lengths.sum())
    logits = torch.randn(rows, 7, generator=draw, dtype=torch.float64).requires_grad_()
    taken = torch.randint(0, 7, (rows,), generator=draw)
    behaviour = logits.detach().log_softmax(-1)[torch.arange(rows), taken]
    behaviour = behaviour + 0.4 * torch.randn(rows, generator=draw, dtype=torch.float64)
    distillation = logits.square().mean(-1)  # any loss of a token

    sampled = logits.log_softmax(-1)[torch.arange(rows), taken]
    token_advantages = advantages(rewards, ids(*groups)).repeat_interleave(lengths)
    policy = clipped_surrogate(sampled, behaviour, token_advantages, low, high)
    weights = response_weights(lengths, 6)
    loss = weighted_sum(alpha * distillation - (1 - alpha) * policy, weights)

    expected_advantages = reference_advantages(rewards.tolist(), groups)
    objective, row = torch.zeros((), dtype=torch.float64), 0
    for i in range(6):
        for _ in range(int(lengths[i])):
            token = logits[row][taken[row]] - logits[row].exp().sum().log()
            grpo = reference_objective(token, behaviour[row], expected_advantages[i], low, high)
            j = (1 - alpha) * grpo - alpha * distillation[row]
            objective = objective + j / (6 * int(lengths[i]))
            row += 1
    torch.testing.assert_close(loss, -objective, rtol=0, atol=1e-9)
    found, expected = (
        torch.autograd.grad(v, logits, retain_graph=True)[0] for v in (loss, objective)
    )
    torch.testing.assert_close(found, -expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("difference", [-1e4, -100.0, 100.0, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_nothing_overflows(dtype: torch.dtype, difference: float, advantage: float) -> None:
    sampled = torch.tensor([difference], dtype=dtype).requires_grad_()
    zero = torch.zeros(1, dtype=dtype)
    found = clipped_surrogate(sampled, zero, zero + advantage, 0.2, 0.2)
    gradient = torch.autograd.grad(found.sum(), sampled)[0]
    assert torch.isfinite(found).all()
    assert torch.isfinite(gradient).all()
    assert ratio(sampled, zero).item() <= math.exp(MAX_LOG_RATIO) * (1 + 1e-6)


def test_low_precision_is_widened_and_float64_kept() -> None:
    for given_dtype, kept in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        sampled = torch.tensor([-1.0], dtype=given_dtype)
        behaviour, advantage = torch.tensor([-1.5]), f64(2.0)
        assert clipped_surrogate(sampled, behaviour, advantage, 0.2, 0.2).dtype == kept


def test_the_policy_that_sampled_gets_no_gradient() -> None:
    sampled, behaviour = f64(-1.0).requires_grad_(), f64(-1.1).requires_grad_()
    clipped_surrogate(sampled, behaviour, f64(1.0), 0.2, 0.2).sum().backward()
    assert sampled.grad is not None
    assert behaviour.grad is None
