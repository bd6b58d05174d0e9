"""The production engine: vLLM scores and packs, this file keeps the two contexts of a response together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from vllm import PoolingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from protos.errors import ErrorDetail, InternalFault, Unavailable
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import Limits, TeacherInfo
from teacher_server.chat_format import ChatFormat
from teacher_server.config import VllmEngineConfig
from teacher_server.engines.engine import Job, PreparedPrompt
from teacher_server.engines.identity import describe_teacher
from teacher_server.engines.prefix_stats import PrefixStats
from teacher_server.engines.vllm_arguments import engine_arguments
from teacher_server.engines.vllm_leftovers import Leftovers
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
from teacher_server.metrics import Metrics

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times that a response is asked for: an image may have left vLLM's cache, a parked half have been evicted."""
DEATH_WATCH_S = 0.5
STEPS_ADMITTED = 4
"""Full steps' worth of tokens that vLLM is given to schedule; the rest waits its turn before it."""


_Answer = tuple[Outcome | None, Scores | None]


class VllmEngine:
    """An Engine (see engine.py) over vLLM's AsyncLLM, whose own processes hold the devices."""

    def __init__(
        self,
        llm: AsyncLLM,
        info: TeacherInfo,
        config: VllmEngineConfig,
        processor: Any,
        chat: ChatFormat | None,
        metrics: Metrics | None = None,
    ) -> None:
        self.info = info
        self.chat = chat
        self.prefix_stats = PrefixStats()
        self._llm = llm
        self._config = config
        placeholder = info.special_ids.image_placeholder
        self._renderer = PromptRenderer(llm.model_config, processor, placeholder)
        self._on_prepare = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._runs = itertools.count()
        admitted = config.admitted_tokens or STEPS_ADMITTED * config.max_batch_tokens
        self._gate = Gate(admitted, metrics)
        self._dead = asyncio.Event()
        self.leftovers = Leftovers(llm, config.pair_timeout_s)

    @classmethod
    async def start(
        cls,
        model: str,
        config: VllmEngineConfig,
        *,
        teacher_id: str,
        limits: Limits,
        grace_s: float,
        metrics: Metrics | None = None,
    ) -> VllmEngine:
        """Load the model in vLLM's processes. Raises ValueError or OSError where it can't be served.

        `grace_s` is what vLLM's processes are given to finish if a signal reaches them beside this one.
        """
        hf_config = AutoConfig.from_pretrained(model, revision=config.revision)
        processor = AutoProcessor.from_pretrained(model, revision=config.revision)
        chat = ChatFormat.of(processor)
        arguments = engine_arguments(model, hf_config, config, limits, grace_s)
        try:
            llm = AsyncLLM.from_engine_args(arguments)
        except RuntimeError as error:
            raise ValueError(f"vLLM can't serve {model}: {error}") from error
        try:
            text_config = hf_config.get_text_config()
            info = describe_teacher(
                hf_config,
                _generation_config(model, config.revision),
                processor,
                model=model,
                revision=config.revision,
                teacher_id=teacher_id,
                engine=config.kind,
                vocab_size=text_config.vocab_size,
                context_length=llm.model_config.max_model_len,
                dtype=str(llm.model_config.dtype).removeprefix("torch."),
                limits=limits,
                deterministic=False,
                chat=chat,
            )
            return cls(llm, info, config, processor, chat, metrics)
        except BaseException:
            llm.shutdown()
            raise

    async def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        """See Engine.prepare."""
        loop = asyncio.get_running_loop()
        rendered = await loop.run_in_executor(
            self._on_prepare, self._renderer.render, prompt, images
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
        try:
            async with self._gate.turn(job):
                admitted_s = time.monotonic()
                scores = await self._score_pair(job)
        except Exception as error:
            if isinstance(error, EngineDeadError) or self._llm.errored:
                self._dead.set()
                raise Unavailable("the teacher's engine died; ask another replica") from error
            raise
        queue_s = admitted_s - started_s
        return replace(scores, queue_s=queue_s, engine_s=time.monotonic() - admitted_s)

    async def died(self) -> None:
        """See Engine.died."""
        while not (self._dead.is_set() or self._llm.errored):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), DEATH_WATCH_S)

    async def close(self) -> None:
        """See Engine.close."""
        self.leftovers.close()
        self._on_prepare.shutdown()
        await asyncio.to_thread(self._llm.shutdown)

    @property
    def unfinished_requests(self) -> int:
        """Requests that vLLM has and has not answered."""
        return self._llm.get_num_unfinished_requests()

    async def parked_pairs(self) -> int:
        """Halves that wait in the engine for the other context; 0 when nothing runs."""
        return len(await self.leftovers.parked_keys())

    async def _score_pair(self, job: Job) -> Scores:
        """Ask for both contexts; again, where one was lost on the way."""
        skip_cache: set[ContextName] = set()
        for _ in range(ATTEMPTS):
            key = self.leftovers.new_key()
            try:
                answer = await self._ask(job, key, skip_cache)
            except BaseException:
                self.leftovers.abandon(key)
                raise
            if isinstance(answer, Scores):
                self.leftovers.settle(key)
                return answer
            self.leftovers.abandon(key)
            skip_cache |= answer
        raise Unavailable(
            f"the engine lost a context of the response {ATTEMPTS} times; if its log tells nothing else, its operator "
            "should raise max_parked_rows"
        )

    async def _ask(
        self, job: Job, key: str, skip_cache: set[ContextName]
    ) -> Scores | set[ContextName]:
        """Scores, or the contexts whose cached prefix must not be read the next time."""
        outcomes = await self._run_all(job, _halves(job, key), skip_cache)
        for outcome, scores in outcomes.values():
            if scores is not None:
                return scores
            if outcome is Outcome.NOT_FINITE:
                raise _not_finite()
        incomplete: set[ContextName] = {
            c for c, (outcome, _) in outcomes.items() if outcome is Outcome.INCOMPLETE
        }
        self.prefix_stats.recomputed += len(incomplete)
        return incomplete

    async def _run_all(
        self, job: Job, halves: Sequence[HalfRequest], skip_cache: set[ContextName]
    ) -> dict[ContextName, _Answer]:
        """All at once; if one fails, the others are cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks: dict[ContextName, asyncio.Task[_Answer]] = {
                    half.context: group.create_task(
                        self._run(job, half, half.context in skip_cache)
                    )
                    for half in halves
                }
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {context: task.result() for context, task in tasks.items()}

    async def _run(self, job: Job, half: HalfRequest, skip_cache: bool) -> _Answer:
        """One request; (None, None) where vLLM asks for it once more, with its images."""
        copies = self._config.data_parallel_size
        # vLLM keeps images for one copy of the model only.
        cache = self._llm.renderer.mm_processor_cache if copies == 1 else None
        prompt: VllmPrompt = job.prompt.contexts
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
                data_parallel_rank=rank_of(job.prompt.digest, copies) if copies > 1 else None,
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
        outcome, scores = outcome_from_bytes(data.view(np.uint8))
        if outcome is not Outcome.INCOMPLETE:
            self.prefix_stats.asked[half.context] += len(output.prompt_token_ids)
            self.prefix_stats.cached[half.context] += output.num_cached_tokens or 0
        return outcome, scores


def rank_of(digest: bytes, copies: int) -> int:
    """All responses to a prompt go where its prefix is, and both contexts of one to the same copy of the model."""
    return int.from_bytes(digest[:8], "little") % copies


def _halves(job: Job, key: str) -> tuple[HalfRequest, ...]:
    """The text half carries the item: it is the shorter one."""
    rows = len(job.item.response_ids)
    mm_first, text_first = job.prompt.mm_length - 1, job.prompt.text_length - 1
    if job.prompt.contexts.mm is None:
        return (HalfRequest(key, "alone", text_first, job.item, rows),)
    return (
        HalfRequest(key, "mm", mm_first, None, rows),
        HalfRequest(key, "text", text_first, job.item, rows),
    )


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
