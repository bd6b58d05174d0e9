"""Quadratics of one parameter at the origin: the gradient of a . w is a, so eta is known."""

import pytest
import torch
from torch import Tensor

from student_trainer.config import ObjectiveConfig
from student_trainer.steering_scale import SteeringScale

GAMMA = 2.0


def quadratic(parameter: Tensor, gradient: list[float]) -> Tensor:
    """A quadratic bowl whose gradient at the origin is `gradient`."""
    return 0.5 * (parameter + torch.tensor(gradient)).square().sum()


def step(scale: SteeringScale, *microbatches: tuple[list[float], list[float]]) -> None:
    """Measure one optimizer step at the origin, as the learner does."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    unused = torch.nn.Parameter(torch.ones(3))
    scale.begin_step([parameter, unused])
    for standard, visual in microbatches:
        scale.measure(quadratic(parameter, standard), quadratic(parameter, visual))
    scale.end_step()
    assert parameter.grad is None


def test_a_step_gives_the_known_ratio() -> None:
    scale = SteeringScale(ObjectiveConfig(name="vgs", gamma=GAMMA))
    step(scale, ([3.0, 0.0], [0.0, 2.0]))
    # ||(3, 0)|| / ||(3, 0) + 2 (0, 2)|| = 3 / 5
    assert scale.measured == pytest.approx([0.6])
    assert scale.value() == pytest.approx(0.6)


def test_microbatches_add_up_before_the_ratio_is_taken() -> None:
    scale = SteeringScale(ObjectiveConfig(name="vgs", gamma=GAMMA))
    step(scale, ([1.0, 4.0], [5.0, 2.0]), ([2.0, -4.0], [-5.0, 0.0]))
    assert scale.measured == pytest.approx([0.6])


def test_the_first_steps_are_averaged_and_then_frozen() -> None:
    scale = SteeringScale(ObjectiveConfig(name="vgs-lp", gamma=GAMMA, eta_steps=2))
    assert scale.measuring
    step(scale, ([3.0, 0.0], [0.0, 2.0]))
    assert scale.measuring
    step(scale, ([3.0, 0.0], [-1.0, 0.0]))  # 3 / ||3 - 2||
    assert not scale.measuring
    assert scale.value() == pytest.approx((0.6 + 3.0) / 2)
    # The learner doesn't measure any more; a step without measures leaves eta alone.
    scale.begin_step([torch.nn.Parameter(torch.zeros(2))])
    scale.end_step()
    assert scale.value() == pytest.approx(1.8)


def test_a_fixed_number_is_never_measured() -> None:
    scale = SteeringScale(ObjectiveConfig(name="vgs", eta=0.41))
    assert not scale.measuring
    assert scale.value() == 0.41


@pytest.mark.parametrize("eta", ["auto", 0.41])
def test_standard_has_one(eta: float | str) -> None:
    scale = SteeringScale(ObjectiveConfig.model_validate({"name": "standard", "eta": eta}))
    assert not scale.measuring
    assert scale.value() == 1.0


def test_measuring_leaves_the_graph_for_the_update() -> None:
    scale = SteeringScale(ObjectiveConfig(name="vgs", gamma=GAMMA))
    parameter = torch.nn.Parameter(torch.zeros(2))
    standard, visual = quadratic(parameter, [3.0, 0.0]), quadratic(parameter, [0.0, 2.0])
    scale.begin_step([parameter])
    scale.measure(standard, visual)
    (standard + GAMMA * visual).backward()
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [3.0, 4.0]


def test_a_student_that_is_the_teacher_gets_no_nan() -> None:
    scale = SteeringScale(ObjectiveConfig(name="vgs", gamma=GAMMA))
    step(scale, ([0.0, 0.0], [0.0, 0.0]))
    assert torch.tensor(scale.value()).isfinite()
