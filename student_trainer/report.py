"""The demo's report: one HTML page that needs nothing but itself. Text that comes from data is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from student_trainer.report_chart import (
    COLOURS,
    Series,
    compact,
    line_chart,
    mean_width,
    seconds,
    stacked_bars,
)

TEMPLATE = Template(files("student_trainer").joinpath("report.html").read_text(encoding="utf-8"))
MISSING = "\N{EN DASH}"
TINY = 96
"""Pixels: pictures that are no larger either way are enlarged, with their pixels kept sharp."""
PICTURE = 256
"""Pixels that an enlarged picture may measure."""
LONG = 600
"""Characters: of a longer response the beginning and the end are shown, the rest on request."""

Curve = Sequence[Mapping[str, Any]]
"""Lines of metrics.jsonl."""

FIGURES: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("accuracy_before", "Held-out accuracy before", "%", lambda v: f"{100 * v:.1f}"),
    ("accuracy_after", "Held-out accuracy after", "%", lambda v: f"{100 * v:.1f}"),
    ("steps", "Optimizer steps", "", lambda v: f"{v:,.0f}"),
    ("seconds", "Training time", "s", lambda v: f"{v:,.1f}"),
    ("teacher_wait_share", "of it, waiting for the teacher", "%", lambda v: f"{100 * v:.1f}"),
    ("wire_bytes_per_token", "Received from the teacher", "bytes a token", lambda v: f"{v:,.0f}"),
    ("support/ids_mean", "Vocabulary entries scored", "a token", lambda v: f"{v:.1f}"),
    ("support/student_mass", "Student\N{RIGHT SINGLE QUOTATION MARK}s probability on them", "%",
     lambda v: f"{100 * v:.1f}"),
    ("mean_vds", "Mean VDS", "nats", lambda v: f"{v:.3f}"),
    ("gamma", "Weight of the visual term, \N{GREEK SMALL LETTER GAMMA}", "", compact),
    ("lambda", "Weight of preservation, \N{GREEK SMALL LETTER LAMDA}", "", compact),
    ("eta", "Scale of the step, \N{GREEK SMALL LETTER ETA}", "", compact),
    ("learning_rate", "Learning rate", "", compact),
)  # fmt: skip
"""Rows of the table: name in the summary (or else in the curves, of which the mean is shown), title, unit, format."""

LOSSES = (
    ("loss/standard", "Standard term", "Student to teacher, both seeing the picture."),
    ("loss/vis", "Visual term", "Student to the target that carries the teacher\N{RIGHT SINGLE QUOTATION MARK}s visual evidence."),
    ("loss/lang", "Language term", "Student to teacher, neither seeing the picture. Only watched, unless it is part of the next."),
    ("loss/lp", "Preservation term", "The language term, on the tokens with the highest VDS only."),
)  # fmt: skip

PHASES = (
    ("time/sample_s", "sampling"),
    ("time/teacher_wait_s", "teacher wait"),
    ("time/update_s", "update"),
)
"""Parts of a step. What else is in time/step_s is shown as "other" where it is more than 1%."""


@dataclass(frozen=True)
class AnswerExample:
    """One held-out question and what each student says to it."""

    images: tuple[bytes, ...]
    """Encoded PNG, JPEG, WebP or GIF files."""
    question: str
    expected: str
    responses: dict[str, str]
    """By student ("initial" or an objective): its whole greedy response."""
    correct: dict[str, bool]
    """By student; one that is missing is shown as not judged."""


def render_report(
    summary: Mapping[str, Any],
    curves: Mapping[str, Curve],
    examples: Sequence[AnswerExample],
) -> str:
    """One HTML page without scripts or network use. Numbers that are missing or not finite show as a dash.

    `summary` is the demo's summary.json, `curves` the lines of metrics.jsonl by objective.
    """
    results = summary.get("objectives", {})
    return TEMPLATE.substitute(
        title=escape(str(summary.get("title", "Distillation report"))),
        lede=_lede(summary, results),
        results=_results(results, _number(summary, "heldout_questions")),
        figures=_figures(results, curves),
        accuracy=_accuracy(curves),
        losses=_losses(curves),
        dependency=_dependency(curves),
        times=_times(curves),
        examples=_examples(examples),
        settings=_settings(summary),
    )


def _lede(summary: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> str:
    teacher = escape(str(summary.get("teacher", {}).get("model_id", "a teacher")))
    steps = {_number(figures, "steps") for figures in results.values()}
    length = steps.pop() if len(steps) == 1 else None
    questions = _number(summary, "heldout_questions")
    before = next((_number(figures, "accuracy_before") for figures in results.values()), None)
    after = " and ".join(
        f"{_percent(_number(figures, 'accuracy_after'))} with {escape(name)}"
        for name, figures in results.items()
    )
    return (
        f"{'One small student learned' if len(results) != 1 else 'A small student learned'} from {teacher}"
        f"{f' for {length:,.0f} steps' if length else ''}"
        f"{', each time from the same start' if len(results) > 1 else ''}: its accuracy on "
        f"{f'{questions:,.0f} ' if questions else ''}held-out questions went from {_percent(before)} to "
        f"{after or MISSING}."
    )


def _results(results: Mapping[str, Mapping[str, Any]], questions: float | None) -> str:
    cards: list[str] = []
    for colour, (name, figures) in enumerate(results.items()):
        before, after = _number(figures, "accuracy_before"), _number(figures, "accuracy_after")
        interval = _interval(after, questions)
        cards.append(
            f'<li class="c{colour % COLOURS}"><p class="name">{escape(name)}</p><p class="figures">'
            f'<span class="before">{_percent(before)}</span> '
            '<span class="before" aria-hidden="true">\N{RIGHTWARDS ARROW}</span>'
            f'<span class="hidden">to</span> <strong class="after">{_percent(after)}</strong></p>'
            f'{_track(before, after)}<p class="soft">{_points(before, after)} points'
            + (f" \N{MIDDLE DOT} 95% interval {interval[0]:.1f} to {interval[1]:.1f}%" if interval else "")
            + "</p></li>"
        )
    return f'<ul class="results">{"".join(cards)}</ul><p>{_verdict(results, questions)}</p>'


def _track(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    low, high = sorted(min(max(share, 0.0), 1.0) for share in (before, after))
    return (
        '<svg class="track" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="all" width="100" height="4"/><rect class="start" width="{100 * low:.1f}" height="4"/>'
        f'<rect class="gain" x="{100 * low:.1f}" width="{100 * (high - low):.1f}" height="4"/></svg>'
    )


def _interval(share: float | None, questions: float | None) -> tuple[float, float] | None:
    """Wilson's 95% interval of a share out of `questions`, in percent."""
    if share is None or not questions or not 0 <= share <= 1:
        return None
    z = 1.96
    middle = (share + z * z / (2 * questions)) / (1 + z * z / questions)
    spread = math.sqrt(share * (1 - share) / questions + (z / (2 * questions)) ** 2)
    reach = z * spread / (1 + z * z / questions)
    return 100 * (middle - reach), 100 * (middle + reach)


def _verdict(results: Mapping[str, Mapping[str, Any]], questions: float | None) -> str:
    """The objectives against the first one, beside what the choice of questions alone can do."""
    if len(results) < 2:
        return ""
    (first, base), *others = ((n, _number(f, "accuracy_after")) for n, f in results.items())
    sentences: list[str] = []
    for name, after in others:
        if base is None or after is None:
            continue
        gap = 100 * (after - base)
        side = "above" if gap > 0 else "below"
        text = f"{escape(name)} ended {abs(gap):.1f} points {side} {escape(first)}"
        if questions:
            variance = base * (1 - base) + after * (1 - after)
            margin = 196 * math.sqrt(max(variance, 0.0) / questions)
            relation = "more" if abs(gap) > margin else "no more"
            text += f", {relation} than the {margin:.1f} points that chance in the questions allows for"
        sentences.append(text + ".")
    sentences.append("These are single runs: another seed gives somewhat other figures.")
    return " ".join(sentences)


def _figures(results: Mapping[str, Mapping[str, Any]], curves: Mapping[str, Curve]) -> str:
    rows: list[str] = []
    for key, title, unit, form in FIGURES:
        values: list[float | None] = []
        for name, figures in results.items():
            means = [value for _, value in _points_of(curves.get(name, ()), key)]
            value = _number(figures, key)
            values.append(sum(means) / len(means) if value is None and means else value)
        cells = "".join(f"<td>{MISSING if v is None else form(v)}</td>" for v in values)
        unit = f' <span class="unit">{unit}</span>' if unit else ""
        rows.append(f'<tr><th scope="row">{title}{unit}</th>{cells}</tr>')
    head = "".join(
        f'<th scope="col" class="c{colour % COLOURS}">{escape(name)}</th>'
        for colour, name in enumerate(results)
    )
    table = (
        "<table><caption>One column for each run; means are over all steps.</caption>"
        f'<thead><tr><th scope="col">Figure</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return _section("Figures", table)


def _accuracy(curves: Mapping[str, Curve]) -> str:
    note = "<p>Greedy answers to the validation questions, which are not the held-out ones.</p>"
    figure = _lines(curves, "eval/accuracy", "Validation accuracy", note, "accuracy", percent=True)
    return _section("Accuracy while training", figure.replace("<figure>", '<figure class="wide">'))
