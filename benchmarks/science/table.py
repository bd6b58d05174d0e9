"""benchmarks/results/science.json from the results of single runs."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.science.findings import Objectives, comparisons, findings

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Held-out results of a task by the objective's name in the table, one for each seed."""


def table(
    results: Mapping[str, Results],
    validation: Mapping[str, Mapping[str, float]],
    angles: Mapping[str, Mapping[str, Sequence[float | None]]],
    steps: int,
) -> dict[str, Any]:
    """The flat file: keys with dots for what is nested.

    `validation`: by task and setting, the accuracy that the choice was made by. `angles`: by task and pair, with the
    plain keys for "base".
    """
    seeds = {figures["seed"] for task in results.values() for r in task.values() for figures in r}
    flat: dict[str, Any] = {"seeds": len(seeds), "steps": steps}
    for task, objectives in results.items():
        for name, runs in objectives.items():
            prefix = f"tasks.{task}.objectives.{name}"
            for kind in ("greedy", "sampled"):
                values = [figures[f"{kind}_accuracy"] for figures in runs]
                flat[f"{prefix}.{kind}_mean"] = round(statistics.fmean(values), 4)
                flat[f"{prefix}.{kind}_std"] = _deviation(values)
            flat[f"{prefix}.runs"] = len(runs)
            flat |= {
                f"{prefix}.{key}": runs[0].get(field)
                for key, field in (
                    ("learning_rate", "learning_rate"),
                    ("gamma", "gamma"),
                    ("lambda", "lambda_"),
                )
                if runs[0].get(field) is not None
            }
    for task, accuracies in validation.items():
        flat |= {f"tasks.{task}.validation.{key}": share for key, share in accuracies.items()}
    for task, pairs in angles.items():
        prefix = "angles" if task == "base" else f"angles_{task}"
        for name, values in pairs.items():
            flat[f"{prefix}.{name}"] = [None if a is None else round(a, 1) for a in values]
    by_task: Mapping[str, Objectives] = {
        task: {
            name: [figures["greedy_accuracy"] for figures in runs] for name, runs in found.items()
        }
        for task, found in results.items()
    }
    flat["comparisons"] = comparisons(by_task)
    flat["findings"] = findings(by_task, results, angles)
    return flat | {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: importlib.metadata.version(n) for n in ("torch", "transformers")},
        "date": datetime.date.today().isoformat(),
    }


def _deviation(values: Sequence[float]) -> float | None:
    """Of a sample; None for a single value."""
    return round(statistics.stdev(values), 4) if len(values) > 1 else None
