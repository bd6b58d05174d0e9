import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from teacher_server import cli
from teacher_server.config import ServeConfig, TransformersEngineConfig, VllmEngineConfig

ROOT = Path(__file__).parents[2]


def test_without_a_kind_the_embedded_engine_is_meant() -> None:
    for engine in ({}, {"threads": 2}, {"kind": "transformers", "threads": 2}):
        config = ServeConfig.model_validate({"engine": engine})
        assert isinstance(config.engine, TransformersEngineConfig)


def test_the_shipped_vllm_teacher_parses() -> None:
    values = tomllib.loads((ROOT / "deploy" / "teacher-vllm.toml").read_text(encoding="utf-8"))
    config = ServeConfig.model_validate(values)
    assert isinstance(config.engine, VllmEngineConfig)
    assert config.engine.dtype == "bfloat16"


def test_an_engine_has_its_own_settings_only() -> None:
    with pytest.raises(ValidationError, match="batch_wait_ms"):
        ServeConfig.model_validate({"engine": {"kind": "vllm", "batch_wait_ms": 1}})
    with pytest.raises(ValidationError, match="'transformers', 'vllm'"):
        ServeConfig.model_validate({"engine": {"kind": "sglang"}})


def test_the_kind_may_be_said_on_the_command_line(tmp_path: Path) -> None:
    flags = ["--engine.kind", "vllm", "--engine.tensor-parallel-size", "4"]
    config = cli._read_config(flags)
    assert isinstance(config.engine, VllmEngineConfig)
    assert config.engine.tensor_parallel_size == 4
    file = tmp_path / "teacher.toml"
    file.write_text('model = "m"\n[engine]\nthreads = 3\n', encoding="utf-8")
    other = cli._read_config(["--config", str(file), *flags])
    assert isinstance(other.engine, VllmEngineConfig)
    assert (other.model, other.engine.threads) == ("m", 3)
    same = cli._read_config(["--config", str(file), "--engine.kind", "transformers"])
    assert same.engine.threads == 3
    same = cli._read_config(["--config", str(file), "--engine.chunk-rows", "7"])
    assert isinstance(same.engine, TransformersEngineConfig)
    assert (same.engine.threads, same.engine.chunk_rows) == (3, 7)


def test_a_file_for_one_engine_is_not_taken_for_another(tmp_path: Path) -> None:
    file = tmp_path / "teacher.toml"
    file.write_text('[engine]\nkind = "transformers"\ndeterministic = true\n', encoding="utf-8")
    with pytest.raises(ValueError, match="settings for the transformers engine"):
        cli._read_config(["--config", str(file), "--engine.kind", "vllm"])
