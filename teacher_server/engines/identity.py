"""Who a loaded model is: the answer to Describe, from its weights, tokenizer and processor."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from protos.expansion import placeholder_token
from protos.fingerprint import processor_fingerprint, tokenizer_fingerprint
from protos.teacher_info import Limits, SpecialIds, TeacherInfo

CAPABILITIES = (
    "tokens",
    "topk",
    "candidates",
    "f16",
    "row_chunks",
    "deadlines",
    "credits",
    "cancel",
)
VERSIONED = ("vgs-opd", "torch", "transformers", "grpcio", "numpy", "pillow")
SAMPLED_BYTES = 4096


def describe_model(
    model: Any,
    processor: Any,
    *,
    model_id: str,
    revision: str,
    teacher_id: str,
    engine: str,
    vocab_size: int,
    limits: Limits,
    deterministic: bool,
) -> TeacherInfo:
    """Identity of `model` as served under `teacher_id`; `vocab_size` is its logits' width."""
    rows = model.get_input_embeddings().weight.shape[0]
    text_config = model.config.get_text_config()
    return TeacherInfo(
        teacher_id=teacher_id,
        model_id=Path(model_id).name if Path(model_id).is_dir() else model_id,
        model_revision=revision,
        model_fingerprint=model_fingerprint(model),
        tokenizer_fingerprint=tokenizer_fingerprint(processor.tokenizer),
        processor_fingerprint=processor_fingerprint(processor),
        special_ids=special_ids(model, processor),
        vocab_size=min(rows, vocab_size),
        context_length=text_config.max_position_embeddings,
        engine=engine,
        dtype=str(model.dtype).removeprefix("torch."),
        deterministic=deterministic,
        limits=limits,
        capabilities=CAPABILITIES,
        versions={name: version for name in VERSIONED if (version := _version(name))},
    )


def special_ids(model: Any, processor: Any) -> SpecialIds:
    """Placeholders by the processor's names, everything that may not stand in a response, and the ends."""
    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids(placeholder_token(processor))
    video = getattr(processor, "video_token_id", None)
    expanded = getattr(model.config, "image_token_id", None)
    eos = model.generation_config.eos_token_id
    return SpecialIds(
        image_placeholder=image,
        video_placeholder=video,
        forbidden_in_response=tuple(sorted({i for i in (image, video, expanded) if i is not None})),
        eos=tuple(_as_list(eos if eos is not None else tokenizer.eos_token_id)),
    )


def model_fingerprint(model: Any) -> str:
    """Sha256 over configuration, and name, shape, dtype and first and last bytes of every weight."""
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}
    config.pop("transformers_version", None)
    state = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1).view(torch.uint8)
        state.update(f"{name}{list(weight.shape)}{weight.dtype}".encode())
        for part in (flat[:SAMPLED_BYTES], flat[-SAMPLED_BYTES:]):
            state.update(part.cpu().numpy().tobytes())
    return state.hexdigest()


def _as_list(value: int | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
