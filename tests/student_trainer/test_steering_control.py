"""Quadratics of two parameters at the origin: the gradient of a . w is a, so gamma, eta and angles are known."""

import math

import pytest
import torch
from torch import Tensor

from student_trainer.geometry import Geometry, gamma_at_angle, gamma_at_share, steered_norm
from student_trainer.gradient_parts import GradientParts
from student_trainer.objective_config import ObjectiveConfig
from student_trainer.steering_control import SteeringControl
from student_trainer.world import World

WORLD = World(torch.device("cpu"))


def quadratic(parameter: Tensor, gradient: list[float]) -> Tensor:
    """A quadratic bowl whose gradient at the origin is `gradient`."""
    return 0.5 * (parameter + torch.tensor(gradient)).square().sum()


def parts(*microbatches: dict[str, list[float]]) -> tuple[GradientParts, torch.nn.Parameter]:
    """Gradients of named quadratics, summed over microbatches as the learner does."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    unused = torch.nn.Parameter(torch.ones(3))
    apart = GradientParts([parameter, unused])
    for microbatch in microbatches:
        for name, gradient in microbatch.items():
            quadratic(parameter, gradient).backward()
            apart.take(name)
    assert parameter.grad is None
    return apart, parameter


def geometry(standard: list[float], steering: list[float], **more: list[float]) -> Geometry:
    return parts({"standard": standard, "steering": steering, **more})[0].geometry(WORLD)


def control(**settings: object) -> SteeringControl:
    return SteeringControl(ObjectiveConfig.model_validate({"name": "vgs-lp"} | settings))


def test_a_step_gives_the_known_ratio() -> None:
    steering = control(name="vgs", gamma=2.0)
    assert steering.measures(0)
    steering.measured(geometry([3.0, 0.0], [0.0, 2.0]))
    # ||(3, 0)|| / ||(3, 0) + 2 (0, 2)|| = 3 / 5
    assert steering.weights.eta == pytest.approx(0.6)


def test_microbatches_add_up_before_the_ratio_is_taken() -> None:
    apart, _ = parts(
        {"standard": [1.0, 4.0], "steering": [5.0, 2.0]},
        {"standard": [2.0, -4.0], "steering": [-5.0, 0.0]},
    )
    steering = control(name="vgs", gamma=2.0)
    steering.measured(apart.geometry(WORLD))
    assert steering.weights.eta == pytest.approx(0.6)


def test_the_first_steps_are_averaged_and_then_frozen() -> None:
    steering = control(gamma=2.0, eta_steps=2)
    steering.measured(geometry([3.0, 0.0], [0.0, 2.0]))
    assert steering.measures(1)
    steering.measured(geometry([3.0, 0.0], [-1.0, 0.0]))  # 3 / ||3 - 2||
    assert not steering.measures(2)
    assert steering.weights.eta == pytest.approx((0.6 + 3.0) / 2)


def test_dynamic_is_the_last_steps() -> None:
    steering = control(gamma=2.0, eta="dynamic")
    steering.measured(geometry([3.0, 0.0], [0.0, 2.0]))
    steering.measured(geometry([3.0, 0.0], [-1.0, 0.0]))
    assert steering.measures(99)
    assert steering.weights.eta == pytest.approx(3.0)


@pytest.mark.parametrize("settings", [{"eta": 0.41}, {"name": "standard"}, {"name": "standard-lp"}])
def test_what_is_fixed_is_never_measured(settings: dict) -> None:
    steering = control(**settings)
    assert not steering.measures(0)
    assert steering.weights.eta == settings.get("eta", 1.0)


def test_parts_are_combined_by_weight() -> None:
    apart, parameter = parts({"standard": [3.0, 0.0], "steering": [0.0, 2.0]})
    apart.combine({"standard": 0.5, "steering": 2.0, "preservation": 7.0})
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [1.5, 4.0]


def test_a_student_that_is_the_teacher_gets_no_nan() -> None:
    steering = control(gamma="auto", **{"lambda": "auto"})
    steering.measured(geometry([0.0, 0.0], [0.0, 0.0], preservation=[0.0, 0.0]))
    weights = steering.weights
    assert (weights.gamma, weights.lambda_, weights.eta) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("degrees", [10.0, 20.0, 44.0])
def test_gamma_leaves_the_angle_that_was_asked_for(degrees: float) -> None:
    found = geometry([3.0, 4.0], [2.0, 0.0])
    gamma = gamma_at_angle(found, degrees, largest=1e9)
    update = [3.0 + gamma * 2.0, 4.0]
    assert math.degrees(math.atan2(update[1], update[0])) == pytest.approx(degrees)
    assert steered_norm(found, gamma) == pytest.approx(math.hypot(*update))


def test_gamma_where_the_angle_is_out_of_reach() -> None:
    near = geometry([4.0, 1.0], [1.0, 0.0])  # 14 degrees apart already
    assert gamma_at_angle(near, 20.0, largest=4.0) == 0.0
    against = geometry([-5.0, 1.0], [1.0, 0.0])
    assert gamma_at_angle(against, 20.0, largest=4.0) == 4.0
    assert gamma_at_angle(against, 20.0, largest=99.0) == pytest.approx(
        5 + 1 / math.tan(math.pi / 9)
    )


def test_gamma_by_share() -> None:
    found = geometry([3.0, 4.0], [0.0, 2.0])
    gamma = gamma_at_share(found, 0.5, largest=9.0)
    assert gamma * 2.0 / (5.0 + gamma * 2.0) == pytest.approx(0.5)


def test_auto_gamma_is_measured_every_few_steps_and_eta_follows_it() -> None:
    steering = control(gamma="auto", gamma_angle=45.0, measure_every=4)
    assert [step for step in range(9) if steering.measures(step)] == list(range(9))
    steering.measured(geometry([0.0, 3.0], [1.0, 0.0]))
    assert [step for step in range(9) if steering.measures(step)] == [0, 4, 8]
    assert steering.weights.gamma == pytest.approx(3.0)
    assert steering.weights.eta == pytest.approx(1 / math.sqrt(2))
    steering.measured(geometry([0.0, 1.0], [1.0, 0.0]))
    assert steering.weights.gamma == pytest.approx(2.0), "the median of 3 and 1"
    assert steering.weights.eta == pytest.approx(1 / math.sqrt(5))


def test_auto_gamma_does_not_follow_one_batch() -> None:
    steering = control(gamma="auto", gamma_max=100.0)
    for ratio in (1.0, 1.2, 50.0, 0.9, 1.1):
        steering.measured(geometry([0.0, ratio], [1.0, 0.0]))
    assert steering.weights.gamma == pytest.approx(1.1)
    for _ in range(3):
        steering.measured(geometry([0.0, 2.0], [1.0, 0.0]))
    assert steering.weights.gamma == pytest.approx(2.0), "but it does follow"


def test_auto_gamma_gives_both_gradients_the_same_weight() -> None:
    steering = control(gamma="auto")
    steering.measured(geometry([0.0, 3.0], [2.0, 0.0]))
    assert steering.weights.gamma * 2.0 == pytest.approx(3.0)


def test_lambda_begins_as_a_share_of_the_standard_gradient() -> None:
    steering = control(eta=1.0, **{"lambda": "auto"})
    assert steering.measures(0)
    steering.measured(geometry([3.0, 4.0], [0.0, 2.0], preservation=[0.0, 0.0]))
    assert steering.measures(1), "no token was preserved yet"
    steering.measured(geometry([3.0, 4.0], [0.0, 2.0], preservation=[0.5, 0.0]))
    assert steering.weights.lambda_ == pytest.approx(0.1 * 5.0 / 0.5)
    assert not steering.measures(2)
    assert steering.measures(10), "how long preservation's gradient may be is looked at again"


def drift(steering: SteeringControl, steps: int) -> float:
    """A language loss that steering pushes up and preservation pulls down; where it ends, nats."""
    loss = 0.05
    for step in range(steps):
        if steering.measures(step):
            steering.measured(geometry([1.0, 0.0], [0.0, 1.0], preservation=[0.0, 10 * loss]))
        loss = max(0.0, loss + 0.05 - 0.02 * steering.weights.lambda_ * loss * 10)
        steering.observed(loss, standard=1.0)
    return loss


def test_lambda_stops_a_collapse_that_the_papers_does_not() -> None:
    assert drift(control(eta=1.0), 200) > 4.0, "lambda 0.01: the prior runs away"
    allowed = 0.25  # of a standard loss of 1 nat
    assert drift(control(eta=1.0, **{"lambda": "auto"}), 200) < 0.05 + 1.5 * allowed


def test_preservation_never_outweighs_what_it_holds() -> None:
    steering = control(gamma=2.0, eta=1.0, **{"lambda": "auto"})
    for step in range(60):  # a rise that nothing stops
        if steering.measures(step):
            steering.measured(geometry([3.0, 0.0], [0.0, 1.0], preservation=[2.0, 0.0]))
        steering.observed(0.05 + 0.1 * step, 0.1)
    assert steering.weights.lambda_ * 2.0 == pytest.approx(3.0 + 2.0 * 1.0)


def test_lambda_puts_up_with_a_rise_that_is_little_beside_what_is_to_be_gained() -> None:
    found = {}
    for standard in (0.1, 2.0):
        steering = control(eta=1.0, **{"lambda": "auto"})
        steering.measured(geometry([1.0, 0.0], [0.0, 1.0], preservation=[1.0, 0.0]))
        begin = steering.weights.lambda_
        for step in range(30):  # from 0.05 to 0.2 nats
            steering.observed(0.05 + 0.005 * step, standard)
        found[standard] = steering.weights.lambda_ / begin
    assert found[0.1] > 3
    assert found[2.0] < 0.9


def test_lambda_falls_while_language_gets_better() -> None:
    steering = control(eta=1.0, **{"lambda": "auto"})
    steering.measured(geometry([1.0, 0.0], [0.0, 1.0], preservation=[1.0, 0.0]))
    before = steering.weights.lambda_
    for step in range(300):
        steering.observed(2.0 * 0.98**step, 2.0 * 0.98**step)
    assert steering.weights.lambda_ == pytest.approx(before / 10), "but no further"
    low = 2.0 * 0.98**300
    for step in range(60):  # a rise as late as that is answered
        steering.observed(low + 0.005 * step, low)
    assert steering.weights.lambda_ > 2 * before


def test_dynamic_eta_is_measured_in_every_step_with_auto_gamma_too() -> None:
    steering = control(gamma="auto", eta="dynamic", measure_every=4)
    steering.measured(geometry([0.0, 3.0], [1.0, 0.0]))
    assert [step for step in range(6) if steering.measures(step)] == list(range(6))


def test_auto_lambda_is_refused_where_something_else_is_preserved() -> None:
    with pytest.raises(ValueError, match=r"not what .language-steering. preserves"):
        control(name="language-steering", **{"lambda": "auto"})


def test_state_goes_on() -> None:
    settings = {"gamma": "auto", "lambda": "auto"}
    first, second = control(**settings), control(**settings)
    first.measured(geometry([3.0, 4.0], [1.0, 2.0], preservation=[0.5, 0.0]))
    for loss in (0.5, 0.4, 0.6):
        first.observed(loss, 1.0)
    second.restore(first.state())
    for steering in (first, second):
        steering.observed(0.9, 0.8)
    assert first.weights == second.weights
    assert first.state() == second.state()


def test_another_versions_state_is_told_by_name() -> None:
    state = control().state()
    del state["gammas"]
    with pytest.raises(ValueError, match="the checkpoint has no gammas: another version"):
        control().restore(state)
