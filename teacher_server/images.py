"""Untrusted image bytes -> RGB pictures, with every limit checked before a decoder allocates."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageOps, UnidentifiedImageError

from protos.errors import ErrorDetail, InvalidItem
from protos.teacher_info import Limits

# Pillow would only warn below 179 megapixels; the published limit is checked from the header instead.
Image.MAX_IMAGE_PIXELS = None


def decode_images(images: Sequence[bytes], limits: Limits) -> list[Image.Image]:
    """RGB images, EXIF orientation applied. Raises InvalidItem, naming image, value and limit."""
    opened = [_open(data, f"media[{i}].image", limits) for i, data in enumerate(images)]
    pixels = sum(image.width * image.height for image in opened)
    if pixels > limits.max_prompt_pixels:
        raise InvalidItem(
            f"the prompt's images have {pixels} pixels in all, the limit is {limits.max_prompt_pixels}; send "
            "fewer or smaller ones",
            ErrorDetail(field="media", value=str(pixels), limit=str(limits.max_prompt_pixels)),
        )
    return [_decode(image, f"media[{i}].image") for i, image in enumerate(opened)]


def _open(data: bytes, field: str, limits: Limits) -> Image.Image:
    """Read the header alone: format, size and frames, nothing decoded yet."""
    if len(data) > limits.max_image_bytes:
        raise InvalidItem(
            f"{field} has {len(data)} bytes, the limit is {limits.max_image_bytes}; send a smaller file",
            ErrorDetail(field=field, value=str(len(data)), limit=str(limits.max_image_bytes)),
        )
    try:
        image = Image.open(io.BytesIO(data), formats=limits.image_formats)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
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


def _decode(image: Image.Image, field: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # whatever a decoder makes of untrusted bytes, the file is at fault
        raise InvalidItem(
            f"{field} can't be decoded: {error}; check that the file is whole",
            ErrorDetail(field=field, value=str(error)),
        ) from error
