"""A row's images, in every form that data sets have them in."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from teacher_server.scoring.bad_row import REMOTE_IMAGE, UNREADABLE_IMAGE, BadRow, shown
from teacher_server.scoring.image_folder import ImageFolder

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)


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


def image_files(value: Any, folder: ImageFolder) -> tuple[ImageFile, ...]:
    """The images that a row's value names; none for None.

    `value` is encoded bytes, a path relative to `folder`, a base64 data URI, a `datasets.Image` struct {bytes, path}, a
    decoded PIL image (which becomes a PNG), or a list of these. Raises BadRow for anything else, for a URL, for
    a path that may not be followed, and where there is no such file; a file that is there is not read yet.
    """
    if value is None:
        return ()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        return tuple(_image_file(one, folder, f"image {i}: ") for i, one in enumerate(value))
    return (_image_file(value, folder),)


def _image_file(value: Any, folder: ImageFolder, place: str = "") -> ImageFile:
    match value:
        case bytes() | bytearray() | memoryview():
            return _from_bytes(value, place)
        case str():
            return _from_text(value, folder, place)
        case Image.Image():
            return _from_bytes(_as_png(value, place), place)
        case {"bytes": bytes() | bytearray() | memoryview() as data, **rest}:
            path = rest.get("path")
            return _from_bytes(data, place, path if isinstance(path, str) else None)
        case {"bytes": str() as text} | {"bytes": None, "path": str() as text}:
            return _from_text(text, folder, place)
        case {"path": str() as text} if "bytes" not in value:
            return _from_text(text, folder, place)
        case _:
            pass
    raise BadRow(
        UNREADABLE_IMAGE,
        f"{place}an image is {shown(value)}; give encoded bytes, a path, a datasets.Image or a list of these",
    )


def _from_bytes(
    data: bytes | bytearray | memoryview, place: str, name: str | None = None
) -> ImageFile:
    if not len(data):
        raise BadRow(UNREADABLE_IMAGE, f"{place}an image has no bytes")
    return ImageFile(bytes(data), name=name, size_bytes=len(data))


def _as_png(picture: Image.Image, place: str) -> bytes:
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format="PNG")
    except (OSError, ValueError) as error:  # a mode that PNG has not, a file that was closed
        raise BadRow(UNREADABLE_IMAGE, f"{place}a decoded image: {error}") from error
    return buffer.getvalue()


def _from_text(text: str, folder: ImageFolder, place: str) -> ImageFile:
    if head := _DATA_URI.match(text):
        try:
            data = base64.b64decode(text[head.end() :], validate=True)
        except ValueError as error:
            raise BadRow(
                UNREADABLE_IMAGE, f"{place}a data URI that is not base64: {error}"
            ) from error
        return _from_bytes(data, place)
    if _URL.match(text):
        raise BadRow(
            REMOTE_IMAGE,
            f"{place}{shown(text)} is a URL, and nothing is downloaded; fetch it first, and give its path or bytes",
        )
    path = folder.find(text, place)
    try:
        size_bytes = path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # a name too long, or with a zero byte: no path at all
        size_bytes = None
    if size_bytes is None:
        raise BadRow(UNREADABLE_IMAGE, f"{place}no image file at {shown(str(path))}")
    return ImageFile(None, path, name=text, size_bytes=size_bytes)
