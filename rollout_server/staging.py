"""Weights that are on their way: a safetensors file that grows with the bytes that come."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import TracebackType

from protos.errors import ErrorDetail, InvalidItem
from protos.weights import DTYPE_BYTES, WeightSet


class Staging:
    """A file of its own for one update, gone when the block ends. Use as a context manager."""

    def __init__(self, weights: WeightSet, folder: Path | None) -> None:
        self._expected_bytes = weights.total_bytes
        self._received_bytes = 0
        self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed on leaving)
            dir=folder, prefix="rollout-weights-", suffix=".safetensors"
        )
        self._file.write(_header(weights))

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, chunk: bytes) -> None:
        """The next bytes; InvalidItem where they are more than the header promised."""
        self._received_bytes += len(chunk)
        if self._received_bytes > self._expected_bytes:
            raise self._wrong_size("or more")
        self._file.write(chunk)

    def complete(self) -> Path:
        """The whole file; InvalidItem where bytes are missing."""
        if self._received_bytes != self._expected_bytes:
            raise self._wrong_size("in all")
        self._file.flush()
        return Path(self._file.name)

    def _wrong_size(self, which: str) -> InvalidItem:
        return InvalidItem(
            f"the weights are {self._received_bytes} bytes {which}, the header's shapes need {self._expected_bytes}",
            ErrorDetail("chunk", str(self._received_bytes), str(self._expected_bytes)),
        )


def _header(weights: WeightSet) -> bytes:
    """Length and JSON as safetensors has them, padded so that the first weight is aligned."""
    entries: dict[str, object] = {}
    first = 0
    for weight in weights.weights:
        end = first + weight.entries * DTYPE_BYTES[weights.dtype]
        entries[weight.name] = {
            "dtype": weights.dtype,
            "shape": list(weight.shape),
            "data_offsets": [first, end],
        }
        first = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
