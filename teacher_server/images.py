"""Untrusted image bytes -> RGB pictures, with every limit checked before a decoder allocates."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

from PIL import Image, ImageOps, PngImagePlugin

from protos.errors import ErrorDetail, InvalidItem
from protos.prompt import GREY
from protos.teacher_info import MIB, Limits

# Pillow would only warn below 179 megapixels; the published limit is checked from the header instead.
Image.MAX_IMAGE_PIXELS = None
# A KiB of compressed text in a PNG becomes a MiB, and Pillow would take 64 of them.
PngImagePlugin.MAX_TEXT_MEMORY = 8 * MIB
# It warns of every odd entry, and a file may have thousands: what can't be used is told by an error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

MAX_EXPANSION = 100
"""Bytes that decoding may take for each byte that came."""
FREE_BYTES = 128 * MIB
"""Beyond these, which a blank page or a screen may take from a handful of bytes."""
PICTURE_BYTES = 4
"""Per pixel of an RGB picture, as Pillow keeps it."""
DECODER_BYTES = {"PNG": 4, "JPEG": 6, "MPO": 6, "WEBP": 12}
"""Per pixel, beside the picture, while it is decoded: its first form, JPEG's coefficients, WebP's canvases."""
MAX_PARTS = {
    b"\xff\xd8\xff": (b"\xff\xda", 100, "scans"),  # each of a dozen bytes goes over all pixels
    b"\x89PNG\r\n": (b"iCCP", 4, "colour profiles"),  # each of a KiB is decompressed to a MiB
}
"""Of what decoders repeat as often as a file says: how it begins, a part's mark, how many, and their name."""


def decode_images(images: Sequence[bytes], limits: Limits) -> list[Image.Image]:
    """RGB images, EXIF orientation applied. Raises InvalidItem, naming image, value and limit."""
    fields = [f"media[{i}].image" for i in range(len(images))]
    pixels = most_bytes = 0
    for data, field in zip(images, fields, strict=True):
        image = _open(data, field, limits)
        size = image.width * image.height
        pixels += size
        most_bytes = max(most_bytes, size * DECODER_BYTES.get(image.format or "", 12))
    _check_together(pixels, most_bytes, sum(map(len, images)), limits)
    # Opened anew, one at a time: what a header holds is not kept for all of them.
    return [
        _decode(_open(data, field, limits), field)
        for data, field in zip(images, fields, strict=True)
    ]


def grey(image: Image.Image) -> Image.Image:
    """A uniform grey picture of the same size: what a text context shows where it must show something."""
    return Image.new("RGB", image.size, GREY)


def _check_together(pixels: int, decoder_bytes: int, came_bytes: int, limits: Limits) -> None:
    if pixels > limits.max_prompt_pixels:
        raise InvalidItem(
            f"the prompt's images have {pixels} pixels in all, the limit is {limits.max_prompt_pixels}; send "
            "fewer or smaller ones",
            ErrorDetail(field="media", value=str(pixels), limit=str(limits.max_prompt_pixels)),
        )
    needed = PICTURE_BYTES * pixels + decoder_bytes
    limit = FREE_BYTES + MAX_EXPANSION * came_bytes
    if needed > limit:
        raise InvalidItem(
            f"the prompt's images have {pixels} pixels in {came_bytes} bytes and would take {needed} to decode, the "
            f"limit for so few is {limit}; scale them down",
            ErrorDetail(field="media", value=str(needed), limit=str(limit)),
        )


def _open(data: bytes, field: str, limits: Limits) -> Image.Image:
    """Read the header alone: format, size and frames, nothing decoded yet."""
    if len(data) > limits.max_image_bytes:
        raise InvalidItem(
            f"{field} has {len(data)} bytes, the limit is {limits.max_image_bytes}; send a smaller file",
            ErrorDetail(field=field, value=str(len(data)), limit=str(limits.max_image_bytes)),
        )
    _check_parts(data, field)
    try:
        image = Image.open(io.BytesIO(data), formats=limits.image_formats)
    except Exception as error:  # whatever a parser makes of untrusted bytes, the file is at fault
        formats = ", ".join(limits.image_formats)
        raise InvalidItem(
            f"{field} ({len(data)} bytes) is no image of an allowed format; send {formats} as encoded bytes, "
            "not a path or URL",
            ErrorDetail(field=field, value=f"{len(data)} bytes", limit=formats),
        ) from error
    pixels = image.width * image.height
    if pixels > limits.max_image_pixels:
        size = f"{image.width} x {image.height}"
        raise InvalidItem(
            f"{field} has {size} pixels, the limit is {limits.max_image_pixels}; scale it down",
            ErrorDetail(field=field, value=size, limit=str(limits.max_image_pixels)),
        )
    if pixels == 0:
        raise InvalidItem(f"{field} has no pixels", ErrorDetail(field=field, value="0 pixels"))
    # Phones add depth or gain maps to a JPEG, which Pillow then calls MPO; the first frame is the picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) != 1:
        raise InvalidItem(
            f"{field} is animated; send one frame as an image",
            ErrorDetail(field=field, value="animated", limit="1 frame"),
        )
    return image


def _check_parts(data: bytes, field: str) -> None:
    for start, (mark, limit, name) in MAX_PARTS.items():
        if data.startswith(start) and (count := data.count(mark)) > limit:
            raise InvalidItem(
                f"{field} has {count} {name}, the limit is {limit}; save it plainly",
                ErrorDetail(field=field, value=f"{count} {name}", limit=str(limit)),
            )


def _decode(image: Image.Image, field: str) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
        picture = image.convert("RGB")
    except Exception as error:  # whatever a decoder makes of untrusted bytes, the file is at fault
        raise InvalidItem(
            f"{field} can't be decoded: {error}; check that the file is whole",
            ErrorDetail(field=field, value=str(error)),
        ) from error
    picture.info.clear()  # texts and profiles, which nobody needs any more
    return picture
