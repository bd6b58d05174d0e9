"""The science table as a page: each seed's accuracy, what was chosen, what holds of the paper, and the angles."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.science.findings import NEAR_DEGREES
from benchmarks.science.table import Results
from student_trainer.report import TEMPLATE
from student_trainer.report_geometry import deciles_html
from student_trainer.report_values import MISSING

WIDTH, ROW, LEFT, RIGHT = 480.0, 24.0, 140.0, 470.0
"""Of the plot, a row of it, and where 0 and 100 % lie."""
KINDS = {"greedy": "c0", "sampled": "c1"}
"""Ways to answer, and their colours."""
COLUMNS = ("greedy, %", "sampled, %", "learning rate", "gamma", "lambda")
"""Of a task's table, after the objective."""
PLACES = tuple(
    name
    for name in TEMPLATE.get_identifiers()
    if name not in ("title", "lede", "results", "deciles")
)
"""Of the trainer's report, what this page has nothing for."""


def page(results: Mapping[str, Results], flat: Mapping[str, Any], angles: Mapping[str, Any]) -> str:
    """HTML that needs nothing but itself. `flat` is science.json, `angles` geometry.json by task."""
    tasks = "".join(_task(name, found, flat) for name, found in results.items())
    measured = deciles_html(dict(angles))
    return TEMPLATE.substitute(
        dict.fromkeys(PLACES, ""),
        title="Objectives on the toy",
        lede=f"{flat['seeds']} seeds of initial student, sampling and data order, {flat['steps']} steps each. "
        "Learning rate, gamma and lambda were chosen on validation pictures, of auto the rate alone; all figures are "
        "of pictures held out.",
        results=tasks + _findings(flat["findings"], flat["comparisons"]),
        deciles=f"<section>\n<h2>Geometry of the gradients</h2>\n{measured}\n</section>",
    )


def _task(task: str, found: Results, flat: Mapping[str, Any]) -> str:
    rows = "".join(_row(name, f"tasks.{task}.objectives.{name}", flat) for name in found)
    head = "".join(f'<th scope="col">{title}</th>' for title in ("objective", *COLUMNS))
    legend = "".join(
        f'<li class="{colour}"><svg viewBox="0 0 22 10" aria-hidden="true">'
        f'<circle class="marker" cx="11" cy="5" r="4"/></svg>{kind}</li>'
        for kind, colour in KINDS.items()
    )
    return (
        f"<section>\n<h2>{escape(task)}</h2>\n<figure><h3>Accuracy by seed</h3>{_plot(task, found)}<figcaption>"
        f'<ul class="legend">{legend}</ul><p>A circle is a seed, a bar the mean over seeds.</p></figcaption></figure>\n'
        '<div class="scroll" style="margin-top: 2rem"><table class="wide">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>"
        "</div>\n</section>\n"
    )


def _row(name: str, prefix: str, flat: Mapping[str, Any]) -> str:
    def accuracy(kind: str) -> str:
        mean, deviation = (flat[f"{prefix}.{kind}_{what}"] for what in ("mean", "std"))
        return f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")

    settings = [
        flat.get(f"{prefix}.{key}", MISSING) for key in ("learning_rate", "gamma", "lambda")
    ]
    cells = [*map(accuracy, KINDS), *map(str, settings)]
    shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(name)}</th>{shown}</tr>\n'


def _plot(task: str, found: Results) -> str:
    height = ROW * len(found) + 24
    parts = []
    for tick in range(0, 101, 20):
        x = _x(tick / 100)
        parts.append(f'<path class="grid" d="M{x:.1f} 0V{height - 18:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 3:.1f}" text-anchor="middle">{tick}%</text>')
    for row, (name, runs) in enumerate(found.items()):
        y = ROW * row + 13
        parts.append(f'<text class="name" x="0" y="{y + 4:.1f}">{escape(name)}</text>')
        parts += [_dots(name, runs, kind, y) for kind in KINDS]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'aria-label="{escape(task)}: accuracy of each objective by seed, as in the table below">{"".join(parts)}</svg>'
    )


def _dots(name: str, runs: Sequence[Mapping[str, Any]], kind: str, y: float) -> str:
    shares = [run[f"{kind}_accuracy"] for run in runs]
    y += -4 if kind == "greedy" else 4
    circles = "".join(
        f'<circle class="marker" cx="{_x(share):.1f}" cy="{y:.1f}" r="3"><title>{escape(name)}, {kind}, seed '
        f"{run['seed']}: {100 * share:.1f}%</title></circle>"
        for run, share in zip(runs, shares, strict=True)
    )
    mean = _x(statistics.fmean(shares))
    return f'<g class="{KINDS[kind]}">{circles}<path class="line" d="M{mean:.1f} {y - 5:.1f}V{y + 5:.1f}"/></g>'


def _x(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * share


def _findings(found: Sequence[Mapping[str, str]], compared: int) -> str:
    head = "".join(f'<th scope="col">{title}</th>' for title in ("claim", "seen", "holds"))
    rows = "".join(
        f'<tr><th scope="row">{escape(entry["claim"])}</th>'
        f"<td>{escape(entry['seen'])}</td><td>{escape(entry['holds'])}</td></tr>\n"
        for entry in found
    )
    return (
        "<section>\n<h2>What holds of the paper, at this scale</h2>\n"
        f'<p class="soft">Comparisons of two objectives: {compared}. Yes and no mean there that paired differences '
        "over seeds have a mean further from zero than as many standard errors as Student's t asks for (97.5 % "
        "quantile: 2.8 with five seeds, 2.4 with eight). Where nothing differs, one in twenty comes out as yes or no "
        "by chance. Auto is as good where it is no more than one standard error below. What a loss does must be so "
        f"in all runs. Angles must be within {NEAR_DEGREES:g} degrees of the paper's.</p>\n"
        f'<div class="scroll"><table class="wide">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>'
        "</div>\n</section>\n"
    )
