"""Runs that follow rewards, alone or beside a teacher, and runs that sample ahead."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from traceback import StackSummary

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException

from student_trainer.checkpoint import _telling
from student_trainer.config import TrainConfig
from student_trainer.errors import RunFailed, RunInterrupted, TooManyDropped
from student_trainer.interruption import Interruption, StopHere
from student_trainer.train import Trainer, train
from tests.loopback import serving
from tests.pictures import noise
from tests.tiny_models import make_qwen3_vl


def length(response: str, expected: str) -> float:
    """A reward: longer answers are better."""
    return float(len(response))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for i in range(5):
        (folder / f"{i}.png").write_bytes(noise(i, (40, 40 + 8 * i), "PNG"))
        lines.append({"image": f"{i}.png", "question": f"what is {i}?", "answer": str(i)})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("student"), seed=11)


@pytest.fixture(scope="module")
def deterministic(qwen: Path):
    with serving(qwen, engine={"deterministic": True}) as address:
        yield address


def settings(student: Path, rows: Path, run_dir: Path, **sections) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": str(student),
            "run_dir": run_dir,
            "steps": 2,
            "device": "cpu",
            "data": {"train": str(rows)},
            "sampler": {"max_new_tokens": 6, "candidates": 2},
            "teacher": {"address": "127.0.0.1:1", "k": 4, "connect_timeout_s": 5},
            "objective": {"name": "grpo"},
            "grpo": {"rewards": [{"name": f"{__name__}:length"}]},
            "optimizer": {"lr": 1e-3},
            "batch": {"prompts": 4, "responses_per_prompt": 3, "microbatch": 5},
            "trackers": [],
        }
        | sections
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_rewards_alone_need_no_teacher(student, rows, tmp_path):
    last = train(settings(student, rows, tmp_path))
    assert not same(last, student)
    for line in lines(tmp_path):
        assert line["reward/mean"] > 0
        assert line["grpo/clipped_share"] == 0, "the first step on what was sampled has ratio 1"
        assert line["loss/policy"] == pytest.approx(0, abs=1e-5), "advantages of a group sum to 0"
        assert not any(name.startswith(("vds/", "eta/", "wire/")) for name in line)


def test_the_gradient_is_that_of_the_rewarded_log_probabilities(student, rows, tmp_path):
    with Trainer(settings(student, rows, tmp_path)) as trainer:
        batch, _ = trainer.next_batch()
        trainer.learner.accumulate(batch, 0)
        got = torch.cat([p.grad.flatten() for p in trainer.student.parameters])
        trainer.student.model.zero_grad(set_to_none=True)
        for one in batch:
            logits = trainer.student.read(
                [one.prompt], [one.rollout], "mm", lambda hidden, head: head.logits(hidden)
            )
            ids = torch.tensor(one.rollout.response_ids, dtype=torch.long)
            logprobs = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
            assert one.rollout.logprobs == pytest.approx(logprobs.detach().numpy(), abs=1e-4)
            (-one.advantage * logprobs.mean() / len(batch)).backward()
        expected = torch.cat([p.grad.flatten() for p in trainer.student.parameters])
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_rewards_beside_a_teacher(deterministic, student, rows, tmp_path):
    objective = {"name": "vgs-lp", "lambda": 1.0, "eta": 1.0}
    teacher = {"address": deterministic, "k": 4}
    found = {}
    for alpha in (0.0, 0.3, 1.0):
        grpo = {"alpha": alpha, "rewards": [{"name": f"{__name__}:length"}]}
        made = settings(
            student, rows, tmp_path / str(alpha), objective=objective, teacher=teacher, grpo=grpo
        )
        with Trainer(made) as trainer:
            batch, _ = trainer.next_batch()
            metrics = trainer.learner.accumulate(batch, 0)
            found[alpha] = torch.cat([p.grad.flatten() for p in trainer.student.parameters])
        assert metrics["loss/policy"] == pytest.approx(0, abs=1e-5)
        assert metrics["loss/standard"] > 0
    assert found[0.0].abs().max() > 1e-3
    mixed = 0.7 * found[0.0] + 0.3 * found[1.0]  # Eq. 22
    torch.testing.assert_close(found[0.3], mixed, atol=1e-6, rtol=1e-4)


def test_steps_may_share_what_was_sampled(student, rows, tmp_path):
    batch = {
        "prompts": 4, "responses_per_prompt": 3, "microbatch": 5, "steps_per_rollout": 2,
    }  # fmt: skip
    made = settings(student, rows, tmp_path, batch=batch, steps=4, checkpoint={"every": 2})
    with Trainer(made) as trainer:
        sampled = []
        for _ in range(2):
            part, metrics = trainer.next_batch()
            sampled.append([one.prompt.wire.digest for one in part])
            assert len(part) == 6
            trainer.learner.step(part, trainer.step)
            trainer.step += 1
        assert not set(sampled[0]) & set(sampled[1]), "each step has questions of its own"
        assert "rollout/tokens" not in metrics, "the second step samples nothing"


def test_a_count_of_steps_that_ends_within_a_sampling_is_refused(student, rows, tmp_path):
    batch = {"prompts": 4, "responses_per_prompt": 3, "steps_per_rollout": 2}
    with pytest.raises(ValueError, match=r"steps 3 is no multiple of batch.steps_per_rollout 2"):
        settings(student, rows, tmp_path, batch=batch, steps=3)


def test_a_group_of_one_is_refused(student, rows, tmp_path):
    with pytest.raises(ValueError, match="responses_per_prompt is 1"):
        settings(student, rows, tmp_path, batch={"responses_per_prompt": 1})


@pytest.fixture
def ahead(deterministic, student, rows):
    """Makes configurations that sample ahead."""

    def make(run_dir: Path, **sections) -> TrainConfig:
        defaults = {
            "max_lag": 1,
            "grpo": None,
            "objective": {"name": "vgs-lp", "lambda": 1.0, "eta": 1.0},
            "teacher": {"address": deterministic, "k": 4},
            "batch": {"prompts": 4, "microbatch": 4},
        }
        return settings(student, rows, run_dir, **(defaults | sections))

    return make


def test_at_lag_one_answers_are_one_step_old_and_runs_repeat(ahead, tmp_path):
    first, second = (
        train(ahead(tmp_path / name, steps=4, trace=name == "a")) for name in ("a", "b")
    )
    assert same(first, second)
    assert [line["rollout/lag"] for line in lines(tmp_path / "a")] == [0, 1, 1, 1]
    trained = train(ahead(tmp_path / "on-policy", steps=4, max_lag=0))
    assert not same(first, trained)


def test_at_lag_one_a_resumed_run_is_the_same_to_the_last_bit(ahead, tmp_path):
    every = {"every": 2}
    straight = train(ahead(tmp_path / "straight", steps=4, checkpoint=every))
    train(ahead(tmp_path / "parted", checkpoint=every))
    resumed = train(ahead(tmp_path / "parted", steps=4, checkpoint=every, resume=True))
    assert same(straight, resumed)
    assert [line["rollout/lag"] for line in lines(tmp_path / "parted")] == [0, 1, 0, 1]


def killed(settings: TrainConfig, when: Callable[[], bool]) -> str:
    """Train until a signal ends it, sent as soon as `when` is true; what the run says."""
    interruption, over = Interruption(), threading.Event()

    def kill() -> None:
        while not (over.is_set() or when()):
            time.sleep(0.001)
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with interruption.listening():
            train(settings, interruption)
    except RunInterrupted as error:
        return str(error)
    finally:
        over.set()
        killer.join()
    pytest.fail("nothing interrupted it")


@pytest.mark.parametrize("many", [1, 3])
def test_an_interrupted_run_goes_on_to_the_last_bit(student, rows, tmp_path, many):
    straight = train(settings(student, rows, tmp_path / "straight", steps=6))
    run_dir = tmp_path / "killed"
    metrics = run_dir / "metrics.jsonl"

    def some_steps() -> bool:
        return metrics.is_file() and len(lines(run_dir)) >= many

    said = killed(settings(student, rows, run_dir, steps=6), some_steps)
    (kept,) = (run_dir / "checkpoints").glob("step-*")
    step = int(kept.name.removeprefix("step-"))
    assert f"interrupted; step {step} is kept in " in said
    assert many <= step == len(lines(run_dir)) < 6
    assert same(straight, train(settings(student, rows, run_dir, steps=6, resume=True)))


def test_steps_that_share_rollouts_are_done_before_a_run_is_left(student, rows, tmp_path):
    batch = {"prompts": 4, "responses_per_prompt": 3, "steps_per_rollout": 2}
    interruption = Interruption()
    with Trainer(settings(student, rows, tmp_path, steps=6, batch=batch), interruption) as trainer:
        trainer.train_step()
        interruption.asked = True
        with pytest.raises(RunInterrupted, match="step 2 is kept"):
            trainer.run()


def test_a_signal_that_comes_while_it_saves_is_no_harm(student, rows, tmp_path):
    interruption = Interruption()
    with Trainer(settings(student, rows, tmp_path, steps=6), interruption) as trainer:
        trainer.train_step()
        save = trainer._save

        def interrupted() -> Path:
            signal.raise_signal(signal.SIGTERM)
            return save()

        def another_rank_was_asked() -> None:
            raise StopHere

        trainer._save, trainer._stop_if_asked = interrupted, another_rank_was_asked
        with interruption.listening(), pytest.raises(RunInterrupted, match="step 1 is kept"):
            trainer.run()
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000001"]


def test_a_disk_that_fails_is_not_a_wrong_setting(student, rows, tmp_path):
    with Trainer(settings(student, rows, tmp_path)) as trainer:
        (tmp_path / "checkpoints").write_text("in the way")
        with pytest.raises(RunFailed, match="step 2 failed"):
            trainer.run()
    interruption = Interruption()
    with Trainer(settings(student, rows, tmp_path / "b"), interruption) as trainer:
        trainer.train_step()
        (tmp_path / "b" / "checkpoints").write_text("in the way")
        interruption.asked = True
        with pytest.raises(RunFailed, match="step 1 can't be kept"):
            trainer.run()


def test_what_torch_wraps_comes_out_as_what_it_is():
    with pytest.raises(OSError, match="No space left"), _telling():
        raise CheckpointException("", {0: (OSError(28, "No space left"), StackSummary())})
    with pytest.raises(StopHere), _telling():
        raise CheckpointException("", {0: (StopHere(), StackSummary())})


def test_validation_rows_that_are_not_there_are_told_at_the_start(student, rows, tmp_path):
    data = {"train": str(rows), "validation": str(tmp_path / "none.jsonl")}
    with pytest.raises(ValueError, match=r"no data file at .*none\.jsonl"):
        Trainer(settings(student, rows, tmp_path / "run", data=data, eval={"every": 1}))


def test_answers_that_are_too_old_are_dropped_and_counted(ahead, tmp_path, caplog):
    teacher = ahead(tmp_path).teacher.model_copy(update={"max_dropped_share": 0.3})
    with Trainer(ahead(tmp_path, max_lag=0, teacher=teacher)) as trainer:
        trainer.train_step()
        trainer.stage.publish(1)
        sampled = trainer.stage.sample(1)
        sampled.rollouts[2] = replace(sampled.rollouts[2], policy_step=0)
        ((*kept,),) = trainer.stage.collect(sampled, 1)
        assert len(kept) == 3
        assert sampled.lost["stale"] == 1


def test_a_run_of_nothing_but_old_answers_stops(ahead, tmp_path):
    with Trainer(ahead(tmp_path, max_lag=0)) as trainer:
        trainer.step = 5  # the sampler still has the weights of step 0
        trainer.stage._policy_step = 0
        trainer.stage.publish = lambda step: None
        with pytest.raises(TooManyDropped, match="stale"):
            trainer.next_batch()


@pytest.mark.parametrize("prior", ["frozen", "average"])
def test_an_anchored_prior_keeps_its_own_weights(prior, ahead, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    objective = {"name": "vgs", "gamma": 2.0, "eta": 1.0, "prior": prior, "prior_decay": 0.5}
    with Trainer(ahead(tmp_path, max_lag=0, objective=objective)) as trainer:
        first = trainer.train_step()
        anchor = next(trainer.learner.prior.student.model.parameters()).detach().clone()
        live = next(trainer.student.model.parameters()).detach()
        moved = not torch.equal(anchor, live)
        trainer.train_step()
        later = next(trainer.learner.prior.student.model.parameters())
        assert torch.equal(anchor, later) == (prior == "frozen")
    assert moved
    assert "loss/vis" in first
    assert "loss/lang" not in first, "the student's own text context was not needed"


def test_gamma_and_lambda_choose_themselves(ahead, tmp_path):
    objective = {"name": "vgs-lp", "gamma": "auto", "lambda": "auto", "measure_every": 2}
    last = train(ahead(tmp_path, max_lag=0, objective=objective, steps=3))
    assert all(tensor.isfinite().all() for tensor in weights(last).values())
    found = lines(tmp_path)
    assert all(0 <= line["steering/gamma"] <= 4 for line in found)
    assert all(0 < line["steering/lambda"] <= 10 for line in found)
    assert found[0]["steering/gamma"] == found[1]["steering/gamma"] != found[2]["steering/gamma"]
