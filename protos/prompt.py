"""A prompt as it crosses the wire: one question in two contexts, as token ids or as messages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from protos.arrays import Ids
from protos.fingerprint import chat_digest, image_digest, prompt_digest

TextContext = Literal["drop", "grey"]
"""What stands in the text context where the images were: nothing, or uniform grey pictures of the same sizes."""
GREY = (128, 128, 128)
"""RGB of those pictures, on both sides."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """The same messages with their images (mm) and without (text), rendered and tokenised by the client."""

    mm_ids: Ids
    """i32 [P], exactly one placeholder per image."""
    text_ids: Ids
    """i32 [Q], no placeholder; equal to `mm_ids` where there is no image, or a grey one."""
    images: tuple[bytes, ...] = ()
    """Encoded files (PNG, JPEG, WebP) in the order of their placeholders."""
    tokenizer_fingerprint: str = ""
    """Of the client's tokenizer; empty: the server can't check it."""
    processor_fingerprint: str = ""
    expected_responses: int = 0
    """Hint: how many responses will refer to this prompt; 0: unknown."""
    text_context: TextContext = "drop"

    @cached_property
    def digest(self) -> bytes:
        """Sha256 over both contexts: see `protos.fingerprint.prompt_digest`."""
        return prompt_digest(self.mm_ids, self.text_ids, map(image_digest, self.images))


@dataclass(frozen=True, eq=False)
class ChatPrompt:
    """Messages that the teacher renders and tokenises, in both contexts: the client needs no tokenizer."""

    messages: str
    """JSON: `[{"role": ..., "content": ...}, ...]`, content a string or a list of `{"type": "text", "text": ...}` and
    `{"type": "image"}`. The image parts stand for `images` in order; the last message is not the assistant's."""
    images: tuple[bytes, ...] = ()
    """Encoded files (PNG, JPEG, WebP)."""
    text_context: TextContext = "drop"
    expected_responses: int = 0
    """Hint: how many responses will refer to this prompt; 0: unknown."""

    @cached_property
    def digest(self) -> bytes:
        """Sha256 over what came: see `protos.fingerprint.chat_digest`."""
        return chat_digest(self.messages, self.text_context, map(image_digest, self.images))


AnyPrompt: TypeAlias = Prompt | ChatPrompt
