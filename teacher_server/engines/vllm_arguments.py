"""Our settings as vLLM's: one function, so that every name that is passed on stands in one place."""

from __future__ import annotations

import os
from typing import Any

from vllm.config import PoolerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.models import ModelRegistry
from vllm.platforms import current_platform

from protos.teacher_info import Limits
from teacher_server.config import VllmEngineConfig
from teacher_server.engines.vllm_plugin import PREFIX, WAIT_ASLEEP, register

CPU_BLOCK_SIZE = 32


def engine_arguments(
    model: str, hf_config: Any, config: VllmEngineConfig, limits: Limits, grace_s: float
) -> AsyncEngineArgs:
    """Arguments of a scoring engine. Raises ValueError where vLLM knows none of the model's architectures."""
    _set_environment(config)
    register()
    optional = {
        "kv_cache_memory_bytes": config.kv_cache_gb and int(config.kv_cache_gb * 2**30),
        "max_model_len": config.max_model_len,
        "quantization": config.quantization,
        "revision": config.revision,
        "block_size": config.block_size or (CPU_BLOCK_SIZE if current_platform.is_cpu() else None),
    }
    return AsyncEngineArgs(
        model=model,
        runner="pooling",
        dtype=_dtype(hf_config, config),
        hf_overrides={"architectures": [_architecture(hf_config)], "head_dtype": "float32"},
        pooler_config=PoolerConfig(tok_pooling_type="ALL"),
        tensor_parallel_size=config.tensor_parallel_size,
        pipeline_parallel_size=config.pipeline_parallel_size,
        data_parallel_size=config.data_parallel_size,
        nnodes=config.nodes,
        node_rank=config.node_rank,
        master_addr=config.master_address,
        gpu_memory_utilization=config.gpu_memory_utilization,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_batch_tokens,
        enforce_eager=config.enforce_eager,
        enable_prefix_caching=config.share_prefix,
        enable_chunked_prefill=True,
        scheduling_policy="priority",
        scheduler_cls="teacher_server.engines.vllm_scheduler.ScoringScheduler",
        async_scheduling=False,
        limit_mm_per_prompt={"image": limits.max_images, "video": 0},
        mm_processor_cache_gb=config.image_cache_gb if config.data_parallel_size == 1 else 0,
        worker_extension_cls="teacher_server.engines.vllm_worker.PairWorker",
        additional_config={
            "chunk_rows": config.chunk_rows,
            "max_parked_rows": config.max_parked_rows,
        },
        shutdown_timeout=int(grace_s),
        disable_log_stats=True,
        **{name: value for name, value in optional.items() if value is not None},
    )


def _architecture(hf_config: Any) -> str:
    named = hf_config.architectures or []
    known = set(ModelRegistry.get_supported_archs())
    for architecture in named:
        if PREFIX + architecture in known:
            return PREFIX + architecture
    raise ValueError(
        f"vLLM serves none of the model's architectures ({', '.join(named) or 'its configuration names none'}); "
        "take --engine.kind transformers"
    )


def _dtype(hf_config: Any, config: VllmEngineConfig) -> Any:
    """The checkpoint's own where none is named: vLLM's "auto" would halve a float32 one."""
    if config.dtype != "auto":
        return config.dtype
    stored = hf_config.dtype or hf_config.get_text_config().dtype
    return "auto" if stored is None else str(stored).removeprefix("torch.")


def _set_environment(config: VllmEngineConfig) -> None:
    """What vLLM's processes read there alone: `config.threads` goes before what stands there."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if current_platform.is_cpu():
        os.environ.setdefault(WAIT_ASLEEP, "1")
    if config.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
