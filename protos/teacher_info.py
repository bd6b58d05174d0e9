"""Who a teacher is: the answer to Describe."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Published limits; every refusal names the one it broke.

    The largest legal item is a prompt: `max_item_bytes` bounds it. gRPC's own limit is twice that, so that an
    oversized item is still read, refused by name, and costs nothing but itself.
    """

    max_item_bytes: int = 32 * MIB
    max_message_bytes: int = 64 * MIB
    max_stream_bytes: int = 4096 * MIB
    max_prompts: int = 4096
    max_images: int = 16
    max_image_bytes: int = 16 * MIB
    max_image_pixels: int = 32_000_000
    max_prompt_pixels: int = 64_000_000
    image_formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP")
    max_k: int = 1024
    max_candidates: int = 1024
    max_response_tokens: int = 16_384
    max_chunk_rows: int = 1024
    max_client_tokens: int = 262_144
    max_client_bytes: int = 8192 * MIB
    max_total_tokens: int = 1_048_576
    max_total_bytes: int = 16_384 * MIB
    max_text_bytes: int = MIB


@dataclass(frozen=True)
class SpecialIds:
    """Ids with a role, as the teacher's tokenizer numbers them."""

    image_placeholder: int | None = None
    """Stands for one image in `Prompt.mm_ids`."""
    video_placeholder: int | None = None
    forbidden_in_response: tuple[int, ...] = ()
    """Placeholders and the tokens they expand to."""
    eos: tuple[int, ...] = ()


@dataclass(frozen=True)
class TeacherInfo:
    """Identity, limits and abilities of one teacher."""

    teacher_id: str
    model_id: str
    model_revision: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    processor_fingerprint: str
    special_ids: SpecialIds
    vocab_size: int
    """Ids must be below it: min(embedding rows, logits width)."""
    context_length: int
    """Expanded prompt + response, tokens."""
    engine: str
    dtype: str
    deterministic: bool
    limits: Limits = field(default_factory=Limits)
    text_fingerprint: str = ""
    """Of the chat template and the tokenizer, which make ids of messages and texts; empty: it takes ids alone."""
    capabilities: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict[str, str])
