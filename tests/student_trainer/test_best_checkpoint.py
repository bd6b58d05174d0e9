import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from student_trainer.best_checkpoint import BestCheckpoint, point_to_last, read_best
from student_trainer.student import Student
from student_trainer.world import World

ALONE = World(torch.device("cpu"))


@pytest.fixture(scope="module")
def student(qwen: Path) -> Student:
    return Student(str(qwen), "cpu", "float32")


def nudge(student: Student) -> torch.Tensor:
    """Move a weight, as training would; returns it."""
    weight = student.model.get_output_embeddings().weight
    with torch.no_grad():
        weight += 1.0
    return weight.detach().clone()


def kept(folder: Path) -> torch.Tensor:
    return load_file(folder / "best" / "model.safetensors")["lm_head.weight"]


def test_only_what_is_better_than_all_before_is_kept(student: Student, tmp_path: Path):
    best = BestCheckpoint(tmp_path, ALONE, 99)
    assert read_best(tmp_path) is None
    found = {}
    for step, accuracy in ((0, 0.25), (10, 0.5), (20, 0.5), (30, 0.375)):
        found[step] = nudge(student)
        assert best.offer(step, accuracy, student) == (step in (0, 10))
    assert read_best(tmp_path) == {"step": 10, "accuracy": 0.5}
    assert torch.equal(kept(tmp_path), found[10])
    assert {path.name for path in tmp_path.iterdir()} == {"best"}


def test_it_is_an_ordinary_folder(student: Student, tmp_path: Path):
    BestCheckpoint(tmp_path, ALONE, 99).offer(1, 0.5, student)
    AutoProcessor.from_pretrained(tmp_path / "best")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "best")
    ours = student.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


def test_a_resumed_run_knows_the_best_so_far(student: Student, tmp_path: Path):
    BestCheckpoint(tmp_path, ALONE, 99).offer(10, 0.5, student)
    again = BestCheckpoint(tmp_path, ALONE, 99)
    assert not again.offer(20, 0.5, student)
    assert again.offer(30, 0.75, student)
    assert read_best(tmp_path) == {"step": 30, "accuracy": 0.75}


@pytest.mark.parametrize("step", [None, 9])
def test_the_best_of_another_run_or_of_later_steps_is_removed(
    step: int | None, student: Student, tmp_path: Path
):
    BestCheckpoint(tmp_path, ALONE, 99).offer(10, 0.5, student)
    again = BestCheckpoint(tmp_path, ALONE, step)
    assert again.accuracy is None
    assert read_best(tmp_path) is None


def test_a_run_that_ends_while_it_saves_loses_nothing(student: Student, tmp_path: Path):
    BestCheckpoint(tmp_path, ALONE, 99).offer(10, 0.5, student)
    partial = tmp_path / ".best.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert read_best(tmp_path) == {"step": 10, "accuracy": 0.5}
    (tmp_path / "best").rename(tmp_path / ".best.aside")  # it ended between the two moves
    again = BestCheckpoint(tmp_path, ALONE, 99)
    assert again.accuracy == 0.5
    assert again.offer(20, 0.75, student)
    assert read_best(tmp_path) == {"step": 20, "accuracy": 0.75}
    assert {path.name for path in tmp_path.iterdir()} == {"best"}


def test_last_follows_the_newest_and_moves_with_its_folder(tmp_path: Path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("step-000001", "step-000002"):
        (checkpoints / name).mkdir(parents=True)
        (checkpoints / name / "trainer.json").write_text(json.dumps(name))
        point_to_last(checkpoints / name)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "checkpoints" / "last"
    assert json.loads((moved / "trainer.json").read_text()) == "step-000002"
