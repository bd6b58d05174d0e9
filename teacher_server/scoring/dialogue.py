"""Messages as data sets have them, OpenAI's way or ShareGPT's, brought to one form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from teacher_server.scoring.bad_row import BAD_MESSAGES, IMAGE_COUNT, BadRow, shown
from teacher_server.scoring.image_file import ImageFile, image_files
from teacher_server.scoring.image_folder import ImageFolder
from teacher_server.scoring.sample import Message

ROLES = {
    **{role: role for role in ("system", "user", "assistant")},
    **{"human": "user", "gpt": "assistant"},
}
IMAGE_PART = {"type": "image"}


@dataclass(frozen=True)
class Dialogue:
    """Turns, and what their image parts show."""

    turns: list[Message]
    images: list[ImageFile | None] = field(default_factory=list[ImageFile | None])
    """One for each image part, in order; None: the next of the row's image column."""


def read_dialogue(value: Any, folder: ImageFolder, image_marker: str | None = None) -> Dialogue:
    """`value` is a list of {role, content} or {from, value}, or such a list as JSON text.

    Content is a text, or a list of parts; an image part stands for the row's next image, or brings its own under
    "image" or "image_url". `image_marker` inside a text, where given, is an image part. Raises BadRow.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRow(
                BAD_MESSAGES, f"the messages are a text that is not JSON: {error}"
            ) from error
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise BadRow(BAD_MESSAGES, f"the messages are {_kind(value)}; give a list of turns")
    dialogue = Dialogue([])
    for number, turn in enumerate(value):
        _add(dialogue, turn, f"message {number}", folder, image_marker)
    return dialogue


def text_of(message: Message) -> str:
    """Its content without images."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def image_parts(messages: Sequence[Message]) -> int:
    """How many images they show."""
    contents = (message["content"] for message in messages)
    return sum(content.count(IMAGE_PART) for content in contents if not isinstance(content, str))


def with_images_first(messages: Sequence[Message], images: int, after: str = "") -> list[Message]:
    """So many image parts put before the first content of the user; `after` comes between them and a plain text.

    Raises BadRow where the user says nothing.
    """
    for number, message in enumerate(messages):
        if message["role"] == "user":
            content = message["content"]
            if isinstance(content, str):
                content = [{"type": "text", "text": after + content}]
            asked = message | {"content": [*[IMAGE_PART] * images, *content]}
            return [*messages[:number], asked, *messages[number + 1 :]]
    raise BadRow(BAD_MESSAGES, "no turn of the user's that could show the images")


def _add(
    dialogue: Dialogue, turn: Any, place: str, folder: ImageFolder, marker: str | None
) -> None:
    if not isinstance(turn, Mapping):
        raise BadRow(BAD_MESSAGES, f"{place} is {_kind(turn)}; give {{role, content}}")
    role = turn.get("role") or turn.get("from")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow(
            BAD_MESSAGES, f"{place} has the role {shown(role)}; known are {', '.join(ROLES)}"
        )
    if content is None:
        raise BadRow(BAD_MESSAGES, f"{place} has no content")
    if isinstance(content, str) and not (marker and marker in content):
        dialogue.turns.append({"role": ROLES[role], "content": content})
        return
    parts: list[dict[str, str]] = []
    for part in _parts(content, place, marker):
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
        else:
            parts.append(IMAGE_PART)
            dialogue.images.append(_own_image(part, place, folder))
    if image_parts([{"content": parts}]) and ROLES[role] == "assistant":
        raise BadRow(BAD_MESSAGES, f"{place} is the assistant's and shows an image")
    dialogue.turns.append({"role": ROLES[role], "content": parts})


@dataclass(frozen=True)
class _Image:
    value: Any
    """None: the part only says where."""


def _own_image(part: _Image, place: str, folder: ImageFolder) -> ImageFile | None:
    if part.value is None:
        return None
    images = image_files(part.value, folder)
    if len(images) != 1:
        raise BadRow(IMAGE_COUNT, f"{place} has {len(images)} images in one part; give one")
    return images[0]


def _parts(content: Any, place: str, marker: str | None) -> Iterator[str | _Image]:
    """Texts and images in order; an empty text between markers is left out."""
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise BadRow(BAD_MESSAGES, f"{place} has {_kind(content)} for content; give text or parts")
    for number, part in enumerate(content):
        if isinstance(part, str):
            text = part
        elif isinstance(part, Mapping):
            image = _image_of(part)
            if image is not None:
                yield image
                continue
            text = part.get("text")
        else:
            text = None
        if not isinstance(text, str):
            raise BadRow(BAD_MESSAGES, f"{place}, part {number} is neither text nor image")
        pieces = text.split(marker) if marker else [text]
        for i, piece in enumerate(pieces):
            if i:
                yield _Image(None)
            if piece:
                yield piece


def _image_of(part: Mapping[str, Any]) -> _Image | None:
    """The image that a part is, if it is one. Parquet has every field in every part, most of them null."""
    kind = part.get("type")
    if kind == "image_url" or (kind is None and part.get("image_url") is not None):
        url = part.get("image_url")
        return _Image(url.get("url") if isinstance(url, Mapping) else url)
    if kind == "image" or (kind is None and part.get("image") is not None):
        return _Image(part.get("image"))
    return None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
