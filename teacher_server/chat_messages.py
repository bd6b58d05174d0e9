"""Messages of a chat as they come, checked: roles, parts, and one image part per image."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from protos.errors import ErrorDetail, InvalidItem

Role = Literal["system", "user", "assistant"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Part):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImagePart(_Part):
    """Stands for the next of the prompt's images."""

    type: Literal["image"]


class ChatMessage(_Part):
    """One turn."""

    role: Role
    content: str | list[TextPart | ImagePart]

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """The content; a plain string is one text."""
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return self.content

    @property
    def images(self) -> int:
        """How many images it shows."""
        return sum(isinstance(part, ImagePart) for part in self.parts)

    def rendered(self, with_images: bool) -> dict[str, Any]:
        """As chat templates take it."""
        parts = [p.model_dump() for p in self.parts if with_images or isinstance(p, TextPart)]
        return {"role": self.role, "content": parts}


_MESSAGES = TypeAdapter(list[ChatMessage])
MAX_MESSAGES = 1000
MAX_TURNS = 200
"""All that stands before is rendered anew for each of them."""


def parse_messages(text: str, field: str) -> list[ChatMessage]:
    """Messages of a JSON text. Raises InvalidItem that names the place, the value and the mend."""
    try:
        messages = _MESSAGES.validate_json(text)
    except ValidationError as error:
        # Of a union's members the one that came furthest is what was meant.
        wrong = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))
        place = field + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in wrong["loc"])
        raise InvalidItem(
            f'{place}: {wrong["msg"]}; send a JSON list of {{"role": "system" | "user" | "assistant", "content": text '
            'or parts {"type": "text", "text": ...} and {"type": "image"}}',
            ErrorDetail(field=place[:100], value=repr(wrong["input"])[:100]),
        ) from error
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidItem(
            f"{field} has {len(messages)} messages, allowed are 1 to {MAX_MESSAGES}",
            ErrorDetail(field, str(len(messages)), f"1 to {MAX_MESSAGES}"),
        )
    return messages


def check_prompt_messages(messages: list[ChatMessage], images: int) -> None:
    """One image part per image, and somebody to answer to. Raises InvalidItem."""
    shown = sum(message.images for message in messages)
    if shown != images:
        raise InvalidItem(
            f'the messages have {shown} parts {{"type": "image"}} for {images} images; send exactly one per image',
            ErrorDetail("messages_json", str(shown), str(images)),
        )
    if messages[-1].role == "assistant":
        raise InvalidItem(
            "the prompt's last message is the assistant's; send it as the response",
            ErrorDetail("messages_json", "assistant", "system or user"),
        )


def check_turns(turns: list[ChatMessage]) -> None:
    """They begin and end with the assistant's, show no image and are not too many. Raises InvalidItem."""
    if len(turns) > MAX_TURNS:
        raise InvalidItem(
            f"response_turns has {len(turns)} turns, the limit is {MAX_TURNS}; score the later ones as a response of "
            "their own, with all that stands before them as the prompt",
            ErrorDetail("response_turns", str(len(turns)), str(MAX_TURNS)),
        )
    for place, turn in (("first", turns[0]), ("last", turns[-1])):
        if turn.role != "assistant":
            raise InvalidItem(
                f"the {place} of the turns is the {turn.role}'s; the first and the last must be the assistant's",
                ErrorDetail("response_turns", turn.role, "assistant"),
            )
    for i, turn in enumerate(turns):
        if turn.images:
            raise InvalidItem(
                f"response_turns[{i}] shows an image, which only a prompt can; score the turns after it as a response "
                "of their own, with all that stands before them as the prompt",
                ErrorDetail(f"response_turns[{i}]", "image"),
            )
