"""A run as one lives with it: evaluated, resumed, traced, its best and last students at hand."""

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from student_trainer.best_checkpoint import read_best
from student_trainer.config import TrainConfig
from student_trainer.metrics import read_metrics
from student_trainer.step_time import StepTime
from student_trainer.train import Trainer, train
from tests.student_trainer.test_stage_clock import spans
from tests.tiny_models import make_qwen3_vl


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, photographs: tuple[bytes, bytes]) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "temple.jpg").write_bytes(photographs[0])
    lines = [{"image": "temple.jpg", "question": f"what is {i}?", "answer": str(i)} for i in (1, 2)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def settings(qwen_server: str, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    student = make_qwen3_vl(tmp_path_factory.mktemp("student"), seed=11)
    return TrainConfig.model_validate(
        {
            "model": str(student),
            "run_dir": tmp_path_factory.mktemp("runs") / "run",
            "steps": 3,
            "max_lag": 1,
            "device": "cpu",
            "data": {"train": str(rows), "validation": str(rows)},
            "sampler": {"max_new_tokens": 6, "candidates": 4},
            "teacher": {"address": qwen_server, "k": 6},
            "batch": {"prompts": 2, "responses_per_prompt": 2, "microbatch": 4},
            "checkpoint": {"every": 1, "keep": 1},
            "eval": {"every": 2},
            "trackers": [],
            "trace": True,
        }
    )


def test_a_run_and_its_resumption(settings: TrainConfig, caplog: pytest.LogCaptureFixture):
    accuracies = iter([0.25, 0.5, 0.5, 0.75, 0.75])  # before the first step, then 2, 3, 4 and 5
    folder = settings.run_dir / "checkpoints"

    def run(config: TrainConfig) -> Path:
        with Trainer(config) as trainer:
            trainer.validate = lambda: next(accuracies)
            return trainer.run()

    with caplog.at_level(logging.INFO, "student_trainer.train"):
        assert run(settings).name == "step-000003"
    lines = read_metrics(settings.run_dir / "metrics.jsonl")
    assert {line["step"]: line.get("eval/accuracy") for line in lines} == {
        0: 0.25,
        1: None,
        2: 0.5,
        3: 0.5,
    }
    assert read_best(folder) == {"step": 2, "accuracy": 0.5}
    assert sorted(path.name for path in folder.iterdir()) == ["best", "last", "step-000003"]
    assert (folder / "last").resolve().name == "step-000003"
    assert str(StepTime(lines)) in caplog.text
    assert StepTime(lines).steps == 3
    documented = Path("docs/reports.md").read_text()
    assert [name for line in lines for name in line if f"`{name}`" not in documented] == []

    # What is only watched may change on the way.
    changed = {"resume": True, "steps": 5, "trackers": ("tensorboard",), "geometry_every": 2}
    run(settings.model_copy(update=changed))
    assert list((settings.run_dir / "tensorboard").iterdir())
    lines = read_metrics(settings.run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(6))
    assert read_best(folder) == {"step": 4, "accuracy": 0.75}
    assert (folder / "last").resolve().name == "step-000005"

    found = spans(settings.run_dir / "trace-0.json")
    stages = {0: "sampler", 1: "teacher", 2: "learner", 3: "waiting"}
    counts = Counter((stages[span["tid"]], span["name"]) for span in found)
    assert counts["sampler", "sample"] == counts["learner", "update"] == 2
    assert counts["teacher", "score"] == 8
    assert counts["waiting", "step"] == counts["waiting", "teacher_wait"] == 2


def test_evaluation_is_real(settings: TrainConfig, tmp_path: Path):
    changed = {"run_dir": tmp_path, "steps": 1, "trace": False}
    train(settings.model_copy(update=changed))
    before, after = read_metrics(tmp_path / "metrics.jsonl")
    assert (before["step"], after["step"]) == (0, 1)
    assert 0 <= before["eval/accuracy"] <= 1
    assert read_best(tmp_path / "checkpoints") is not None


def test_an_absent_tracker_is_told_before_anything_is_loaded(
    settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    changed = {"run_dir": tmp_path / "run", "trackers": ("wandb",), "model": "/nowhere"}
    with pytest.raises(ValueError, match="pip install wandb"):
        train(settings.model_copy(update=changed))
    assert not (tmp_path / "run").exists()
