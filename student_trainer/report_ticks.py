"""Numbers on the axes of the report's figures, and in its legends."""

from __future__ import annotations

import math

LARGEST, SMALLEST = 1e300, 1e-300
"""What lies outside is drawn at the edge, or as 0: the arithmetic of ticks would overflow."""


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    ends = [min(max(end, -LARGEST), LARGEST) for end in (low, high)]
    low, high = sorted(end if abs(end) >= SMALLEST else 0.0 for end in ends)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = 0.1 * abs(high)
        low, high = (low - pad, high + pad) if pad else (0.0, 1.0)
    rough = high / count - low / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.15g}") for i in range(first, last + 1)]


def tick_label(value: float, step: float) -> str:
    """`value` with the digits that tell ticks `step` apart, such as "0.25", "-3" or "2e6"."""
    if value == 0:
        return "0"
    place = math.floor(math.log10(step) + 1e-9)
    if abs(value) < 1e6 and place >= -4:
        return f"{value:,.{max(0, -place)}f}".replace("-", "\N{MINUS SIGN}")
    return compact(value, digits=max(1, math.floor(math.log10(abs(value)) + 1e-9) - place + 1))


def compact(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits: "0.412", "5e-7"."""
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    text = f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return text.replace("-", "\N{MINUS SIGN}")
