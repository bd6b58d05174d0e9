"""The recipes for Vision-SR1-47K: their arithmetic, and rows of that data set's schema."""

import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoProcessor

from student_trainer.config import TrainConfig
from student_trainer.data import DataSet, Sample
from student_trainer.data_config import DataConfig
from student_trainer.prompting import PromptBuilder
from teacher_server.config import ServeConfig, VllmEngineConfig
from tests.pictures import noise

RECIPES = sorted(Path("examples/vision_sr1").glob("student-*.toml"))
ROWS, BATCH, LONGEST_PROMPT, LONGEST_RESPONSE = 47_628, 512, 16_384, 2_048


def recipe(path: Path) -> TrainConfig:
    return TrainConfig.model_validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_arithmetic_is_the_papers(path: Path):
    config = recipe(path)
    assert config.batch.prompts * config.batch.responses_per_prompt == BATCH
    assert config.steps == ROWS // BATCH, "one epoch of whole batches"
    assert BATCH % config.batch.microbatch == 0
    assert config.sampler.max_new_tokens == LONGEST_RESPONSE
    assert (config.objective.gamma, config.objective.lambda_) == (2.0, 0.01)
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (1e-6, 0.01)
    assert config.objective.eta == {"student-2b": 0.41, "student-4b": 0.36}[path.stem]


def test_the_teacher_takes_what_the_students_send():
    teacher = ServeConfig.model_validate(
        tomllib.loads(Path("deploy/teacher-vllm.toml").read_text())
    )
    assert isinstance(teacher.engine, VllmEngineConfig)
    assert teacher.engine.max_model_len == LONGEST_PROMPT + LONGEST_RESPONSE
    assert teacher.limits.max_response_tokens >= LONGEST_RESPONSE
    for path in RECIPES:
        config = recipe(path)
        assert config.teacher.k <= teacher.limits.max_k
        assert config.sampler.candidates <= teacher.limits.max_candidates


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    image = {"bytes": noise(1), "path": None}
    table = pa.Table.from_pylist(
        [
            {"problem_id": 7, "problem": "<image>How many?", "images": [image], "answer": "3"},
            {
                "problem_id": 8,
                "problem": "<image> or <image>?",
                "images": [image] * 2,
                "answer": "A",
            },
            {"problem_id": 9, "problem": "And so?", "images": [image], "answer": "B"},
            {"problem_id": 10, "problem": "<image> or <image>?", "images": [image], "answer": "C"},
        ]
    )
    pq.write_table(table, tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def rendered(builder: PromptBuilder, sample: Sample) -> tuple[str, str]:
    wire = builder.build(sample, 1).wire
    decode = builder._processor.tokenizer.decode
    return decode(wire.mm_ids), decode(wire.text_ids)


def test_rows_of_its_schema_become_prompts(rows: Path, qwen: Path):
    config = recipe(RECIPES[0]).data.model_copy(update={"system_prompt": None})
    data = DataSet(rows, config)
    builder = PromptBuilder(AutoProcessor.from_pretrained(qwen), config)
    shown = "<|vision_start|><|image_pad|><|vision_end|>"
    for index, (mm, text) in enumerate(
        [
            (f"{shown}How many?", "How many?"),
            (f"{shown} or {shown}?", " or ?"),
            (f"{shown}\nAnd so?", "\nAnd so?"),
        ]
    ):
        got_mm, got_text = rendered(builder, data[index])
        assert mm in got_mm
        assert text in got_text
        assert "<image>" not in got_mm + got_text
    with pytest.raises(ValueError, match="2 '<image>' for 1 images"):
        builder.build(data[3], 1)
    assert [data[i].answer for i in range(4)] == ["3", "A", "B", "C"]


def test_a_marker_is_text_unless_it_is_named(qwen: Path):
    settings: dict[str, Any] = {"system_prompt": None}
    builder = PromptBuilder(AutoProcessor.from_pretrained(qwen), DataConfig(**settings))
    mm, text = rendered(builder, Sample((noise(1),), "write <image> here", ""))
    assert "<image>" in mm
    assert "<image>" in text
