"""What POST /v1/score is sent: OpenAI-style messages with their images in them, and an answer to score."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protos.arrays import as_ids
from protos.errors import ErrorDetail, InvalidItem
from protos.item import Mode, Priority, ScoreItem
from protos.prompt import ChatPrompt, TextContext
from teacher_server.chat_messages import MAX_MESSAGES, Role, TextPart

DEFAULT_K = 5
MOST_IDS = 2**17
"""Of a response; a teacher's own limit is lower."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageUrl(_Body):
    """The image itself: nothing is fetched."""

    url: str = Field(pattern="^data:", examples=["data:image/png;base64,iVBORw0KGgo..."])
    """A data URI: `data:image/png;base64,` and the file."""


class ImageUrlPart(_Body):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(_Body):
    """One turn."""

    role: Role
    content: str | list[Annotated[TextPart | ImageUrlPart, Field(discriminator="type")]]


class ScoreRequest(_Body):
    """One answer to score. Without `response` and `response_ids` every assistant turn of `messages` is scored."""

    id: str | None = Field(default=None, max_length=200)
    """Given back as it is."""
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    response: str | None = None
    """Tokenised as it stands: no token is added at its end."""
    response_ids: (
        Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=MOST_IDS)] | None
    ) = None
    """The same as token ids."""
    mode: Mode = "vds_only"
    """`topk` gives both contexts' candidates too, `sampled_only` leaves the VDS out."""
    k: int | None = Field(default=None, ge=1, lt=2**31)
    """Candidates of each context, for mode `topk`; 5 unless told."""
    text_context: TextContext = "drop"
    """What stands where the images were: nothing, or grey pictures."""
    priority: Priority = "score"
    """`train` goes before all `score`."""
    deadline_s: float | None = Field(default=None, gt=0, le=86_400)
    """Seconds until the answer is of no use."""

    def prompt(self) -> ChatPrompt:
        """The messages before what is scored. Raises InvalidItem."""
        images: list[bytes] = []
        shown = self.messages if self._has_response else self.messages[: self._first_answer]
        messages = [_message(message, images, f"messages[{i}]") for i, message in enumerate(shown)]
        return ChatPrompt(json.dumps(messages), tuple(images), self.text_context, 1)

    def item(self) -> ScoreItem:
        """What is scored. Raises InvalidItem."""
        if self.response is not None and self.response_ids is not None:
            raise InvalidItem(
                "response and response_ids are both given; send one of them",
                ErrorDetail("response_ids"),
            )
        if self.mode != "topk" and self.k is not None:
            raise InvalidItem(
                f"k is {self.k}, and mode {self.mode} has no candidates; ask for mode topk",
                ErrorDetail("k", str(self.k)),
            )
        turns = None
        if not self._has_response:
            if not self._first_answer:
                raise InvalidItem(
                    "the first message is the assistant's; put what it answers before it",
                    ErrorDetail("messages[0].role", "assistant", "system or user"),
                )
            rest = self.messages[self._first_answer :]
            none: list[bytes] = []
            turns = json.dumps([_message(m, none, "messages") for m in rest])
        return ScoreItem(
            response_ids=as_ids(self.response_ids or ()),
            k=(self.k or DEFAULT_K) if self.mode == "topk" else 0,
            deadline_s=self.deadline_s,
            priority=self.priority,
            mode=self.mode,
            response_text=self.response,
            response_turns=turns,
            token_texts=True,
        )

    @property
    def _has_response(self) -> bool:
        return self.response is not None or self.response_ids is not None

    @property
    def _first_answer(self) -> int:
        for i, message in enumerate(self.messages):
            if message.role == "assistant":
                return i
        raise InvalidItem(
            "there is nothing to score: give response or response_ids, or messages with the assistant's answers",
            ErrorDetail("response"),
        )


def parse_request(body: bytes | bytearray) -> ScoreRequest:
    """From JSON. Raises InvalidItem that names the field, the value and what is allowed."""
    try:
        return ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        # Of a union's members the one that came furthest is what was meant.
        wrong = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))
        field = _place(wrong["loc"], unknown=wrong["type"] == "extra_forbidden")
        text = wrong["msg"]
        if wrong["type"] == "string_pattern_mismatch" and field.endswith("url"):
            text = "images are not fetched; send the file as data:image/png;base64,..."
        value = "" if isinstance(wrong["input"], bytes | bytearray) else repr(wrong["input"])
        raise InvalidItem(
            f"{field or 'the body'}: {text}", ErrorDetail(field[:100], value[:100])
        ) from error


def _place(location: Sequence[str | int], unknown: bool) -> str:
    """`messages[0].content`, without the names of union members; `unknown`: the last is a field that nobody knows."""
    parts = [p for p in location if isinstance(p, int) or p in _FIELDS]
    if unknown:
        parts.append(location[-1])
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")


_FIELDS = {
    *ScoreRequest.model_fields,
    *Message.model_fields,
    *ImageUrlPart.model_fields,
    *ImageUrl.model_fields,
    *TextPart.model_fields,
}


def _message(message: Message, images: list[bytes], field: str) -> dict[str, object]:
    """As the contract has it; the images go to `images`."""
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts: list[dict[str, str]] = []
    for i, part in enumerate(message.content):
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        else:
            images.append(_decoded(part.image_url.url, f"{field}.content[{i}].image_url.url"))
            parts.append({"type": "image"})
    return {"role": message.role, "content": parts}


def _decoded(url: str, field: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InvalidItem(
            f"{field} is no base64 data URI; send data:image/png;base64, and the file",
            ErrorDetail(field, head[:60]),
        )
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidItem(
            f"{field} is no valid base64: {error}; encode the file once more",
            ErrorDetail(field, f"{len(data)} characters"),
        ) from error
