"""One row as the teacher is asked about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from protos.item import ScoreItem
from protos.prompt import ChatPrompt, TextContext
from teacher_server.scoring.image_file import ImageFile

Message: TypeAlias = dict[str, Any]
"""{"role": "system" | "user" | "assistant", "content": text, or parts {"type": "text", "text": ...} and
{"type": "image"}}"""


@dataclass(frozen=True, eq=False)
class Sample:
    """A prompt with its images, and the response to it."""

    row: int
    """Position in the data, from 0."""
    id: str
    messages: tuple[Message, ...]
    """Before the response. Their image parts stand for `images`, in order."""
    images: tuple[ImageFile, ...]
    response: str | None = None
    """One answer to the messages; None where `turns` has several."""
    turns: tuple[Message, ...] = ()
    """First and last an assistant's."""

    @cached_property
    def messages_json(self) -> str:
        """As it crosses the wire."""
        return _json(self.messages)

    @cached_property
    def turns_json(self) -> str | None:
        """The same for the turns; None where there is but one response."""
        return _json(self.turns) if self.turns else None

    @property
    def memory_bytes(self) -> int:
        """Of its images, read, and its texts."""
        texts = (self.messages_json, self.response or self.turns_json or "")
        return sum(image.size_bytes for image in self.images) + sum(map(len, texts))

    def prompt(self, text_context: TextContext) -> ChatPrompt:
        """Reads the images. Raises BadRow where one can't be read."""
        images = tuple(image.read() for image in self.images)
        return ChatPrompt(self.messages_json, images, text_context, expected_responses=1)

    def item(self, deadline_s: float | None = None) -> ScoreItem:
        """VDS and both log-probabilities of every token, and no candidates."""
        return ScoreItem(
            mode="vds_only",
            response_text=self.response,
            response_turns=self.turns_json,
            token_texts=True,
            priority="score",
            deadline_s=deadline_s,
        )


def _json(messages: tuple[Message, ...]) -> str:
    return json.dumps(messages, ensure_ascii=False)
