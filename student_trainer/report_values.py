"""Numbers of runs as the report takes and writes them: what is missing or not finite is a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "\N{EN DASH}"
Curve = Sequence[Mapping[str, Any]]
"""Lines of metrics.jsonl."""


def number(values: Mapping[str, Any], key: str) -> float | None:
    """A finite number, else None."""
    value = values.get(key)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def points(curve: Curve, key: str) -> tuple[tuple[float, float], ...]:
    """(step, value) where both are finite."""
    pairs = ((number(line, "step"), number(line, key)) for line in curve)
    return tuple((step, value) for step, value in pairs if step is not None and value is not None)


def mean(curve: Curve, key: str) -> float | None:
    """Mean of the finite values, None without any."""
    values = [value for _, value in points(curve, key)]
    return sum(values) / len(values) if values else None


def percent(share: float | None) -> str:
    """As "12.3%"."""
    return MISSING if share is None else f"{100 * share:.1f}%"
