"""Encoded images -> RGB pictures, as the contract has it: EXIF orientation applied, limits checked from the header."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageOps

from protos.errors import ErrorDetail, InvalidItem
from protos.rollout_info import RolloutLimits


def decode_images(images: Sequence[bytes], field: str, limits: RolloutLimits) -> list[Image.Image]:
    """RGB images in order. Raises InvalidItem, naming image, value and limit; `field` is the prompt's."""
    return [_decode(data, f"{field}.images[{i}]", limits) for i, data in enumerate(images)]


def _decode(data: bytes, field: str, limits: RolloutLimits) -> Image.Image:
    formats = ", ".join(limits.image_formats)
    try:
        image = Image.open(io.BytesIO(data), formats=limits.image_formats)
        pixels = image.width * image.height
        if not 0 < pixels <= limits.max_image_pixels:
            size = f"{image.width} x {image.height}"
            raise InvalidItem(
                f"{field} has {size} pixels, the limit is {limits.max_image_pixels}; scale it down",
                ErrorDetail(field, size, str(limits.max_image_pixels)),
            )
        return ImageOps.exif_transpose(image).convert("RGB")
    except InvalidItem:
        raise
    except Exception as error:  # whatever a decoder makes of untrusted bytes, the file is at fault
        raise InvalidItem(
            f"{field} ({len(data)} bytes) can't be decoded: {error}; send a whole {formats} file",
            ErrorDetail(field, f"{len(data)} bytes", formats),
        ) from error
