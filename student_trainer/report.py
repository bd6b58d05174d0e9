"""The demo's report: one HTML page that needs nothing but itself. Text from data is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from student_trainer.report_chart import Series, bar_figure, colour, compact, line_figure
from student_trainer.report_example import AnswerExample, examples_html

TEMPLATE = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
MISSING = "\N{EN DASH}"
Curve = Sequence[Mapping[str, Any]]
"""Lines of metrics.jsonl."""
Results = Mapping[str, Mapping[str, Any]]
"""The summary's figures by objective."""

FIGURES: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("accuracy_before", "Held-out accuracy before", "%", lambda v: f"{100 * v:.1f}"),
    ("accuracy_after", "Held-out accuracy after", "%", lambda v: f"{100 * v:.1f}"),
    ("steps", "Optimizer steps", "", lambda v: f"{v:,.0f}"),
    ("seconds", "Time, with validations", "s", lambda v: f"{v:,.1f}"),
    ("teacher_wait_share", "Share of it waiting for the teacher", "%", lambda v: f"{100 * v:.1f}"),
    ("wire_bytes_per_token", "Crossed the wire, both ways", "bytes a token", lambda v: f"{v:,.0f}"),
    ("support/ids_mean", "Vocabulary entries compared", "a token", lambda v: f"{v:.1f}"),
    (
        "support/student_mass",
        "Student&rsquo;s probability on them",
        "%",
        lambda v: f"{100 * v:.1f}",
    ),
    ("mean_vds", "Mean VDS", "nats", lambda v: f"{v:.3f}"),
    ("gamma", "Weight of the visual term, &gamma;", "", compact),
    ("lambda", "Weight of preservation, &lambda;", "", compact),
    ("eta", "Scale of the step, &eta;, at the end", "", compact),
    ("learning_rate", "Learning rate", "", compact),
)
"""Rows of the table: name in the summary, or else in the curves (their mean), title (HTML), unit, format."""

LOSSES = (
    ("loss/standard", "Standard term", "Student to teacher, both with the picture."),
    (
        "loss/vis",
        "Visual term",
        "Student to the target with the teacher&rsquo;s visual evidence put on.",
    ),
    ("loss/lang", "Language term", "Student to teacher, neither with the picture; only watched."),
    ("loss/lp", "Preservation term", "The language term, counted on the most visual tokens only."),
)
"""Name in the curves, title, note (HTML)."""

PHASES = (
    ("time/sample_s", "sampling"),
    ("time/teacher_wait_s", "teacher wait"),
    ("time/update_s", "update"),
)
"""Parts of a step. The rest of time/step_s is shown as "other" where it is more than 1%."""


def render_report(
    summary: Mapping[str, Any],
    curves: Mapping[str, Curve],
    examples: Sequence[AnswerExample],
) -> str:
    """One HTML page without scripts or network use. A number that is missing or not finite is a dash.

    `summary` is what summary.json holds, `curves` the lines of metrics.jsonl by objective.
    """
    results: Results = summary.get("objectives", {})
    questions = _number(summary, "heldout_questions")
    # The same order everywhere: a run's colour is its place.
    curves = {name: curves.get(name, ()) for name in dict.fromkeys([*results, *curves])}
    return TEMPLATE.substitute(
        title=escape(str(summary.get("title", "Distillation report"))),
        lede=_lede(summary, results, questions),
        results=_results(results, questions),
        figures=_section("Figures", _figures(results, curves)),
        accuracy=_section("Accuracy while training", _accuracy(curves)),
        losses=_section("Losses", _losses(curves)),
        dependency=_section("Visual dependency of the tokens", _dependency(curves)),
        times=_section("Where a step&rsquo;s time goes", _times(curves)),
        examples=_section("Held-out answers", examples_html(examples, list(curves))),
        settings=_section("Settings", _settings(summary)),
    )


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>" if body else ""


def _lede(summary: Mapping[str, Any], results: Results, questions: float | None) -> str:
    teacher = escape(str(summary.get("teacher", {}).get("model_id", "a teacher")))
    start = ", each time from the same start" if len(results) > 1 else ""
    count = f"{questions:,.0f} " if questions else ""
    befores = (_number(figures, "accuracy_before") for figures in results.values())
    afters = [
        f"{_percent(_number(figures, 'accuracy_after'))} with {escape(name)}"
        for name, figures in results.items()
    ]
    return (
        f"A small student learned from {teacher}{start}. On {count}held-out questions its accuracy "
        f"went from {_percent(next(befores, None))} to {' and '.join(afters) or MISSING}."
    )


def _results(results: Results, questions: float | None) -> str:
    """One card for each objective: accuracy before and after, large."""
    cards: list[str] = []
    for i, (name, figures) in enumerate(results.items()):
        before, after = _number(figures, "accuracy_before"), _number(figures, "accuracy_after")
        cards.append(
            f'<li class="{colour(i)}"><p class="name">{escape(name)}</p>\n<p class="figures">'
            f'<span class="before">{_percent(before)}</span> '
            '<span class="before" aria-hidden="true">→</span><span class="hidden">to</span> '
            f'<strong class="after">{_percent(after)}</strong></p>\n{_track(before, after)}'
            f'<p class="soft">{_gain(before, after)}{_interval(after, questions)}</p></li>'
        )
    verdict = _verdict(results, questions)
    return f'<ul class="results">\n{"".join(cards)}\n</ul>\n<p class="soft">{verdict}</p>'


def _track(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    low, high = sorted(min(max(100 * share, 0.0), 100.0) for share in (before, after))
    return (
        '<svg class="track" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="all" width="100" height="4"/><rect class="start" width="{low:.1f}" '
        f'height="4"/><rect class="gain" x="{low:.1f}" width="{high - low:.1f}" height="4"/></svg>'
    )


def _gain(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return f"{MISSING} points"
    return f"{100 * (after - before):+.1f} points".replace("-", "\N{MINUS SIGN}")


def _interval(share: float | None, questions: float | None) -> str:
    """Wilson's 95% interval of a share of the questions, written out."""
    if share is None or not questions or not 0 <= share <= 1:
        return ""
    z2 = 1.96**2
    middle = (share + z2 / (2 * questions)) / (1 + z2 / questions)
    spread = math.sqrt(z2 * share * (1 - share) / questions + (z2 / (2 * questions)) ** 2)
    reach = spread / (1 + z2 / questions)
    return f" · 95% interval {_percent(middle - reach)} to {_percent(middle + reach)}"


def _verdict(results: Results, questions: float | None) -> str:
    """Each objective against the first, and against what the choice of questions alone can do."""
    afters = {name: _number(figures, "accuracy_after") for name, figures in results.items()}
    known = [(escape(name), after) for name, after in afters.items() if after is not None]
    sentences: list[str] = []
    for name, after in known[1:]:
        first, base = known[0]
        gap = 100 * (after - base)
        side = "below" if gap < 0 else "above"
        text = f"{name} ended {abs(gap):.1f} points {side} {first}"
        if questions and all(0 <= share <= 1 for share in (base, after)):
            margin = 196 * math.sqrt((base * (1 - base) + after * (1 - after)) / questions)
            text += f", {'more' if abs(gap) > margin else 'no more'} than the {margin:.1f} points "
            text += "that the choice of questions alone can make (95%)"
        sentences.append(text + ".")
    if sentences:
        sentences.append("Each is a single run; another seed gives other figures.")
    return " ".join(sentences)


def _figures(results: Results, curves: Mapping[str, Curve]) -> str:
    rows: list[str] = []
    for key, title, unit, form in FIGURES:
        cells: list[str] = []
        for name, figures in results.items():
            values = [value for _, value in _points(curves.get(name, ()), key)]
            value = _number(figures, key)
            if value is None and values:
                value = sum(values) / len(values)
            cells.append(f"<td>{MISSING if value is None else form(value)}</td>")
        unit = f' <span class="unit">{unit}</span>' if unit else ""
        rows.append(f'<tr><th scope="row">{title}{unit}</th>{"".join(cells)}</tr>')
    head = "".join(
        f'<th scope="col" class="{colour(i)}">{escape(name)}</th>' for i, name in enumerate(results)
    )
    return (
        '<div class="scroll"><table>\n'
        "<caption>One column for each run. Means are over all steps.</caption>\n"
        f'<thead><tr><th scope="col">Figure</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody>\n</table></div>"
    )


def _accuracy(curves: Mapping[str, Curve]) -> str:
    note = "Greedy answers to the validation questions, which are not the held-out ones."
    return _plot(curves, "eval/accuracy", "Validation accuracy", note, percent=True)


def _losses(curves: Mapping[str, Curve]) -> str:
    plots = [_plot(curves, *loss) for loss in LOSSES]
    note = (
        "The legends give the mean of the first and of the last tenth of the steps. "
        "Thin lines show every step, thick ones the mean of neighbouring steps."
    )
    figures = f'<p class="soft">{note}</p>\n<div class="many">\n{"".join(plots)}</div>'
    return figures if any(plots) else ""


def _dependency(curves: Mapping[str, Curve]) -> str:
    note = (
        "How far the teacher&rsquo;s prediction of a token moves when the picture is taken away. "
        "Near 0 it would answer the same without looking, and steering has nothing to work with."
    )
    return _plot(curves, "vds/mean", "Mean VDS", note)


def _plot(
    curves: Mapping[str, Curve], key: str, title: str, note: str, *, percent: bool = False
) -> str:
    """Figure with one line for each run that has the metric; nothing where none has."""
    lines = [Series(n, _points(c, key), i) for i, (n, c) in enumerate(curves.items())]
    lines = [line for line in lines if line.points]
    return line_figure(lines, title, note, percent=percent) if lines else ""


def _times(curves: Mapping[str, Curve]) -> str:
    """Mean time of each part of a step, one bar for each run."""
    bars: list[tuple[str, list[tuple[str, float]]]] = []
    for name, curve in curves.items():
        parts = [(title, _mean(curve, key)) for key, title in PHASES]
        whole = _mean(curve, "time/step_s")
        other = whole - sum(value for _, value in parts)
        if other > 0.01 * whole:
            parts.append(("other", other))
        if any(value for _, value in parts):
            bars.append((name, parts))
    note = (
        "Mean over all steps. The teacher scores answers while others are still being sampled; "
        "waiting is what is left of its work after the last one."
    )
    return bar_figure(bars, "Time of a step", note) if bars else ""


def _settings(summary: Mapping[str, Any]) -> str:
    teacher = summary.get("teacher", {})
    versions = summary.get("versions", {})
    entries = {
        "Teacher": " · ".join(str(value) for value in teacher.values()),
        "Held-out questions": summary.get("heldout_questions"),
        "Seed": summary.get("seed"),
        "Machine": summary.get("machine"),
        "Versions": " · ".join(f"{name} {version}" for name, version in versions.items()),
        "Date": summary.get("date"),
    }
    rows = "".join(
        f"<dt>{name}</dt><dd>{MISSING if value in (None, '') else escape(str(value))}</dd>\n"
        for name, value in entries.items()
    )
    return f'<dl class="settings">\n{rows}</dl>'


def _number(values: Mapping[str, Any], key: str) -> float | None:
    """A finite number, else None."""
    value = values.get(key)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _points(curve: Curve, key: str) -> tuple[tuple[float, float], ...]:
    """(step, value) where both are finite."""
    pairs = ((_number(line, "step"), _number(line, key)) for line in curve)
    return tuple((step, value) for step, value in pairs if step is not None and value is not None)


def _mean(curve: Curve, key: str) -> float:
    """Mean of the finite values, 0 without any."""
    values = [value for _, value in _points(curve, key)]
    return sum(values) / len(values) if values else 0.0


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.1f}%"
