"""The production engine: vLLM scores and packs, this file keeps the two contexts of a response together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from vllm import PoolingParams
from vllm.config import PoolerConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from protos.errors import ErrorDetail, InternalFault, InvalidItem, Unavailable
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import Limits, TeacherInfo
from teacher_server.config import VllmEngineConfig
from teacher_server.engines.engine import Job, PreparedPrompt
from teacher_server.engines.identity import describe_teacher
from teacher_server.engines.vllm_plugin import PREFIX, register
from teacher_server.engines.vllm_pooler import TASK
from teacher_server.engines.vllm_prompts import PromptRenderer, VllmPrompt, with_response
from teacher_server.engines.vllm_request import (
    ContextName,
    HalfRequest,
    Outcome,
    outcome_from_bytes,
)
from teacher_server.fair_queue import PRIORITIES
from teacher_server.gate import Gate

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times that a half is asked for: a cached prefix may reach too far once, and a parked half be evicted once."""
DEATH_WATCH_S = 0.5
STEPS_ADMITTED = 4
"""Full steps' worth of tokens that vLLM is given to schedule; the rest waits its turn before it."""
DROP_DELAY_S = 0.05
CPU_BLOCK_SIZE = 32


_Answer = tuple[Outcome | None, Scores | None]


@dataclass
class PrefixStats:
    """Prompt tokens by context: `cached` of `asked` were not computed again."""

    asked: Counter[str] = field(default_factory=Counter)
    cached: Counter[str] = field(default_factory=Counter)
    recomputed: int = 0
    """Requests run again because a cached prefix reached into the response."""

    def hit_rate(self, context: ContextName) -> float:
        """Share of 1 of the tokens that came from the cache."""
        return self.cached[context] / max(1, self.asked[context])


class VllmEngine:
    """An Engine (see engine.py) over vLLM's AsyncLLM, whose own processes hold the devices."""

    def __init__(self, llm: AsyncLLM, info: TeacherInfo, config: VllmEngineConfig) -> None:
        self.info = info
        self.prefix_stats = PrefixStats()
        self._llm = llm
        self._config = config
        processor = AutoProcessor.from_pretrained(llm.model_config.model, revision=config.revision)
        placeholder = info.special_ids.image_placeholder
        self._renderer = PromptRenderer(llm.model_config, processor, placeholder)
        self._on_prepare = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._keys, self._runs = itertools.count(), itertools.count()
        self._live: set[str] = set()
        self._gate = Gate(config.admitted_tokens or STEPS_ADMITTED * config.max_batch_tokens)
        self._abandoned: set[str] = set()
        self._dead = asyncio.Event()
        self._dropping: asyncio.Task[None] | None = None
        self._sweeper = asyncio.create_task(self._sweep())

    @classmethod
    async def start(
        cls, model: str, config: VllmEngineConfig, *, teacher_id: str, limits: Limits
    ) -> VllmEngine:
        """Load the model in vLLM's processes. Raises ValueError or OSError where it can't be served."""
        hf_config = AutoConfig.from_pretrained(model, revision=config.revision)
        register()
        _set_environment(config)
        arguments = _engine_arguments(model, hf_config, config, limits)
        llm = AsyncLLM.from_engine_args(arguments)
        try:
            text_config = hf_config.get_text_config()
            info = describe_teacher(
                hf_config,
                _generation_config(model, config.revision),
                AutoProcessor.from_pretrained(model, revision=config.revision),
                model=model,
                revision=config.revision,
                teacher_id=teacher_id,
                engine=config.kind,
                vocab_size=text_config.vocab_size,
                context_length=llm.model_config.max_model_len,
                dtype=str(llm.model_config.dtype).removeprefix("torch."),
                limits=limits,
                deterministic=False,
            )
            return cls(llm, info, config)
        except BaseException:
            llm.shutdown()
            raise

    async def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        """See Engine.prepare."""
        loop = asyncio.get_running_loop()
        rendered = await loop.run_in_executor(
            self._on_prepare, self._renderer.render, prompt, images
        )
        longest = max(len(rendered.mm_ids), len(rendered.text_ids))
        if longest >= self.info.context_length:
            raise InvalidItem(
                f"the prompt has {longest} tokens with its images, the teacher's context is "
                f"{self.info.context_length}; send smaller images or a shorter text",
                ErrorDetail("mm_ids", str(longest), str(self.info.context_length)),
            )
        return PreparedPrompt(
            digest=prompt.digest,
            mm_length=len(rendered.mm_ids),
            text_length=len(rendered.text_ids),
            expected_responses=prompt.expected_responses,
            contexts=rendered,
            memory_bytes=rendered.memory_bytes,
        )

    async def score(self, job: Job) -> Scores:
        """See Engine.score. Cancelling drops the work at vLLM's next step."""
        started_s = time.monotonic()
        key = str(next(self._keys))
        self._live.add(key)
        try:
            async with self._gate.turn(job):
                admitted_s = time.monotonic()
                scores = await self._score_pair(job, key, self._rank_of(job))
        except EngineDeadError as error:
            self._dead.set()
            raise Unavailable("the teacher's engine died; ask another replica") from error
        except BaseException:
            self._abandon(key)
            raise
        finally:
            self._live.discard(key)
        queue_s = admitted_s - started_s
        return replace(scores, queue_s=queue_s, engine_s=time.monotonic() - admitted_s)

    async def died(self) -> None:
        """See Engine.died."""
        while not (self._dead.is_set() or self._llm.errored):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), DEATH_WATCH_S)

    async def close(self) -> None:
        """See Engine.close."""
        self._sweeper.cancel()
        self._on_prepare.shutdown()
        self._llm.shutdown()

    async def parked_pairs(self) -> int:
        """Halves that wait in the engine for the other context; 0 when nothing runs."""
        return len(await self._parked_keys())

    async def drop_stale_pairs(self) -> None:
        """Whatever is parked and not waited for goes, however it was left behind."""
        parked = await self._parked_keys()
        if stale := [key for key in parked if key not in self._live]:
            log.warning("stale_pairs=%d", len(stale))
            await self._drop(stale)

    async def _score_pair(self, job: Job, key: str, rank: int) -> Scores:
        halves = _halves(job, key)
        todo: list[ContextName] = list(halves)
        skip_cache: set[ContextName] = set()
        for _ in range(ATTEMPTS):
            outcomes = await self._run_all(job, [halves[c] for c in todo], rank, skip_cache)
            for outcome, scores in outcomes.values():
                if scores is not None:
                    return scores
                if outcome is Outcome.NOT_FINITE:
                    raise _not_finite()
            # Whatever did not park must be run again; if all did, one was evicted before the other came.
            todo = [c for c, (outcome, _) in outcomes.items() if outcome is not Outcome.PARKED]
            incomplete: set[ContextName] = {c for c in todo if outcomes[c][0] is Outcome.INCOMPLETE}
            self.prefix_stats.recomputed += len(incomplete)
            skip_cache |= incomplete
            todo = todo or list(halves)
        raise Unavailable(
            f"the engine lost one context of the response {ATTEMPTS} times; its operator should raise max_parked"
        )

    async def _run_all(
        self, job: Job, halves: Sequence[HalfRequest], rank: int, skip_cache: set[ContextName]
    ) -> dict[ContextName, _Answer]:
        """All at once; if one fails, the others are cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks: dict[ContextName, asyncio.Task[_Answer]] = {
                    half.context: group.create_task(
                        self._run(job, half, rank, half.context in skip_cache)
                    )
                    for half in halves
                }
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {context: task.result() for context, task in tasks.items()}

    async def _run(self, job: Job, half: HalfRequest, rank: int, skip_cache: bool) -> _Answer:
        """One request; (None, None) where vLLM asks for it once more, with its images."""
        prompt: VllmPrompt = job.prompt.contexts
        cache = self._llm.renderer.mm_processor_cache
        engine_input = with_response(prompt, half.context, job.item.response_ids, cache)
        params = PoolingParams(
            task=TASK,
            skip_reading_prefix_cache=skip_cache or not self._config.share_prefix,
            extra_kwargs=half.to_kwargs(),
        )
        request_id = f"{half.pair}-{half.context}-{next(self._runs)}"
        try:
            queue = await self._llm.add_request(
                request_id,
                engine_input,
                params,
                priority=PRIORITIES.index(job.item.priority),
                data_parallel_rank=rank if self._config.data_parallel_size > 1 else None,
            )
            output: Any = await queue.get()
        except asyncio.CancelledError:
            await self._llm.abort(request_id)
            raise
        if output.error is not None:
            return None, None
        data = output.outputs.data.numpy()
        if not len(data):
            raise InternalFault("vLLM ended a request without scores; its log says why")
        self.prefix_stats.asked[half.context] += len(output.prompt_token_ids)
        self.prefix_stats.cached[half.context] += output.num_cached_tokens or 0
        return outcome_from_bytes(data.view(np.uint8))

    def _rank_of(self, job: Job) -> int:
        """All responses to a prompt go where its prefix is: a fixed copy of the model for each prompt."""
        return int.from_bytes(job.prompt.digest[:8], "little") % self._config.data_parallel_size

    # --------------------------------------------------------------------- halves nobody waits for

    def _abandon(self, key: str) -> None:
        self._abandoned.add(key)
        if self._dropping is None or self._dropping.done():
            self._dropping = asyncio.create_task(self._drop_soon())

    async def _drop_soon(self) -> None:
        """Cancels come in crowds: one call for those of a moment."""
        while self._abandoned and not self._llm.errored:
            await asyncio.sleep(DROP_DELAY_S)
            keys, self._abandoned = sorted(self._abandoned), set()
            await self._drop(keys)

    async def _sweep(self) -> None:
        while not self._llm.errored:
            await asyncio.sleep(self._config.pair_timeout_s)
            await self.drop_stale_pairs()

    async def _drop(self, keys: list[str]) -> None:
        await self._llm.collective_rpc("drop_parked", args=(keys,))

    async def _parked_keys(self) -> list[str]:
        """Of all copies of the model; within one, ranks that score hold the same and others nothing."""
        copies = await self._llm.engine_core.call_utility_all_async(
            "collective_rpc", "parked_keys", None, (), None
        )
        return [key for ranks in copies for key in max(ranks, key=len)]


def _halves(job: Job, key: str) -> dict[ContextName, HalfRequest]:
    """The text half carries the item: it is the shorter one."""
    rows = len(job.item.response_ids)
    mm_first, text_first = job.prompt.mm_length - 1, job.prompt.text_length - 1
    if job.prompt.contexts.mm is None:
        return {"alone": HalfRequest(key, "alone", text_first, job.item, rows)}
    return {
        "mm": HalfRequest(key, "mm", mm_first, None, rows),
        "text": HalfRequest(key, "text", text_first, job.item, rows),
    }


def _not_finite() -> InternalFault:
    error_id = uuid.uuid4().hex[:12]
    log.error("not_finite error_id=%s", error_id)
    return InternalFault(
        f"the teacher's logits are not finite; the model or its dtype is at fault (error id {error_id})",
        ErrorDetail(error_id=error_id),
    )


def _generation_config(model: str, revision: str | None) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(model, revision=revision or "main")
    except OSError:  # a checkpoint need not have one
        return None


def _dtype(hf_config: Any, config: VllmEngineConfig) -> str:
    """VLLM's own "auto" would halve a float32 checkpoint."""
    if config.dtype != "auto":
        return config.dtype
    stored = hf_config.dtype or hf_config.get_text_config().dtype
    return "auto" if stored is None else str(stored).removeprefix("torch.")


def _set_environment(config: VllmEngineConfig) -> None:
    """VLLM takes these from the environment alone; whatever the operator has set stays."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if config.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def _engine_arguments(
    model: str, hf_config: Any, config: VllmEngineConfig, limits: Limits
) -> AsyncEngineArgs:
    architecture = hf_config.architectures[0]
    block_size = config.block_size or (CPU_BLOCK_SIZE if current_platform.is_cpu() else None)
    optional = {
        "kv_cache_memory_bytes": config.kv_cache_gb and int(config.kv_cache_gb * 2**30),
        "max_model_len": config.max_model_len,
        "quantization": config.quantization,
        "revision": config.revision,
        "block_size": block_size,
    }
    return AsyncEngineArgs(
        model=model,
        runner="pooling",
        dtype=_dtype(hf_config, config),
        hf_overrides={"architectures": [PREFIX + architecture], "head_dtype": "float32"},
        pooler_config=PoolerConfig(tok_pooling_type="ALL"),
        tensor_parallel_size=config.tensor_parallel_size,
        pipeline_parallel_size=config.pipeline_parallel_size,
        data_parallel_size=config.data_parallel_size,
        gpu_memory_utilization=config.gpu_memory_utilization,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_batch_tokens,
        enforce_eager=config.enforce_eager,
        enable_prefix_caching=config.share_prefix,
        enable_chunked_prefill=True,
        scheduling_policy="priority",
        limit_mm_per_prompt={"image": limits.max_images, "video": 0},
        mm_processor_cache_gb=config.image_cache_gb,
        worker_extension_cls="teacher_server.engines.vllm_worker.PairWorker",
        additional_config={"chunk_rows": config.chunk_rows, "max_parked": config.max_parked},
        disable_log_stats=True,
        **{name: value for name, value in optional.items() if value is not None},
    )
