import pytest

from student_trainer.step_time import StepTime


def line(sampler: float, teacher: float, update: float, lag: float = 0.0) -> dict[str, float]:
    return {
        "time/sampler_wait_s": sampler,
        "time/teacher_wait_s": teacher,
        "time/update_s": update,
        "time/step_s": 1.0,
        "rollout/lag": lag,
    }


@pytest.mark.parametrize(
    ("lines", "stage"),
    [
        ([line(0.5, 0.1, 0.4)], "sampler"),
        ([line(0.3, 0.4, 0.2)], "teacher"),
        ([line(0.3, 0.0, 0.6)], "learner"),
        # Beside the learner only what is waited for counts, however long the update is.
        ([line(0.4, 0.0, 0.6, lag=1)], "sampler"),
        ([line(0.02, 0.1, 0.8, lag=1)], "teacher"),
        ([line(0.9, 0.0, 0.1), *[line(0.0, 0.01, 0.9, lag=1)] * 30], "learner"),
    ],
)
def test_what_bounds_a_run(lines, stage):
    assert StepTime(lines).bound_by == stage


def test_shares_are_of_the_step_time():
    spent = StepTime([line(0.5, 0.1, 0.2), line(0.1, 0.1, 0.6), {"step": 0, "eval/accuracy": 0.5}])
    assert spent.steps == 2
    assert spent.shares == pytest.approx({"sampler": 0.3, "teacher": 0.1, "learner": 0.4})
    assert str(spent) == (
        "bound_by=learner sampler_wait=30% teacher_wait=10% update=40% step_s=1 steps=2"
    )


def test_without_steps_nothing_is_spent():
    assert StepTime().shares == {"sampler": 0, "teacher": 0, "learner": 0}
