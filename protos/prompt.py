"""A prompt as it crosses the wire: one question in two contexts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from protos.arrays import Ids
from protos.fingerprint import image_digest, prompt_digest


@dataclass(frozen=True, eq=False)
class Prompt:
    """The same messages with their images (mm) and without (text)."""

    mm_ids: Ids
    """i32 [P], exactly one placeholder per image."""
    text_ids: Ids
    """i32 [Q], no placeholder; equal to `mm_ids` where there is no image."""
    images: tuple[bytes, ...] = ()
    """Encoded files (PNG, JPEG, WebP) in the order of their placeholders."""
    tokenizer_fingerprint: str = ""
    """Of the client's tokenizer; empty: the server can't check it."""
    processor_fingerprint: str = ""
    expected_responses: int = 0
    """Hint: how many responses will refer to this prompt; 0: unknown."""

    @cached_property
    def digest(self) -> bytes:
        """Sha256 over both contexts: see `protos.fingerprint.prompt_digest`."""
        return prompt_digest(self.mm_ids, self.text_ids, map(image_digest, self.images))
