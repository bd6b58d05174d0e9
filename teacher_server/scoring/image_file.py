"""A row's images, in every form that data sets have them in."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from teacher_server.scoring.bad_row import REMOTE_IMAGE, UNREADABLE_IMAGE, BadRow

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)
SHOWN = 100
"""Characters of a value in an error."""


@dataclass(frozen=True)
class ImageFile:
    """An encoded image: its bytes, or where they are."""

    data: bytes | None
    path: Path | None = None
    """Read when needed."""
    name: str | None = None
    """As the data set calls it."""
    size_bytes: int = 0

    def read(self) -> bytes:
        """The encoded file. Raises BadRow where it can't be read."""
        if self.data is not None:
            return self.data
        assert self.path is not None, "without bytes there is a path"
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise BadRow(UNREADABLE_IMAGE, f"can't read an image: {error}") from error


def image_files(value: Any, folder: Path) -> tuple[ImageFile, ...]:
    """The images that a row's value names; none for None.

    `value` is encoded bytes, a path relative to `folder`, a base64 data URI, a `datasets.Image` struct {bytes, path}, a
    decoded PIL image (which becomes a PNG), or a list of these. Raises BadRow for anything else, for a URL, and where
    there is no such file; a file that is there is not read yet.
    """
    if value is None:
        return ()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        return tuple(_image_file(one, folder, f"image {i}: ") for i, one in enumerate(value))
    return (_image_file(value, folder),)


def _image_file(value: Any, folder: Path, place: str = "", name: str | None = None) -> ImageFile:
    match value:
        case bytes() | bytearray() | memoryview():
            if not len(value):
                raise BadRow(UNREADABLE_IMAGE, f"{place}an image has no bytes")
            return ImageFile(bytes(value), name=name, size_bytes=len(value))
        case str():
            return _from_text(value, folder, place)
        case Image.Image():
            buffer = io.BytesIO()
            value.save(buffer, format="PNG")
            return _image_file(buffer.getvalue(), folder, place)
        case Mapping():
            data, path = value.get("bytes"), value.get("path")
            if data is not None:
                return _image_file(data, folder, place, name=path)
            if path is not None:
                return _image_file(path, folder, place)
    raise BadRow(
        UNREADABLE_IMAGE,
        f"{place}an image is {_shown(value)}; give encoded bytes, a path, a datasets.Image or a list of these",
    )


def _from_text(text: str, folder: Path, place: str) -> ImageFile:
    if head := _DATA_URI.match(text):
        try:
            data = base64.b64decode(text[head.end() :], validate=True)
        except binascii.Error as error:
            raise BadRow(
                UNREADABLE_IMAGE, f"{place}a data URI that is not base64: {error}"
            ) from error
        return _image_file(data, folder, place)
    if _URL.match(text):
        raise BadRow(
            REMOTE_IMAGE,
            f"{place}{_shown(text)} is a URL, and nothing is downloaded; fetch it first, and give its path or bytes",
        )
    path = folder / text
    try:
        size_bytes = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # a name too long, or with a zero byte: no path at all
        size_bytes = None
    if size_bytes is None:
        raise BadRow(UNREADABLE_IMAGE, f"{place}no image file at {_shown(str(path))}")
    return ImageFile(None, path, name=text, size_bytes=size_bytes)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else f"{type(value).__name__} {value!r}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
