"""Who a rollout server is: its answer to Describe."""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.policy import Policy

MIB = 2**20


@dataclass(frozen=True)
class RolloutLimits:
    """Published limits; every refusal names the one it broke.

    gRPC's own limit is twice the largest request, so that a larger one is still read and refused by name. The largest
    legal answer is well below it: `max_new_tokens` rows of an id, a log-probability, a split and `max_candidates` ids,
    4 bytes each, are 16.2 MiB.
    """

    max_message_bytes: int = 64 * MIB
    max_request_bytes: int = 32 * MIB
    max_responses: int = 4096
    max_images: int = 16
    max_image_pixels: int = 32_000_000
    image_formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP")
    max_new_tokens: int = 16_384
    max_candidates: int = 256
    max_chunk_bytes: int = 4 * MIB


@dataclass(frozen=True)
class RolloutInfo:
    """Identity, policy and limits of one server."""

    model_id: str
    tokenizer_fingerprint: str
    processor_fingerprint: str
    vocab_size: int
    """V, width of the logits."""
    context_length: int
    """Expanded prompt + response, tokens."""
    dtype: str
    """Of the weights in the engine, as `protos.weights` names it."""
    policy: Policy | None = None
    """That it holds; None: the weights it was started with."""
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    versions: dict[str, str] = field(default_factory=dict[str, str])
