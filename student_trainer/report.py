"""The report on runs: one HTML page that needs nothing but itself. Text from data is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from student_trainer.report_chart import (
    NATS,
    PLAIN,
    SHARE,
    Scale,
    Series,
    bar_figure,
    line_figure,
    table_begin,
)
from student_trainer.report_example import AnswerExample, examples_html
from student_trainer.report_geometry import deciles_html, over_steps_html
from student_trainer.report_results import Results, accuracies, results_html
from student_trainer.report_settings import settings_html
from student_trainer.report_ticks import compact
from student_trainer.report_values import MISSING, Curve, mean, number, percent, points
from student_trainer.step_time import STAGES, StepTime

TEMPLATE = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))

FIGURES: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("objective", "Objective", "", str),
    ("accuracy_before", "Held-out accuracy before", "%", lambda v: f"{100 * v:.1f}"),
    ("accuracy_after", "Held-out accuracy after", "%", lambda v: f"{100 * v:.1f}"),
    ("validation_before", "Validation accuracy before", "%", lambda v: f"{100 * v:.1f}"),
    ("validation_after", "Validation accuracy after", "%", lambda v: f"{100 * v:.1f}"),
    ("validation_best", "Validation accuracy at its best", "%", lambda v: f"{100 * v:.1f}"),
    ("best_step", "Step at which it was", "", lambda v: f"{v:,.0f}"),
    ("steps", "Optimizer steps", "", lambda v: f"{v:,.0f}"),
    ("seconds", "Time, with validations", "s", lambda v: f"{v:,.1f}"),
    ("step_s", "Time of a step", "s", lambda v: f"{v:.3g}"),
    ("bound_by", "Stage that bounds it", "", str),
    (
        "teacher_wait_share",
        "Share of time waiting for the teacher",
        "%",
        lambda v: f"{100 * v:.1f}",
    ),
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
"""Rows of the table: name in the summary, or else in the curves (their mean), title (HTML), unit, format. Rows that no
run has a value for are left out."""

LOSSES = (
    ("loss/standard", "Standard term", "Student to teacher, both with the picture."),
    (
        "loss/vis",
        "Visual term",
        "Student to the target with the teacher&rsquo;s visual evidence put on.",
    ),
    ("loss/lang", "Language term", "Student to teacher, neither with the picture; only watched."),
    ("loss/lp", "Preservation term", "The language term, counted on the most visual tokens only."),
    (
        "loss/lang_top",
        "Language where it is preserved",
        "The language term&rsquo;s mean over the most visual tokens. In the paper (its Fig. 4) it rises without "
        "preservation, and falls with it.",
    ),
    (
        "loss/vp",
        "Visual preservation term",
        "The text prior towards the target, on the most visual tokens.",
    ),
    ("loss/policy", "Policy term", "The clipped surrogate of the rewards, negated."),
)
"""Name in the curves, title, note (HTML)."""

STRENGTHS = (
    ("steering/gamma", "Weight of the visual term, &gamma;"),
    ("steering/lambda", "Weight of preservation, &lambda;"),
    ("eta/value", "Scale of the step, &eta;"),
)
"""Shown where a run changes them on its way."""

PHASES = {"sampler": "sampler", "teacher": "teacher", "learner": "update"}
"""Parts of a step by stage: waiting for the first two. The rest of time/step_s is "other" where it is more than 1%."""


def render_report(
    summary: Mapping[str, Any],
    curves: Mapping[str, Curve],
    examples: Sequence[AnswerExample],
    measured: Mapping[str, Mapping[str, Any] | None] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """One HTML page without scripts or network use. A number that is missing or not finite is a dash.

    `summary` is what summary.json holds, or the like of it; `curves`, `measured` and `settings` are by run the lines of
    metrics.jsonl, what geometry.json holds and what config.toml does.
    """
    results: Results = summary.get("objectives", {})
    questions = number(summary, "heldout_questions")
    # The same order everywhere: a run's colour is its place.
    runs = list(dict.fromkeys([*results, *curves]))
    curves = {name: curves.get(name, ()) for name in runs}
    measured = {name: (measured or {}).get(name) for name in runs}
    return TEMPLATE.substitute(
        title=escape(str(summary.get("title", "Distillation report"))),
        lede=_lede(summary, results, questions),
        results=results_html(results, questions),
        figures=_section("Figures", _figures(results, curves)),
        accuracy=_section("Accuracy while training", _accuracy(curves)),
        losses=_section("Losses", _losses(curves)),
        rewards=_section("Rewards", _rewards(curves)),
        strengths=_section("Strength of steering", _strengths(curves)),
        deciles=_section("Geometry of the gradients", deciles_html(measured)),
        geometry=_section("Geometry over the steps", over_steps_html(curves)),
        dependency=_section("Visual dependency of the tokens", _dependency(curves)),
        times=_section("Where a step&rsquo;s time goes", _times(curves)),
        examples=_section("Held-out answers", examples_html(examples, list(curves))),
        settings=_section("Settings", settings_html(settings or {}) + _about(summary)),
    )


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>" if body else ""


def _lede(summary: Mapping[str, Any], results: Results, questions: float | None) -> str:
    if "lede" in summary:
        return escape(str(summary["lede"]))
    teacher = escape(str(summary.get("teacher", {}).get("model_id", "a teacher")))
    start = ", each time from the same start" if len(results) > 1 else ""
    count = f"{questions:,.0f} " if questions else ""
    found = accuracies(results)
    befores = (before for before, _ in found.values())
    afters = [f"{percent(after)} with {escape(name)}" for name, (_, after) in found.items()]
    return (
        f"A small student learned from {teacher}{start}. On {count}held-out questions its accuracy "
        f"went from {percent(next(befores, None))} to {' and '.join(afters) or MISSING}."
    )


def _figures(results: Results, curves: Mapping[str, Curve]) -> str:
    rows: list[str] = []
    for key, title, unit, form in FIGURES:
        cells = [_cell(f, curves.get(name, ()), key, form) for name, f in results.items()]
        if all(cell == MISSING for cell in cells):
            continue
        unit = f' <span class="unit">{unit}</span>' if unit else ""
        shown = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{title}{unit}</th>{shown}</tr>')
    if not rows:
        return ""
    caption = "One column for each run. Means are over all steps."
    begin = table_begin(list(results), caption, "Figure")
    return begin + "\n".join(rows) + "\n</tbody>\n</table></div>"


def _cell(figures: Mapping[str, Any], curve: Curve, key: str, form: Callable[[float], str]) -> str:
    given = figures.get(key)
    if isinstance(given, str):
        return escape(given)
    value = number(figures, key)
    if value is None:
        value = mean(curve, key)
    return MISSING if value is None else form(value)


def _accuracy(curves: Mapping[str, Curve]) -> str:
    note = "Greedy answers to the validation questions, which are not the held-out ones."
    return _plot(curves, "eval/accuracy", "Validation accuracy", note, SHARE)


def _losses(curves: Mapping[str, Curve]) -> str:
    plots = [_plot(curves, *loss) for loss in LOSSES]
    note = (
        "The legends give the mean of the first and of the last tenth of the steps. "
        "Thin lines show every step, thick ones the mean of neighbouring steps."
    )
    figures = f'<p class="soft">{note}</p>\n<div class="many">\n{"".join(plots)}</div>'
    return figures if any(plots) else ""


def _rewards(curves: Mapping[str, Curve]) -> str:
    names = dict.fromkeys(
        n for c in curves.values() for n in (c[-1] if c else {}) if n.startswith("reward/")
    )
    titles = {n: f"Reward: {escape(n.removeprefix('reward/'))}" for n in names}
    plots = [_plot(curves, n, titles[n], "Mean over the answers of a step.", PLAIN) for n in names]
    return f'<div class="many">\n{"".join(plots)}</div>' if plots else ""


def _strengths(curves: Mapping[str, Curve]) -> str:
    plots = [
        _plot(curves, key, title, "", PLAIN)
        for key, title in STRENGTHS
        if any(len({value for _, value in points(c, key)}) > 1 for c in curves.values())
    ]
    return f'<div class="many">\n{"".join(plots)}</div>' if plots else ""


def _dependency(curves: Mapping[str, Curve]) -> str:
    note = (
        "How far the teacher&rsquo;s prediction of a token moves when the picture is taken away. "
        "Near 0 it would answer the same without looking, and steering has nothing to work with."
    )
    return _plot(curves, "vds/mean", "Mean VDS", note)


def _plot(curves: Mapping[str, Curve], key: str, title: str, note: str, scale: Scale = NATS) -> str:
    """Figure with one line for each run that has the metric; nothing where none has."""
    lines = [Series(n, points(c, key), i) for i, (n, c) in enumerate(curves.items())]
    lines = [line for line in lines if line.points]
    return line_figure(lines, title, note, scale) if lines else ""


def _times(curves: Mapping[str, Curve]) -> str:
    """Mean time of each part of a step, one bar for each run."""
    bars: list[tuple[str, list[tuple[str, float]]]] = []
    bounds: list[str] = []
    for name, curve in curves.items():
        spent = StepTime(curve)
        parts = [(PHASES[stage], spent.mean_s * spent.shares[stage]) for stage in STAGES]
        other = spent.mean_s - sum(value for _, value in parts)
        if other > 0.01 * spent.mean_s:
            parts.append(("other", other))
        if any(value for _, value in parts):
            bars.append((name, parts))
            bounds.append(f"{escape(name)} by its {spent.bound_by}")
    note = (
        "Mean over all steps. The sampler is waited for from the first answer to the last; where it works beside the "
        "learner, only as long as it is behind. The teacher scores answers while others are still being sampled; "
        "waiting is what is left of its work after the last one. What bounds a run: "
        f"{', '.join(bounds)}."
    )
    return bar_figure(bars, "Time of a step", note) if bars else ""


def _about(summary: Mapping[str, Any]) -> str:
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
        f"<dt>{name}</dt><dd>{escape(str(value))}</dd>\n"
        for name, value in entries.items()
        if value not in (None, "")
    )
    return f'<dl class="settings">\n{rows}</dl>' if rows else ""
