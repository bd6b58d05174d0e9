"""The report's first figures: each run's accuracy before and after, large, and what is to be made of the difference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from student_trainer.report_chart import colour
from student_trainer.report_values import MISSING, number, percent

Results = Mapping[str, Mapping[str, Any]]
"""Figures by run."""
HELD_OUT = ("accuracy_before", "accuracy_after")
VALIDATION = ("validation_before", "validation_after")
"""Names of the figures that are shown: validation's where nothing was held out."""
MANY = 5
"""More runs than these aren't compared in sentences."""


def accuracies(results: Results) -> dict[str, tuple[float | None, float | None]]:
    """(before, after) of each run; {} where none has an accuracy."""
    for names in (HELD_OUT, VALIDATION):
        found = {run: (number(f, names[0]), number(f, names[1])) for run, f in results.items()}
        if any(share is not None for pair in found.values() for share in pair):
            return found
    return {}


def results_html(results: Results, questions: float | None) -> str:
    """A card for each run, "" without accuracies; `questions` is how many they are about, if that is known."""
    cards: list[str] = []
    found = accuracies(results)
    for i, (name, (before, after)) in enumerate(found.items()):
        cards.append(
            f'<li class="{colour(i)}"><p class="name">{escape(name)}</p>\n<p class="figures">'
            f'<span class="before">{percent(before)}</span> '
            '<span class="before" aria-hidden="true">→</span><span class="hidden">to</span> '
            f'<strong class="after">{percent(after)}</strong></p>\n{_track(before, after)}'
            f'<p class="soft">{_gain(before, after)}{_interval(after, questions)}</p></li>'
        )
    if not cards:
        return ""
    crowd = " crowd" if len(cards) > MANY else ""
    verdict = _verdict(found, questions)
    return f'<ul class="results{crowd}">\n{"".join(cards)}\n</ul>\n<p class="soft">{verdict}</p>'


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
    return f" · 95% interval {percent(middle - reach)} to {percent(middle + reach)}"


def _verdict(
    found: Mapping[str, tuple[float | None, float | None]], questions: float | None
) -> str:
    """Each run against the first, and against what the choice of questions alone can do."""
    known = [(escape(name), after) for name, (_, after) in found.items() if after is not None]
    if len(known) > MANY:
        return ""
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
