"""Encoded pictures of any size."""

import io

import numpy as np
from PIL import Image


def encode(pixels: np.ndarray, form: str, size: tuple[int, int]) -> bytes:
    """`pixels` [H, W, 3] resized to (width, height) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, format=form)
    return buffer.getvalue()


def noise(seed: int, size: tuple[int, int] = (40, 40), form: str = "PNG") -> bytes:
    """A picture like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode(pixels, form, size)
