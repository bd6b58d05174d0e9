"""What is asked of a rollout server: answers of one policy to some prompts."""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.arrays import Ids, no_ids
from protos.policy import Policy


@dataclass(frozen=True, eq=False)
class RolloutPrompt:
    """One question, and how many answers to it."""

    ids: Ids
    """i32 [P], exactly one placeholder per image."""
    images: tuple[bytes, ...] = ()
    """Encoded files in the order of their placeholders."""
    responses: int = 1
    expanded_length: int = 0
    """Tokens after expansion by the client's own processor; the server refuses another length. 0: not checked."""
    seed: int = 0
    """Of the sampling, 64 bits; each response draws from a stream of its own."""


@dataclass(frozen=True, eq=False)
class RolloutRequest:
    """Prompts that are answered alike."""

    prompts: tuple[RolloutPrompt, ...]
    max_new_tokens: int
    stop_ids: Ids = field(default_factory=no_ids)
    """i32 [E]; a response ends with the first of them, which belongs to it."""
    policy: Policy | None = None
    """Whose answers are wanted; a server that holds another policy refuses. None: whichever it holds."""
    candidates: int = 0
    """The model's own top ids that are wanted for each token."""
    suppressed_ids: Ids = field(default_factory=no_ids)
    """i32 [S], never sampled."""
    vocab_size: int = 0
    """Ids at or above it are never sampled and no candidates; 0: all are open."""
    greedy: bool = False
    """The most likely id at every step instead of a sampled one."""
