import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from teacher_server.scoring.vds_quantiles import QUANTILES, VdsCounts, vds_quantiles

TINY, LARGEST = np.float32(1e-45), np.finfo(np.float32).max


def quantiles_of(values: np.ndarray, pieces: int = 3) -> dict[float, float]:
    parts = np.array_split(values, pieces)
    counts = VdsCounts()
    for part in parts:
        counts.add(part)
    return vds_quantiles(counts, reversed(parts))  # the order of passes does not matter


def expected(values: np.ndarray) -> dict[float, float]:
    return {q: float(np.quantile(values.astype(np.float64), q)) for q in QUANTILES}


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1001, 50_000])
def test_quantiles_are_numpys_to_the_bit(size):
    rng = np.random.default_rng(size)
    values = rng.exponential(0.5, size).astype(np.float32)
    assert quantiles_of(values) == expected(values)


def test_ties_and_zeros():
    rng = np.random.default_rng(0)
    values = rng.choice(np.array([0, 0, 0, 1e-9, 0.5, 0.5, 3], np.float32), 10_001)
    assert quantiles_of(values) == expected(values)
    assert quantiles_of(np.zeros(7, np.float32)) == dict.fromkeys(QUANTILES, 0.0)


def test_neighbours_in_other_bins():
    values = np.array([0, TINY, 1e-20, 1, np.nextafter(np.float32(1), 2), LARGEST], np.float32)
    assert quantiles_of(values, pieces=2) == expected(values)


@settings(deadline=None, max_examples=50)
@given(arrays(np.float32, st.integers(1, 200), elements=st.floats(0, 100, width=32)))
def test_any_values(values):
    assert quantiles_of(values + np.float32(0)) == expected(values)


def test_mean_and_no_values_at_all():
    counts = VdsCounts()
    assert counts.mean is None
    assert vds_quantiles(counts, []) == {}
    counts.add(np.array([1, 2, 6], np.float32))
    assert counts.mean == 3.0
