# pyright: reportMissingImports=false
# vLLM has an environment of its own.
"""VLLM's engine for generation: one model, whose weights change while it runs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import torch
import transformers
import vllm
from transformers import AutoProcessor
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from protos.errors import InternalFault, InvalidItem, Unavailable
from protos.expansion import placeholder_token
from protos.fingerprint import processor_fingerprint, tokenizer_fingerprint
from protos.policy import Policy
from protos.rollout_info import RolloutInfo
from protos.rollout_request import RolloutPrompt, RolloutRequest
from protos.sampled_response import SampledResponse
from rollout_server import weight_transfer
from rollout_server.checkpoint_layout import CheckpointLayout
from rollout_server.config import ServeConfig
from rollout_server.images import decode_images
from rollout_server.validation import barred_ids, check_length
from rollout_server.vllm_sampling import sampled_response, sampling_params

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
WORKER_EXTENSION = f"{weight_transfer.__name__}.{weight_transfer.Registered.__name__}"


class VllmEngine:
    """vLLM's AsyncLLM as a `rollout_server.engine.Engine`."""

    def __init__(self, config: ServeConfig) -> None:
        """On the event loop that it is used on. Raises ValueError or OSError where the model can't be loaded."""
        try:
            self._llm = AsyncLLM.from_engine_args(_engine_args(config))
        except RuntimeError as error:  # its processes have printed why
            raise OSError(f"vLLM can't load {config.model}: {error}") from error
        self._request_ids = itertools.count()
        try:
            self.layout = CheckpointLayout.read(
                _folder(config), self._llm.model_config.hf_config.tie_word_embeddings
            )
            processor: Any = AutoProcessor.from_pretrained(config.model, revision=config.revision)
            self.placeholder_id = processor.tokenizer.convert_tokens_to_ids(
                placeholder_token(processor)
            )
            self.info = self._describe(config, processor)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """False once vLLM's own processes have failed."""
        return not self._llm.errored

    def close(self) -> None:
        """End vLLM's processes."""
        self._llm.shutdown()

    async def sample(
        self, request: RolloutRequest, policy: Policy | None
    ) -> AsyncGenerator[SampledResponse, None]:
        """Responses in order of completion; leaving early gives the others up."""
        barred = barred_ids(request, self.info.vocab_size)
        tasks: list[asyncio.Task[Any]] = []
        answers: list[asyncio.Task[SampledResponse]] = []
        for index, prompt in enumerate(request.prompts):
            prepared = asyncio.create_task(self._prepare(index, prompt, request.max_new_tokens))
            tasks.append(prepared)
            for response in range(prompt.responses):
                params = sampling_params(request, barred, prompt.seed, response)
                answers.append(
                    asyncio.create_task(
                        self._respond(request, policy, index, response, prepared, params)
                    )
                )
        tasks += answers
        try:
            for answer in asyncio.as_completed(answers):
                yield await answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def load(self, path: Path, policy: Policy) -> None:
        """Replace all weights by a safetensors file's. What may still run was given up by its client."""
        # Also empties the caches of prefixes and of encoded images: both are the old weights' work.
        try:
            await self._llm.pause_generation(mode="abort", clear_cache=True)
            try:
                await self._llm.start_weight_update()
                await self._llm.update_weights(
                    WeightTransferUpdateRequest(update_info={"path": str(path)})
                )
                await self._llm.finish_weight_update(weight_version=str(policy))
            finally:
                if self.alive:
                    await self._llm.resume_generation()
        except Exception as error:
            if isinstance(error, EngineDeadError) or not self.alive:
                raise Unavailable("the engine died while it took new weights") from error
            raise

    def _describe(self, config: ServeConfig, processor: Any) -> RolloutInfo:
        model = self._llm.model_config
        return RolloutInfo(
            model_id=config.model,
            tokenizer_fingerprint=tokenizer_fingerprint(processor.tokenizer),
            processor_fingerprint=processor_fingerprint(processor),
            vocab_size=model.get_vocab_size(),
            context_length=model.max_model_len,
            dtype=DTYPES[model.dtype],
            limits=config.limits.published(),
            versions={
                module.__name__: module.__version__ for module in (vllm, torch, transformers)
            },
        )

    # -------------------------------------------------------------------------------------- one answer

    async def _prepare(self, index: int, prompt: RolloutPrompt, new: int) -> Any:
        """The prompt as the engine takes it: images preprocessed and placeholders expanded, once for all responses."""
        field = f"prompts[{index}]"
        images = await asyncio.to_thread(decode_images, prompt.images, field, self.info.limits)
        raw = TokensPrompt(prompt_token_ids=prompt.ids.tolist())
        if images:
            raw["multi_modal_data"] = {"image": images}
        try:
            parsed: Any = parse_model_prompt(self._llm.model_config, raw)
            rendered: Any
            (rendered,) = await self._llm.renderer.render_cmpl_async([parsed])
        except (VLLMClientError, ValueError, RuntimeError) as error:
            raise InvalidItem(f"{field} does not fit the model: {error}") from error
        check_length(field, prompt, len(rendered["prompt_token_ids"]), new, self.info)
        return rendered

    async def _respond(
        self,
        request: RolloutRequest,
        policy: Policy | None,
        index: int,
        response: int,
        prepared: asyncio.Task[Any],
        params: SamplingParams,
    ) -> SampledResponse:
        # Shared by the prompt's responses: one's end is not the others'.
        rendered = await asyncio.shield(prepared)
        outputs = self._llm.generate(rendered, params, request_id=str(next(self._request_ids)))
        try:
            (output,) = [output async for output in outputs]  # the final one alone
        except VLLMClientError as error:
            raise InvalidItem(f"prompts[{index}] is refused by the engine: {error}") from error
        except EngineDeadError as error:
            raise Unavailable("the engine has died; restart the rollout server") from error
        (answer,) = output.outputs
        if answer.finish_reason not in ("stop", "length"):
            raise InternalFault(f"prompts[{index}] was ended by the engine: {answer.finish_reason}")
        return sampled_response(answer, request, policy, index, response)


def _engine_args(config: ServeConfig) -> AsyncEngineArgs:
    engine, limits = config.engine, config.limits
    gib = 2**30
    return AsyncEngineArgs(
        model=config.model,
        revision=config.revision,
        dtype=engine.dtype,
        # The trainer computes logits in float32; in bfloat16 the two policies would differ by up to a hundredth.
        hf_overrides={"head_dtype": "float32"},
        # A checkpoint's own top-k or temperature would change the policy.
        generation_config="vllm",
        logprobs_mode="raw_logprobs",
        max_logprobs=limits.max_candidates,
        max_model_len=engine.context_length,  # pyright: ignore[reportArgumentType]  # None: the model's own
        max_num_seqs=engine.max_running,
        block_size=engine.block_size,
        enforce_eager=engine.eager,
        tensor_parallel_size=engine.tensor_parallel,
        gpu_memory_utilization=engine.memory_share,
        kv_cache_memory_bytes=None
        if engine.kv_cache_gib is None
        else round(engine.kv_cache_gib * gib),
        enable_prefix_caching=engine.prefix_cache,
        limit_mm_per_prompt={"image": limits.max_images, "video": 0},
        # Each prompt is preprocessed once as it is; a second store would only have to be kept in step.
        mm_processor_cache_gb=0,
        weight_transfer_config=WeightTransferConfig(backend=weight_transfer.BACKEND),
        worker_extension_cls=WORKER_EXTENSION,
        enable_log_requests=False,
        disable_log_stats=True,
    )


def _folder(config: ServeConfig) -> Path:
    """Where the checkpoint's files lie; a hub model's were fetched by the engine."""
    if Path(config.model).is_dir():
        return Path(config.model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(config.model, revision=config.revision, local_files_only=True))
