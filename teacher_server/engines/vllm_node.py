"""A machine that computes for another one's engine: ranks above 0 of vLLM's multi-node mode."""

from __future__ import annotations

import signal

from transformers import AutoConfig
from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from teacher_server.config import ServeConfig, VllmEngineConfig
from teacher_server.engines.vllm_arguments import engine_arguments


def compute_for_another(config: ServeConfig) -> None:
    """Until machine 0 goes, or SIGTERM comes."""
    engine = config.engine
    assert isinstance(engine, VllmEngineConfig)
    assert engine.node_rank > 0, "machine 0 answers"
    signal.signal(signal.SIGTERM, _end)
    hf_config = AutoConfig.from_pretrained(config.model, revision=engine.revision)
    arguments = engine_arguments(
        config.model, hf_config, engine, config.limits.published(), config.server.grace_s
    )
    executor = MultiprocExecutor(
        arguments.create_engine_config(headless=True), monitor_workers=False
    )
    executor.start_worker_monitor(inline=True)


def _end(number: int, frame: object) -> None:
    raise SystemExit
