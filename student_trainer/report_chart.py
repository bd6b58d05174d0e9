"""Figures of the report: inline SVG with a caption. Colours are those of report.html."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from student_trainer.report_ticks import compact, nice_ticks, tick_label

WIDTH, HEIGHT = 480.0, 270.0
TOP, BOTTOM = 26.0, 36.0
"""Room for the unit above the axis, and for the ticks and the word "step" below."""
CHARACTER = 7.4
"""Width that a character of the charts' text is taken to have, in the chart's units."""
COLOURS = 5
"""Colours of series that the page has; further series begin again."""
MARKED = 30
"""Series of at most so many points get a marker for each; longer ones a running mean."""
LABELLED = 9
"""More lines than these have their names in the legend alone: beside the chart they would crowd."""
DASHES = 3
"""Ways to draw a line, so that runs of the same colour differ."""


@dataclass(frozen=True)
class Scale:
    """What a figure's values are, and how they are written."""

    unit: str
    """Above the axis."""
    sign: str = ""
    """Behind a number, where the unit has one."""
    times: float = 1.0
    """A value is shown multiplied by this."""
    digits: int | None = None
    """After the point; None: two significant ones."""

    @property
    def suffix(self) -> str:
        """What stands behind a value in a text."""
        return self.sign or (f" {self.unit}" if self.unit else "")

    def text(self, value: float) -> str:
        """A value without its unit."""
        shown = self.times * value
        return compact(shown, 2) if self.digits is None else f"{shown:.{self.digits}f}"


NATS = Scale("nats")
SHARE = Scale("correct", "%", 100.0, 1)
DEGREES = Scale("degrees", "°", 1.0, 0)
PLAIN = Scale("")


@dataclass(frozen=True)
class Mark:
    """A point of somebody else's, such as a published figure."""

    across: float
    value: float
    name: str


@dataclass(frozen=True)
class Series:
    """One line: finite (step, value) points in the order of steps."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int
    """Place of the run, which gives its colour and dashes; the same in all charts."""


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


def _running_mean(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """Mean of the `width` (odd) points around each; at the ends, of those that there are."""
    reach = width // 2
    windows = [points[max(0, i - reach) : i + reach + 1] for i in range(len(points))]
    means = [sum(value / len(near) for _, value in near) for near in windows]
    return [(step, mean) for (step, _), mean in zip(points, means, strict=True)]


def _mean_width(count: int) -> int:
    """Points that the running mean of a series of `count` points takes in; 1 for a short series."""
    return max(5, count // 16) | 1 if count > MARKED else 1


def line_figure(
    series: Sequence[Series],
    title: str,
    note: str,
    scale: Scale = NATS,
    *,
    across: str = "step",
    marks: Sequence[Mark] = (),
) -> str:
    """Lines over optimizer steps, or over what `across` names; at least one line. `title` and `note` are HTML."""
    found = {line.name: _trend(line, scale) for line in series}
    label = f"{title}: " + "; ".join(f"{name} {trend}" for name, trend in found.items())
    entries = [
        (colour(line.colour), '<path class="line" d="M1 5H21"/>', f"{line.name} {trend}")
        for line, trend in zip(series, found.values(), strict=True)
    ]
    for name in dict.fromkeys(mark.name for mark in marks):
        entries.append(("", _diamond(11, 5), name))
    return _figure(_line_chart(series, label, scale, across, marks), title, entries, note)


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


def _trend(line: Series, scale: Scale) -> str:
    """Mean of the first and of the last tenth of the points (one at least), as "0.50 → 0.12 nats"."""
    tenth = max(1, len(line.points) // 10)
    ends = line.points[:tenth], line.points[-tenth:]
    first, last = (sum(value / tenth for _, value in end) for end in ends)
    return f"{scale.text(first)} → {scale.text(last)}{scale.suffix}"


def _line_chart(
    series: Sequence[Series], label: str, scale: Scale, across: str, marks: Sequence[Mark]
) -> str:
    """Both axes begin at 0, or below where a value is negative."""
    values = [value for line in series for _, value in line.points]
    values += [mark.value for mark in marks]
    ticks = nice_ticks(min(0.0, *values), max(0.0, *values))
    step = scale.times * (ticks[1] - ticks[0])
    labels = [tick_label(scale.times * tick, step) + scale.sign for tick in ticks]
    named = len(series) <= LABELLED
    longest = max(len(_short(line.name)) for line in series) if named else 0
    frame = _Frame(
        left=10 + CHARACTER * max(map(len, labels)),
        right=WIDTH - 14 - CHARACTER * longest,
        steps=max(1.0, *(step for line in series for step, _ in line.points)),
        low=ticks[0],
        high=ticks[-1],
    )
    parts = [
        *_axes(frame, list(zip(ticks, labels, strict=True)), scale.unit, across),
        *(_line(frame, line, scale, across) for line in series),
        *(_mark(frame, mark, scale, across) for mark in marks),
        *(_end_labels(frame, series) if named else ()),
    ]
    return _svg(parts, label, HEIGHT)


def _axes(
    frame: _Frame, ticks: Sequence[tuple[float, str]], unit: str, across: str
) -> Iterable[str]:
    floor = HEIGHT - BOTTOM
    for tick, text in ticks:
        y = frame.y(tick)
        kind = "axis" if tick == 0 else "grid"
        yield f'<path class="{kind}" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>'
        yield _text(frame.left - 6, y + 4, text, "end")
    wanted = nice_ticks(0, frame.steps, 9 if frame.steps < 10 else 4)
    steps = [step for step in wanted if step.is_integer() and step <= frame.steps]
    for step in steps:
        yield _text(frame.x(step), floor + 16, tick_label(step, steps[1] - steps[0]), "middle")
    yield _text(0, 11, unit, "start", "unit")
    yield _text((frame.left + frame.right) / 2, HEIGHT - 3, across, "middle", "unit")


def _line(frame: _Frame, line: Series, scale: Scale, across: str) -> str:
    marked = len(line.points) <= MARKED
    parts = [f'<path class="{"line" if marked else "raw"}" d="{_path(frame, line.points)}"/>']
    if not marked:
        mean = _running_mean(line.points, _mean_width(len(line.points)))
        parts.append(f'<path class="line" d="{_path(frame, mean)}"/>')
    for step, value in line.points[:: math.ceil(len(line.points) / 60)]:
        shown = f"{escape(line.name)}, {across} {step:,.0f}: {_exact(value, scale)}"
        parts.append(
            f'<circle class="{"marker" if marked else "target"}" cx="{frame.x(step):.1f}" '
            f'cy="{frame.y(value):.1f}" r="{3.5 if marked else 7}"><title>{shown}</title></circle>'
        )
    return f'<g class="{colour(line.colour)}">{"".join(parts)}</g>'


def _exact(value: float, scale: Scale) -> str:
    if scale.digits is None:
        return compact(scale.times * value)
    return f"{scale.times * value:.1f}{scale.sign}"


def _mark(frame: _Frame, mark: Mark, scale: Scale, across: str) -> str:
    shown = f"{escape(mark.name)}, {across} {mark.across:g}: {_exact(mark.value, scale)}"
    return f"<g>{_diamond(frame.x(mark.across), frame.y(mark.value), shown)}</g>"


def _diamond(x: float, y: float, shown: str = "") -> str:
    title = f"<title>{shown}</title>" if shown else ""
    return f'<path class="mark" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5Z">{title}</path>'


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
        yield f'<g class="{colour(line.colour)}">{name}</g>'
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


def table_begin(runs: Sequence[str], caption: str, first: str) -> str:
    """Of a table with a column for each run, up to its rows; `caption` and `first` are HTML."""
    head = "".join(
        f'<th scope="col" class="{colour(i)}">{escape(run)}</th>' for i, run in enumerate(runs)
    )
    wide = ' class="wide"' if len(runs) > 3 else ""
    return (
        f'<div class="scroll"><table{wide}>\n<caption><span>{caption}</span></caption>\n'
        f'<thead><tr><th scope="col">{first}</th>{head}</tr></thead>\n<tbody>\n'
    )


def colour(index: int) -> str:
    """CSS classes of the run at a place: its colour, and its dashes where the colours begin again."""
    dashes = index // COLOURS % DASHES
    return f"c{index % COLOURS}" + (f" d{dashes}" if dashes else "")
