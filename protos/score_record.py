"""One kept answer: its key and Scores <-> msgpack bytes. Arrays are bytes with dtype and shape; nothing is pickled."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from protos.arrays import AnyArray
from protos.scores import Scores

DTYPES = frozenset({"<f4", "<f2", "<i4", "|b1"})
"""NumPy's names of the dtypes that a record may hold."""
_MSGPACK: Any = msgpack  # it has no types
_NAMES = tuple(field.name for field in fields(Scores))


def pack_record(key: bytes, scores: Scores) -> bytes:
    """A map of `key` and every field of `scores`. Raises ValueError for an array of a dtype outside DTYPES."""
    parts = {name: _pack(name, getattr(scores, name)) for name in _NAMES}
    return _MSGPACK.packb({"key": key, **parts})


def unpack_record(body: bytes) -> tuple[bytes, Scores]:
    """The key and scores that `pack_record` was given, bit for bit, in arrays that may be written to.

    Raises ValueError where `body` is no such record.
    """
    record = _to_map(body)
    key = _key(record)
    parts = {name: _unpack(name, value) for name, value in record.items() if name != "key"}
    if parts.keys() != set(_NAMES):
        raise ValueError(f"the record has the fields {sorted(parts)}, scores have {sorted(_NAMES)}")
    return key, Scores(**parts)


def record_key(body: bytes) -> bytes:
    """The key of a record. Raises ValueError where `body` is none."""
    return _key(_to_map(body))


def _to_map(body: bytes) -> dict[str, Any]:
    record: Any = _MSGPACK.unpackb(body)
    if type(record) is not dict:
        raise ValueError(f"the record is {type(record)}, not a map")
    return cast("dict[str, Any]", record)


def _key(record: dict[str, Any]) -> bytes:
    key = record.get("key")
    if not isinstance(key, bytes):
        raise ValueError(f"the record's key is {key!r}, not bytes")
    return key


def _pack(name: str, value: AnyArray | str | bytes | float | tuple[str, ...]) -> object:
    """An array as [dtype, shape, bytes]; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.str not in DTYPES:
        raise ValueError(f"{name} has dtype {value.dtype.str}; a record holds {sorted(DTYPES)}")
    return [value.dtype.str, value.shape, value.tobytes()]


def _unpack(name: str, value: Any) -> Any:
    if name == "token_texts":
        return tuple(value)
    if type(value) is not list:
        return value
    try:
        dtype, shape, data = cast("list[Any]", value)
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is none of {sorted(DTYPES)}")
        # A copy, as what frombuffer gives is read-only and may lie at odd addresses.
        return np.frombuffer(data, dtype).reshape(shape).copy()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no array: {error}") from error
