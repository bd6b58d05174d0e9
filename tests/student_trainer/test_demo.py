"""The demo, a few steps of it, on the shipped toy and in its real processes."""

import json
import subprocess
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from student_trainer.demo import demo
from student_trainer.demo_config import DemoConfig
from student_trainer.errors import TrainerError
from student_trainer.teacher_process import TeacherDidNotStart

KEYS = {
    "accuracy_before",
    "accuracy_after",
    "steps",
    "seconds",
    "teacher_wait_share",
    "wire_bytes_per_token",
    "mean_vds",
}
RESULTS = ("summary.json", "report.html")


def settings(run_dir: Path, steps: int) -> dict[str, Any]:
    values = tomllib.loads(Path("examples/digits/demo.toml").read_text())
    values |= {"run_dir": str(run_dir), "heldout_limit": 8, "examples": 2}
    values["train"] |= {"steps": steps, "eval": {"every": steps, "limit": 4}}
    return values


def test_two_steps_of_the_demo(tmp_path: Path, capsys):
    values = settings(tmp_path, steps=2)
    (tmp_path / "precious.txt").write_text("not the demo's")
    for _ in range(2):  # a second demo replaces the first, and nothing else
        demo(DemoConfig.model_validate(values))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["objectives"]) == {"standard", "vgs-lp"}
    for figures in summary["objectives"].values():
        assert set(figures) >= KEYS
        assert figures["steps"] == 2
        assert 0 <= figures["accuracy_before"] <= 1
        assert 0 < figures["teacher_wait_share"] < 1
        assert figures["wire_bytes_per_token"] > 16
        assert figures["mean_vds"] > 0
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "precious.txt").exists()
    assert "vgs-lp" in capsys.readouterr().out


def test_a_demo_that_is_broken_off_leaves_no_earlier_results(tmp_path: Path):
    for name in RESULTS:
        (tmp_path / name).write_text("of an earlier demo")
    values = settings(tmp_path, steps=2) | {"teacher_config": str(tmp_path / "nowhere.toml")}
    with pytest.raises(TeacherDidNotStart):
        demo(DemoConfig.model_validate(values))
    assert not any((tmp_path / name).exists() for name in RESULTS)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """Processes that were started since."""
    started = []

    class Child(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Child)
    return started


@pytest.mark.parametrize(
    ("steps", "sign"),
    [(1000, "metrics.jsonl"), (1, "checkpoints/step-000001/model.safetensors")],
    ids=["in a run", "between two runs"],
)
def test_a_demo_ends_soon_after_its_teacher(
    steps: int, sign: str, children: list[subprocess.Popen], tmp_path: Path
):
    values = settings(tmp_path, steps)
    values["train"]["teacher"] |= {"outage_s": 0.5, "connect_timeout_s": 1}
    values["train"] |= {"batch": {"prompts": 4, "microbatch": 4}, "eval": {"every": 0}}
    seen, over = tmp_path / "standard" / sign, threading.Event()

    def kill_when_seen() -> None:
        while not (seen.exists() and seen.stat().st_size) and not over.wait(0.02):
            pass
        (teacher,) = (child for child in children if "teacher_server" in str(child.args))
        teacher.kill()

    killer = threading.Thread(target=kill_when_seen)
    killer.start()
    try:
        with pytest.raises(TrainerError, match="teacher went away") as failure:
            demo(DemoConfig.model_validate(values))
    finally:
        over.set()
        killer.join()
    assert str(tmp_path / "teacher.log") in str(failure.value)
    assert "--resume" not in str(failure.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["standard", "vgs", "standard"], '"standard" 2 times.*leave one'),
        (["standard", "grpo"], '"grpo".*student-trainer train'),
    ],
)
def test_objectives_that_cannot_be_compared_are_refused(names: list[str], said: str):
    with pytest.raises(ValidationError, match=said):
        DemoConfig.model_validate({"objectives": [{"name": name} for name in names]})
