"""What the paper says, beside what was seen at the toy's scale.

A claim that one objective is better than another is judged by paired differences over seeds, with Student's t: it holds
where their mean is more than `T_975` standard errors above zero, does not where it is more than that below, and is
unclear otherwise. An angle is the paper's where it is within `NEAR_DEGREES` of it, in every decile whose figure is
known.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Objectives = Mapping[str, Sequence[float]]
"""Held-out greedy accuracies by name, in the order of seeds."""

BETTER = (
    ("VGS-LP is better than standard distillation (46.10 against 43.74)", "vgs-lp", "standard"),
    ("so it is with the paper's lambda of 0.01", "vgs-lp-paper", "standard"),
    ("steering itself gains: VGS-LP over standard + LP (no figure)", "vgs-lp", "standard-lp"),
    ("preservation helps steering (lambda 0.01 over 0: 58.2, 56.8)", "vgs-lp", "vgs"),
    ("adaptive steering is better still (46.53 against 46.10)", "adaptive-vgs", "vgs-lp"),
    ("steering by language falls below standard", "standard", "language-steering"),
    ("GRPO gains by distillation (45.41 against 44.83)", "grpo-standard", "grpo"),
    ("and more by steering (47.20 against 45.41)", "grpo-vgs-lp", "grpo-standard"),
)
"""(claim, what is said to be better, than what)"""
FIXED = ("vgs", "vgs-lp-paper", "vgs-lp")
"""Entries of the table that steer by the visual term with fixed numbers."""
ANGLES = (
    (
        "language and visual gradients: 60 degrees in decile 0, 92 in decile 9",
        "lang_vis",
        {0: 60.0, 9: 92.0},
    ),
    ("standard and visual gradients: 42 degrees in decile 9", "std_vis", {9: 42.0}),
    ("standard and language gradients: 50 degrees in decile 9", "std_lang", {9: 50.0}),
)
"""(claim, pair, the paper's degrees by decile of VDS): Fig. 3, as far as its figures are known."""
NEAR_DEGREES = 15.0
"""How far from the paper's an angle may lie."""
T_975 = {
    2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262, 11: 2.228,
    12: 2.201, 13: 2.179, 14: 2.160, 15: 2.145, 16: 2.131, 17: 2.120, 18: 2.110, 19: 2.101, 20: 2.093,
}  # fmt: skip
"""By the number of runs, 97.5 % quantile of Student's t for one degree of freedom less (NIST/SEMATECH e-Handbook of
Statistical Methods, 1.3.6.7.2). More runs than it has are judged by its last, which is a little strict."""


def findings(
    accuracies: Mapping[str, Objectives],
    results: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    angles: Mapping[str, Mapping[str, Sequence[float | None]]],
) -> list[dict[str, str]]:
    """One entry for each claim and task: claim, seen, holds."""
    found = [
        entry
        for task, objectives in accuracies.items()
        for claim, better, worse in BETTER
        if (entry := _compared(f"{task}: {claim}", objectives, better, worse)) is not None
    ]
    for task, objectives in accuracies.items():
        found += _auto(task, objectives)
    for task, runs in results.items():
        found += _drifts(task, runs)
    for task, pairs in angles.items():
        found += _angles(task, pairs)
    return found


def comparisons(results: Mapping[str, Mapping[str, Sequence[Any]]]) -> int:
    """How many claims are judged by Student's t; where nothing differs, one in twenty comes out by chance.

    `results` has something for each run, by task and objective.
    """
    return sum(
        min(len(objectives.get(name, ())) for name in pair) > 1
        for objectives in results.values()
        for _, *pair in BETTER
    )


def _compared(claim: str, objectives: Objectives, better: str, worse: str) -> dict[str, str] | None:
    if not objectives.get(better) or not objectives.get(worse):
        return None
    gains = [100 * (a - b) for a, b in zip(objectives[better], objectives[worse], strict=True)]
    mean, error = statistics.fmean(gains), _standard_error(gains)
    limit = T_975.get(len(gains), T_975[max(T_975)]) * error
    seen = (
        f"{better} over {worse}: {mean:+.1f} points, standard error {error:.1f}, n = {len(gains)}"
    )
    holds = "yes" if mean > limit else "no" if mean < -limit else "unclear"
    return {"claim": claim, "seen": seen, "holds": holds}


def _standard_error(gains: Sequence[float]) -> float:
    """Of their mean; NaN for a single one, which nothing is above or below."""
    return statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan


def _auto(task: str, objectives: Objectives) -> Iterable[dict[str, str]]:
    """Ours, not the paper's: no worse than the best fixed pair of gamma and lambda, within one standard error."""
    fixed = {name: objectives[name] for name in FIXED if objectives.get(name)}
    if not objectives.get("auto") or not fixed:
        return
    best = max(fixed, key=lambda name: statistics.fmean(fixed[name]))
    gains = [100 * (a - b) for a, b in zip(objectives["auto"], fixed[best], strict=True)]
    mean, error = statistics.fmean(gains), _standard_error(gains)
    claim = f"{task}: gamma and lambda that choose themselves are as good as the best fixed ones"
    seen = f"auto over {best}: {mean:+.1f} points, standard error {error:.1f}, n = {len(gains)}"
    holds = "unclear" if math.isnan(error) else "yes" if mean >= -error else "no"
    yield {"claim": claim, "seen": seen, "holds": holds}


def _drifts(task: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[dict[str, str]]:
    """Without preservation the language loss of the top tokens rises, with it it falls (Fig. 4)."""
    for name, claim, sign in (
        ("vgs", "without preservation, language loss on the top 30 % of tokens rises", 1),
        ("vgs-lp", "with it, it falls", -1),
    ):
        ends = [
            (r["loss/lang_top_first"], r["loss/lang_top_last"])
            for r in runs.get(name, ())
            if "loss/lang_top_first" in r
        ]
        if not ends:
            continue
        as_said = sum(sign * (last - first) > 0 for first, last in ends)
        first, last = (statistics.fmean(values) for values in zip(*ends, strict=True))
        holds = "yes" if as_said == len(ends) else "no" if as_said == 0 else "unclear"
        seen = f"{name}: {first:.3f} to {last:.3f} nats, as said in {as_said} of {len(ends)} runs"
        yield {"claim": f"{task}: {claim}", "seen": seen, "holds": holds}


def _angles(task: str, angles: Mapping[str, Sequence[float | None]]) -> Iterable[dict[str, str]]:
    """Fig. 3."""
    for claim, pair, paper in ANGLES:
        if not angles.get(pair):
            continue
        measured = {decile: angles[pair][decile] for decile in paper}
        seen = ", ".join(
            f"{'no angle' if angle is None else f'{angle:.0f}'} in decile {decile}"
            for decile, angle in measured.items()
        )
        apart = [abs(a - paper[decile]) for decile, a in measured.items() if a is not None]
        holds = "unclear"
        if len(apart) == len(paper):
            holds = "yes" if max(apart) <= NEAR_DEGREES else "no"
        yield {"claim": f"{task}: {claim}", "seen": seen, "holds": holds}
