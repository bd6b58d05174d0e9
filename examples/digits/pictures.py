"""Pictures of two handwritten digits, composed from scikit-learn's load_digits.

Every picture is 16 x 32 pixels: two 8 x 8 digits, enlarged twofold, side by side. With patches of 8
pixels merged 2 x 2, the image grid is (1, 2, 4) and each digit is exactly one image token.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SPLIT_SEED = 0
SPLIT_SIZES = {"train": 1197, "validation": 200, "heldout": 400}  # digit images, 1,797 in all
DIGIT_PIXELS = 16


@dataclass(frozen=True)
class Digits:
    """N digit images and what they show."""

    images: np.ndarray  # uint8 [N, 16, 16], ink is bright
    labels: np.ndarray  # int64 [N], 0 to 9

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    def first_of_each_class(self, count: int) -> "Digits":
        """Return the first `count` images of each of the ten digits."""
        rows = np.concatenate([np.flatnonzero(self.labels == label)[:count] for label in range(10)])
        return Digits(self.images[rows], self.labels[rows])


def load_split(name: str) -> Digits:
    """Return the digit images of "train", "validation" or "heldout"; no image is in two splits."""
    raw = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(raw.target))
    ends = np.cumsum(list(SPLIT_SIZES.values()))
    assert ends[-1] == len(order), f"{len(order)} digit images, {ends[-1]} expected"
    rows = dict(zip(SPLIT_SIZES, np.split(order, ends[:-1]), strict=True))[name]
    grey = np.round(raw.images[rows] * 255 / 16).astype(np.uint8)  # [N, 8, 8], ink was 0 to 16
    images = grey.repeat(2, axis=1).repeat(2, axis=2)
    return Digits(images, raw.target[rows].astype(np.int64))


def compose(left: np.ndarray, right: np.ndarray) -> Image.Image:
    """Return the RGB picture, 32 wide and 16 high, of two uint8 [16, 16] digit images."""
    return Image.fromarray(np.concatenate([left, right], axis=1)).convert("RGB")


def encode_png(picture: Image.Image) -> bytes:
    """Return the picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
