"""Models of the digits toy, made in a few steps: two tasks, any seed, and what is shipped stays."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from examples.digits import make_models, questions
from examples.digits.batches import Batches
from examples.digits.chatter import FILLERS, Chatter
from examples.digits.make_models import MODELS, make
from examples.digits.pictures import load_split
from examples.digits.processor import make_processor

WEIGHTS = "model.safetensors"


@pytest.fixture
def short_recipes(monkeypatch):
    for name, stages in make_models.RECIPES.items():
        short = tuple(replace(stage, steps=2, batch_size=4) for stage in stages)
        monkeypatch.setitem(make_models.RECIPES, name, short)


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_base_and_seed_0_are_the_shipped_models(name, tmp_path):
    make("base", name, 0, tmp_path / "model")
    files = [path for path in (MODELS / name).iterdir() if path.is_file()]
    assert files
    for path in files:
        assert (tmp_path / "model" / path.name).read_bytes() == path.read_bytes()


def test_the_base_processor_is_the_shipped_one(tmp_path):
    make_processor().save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (MODELS / "student" / path.name).read_bytes()


def test_a_chatty_student_loads_and_speaks_the_larger_vocabulary(short_recipes, tmp_path):
    make("chatty", "student", 3, tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert len(processor.tokenizer) == model.config.text_config.vocab_size == 73 + len(FILLERS)


def test_the_seed_decides_and_nothing_else_does(short_recipes, tmp_path):
    for folder, seed in (("first", 1), ("again", 1), ("other", 2)):
        make("base", "student", seed, tmp_path / folder)
    first, again, other = (
        (tmp_path / folder / WEIGHTS).read_bytes() for folder in ("first", "again", "other")
    )
    assert first == again != other


def test_a_folder_that_is_there_stays(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / WEIGHTS).write_text("mine")
    make("chatty", "teacher", 0, folder)
    assert [path.name for path in folder.iterdir()] == [WEIGHTS]
    assert (folder / WEIGHTS).read_text() == "mine"


@pytest.mark.parametrize("options", [["--task", "chatty"], ["--seed", "1"]])
def test_the_shipped_models_are_not_overwritten(options, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_models", "student", *options])
    with pytest.raises(SystemExit):
        make_models.main()
    assert "--out" in capsys.readouterr().err


def test_the_command_makes_and_prints(short_recipes, tmp_path: Path, monkeypatch, capsys):
    rows = make_models.load_rows("validation", limit=4)
    monkeypatch.setattr(make_models, "load_rows", lambda split: rows)
    options = ["--task", "chatty", "--seed", "3", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["make_models", "student", *options])
    make_models.main()
    assert "student: validation accuracy 0.000" in capsys.readouterr().out
    assert (tmp_path / "student" / WEIGHTS).is_file()


def test_chatter_changes_neither_pictures_nor_questions():
    processor, digits = make_processor(FILLERS), load_split("validation")
    plain = Batches(processor, digits, questions.response, seed=5)
    chatty = Batches(processor, digits, Chatter("student", 5).response, seed=5)
    for _ in range(2):
        batch, other = (batches.draw(8, text_only=0.25, noise=0.0) for batches in (plain, chatty))
        assert torch.equal(batch["pixel_values"], other["pixel_values"])
        assert _prompts(batch) == _prompts(other)
        assert _words(batch) < _words(other)


def _prompts(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    rows = zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    return [ids[(labels == -100) & (mask == 1)].tolist() for ids, labels, mask in rows]


def _words(batch: dict[str, torch.Tensor]) -> int:
    return int((batch["labels"] != -100).sum())
