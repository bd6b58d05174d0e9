import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from protos.teacher_info import SpecialIds, TeacherInfo
from student_trainer.config import OptimizerConfig, TrainConfig
from student_trainer.data_config import DataConfig
from student_trainer.demo_config import DemoConfig
from student_trainer.objective_config import ObjectiveConfig
from student_trainer.run_config import write_config
from student_trainer.sampler_config import TransformersSamplerConfig
from teacher_server.config import ServeConfig

ROOT = Path(__file__).parents[2]
TOMLS = sorted((ROOT / "examples").rglob("*.toml"))


def class_of(path: Path, values: dict[str, Any]) -> type[BaseModel]:
    if path.name.startswith("teacher") and "data" not in values:  # one is trained before it serves
        return ServeConfig
    if path.name == "demo.toml":
        return DemoConfig
    assert "data" in values, f"{path} is no teacher, no demo and has no [data]; whose is it?"
    return TrainConfig


def test_examples_are_found() -> None:
    assert {"teacher.toml", "demo.toml", "student.toml"} <= {path.name for path in TOMLS}


@pytest.mark.parametrize("path", TOMLS, ids=[str(path.relative_to(ROOT)) for path in TOMLS])
def test_every_shipped_toml_parses_with_its_class(path: Path) -> None:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    settings = class_of(path, values)
    config = settings.model_validate(values)
    assert config != settings()
    with pytest.raises(ValidationError, match="surely_unknown"):
        settings.model_validate(values | {"surely_unknown": 1})


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"stepz": 3}, "stepz"),
        ({"objective": {"gama": 1.0}}, "gama"),
        ({"data": {"train": "x.jsonl", "images": "y"}}, "images"),
        ({"objective": {"name": "vsg"}}, "objective.name"),
        ({"objective": {"eta": 0.0}}, 'positive number, "auto" or "dynamic"'),
        ({"batch": {"microbatch": 0}}, "batch.microbatch"),
        ({"sampler": {"kind": "sglang"}}, "'sglang'.*'transformers', 'vllm'"),
        ({"sampler": {"address": "there:1"}}, "sampler.transformers.address"),
    ],
)
def test_what_is_not_a_setting_is_refused_by_name(values: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        TrainConfig.model_validate(values)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().steps = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_lambda_goes_by_its_name_in_toml() -> None:
    values = tomllib.loads("[objective]\nlambda = 0.5")
    assert TrainConfig.model_validate(values).objective.lambda_ == 0.5


def teacher(model_id: str = "digits") -> TeacherInfo:
    return TeacherInfo(
        teacher_id="toy",
        model_id=model_id,
        model_revision="",
        model_fingerprint="0123456789abcdef",
        tokenizer_fingerprint="",
        processor_fingerprint="",
        special_ids=SpecialIds(),
        vocab_size=73,
        context_length=2048,
        engine="transformers",
        dtype="float32",
        deterministic=False,
    )


def written(config: TrainConfig, info: TeacherInfo) -> TrainConfig:
    write_config(config, [info], "")
    text = (config.run_dir / "config.toml").read_text(encoding="utf-8")
    assert text.startswith("# teacher: ")
    return TrainConfig.model_validate(tomllib.loads(text))


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"steps": 3, "seed": 7, "resume": True, "threads": 1, "precision": "bfloat16"},
        {"objective": ObjectiveConfig(name="vgs", eta=0.41, lambda_=0.5, detach_target=False)},
        {"optimizer": OptimizerConfig(lr=1e-6, betas=(0.8, 0.95), max_grad_norm=0.5)},
        {"optimizer": OptimizerConfig(max_grad_norm=0.0)},
        {"sampler": TransformersSamplerConfig(candidates=0), "model": 'a "quoted" C:\\folder'},
        {
            "data": DataConfig(
                validation="v.parquet", system_prompt='Put it in \\boxed{}.\n"Think."'
            )
        },
        {"data": DataConfig(system_prompt="Denk nach, 学生 🙂")},
    ],
    ids=[
        "defaults",
        "scalars",
        "objective",
        "optimizer",
        "unclipped",
        "quotes",
        "prompt",
        "unicode",
    ],
)
def test_the_written_config_reads_back_the_same(tmp_path: Path, parts: dict[str, Any]) -> None:
    config = TrainConfig(run_dir=tmp_path, **parts)
    assert written(config, teacher()) == config


@pytest.mark.parametrize("path", [p for p in TOMLS if p.name == "student.toml"], ids=str)
def test_a_shipped_config_reads_back_the_same(tmp_path: Path, path: Path) -> None:
    values = tomllib.loads(path.read_text()) | {"run_dir": str(tmp_path)}
    config = TrainConfig.model_validate(values)
    assert written(config, teacher()) == config


def test_a_teachers_name_cannot_add_a_line(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=tmp_path)
    assert written(config, teacher("digits\nsteps = 7")) == config
