"""NumPy array types of the contract, by dtype."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.int32]
"""Token ids or CSR splits."""
Floats: TypeAlias = npt.NDArray[np.float32]
"""Log-probabilities or divergences, nats."""
Mask: TypeAlias = npt.NDArray[np.bool_]
AnyArray: TypeAlias = npt.NDArray[Any]


def as_ids(values: object) -> Ids:
    """One-dimensional i32 array of ids; ValueError where a value doesn't fit 32 bits."""
    wide = np.asarray(values, dtype=np.int64).reshape(-1)
    info = np.iinfo(np.int32)
    if wide.size and (wide.min() < info.min or wide.max() > info.max):
        raise ValueError(f"ids must fit 32 bits, got {wide.min()} to {wide.max()}")
    return wide.astype(np.int32)


def no_ids() -> Ids:
    """i32 [0]"""
    return np.empty(0, dtype=np.int32)
