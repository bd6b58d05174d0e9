"""NumPy arrays <-> the contract's Array. Shape and dtype are checked against the bytes that came."""

from __future__ import annotations

import numpy as np

from protos.arrays import AnyArray, Ids
from protos.errors import ErrorDetail, InvalidItem
from protos.v1 import teacher_pb2 as pb

_DTYPES: dict[int, np.dtype[np.generic]] = {
    pb.F32: np.dtype("<f4"),
    pb.F16: np.dtype("<f2"),
    pb.I32: np.dtype("<i4"),
    pb.U8: np.dtype("u1"),
}


def array_to_proto(array: AnyArray, dtype: pb.DType) -> pb.Array:
    """Little-endian bytes of `array` cast to `dtype`."""
    packed = np.ascontiguousarray(array, dtype=_DTYPES[dtype])
    return pb.Array(data=packed.tobytes(), dtype=dtype, shape=packed.shape)


def array_from_proto(message: pb.Array, field: str, *dtypes: pb.DType) -> AnyArray:
    """A read-only view of the message's bytes. Raises InvalidItem where dtype, shape and bytes disagree."""
    if message.dtype not in dtypes:
        names = " or ".join(pb.DType.Name(dtype) for dtype in dtypes)
        got = message.dtype
        known = pb.DType.Name(got) if got in pb.DType.values() else str(int(got))
        raise InvalidItem(
            f"{field} has dtype {known}; send {names}",
            ErrorDetail(field=field, value=known, limit=names),
        )
    dtype, dimensions = _DTYPES[message.dtype], len(message.shape)
    # One dimension, so nothing is multiplied: the product of a million of them would take hours.
    if dimensions != 1 or message.shape[0] * dtype.itemsize != len(message.data):
        shape = str(list(message.shape)) if dimensions <= 4 else f"of {dimensions} dimensions"
        raise InvalidItem(
            f"{field} has shape {shape} but {len(message.data)} bytes; send one dimension of n entries, "
            f"{dtype.itemsize} bytes each",
            ErrorDetail(field=field, value=shape, limit=f"{len(message.data)} bytes"),
        )
    return np.frombuffer(message.data, dtype=dtype)


def ids_to_proto(ids: Ids) -> pb.Array:
    """Ids or splits as i32."""
    return array_to_proto(ids, pb.I32)


def ids_from_proto(message: pb.Array, field: str) -> Ids:
    """i32 of one dimension. Raises InvalidItem where it is something else."""
    return array_from_proto(message, field, pb.I32).astype(np.int32, copy=False)
