"""A model's weights on their way to a rollout server: what each is, and their bytes in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

DTYPE_BYTES: Final = {"F32": 4, "BF16": 2, "F16": 2}
"""Bytes of an entry, under the names that safetensors gives the dtypes."""


@dataclass(frozen=True)
class Weight:
    """One tensor of the checkpoint."""

    name: str
    """As the Hugging Face checkpoint has it."""
    shape: tuple[int, ...]

    @property
    def entries(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class WeightSet:
    """All weights of a model, in the order in which their bytes come."""

    weights: tuple[Weight, ...]
    dtype: str
    """Of all of them, a key of DTYPE_BYTES."""

    @property
    def total_bytes(self) -> int:
        """Length of all weights' bytes together."""
        return sum(weight.entries for weight in self.weights) * DTYPE_BYTES[self.dtype]


def pieces(buffers: Iterable[memoryview], size: int) -> Iterator[bytes]:
    """The buffers' bytes, cut at `size`: small weights share a piece, large ones take many."""
    held: list[bytes] = []
    room = size
    for buffer in buffers:
        view = buffer.cast("B")
        first = 0
        while first < len(view):
            part = bytes(view[first : first + room])
            held.append(part)
            first += len(part)
            room -= len(part)
            if not room:
                yield b"".join(held)
                held, room = [], size
    if held:
        yield b"".join(held)
