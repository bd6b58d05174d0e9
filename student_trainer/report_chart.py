"""Figures of the report: inline SVG with a caption. Colours are those of report.html."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480.0, 270.0
TOP, BOTTOM = 26.0, 36.0
"""Room for the unit above the axis, and for the ticks and the word "step" below."""
CHARACTER = 7.4
"""Width that a character of the charts' text is taken to have, in the chart's units."""
COLOURS = 5
"""Colours of series that the page has; further series begin again."""
MARKED = 30
"""Series of at most so many points get a marker for each; longer ones a running mean."""
LARGEST, SMALLEST = 1e300, 1e-300
"""What lies outside is drawn at the edge, or as 0: the arithmetic of ticks would overflow."""


@dataclass(frozen=True)
class Series:
    """One line: finite (step, value) points in the order of steps."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int
    """Which of the page's colours; the same run has the same one in all charts."""


@dataclass(frozen=True)
class _Frame:
    """The plot's rectangle and what its edges stand for."""

    left: float
    right: float
    steps: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return self.left + (self.right - self.left) * step / self.steps

    def y(self, value: float) -> float:
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share


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


def _running_mean(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """Mean of the `width` (odd) points around each; at the ends, of those that there are."""
    reach = width // 2
    windows = [points[max(0, i - reach) : i + reach + 1] for i in range(len(points))]
    means = [sum(value / len(near) for _, value in near) for near in windows]
    return [(step, mean) for (step, _), mean in zip(points, means, strict=True)]


def _mean_width(count: int) -> int:
    """Points that the running mean of a series of `count` points takes in; 1 for a short series."""
    return max(5, count // 16) | 1 if count > MARKED else 1


def line_figure(series: Sequence[Series], title: str, note: str, *, percent: bool = False) -> str:
    """Lines over optimizer steps, in nats or, with `percent`, shares in [0, 1]; at least one line."""
    found = {line.name: _trend(line, percent) for line in series}
    label = f"{title}: " + "; ".join(f"{name} {trend}" for name, trend in found.items())
    entries = [
        (f"c{line.colour % COLOURS}", '<path class="line" d="M1 5H21"/>', f"{line.name} {trend}")
        for line, trend in zip(series, found.values(), strict=True)
    ]
    return _figure(_line_chart(series, label, percent), title, entries, note)


def bar_figure(
    bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], title: str, note: str
) -> str:
    """One stacked bar for each (name, parts); a part is (name, seconds)."""
    found = [f"{name} {_parts(parts, ', ')}" for name, parts in bars]
    most = max((parts for _, parts in bars), key=len)
    entries = [
        ("", f'<rect class="p{i}" width="22" height="10"/>', part)
        for i, (part, _) in enumerate(most)
    ]
    chart = _stacked_bars(bars, f"{title}: " + "; ".join(found))
    return _figure(chart, title, entries, note)


def _figure(chart: str, title: str, legend: Sequence[tuple[str, str, str]], note: str) -> str:
    """`legend` has (class, drawing, text) entries."""
    items = "".join(
        f'<li class="{kind}"><svg viewBox="0 0 22 10" aria-hidden="true">{drawing}</svg>'
        f"{escape(text)}</li>"
        for kind, drawing, text in legend
    )
    return (
        f'<figure><h3>{title}</h3>{chart}<figcaption><ul class="legend">{items}</ul>'
        f"<p>{note}</p></figcaption></figure>\n"
    )


def _trend(line: Series, percent: bool) -> str:
    """Mean of the first and of the last tenth of the points (one at least), as "0.50 → 0.12 nats"."""
    tenth = max(1, len(line.points) // 10)
    ends = line.points[:tenth], line.points[-tenth:]
    first, last = (sum(value / tenth for _, value in end) for end in ends)
    if percent:
        return f"{100 * first:.1f} → {100 * last:.1f}%"
    return f"{compact(first, 2)} → {compact(last, 2)} nats"


def _line_chart(series: Sequence[Series], label: str, percent: bool) -> str:
    """Both axes begin at 0, or below where a value is negative."""
    values = [value for line in series for _, value in line.points]
    ticks = nice_ticks(min(0.0, *values), max(0.0, *values))
    scale, sign = (100, "%") if percent else (1, "")
    step = scale * (ticks[1] - ticks[0])
    labels = [tick_label(scale * tick, step) + sign for tick in ticks]
    frame = _Frame(
        left=10 + CHARACTER * max(map(len, labels)),
        right=WIDTH - 14 - CHARACTER * max(len(_short(line.name)) for line in series),
        steps=max(1.0, *(step for line in series for step, _ in line.points)),
        low=ticks[0],
        high=ticks[-1],
    )
    parts = [
        *_axes(frame, list(zip(ticks, labels, strict=True)), "correct" if percent else "nats"),
        *(_line(frame, line, percent) for line in series),
        *_end_labels(frame, series),
    ]
    return _svg(parts, label, HEIGHT)


def _axes(frame: _Frame, ticks: Sequence[tuple[float, str]], unit: str) -> Iterable[str]:
    floor = HEIGHT - BOTTOM
    for tick, text in ticks:
        y = frame.y(tick)
        kind = "axis" if tick == 0 else "grid"
        yield f'<path class="{kind}" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>'
        yield _text(frame.left - 6, y + 4, text, "end")
    steps = [s for s in nice_ticks(0, frame.steps) if s.is_integer() and s <= frame.steps]
    for step in steps:
        yield _text(frame.x(step), floor + 16, tick_label(step, steps[1] - steps[0]), "middle")
    yield _text(0, 11, unit, "start", "unit")
    yield _text((frame.left + frame.right) / 2, HEIGHT - 3, "step", "middle", "unit")


def _line(frame: _Frame, line: Series, percent: bool) -> str:
    marked = len(line.points) <= MARKED
    parts = [f'<path class="{"line" if marked else "raw"}" d="{_path(frame, line.points)}"/>']
    if not marked:
        mean = _running_mean(line.points, _mean_width(len(line.points)))
        parts.append(f'<path class="line" d="{_path(frame, mean)}"/>')
    for step, value in line.points[:: math.ceil(len(line.points) / 60)]:
        shown = f"{100 * value:.1f}%" if percent else compact(value)
        parts.append(
            f'<circle class="{"marker" if marked else "target"}" cx="{frame.x(step):.1f}" '
            f'cy="{frame.y(value):.1f}" r="{3.5 if marked else 7}">'
            f"<title>{escape(line.name)}, step {step:,.0f}: {shown}</title></circle>"
        )
    return f'<g class="c{line.colour % COLOURS}">{"".join(parts)}</g>'


def _path(frame: _Frame, points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{frame.x(step):.1f} {frame.y(value):.1f}" for step, value in points)


def _end_labels(frame: _Frame, series: Sequence[Series]) -> Iterable[str]:
    """Names where the lines end, moved apart where they would touch."""
    ends: list[tuple[float, Series]] = []
    for line in series:
        mean = _running_mean(line.points, _mean_width(len(line.points)))
        ends.append((frame.y(mean[-1][1]) + 4, line))
    ends.sort(key=lambda end: end[0])
    top, below = TOP, HEIGHT - BOTTOM + 4
    for i, (y, line) in enumerate(ends):
        top = max(top, min(y, below - 15 * (len(ends) - 1 - i)))
        name = _text(frame.right + 8, top, _short(line.name), "start", "name")
        yield f'<g class="c{line.colour % COLOURS}">{name}</g>'
        top += 15


def _stacked_bars(bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], label: str) -> str:
    """The parts are written out below their bar, as narrow ones have no room."""
    longest = max(sum(value for _, value in parts) for _, parts in bars) or 1.0
    drawn: list[str] = []
    for row, (name, parts) in enumerate(bars):
        y, x = 8 + 80 * row, 0.0
        total = sum(value for _, value in parts)
        drawn.append(_text(0, y + 8, _short(name), "start", "name"))
        drawn.append(_text(WIDTH, y + 8, f"{_seconds(total)} a step", "end"))
        for i, (part, value) in enumerate(parts):
            width = WIDTH * value / longest
            drawn.append(
                f'<rect class="part p{i}" x="{x:.1f}" y="{y + 15}" width="{width:.1f}" height="20">'
                f"<title>{escape(name)}, {escape(part)}: {_seconds(value)}</title></rect>"
            )
            x += width
        drawn.append(_text(0, y + 50, _parts(parts, " · "), "start"))
    return _svg(drawn, label, 80.0 * len(bars) - 16)


def _parts(parts: Iterable[tuple[str, float]], between: str) -> str:
    return between.join(f"{part} {_seconds(value)}" for part, value in parts)


def _seconds(value: float) -> str:
    """A time in seconds as "1.25 s" or "84 ms"."""
    return f"{1000 * value:.0f} ms" if value < 0.995 else f"{value:.2f} s"


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _svg(parts: Iterable[str], label: str, height: float) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def colour(index: int) -> str:
    """CSS class of the colour at a place; the same run has the same place everywhere."""
    return f"c{index % COLOURS}"
