"""The report's geometry: angles between the terms' gradients by decile of VDS, and over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from student_trainer.report_chart import DEGREES, PLAIN, Mark, Scale, Series, colour, line_figure
from student_trainer.report_values import MISSING, Curve, number, points

PAPER = "paper"
ANGLES: Mapping[str, tuple[str, tuple[tuple[int, float], ...]]] = {
    "lang_vis": ("Language to visual", ((0, 60.0), (9, 92.0))),
    "std_vis": ("Standard to visual", ((9, 42.0),)),
    "std_lang": ("Standard to language", ((9, 50.0),)),
}
"""Name in geometry.json: title, and (decile, degrees) that the paper's Fig. 3 shows."""
SETS = {"top_30": "top 30%", "low_70": "low 70%"}
OVER_STEPS: tuple[tuple[str, str, Scale], ...] = (
    ("geometry/lang_vis_degrees", "Language to visual", DEGREES),
    ("geometry/standard_vis_degrees", "Standard to visual", DEGREES),
    ("geometry/standard_lang_degrees", "Standard to language", DEGREES),
    ("geometry/norm_standard", "Norm of the standard gradient", PLAIN),
    ("geometry/norm_vis", "Norm of the visual gradient", PLAIN),
    ("geometry/norm_lang", "Norm of the language gradient", PLAIN),
    ("geometry/eta", "&eta; that the norms imply", PLAIN),
)
"""Name in the curves, title (HTML), scale."""


def deciles_html(measured: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Angles by decile, `measured` being geometry.json by run; "" where nobody measured."""
    if not any(measured.values()):
        return ""
    plots = [_by_decile(measured, name) for name in ANGLES]
    about = "; ".join(
        f"{escape(run)} after {found.get('step', 0):,} steps, on {found.get('tokens', 0):,} tokens"
        for run, found in measured.items()
        if found
    )
    return (
        '<p class="soft">Angle between two terms&rsquo; gradients on the tokens of each decile of VDS: 0 are those '
        "that depend on the picture least, 9 those that depend on it most. Near 90 degrees one term can&rsquo;t stand "
        f"in for the other. Measured: {about}. The diamonds are what the paper shows (its Fig. 3).</p>\n"
        f'<div class="many">\n{"".join(plots)}</div>\n{_sets(measured)}'
    )


def _by_decile(measured: Mapping[str, Mapping[str, Any] | None], name: str) -> str:
    title, published = ANGLES[name]
    lines: list[Series] = []
    for i, (run, found) in enumerate(measured.items()):
        angles = (found or {}).get("angles", {}).get(name, ())
        known = tuple((float(d), float(a)) for d, a in enumerate(angles) if a is not None)
        if known:
            lines.append(Series(run, known, i))
    if not lines:
        return ""
    marks = [Mark(decile, degrees, PAPER) for decile, degrees in published]
    return line_figure(lines, title, "", DEGREES, across="VDS decile", marks=marks)


def _sets(measured: Mapping[str, Mapping[str, Any] | None]) -> str:
    rows: list[str] = []
    for i, (run, found) in enumerate(measured.items()):
        for key, title in SETS.items() if found else ():
            angles = (found or {}).get(key, {}).get("angles", {})
            cells = "".join(f"<td>{_degrees(number(angles, name))}</td>" for name in ANGLES)
            name = f'<span class="run">{escape(run)}</span> {title}'
            rows.append(f'<tr><th scope="row" class="{colour(i)}">{name}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{title}</th>' for title, _ in ANGLES.values())
    return (
        '<div class="scroll"><table>\n<caption><span>The same on the tokens whose language is preserved (top 30% of '
        "VDS) and on the others.</span></caption>\n"
        f'<thead><tr><th scope="col">Tokens</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody>\n</table></div>"
    )


def _degrees(angle: float | None) -> str:
    return MISSING if angle is None else f"{angle:.1f}°"


def over_steps_html(curves: Mapping[str, Curve]) -> str:
    """Norms and angles of the whole batch's gradients over the steps; "" where nobody measured."""
    plots: list[str] = []
    for key, title, scale in OVER_STEPS:
        lines = [Series(run, points(c, key), i) for i, (run, c) in enumerate(curves.items())]
        lines = [line for line in lines if line.points]
        if lines:
            plots.append(line_figure(lines, title, "", scale))
    if not plots:
        return ""
    note = (
        "Of the whole batch, every few steps (<code>geometry_every</code>). Where norms and angles stay level, as in "
        "the paper&rsquo;s Fig. 7, one &eta; does for the whole run."
    )
    return f'<p class="soft">{note}</p>\n<div class="many">\n{"".join(plots)}</div>'
