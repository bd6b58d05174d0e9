"""`student-trainer report`: runs side by side, from what they have left in their folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from student_trainer.report import render_report
from student_trainer.report_config import ReportConfig
from student_trainer.report_values import mean, percent, points
from student_trainer.run_folder import RunFolder
from student_trainer.step_time import StepTime

FILE = "report.html"
NAMED = 4
"""More runs than these are counted in the page's first sentence, not named."""


def runs_report(config: ReportConfig) -> Path:
    """Write the page; returns its file. Raises ValueError where a folder holds no run."""
    if not config.runs:
        raise ValueError(
            "say which runs: student-trainer report RUN [RUN ...], each the folder that --run-dir named"
        )
    paths = list(dict.fromkeys(path.resolve() for path in config.runs))
    runs = {name: RunFolder(path) for name, path in zip(run_names(paths), paths, strict=True)}
    curves = {name: run.curve for name, run in runs.items()}
    summary = {
        "title": next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs compared",
        "lede": _lede(runs),
        "objectives": {name: _figures(run) for name, run in runs.items()},
    }
    measured = {name: run.geometry for name, run in runs.items()}
    settings = {name: run.settings for name, run in runs.items()}
    out = config.out or Path(os.path.commonpath(paths)) / FILE
    out.write_text(render_report(summary, curves, [], measured, settings), encoding="utf-8")
    return out


def run_names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of those above them as it takes to tell the runs apart; `paths` differ."""
    lengths = [1] * len(paths)
    while True:
        names = ["/".join(path.parts[-n:]) for path, n in zip(paths, lengths, strict=True)]
        equal = [i for i, name in enumerate(names) if names.count(name) > 1]
        if not equal:
            return names
        for i in equal:
            lengths[i] += 1


def _lede(runs: dict[str, RunFolder]) -> str:
    steps = [int(run.curve[-1]["step"]) for run in runs.values()]
    count = f"{steps[0]:,}" if len(set(steps)) == 1 else f"{min(steps):,} to {max(steps):,}"
    accuracies = [_validation(run) for run in runs.values()]
    afters = [
        percent(found["validation_after"]) + (f" with {name}" if len(runs) > 1 else "")
        for name, found in zip(runs, accuracies, strict=True)
        if "validation_after" in found
    ]
    if len(runs) == 1:
        text = f"A run of {count} steps with the objective {_objective(next(iter(runs.values())))}."
    else:
        text = f"{len(runs)} runs of {count} steps."
    if afters and len(runs) <= NAMED:
        text += f" Accuracy on the validation questions came to {' and '.join(afters)}."
    return text


def _objective(run: RunFolder) -> str:
    return str(run.settings.get("objective", {}).get("name", "unknown"))


def _validation(run: RunFolder) -> dict[str, float]:
    """Before the first step, where it was measured then; at the end; at its best."""
    found = points(run.curve, "eval/accuracy")
    if not found:
        return {}
    # Of equals the earlier one is kept as the best checkpoint.
    best_step, best = max(found, key=lambda point: (point[1], -point[0]))
    before = {"validation_before": found[0][1]} if found[0][0] == 0 else {}
    after = {"validation_after": found[-1][1]} if found[-1][0] > 0 else {}
    return before | after | {"validation_best": best, "best_step": best_step}


def _figures(run: RunFolder) -> dict[str, Any]:
    """What the page's table says of a run."""
    curve, spent = run.curve, StepTime(run.curve)
    optimizer = run.settings.get("optimizer", {})
    figures: dict[str, Any] = {
        "objective": _objective(run),
        "steps": curve[-1]["step"],
        "mean_vds": mean(curve, "vds/mean"),
        "wire_bytes_per_token": mean(curve, "wire/bytes_per_token"),
        "gamma": curve[-1].get("steering/gamma"),
        "lambda": curve[-1].get("steering/lambda"),
        "eta": curve[-1].get("eta/value"),
        "learning_rate": optimizer.get("lr"),
    }
    if spent.steps:
        figures |= {
            "step_s": spent.mean_s,
            "bound_by": spent.bound_by,
            "teacher_wait_share": spent.shares["teacher"],
        }
    return figures | _validation(run)
