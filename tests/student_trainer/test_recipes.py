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

FOLDER = Path("examples/vision_sr1")
STUDENTS = sorted(FOLDER.glob("student-*.toml"))
ROWS, LONGEST_PROMPT, LONGEST_RESPONSE = 47_628, 16_384, 2_048


def recipe(path: Path) -> TrainConfig:
    return TrainConfig.model_validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_what_all_of_them_share(path: Path):
    config = recipe(path)
    batch = config.batch
    assert batch.prompts * batch.responses_per_prompt == 512, "sampled together"
    a_step = 512 // batch.steps_per_rollout
    assert a_step % (8 * batch.microbatch) == 0, "whole microbatches on 8 GPUs"
    assert config.sampler.max_new_tokens == LONGEST_RESPONSE
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (1e-6, 0.01)
    assert config.optimizer.warmup_steps == 0, "constant"
    assert config.data.system_prompt is not None
    assert "<reason></reason>" in config.data.system_prompt
    assert "\\boxed{}" in config.data.system_prompt
    longest = 12_800 if path.stem == "teacher-grpo" else LONGEST_PROMPT
    assert config.data.max_prompt_tokens == longest
    servers = len(config.sampler.address.split(","))
    assert servers == (8 if config.parallel == "fsdp2" else 1), "one for each process"


@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.stem)
def test_the_students_arithmetic_is_the_papers(path: Path):
    config = recipe(path)
    assert (config.batch.responses_per_prompt, config.batch.steps_per_rollout) == (1, 1)
    assert config.steps == ROWS // 512 == 93, "one epoch of whole batches"
    assert config.objective.name == "vgs-lp"
    assert (config.objective.gamma, config.objective.lambda_) == (2.0, 0.01)
    assert config.objective.eta == {"student-2b": 0.41, "student-4b": 0.36}[path.stem]
    assert config.grpo is None


def test_the_teachers_arithmetic_is_the_papers():
    config = recipe(FOLDER / "teacher-grpo.toml")
    batch = config.batch
    assert (batch.prompts, batch.responses_per_prompt) == (64, 8)
    assert 64 * 8 // batch.steps_per_rollout == 128, "responses a step"
    samplings = 2 * (ROWS // batch.prompts)
    assert samplings == 1_488, "two epochs of whole samplings"
    assert config.steps == samplings * batch.steps_per_rollout == 5_952
    assert config.objective.name == "grpo"
    assert config.grpo is not None
    assert (config.grpo.clip_low, config.grpo.clip_high, config.grpo.normalise) == (0.2, 0.2, True)
    assert {r.name: r.weight for r in config.grpo.rewards} == {"answer": 1.0, "format": 0.1}


def test_the_teacher_takes_what_the_students_send():
    teacher = ServeConfig.model_validate(
        tomllib.loads(Path("deploy/teacher-vllm.toml").read_text())
    )
    assert isinstance(teacher.engine, VllmEngineConfig)
    assert teacher.engine.max_model_len == LONGEST_PROMPT + LONGEST_RESPONSE
    assert teacher.limits.max_response_tokens >= LONGEST_RESPONSE
    for path in STUDENTS:
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
    config = recipe(STUDENTS[0]).data.model_copy(update={"system_prompt": None})
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
