"""A checkpoint's files, read without loading them: the fingerprint does not depend on the engine that serves it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from transformers import PretrainedConfig
from transformers.utils.hub import cached_file

SAMPLED_BYTES = 4096


def checkpoint_folder(model: str, revision: str | None) -> Path:
    """The folder with the model's files: itself, or a hub model's snapshot. Raises OSError where there is none."""
    found = cached_file(model, "config.json", revision=revision)
    assert found is not None, "cached_file raises where the file is missing"
    return Path(found).parent


def model_fingerprint(folder: Path, config: PretrainedConfig) -> str:
    """Sha256 over the configuration, and name, shape, dtype and first and last bytes of every weight."""
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    # Neither says anything of the weights: an engine may add its own architecture.
    for name in ("transformers_version", "architectures", "head_dtype", "dtype"):
        values.pop(name, None)
    state = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for description, ends in sorted(_weights(folder)):
        state.update(description.encode() + ends)
    return state.hexdigest()


def _weights(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(description, first and last bytes) of each tensor; of each file where they are not safetensors."""
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        yield from _tensors(path)
    if not files:
        for path in sorted(folder.glob("*.bin")):
            with path.open("rb") as file:
                size = path.stat().st_size
                yield f"{path.name} {size}", _ends(file, 0, size)


def _tensors(path: Path) -> Iterator[tuple[str, bytes]]:
    """The format: u64 length of a JSON header, the header, then the tensors' bytes at the offsets that it gives."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, end = entry["data_offsets"]
            description = f"{name} {entry['dtype']} {entry['shape']}"
            yield description, _ends(file, 8 + length + first, end - first)


def _ends(file: BinaryIO, start: int, size: int) -> bytes:
    sampled = min(size, SAMPLED_BYTES)
    file.seek(start)
    first = file.read(sampled)
    file.seek(start + size - sampled)
    return first + file.read(sampled)
