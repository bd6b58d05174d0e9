import numpy as np
import pytest

from protos.weights import pieces

BUFFERS = [
    np.arange(5, dtype=np.uint8),
    np.arange(0, dtype=np.float32),
    np.arange(7, dtype=np.float32).reshape(7, 1),
    np.arange(3, dtype=np.int16),
]


@pytest.mark.parametrize("size", [1, 4, 5, 39, 40, 1000])
def test_pieces_are_the_bytes_in_order_and_none_is_too_large(size):
    whole = b"".join(buffer.tobytes() for buffer in BUFFERS)
    cut = list(pieces((buffer.data for buffer in BUFFERS if buffer.size), size))
    assert b"".join(cut) == whole
    assert {len(piece) for piece in cut[:-1]} <= {size}
    assert 0 < len(cut[-1]) <= size
