"""The embedded engine: any AutoModelForImageTextToText, exact, with prefixes shared among a prompt's responses."""

from __future__ import annotations

import logging
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from protos.errors import ErrorDetail, InternalFault, InvalidItem, LimitExceeded, TeacherError
from protos.expansion import ExpandedImage, expand_image
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import Limits
from teacher_server.chat_format import ChatFormat
from teacher_server.config import TransformersEngineConfig
from teacher_server.engines.context import Context, build_context
from teacher_server.engines.engine import Job, PreparedPrompt
from teacher_server.engines.forward import Forward, Prefix, cache_can_be_shared, pack
from teacher_server.engines.identity import describe_teacher
from teacher_server.engines.joint_scores import score_items
from teacher_server.engines.output_head import OutputHead
from teacher_server.engines.prefix_cache import PrefixCache
from teacher_server.engines.row_scores import NotFinite
from teacher_server.images import grey

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Row:
    """One response in one context; the unit of a forward pass."""

    job: int
    which: int
    context: Context
    response: Tensor

    @property
    def length(self) -> int:
        return self.context.length + len(self.response) - 1


class TransformersEngine:
    """Scores batches of jobs, one at a time; `prepare` may run meanwhile on one other thread.

    A job's contexts are (mm, text), or (mm,) alone where the prompt has no image: text then equals mm.
    """

    def __init__(
        self, model: str, config: TransformersEngineConfig, *, teacher_id: str, limits: Limits
    ) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        device = _device(config.device)
        if config.dtype in ("auto", "float32"):
            # TF32 would cost three digits where a checkpoint is float32.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self._model: Any = AutoModelForImageTextToText.from_pretrained(
            model,
            dtype=config.dtype,
            attn_implementation=config.attn_implementation,
            revision=config.revision,
        )
        self._model.to(device).eval().requires_grad_(False)
        self._processor: Any = AutoProcessor.from_pretrained(model, revision=config.revision)
        self.chat = ChatFormat.of(self._processor)
        self._head = OutputHead(self._model)
        self._body = self._model.model
        self._forward = Forward(self._body, device, self._model.dtype, pad_id=0)
        self._chunk_rows = config.chunk_rows
        self._prefixes = PrefixCache(config.prefix_cache_tokens)
        self.prefix_stats = self._prefixes.stats
        self._share = config.share_prefix and not config.deterministic
        if self._share and not cache_can_be_shared(self._model):
            log.warning("prefix_sharing=off model=%s reason=its_cache_is_not_plain", model)
            self._share = False
        # A budget of one token puts every row into a forward pass of its own.
        self._max_forward_tokens = 1 if config.deterministic else config.max_batch_tokens
        self.max_batch_tokens = config.max_batch_tokens
        self.max_batch_jobs = 1 if config.deterministic else None
        rows = self._model.get_input_embeddings().weight.shape[0]
        self.info = describe_teacher(
            self._model.config,
            self._model.generation_config,
            self._processor,
            model=model,
            revision=config.revision,
            teacher_id=teacher_id,
            engine=config.kind,
            vocab_size=min(rows, self._head.vocab_size),
            context_length=self._model.config.get_text_config().max_position_embeddings,
            dtype=str(self._model.dtype).removeprefix("torch."),
            limits=limits,
            deterministic=config.deterministic,
            chat=self.chat,
        )

    def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        """Expand both contexts. Raises InvalidItem for an image that is nothing for this model."""
        placeholder = self.info.special_ids.image_placeholder
        expanded = [self._expand(i, image) for i, image in enumerate(images)]
        contexts = [build_context(prompt.mm_ids, placeholder, expanded, self._body)]
        if images:
            shown = [grey(image) for image in images] if prompt.text_context == "grey" else []
            in_text = [self._expand(i, image) for i, image in enumerate(shown)]
            contexts.append(build_context(prompt.text_ids, placeholder, in_text, self._body))
        return PreparedPrompt(
            digest=prompt.digest,
            mm_length=contexts[0].length,
            text_length=contexts[-1].length,
            expected_responses=prompt.expected_responses,
            contexts=tuple(contexts),
            memory_bytes=sum(context.memory_bytes for context in contexts),
        )

    def _expand(self, index: int, image: Image.Image) -> ExpandedImage:
        try:
            expanded = expand_image(self._processor, image)
        except ValueError as error:
            raise InvalidItem(
                f"media[{index}].image ({image.width} x {image.height}) is nothing for this model: {error}",
                ErrorDetail(f"media[{index}].image", f"{image.width} x {image.height}"),
            ) from error
        tensors = {
            name: tensor.to(self._model.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in expanded.tensors.items()
        }
        return replace(expanded, tensors=tensors)

    @torch.inference_mode()
    def score_batch(self, jobs: Sequence[Job]) -> list[Scores | TeacherError]:
        """Scores of each job, in order, or the error that is its own."""
        try:
            answers = score_items(
                [job.item for job in jobs], self._hidden_states(jobs), self._head, self._chunk_rows
            )
            return [_or_fault(answer) for answer in answers]
        except torch.OutOfMemoryError:
            self._prefixes.clear()
            torch.cuda.empty_cache()
            longest = max(job.longest for job in jobs)
            log.warning("out_of_memory jobs=%d longest=%d", len(jobs), longest)
        if len(jobs) > 1:  # a job's error is its own
            return [self.score_batch([job])[0] for job in jobs]
        return [
            LimitExceeded(
                f"the teacher ran out of device memory on {longest} tokens; its operator should lower chunk_rows or "
                "prefix_cache_tokens",
                ErrorDetail(value=str(longest), limit="device memory", retry_after_ms=1000),
            )
        ]

    def _hidden_states(self, jobs: Sequence[Job]) -> list[list[Tensor]]:
        """States [T, D] per job and context."""
        shared = self._jobs_with_shared_prefix(jobs)
        prefixes = self._prefixes_of([jobs[i].prompt for i in sorted(shared)])
        rows = [
            _Row(i, which, context, torch.tensor(job.item.response_ids, dtype=torch.long))
            for i, job in enumerate(jobs)
            for which, context in enumerate(job.prompt.contexts)
        ]
        states: dict[tuple[int, int], Tensor] = {}
        for batch in self._pack([row for row in rows if row.job not in shared]):
            hidden = self._forward.whole([r.context for r in batch], [r.response for r in batch])
            states |= {(r.job, r.which): h for r, h in zip(batch, hidden, strict=True)}
        for batch in self._pack([row for row in rows if row.job in shared]):
            known = [prefixes[jobs[row.job].prompt.digest][row.which] for row in batch]
            hidden = self._forward.extend(known, [row.response for row in batch])
            states |= {(r.job, r.which): h for r, h in zip(batch, hidden, strict=True)}
        return [
            [states[i, which] for which in range(len(job.prompt.contexts))]
            for i, job in enumerate(jobs)
        ]

    def _pack(self, rows: Sequence[_Row]) -> list[list[_Row]]:
        batches = pack([row.length for row in rows], self._max_forward_tokens)
        return [[rows[i] for i in batch] for batch in batches]

    def _jobs_with_shared_prefix(self, jobs: Sequence[Job]) -> set[int]:
        """Jobs whose prompt is run once for several responses; one alone is cheaper run whole."""
        if not self._share:
            return set()
        times = Counter(job.prompt.digest for job in jobs)
        return {
            i
            for i, job in enumerate(jobs)
            if job.prompt.expected_responses != 1
            or times[job.prompt.digest] > 1
            or job.prompt.digest in self._prefixes
        }

    def _prefixes_of(self, prompts: Sequence[PreparedPrompt]) -> dict[bytes, tuple[Prefix, ...]]:
        """The prefixes of each prompt's contexts by its digest, run where they are not held yet."""
        by_digest = {prompt.digest: prompt for prompt in prompts}
        times = Counter(prompt.digest for prompt in prompts)
        found = {digest: self._prefixes.get(digest, times[digest]) for digest in by_digest}
        missing = [
            (digest, context)
            for digest, prompt in by_digest.items()
            if found[digest] is None
            for context in prompt.contexts
        ]
        run: dict[int, Prefix] = {}
        for batch in pack([context.length for _, context in missing], self._max_forward_tokens):
            prefixes = self._forward.prefill([missing[i][1] for i in batch])
            run |= dict(zip(batch, prefixes, strict=True))
        made: defaultdict[bytes, list[Prefix]] = defaultdict(list)
        for i, (digest, _) in enumerate(missing):
            made[digest].append(run[i])
        for digest, prefixes in made.items():
            self._prefixes.put(digest, tuple(prefixes), times[digest])
        held = {digest: prefixes for digest, prefixes in found.items() if prefixes is not None}
        return held | {digest: tuple(prefixes) for digest, prefixes in made.items()}


def _or_fault(answer: Scores | NotFinite) -> Scores | TeacherError:
    if isinstance(answer, Scores):
        return answer
    error_id = uuid.uuid4().hex[:12]
    log.error("not_finite error_id=%s %s", error_id, answer)
    return InternalFault(
        f"the teacher's {answer}; the model or its dtype is at fault (error id {error_id})",
        ErrorDetail(error_id=error_id),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
