"""Questions and thumbnails of the shown samples, read again from the data that were scored."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from protos.errors import InvalidItem
from protos.teacher_info import Limits
from teacher_server.images import decode_images
from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.dialogue import text_of
from teacher_server.scoring.report_samples import Sample
from teacher_server.scoring.rescan import scanned_samples
from teacher_server.scoring.sample import Sample as ScannedSample

THUMBNAIL = 160
"""Pixels that it measures at most, either way."""
QUALITY = 80
MOST_IMAGES = 4
"""Of one sample; the page says how many more there are."""
LONGEST_QUESTION = 2000
"""Characters."""


def add_pictures(folder: Path, samples: Sequence[Sample], data: str | None) -> str | None:
    """Give each sample its `question` and `images` (data URLs), `more_images` and `picture_error`.

    Returns why there are none, where the data can't be read; `data` is where they are now, None: as the manifest says.
    """
    by_row = {sample["row"]: sample for sample in samples}
    try:
        for scanned in scanned_samples(folder, sorted(by_row), data):
            _add(by_row[scanned.row], scanned)
    except (OSError, ValueError, ImportError) as error:
        if data is not None:
            raise
        return str(error)
    return None


def _add(sample: Sample, scanned: ScannedSample) -> None:
    said = [text_of(message) for message in scanned.messages if message["role"] != "system"]
    sample["question"] = "\n\n".join(said).strip()[:LONGEST_QUESTION]
    sample["more_images"] = max(0, len(scanned.images) - MOST_IMAGES)
    sample["images"] = []
    for image in scanned.images[:MOST_IMAGES]:
        try:
            sample["images"].append(thumbnail(image.read()))
        except (BadRow, InvalidItem) as error:
            sample["picture_error"] = str(error)


def thumbnail(encoded: bytes) -> str:
    """A WebP of at most THUMBNAIL pixels either way as a data URL; small pictures keep every pixel.

    Raises InvalidItem for what the teacher would not have taken.
    """
    (picture,) = decode_images([encoded], Limits())
    small = max(picture.size) <= THUMBNAIL
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=QUALITY, lossless=small)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
