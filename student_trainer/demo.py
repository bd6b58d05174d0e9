"""`student-trainer demo`: a teacher in another process, one student per objective, one comparison."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import time
from dataclasses import dataclass
from typing import Any

import torch

from protos.errors import Unavailable
from protos.teacher_info import TeacherInfo
from student_trainer.answer import is_correct
from student_trainer.config import TrainConfig
from student_trainer.data import DataSet
from student_trainer.demo_config import DemoConfig
from student_trainer.errors import TeacherGone, TrainerError
from student_trainer.evaluate import Evaluation
from student_trainer.metrics import read_metrics
from student_trainer.objective_config import ObjectiveConfig
from student_trainer.report import render_report
from student_trainer.report_example import AnswerExample
from student_trainer.teacher_process import teacher_process
from student_trainer.train import Trainer

log = logging.getLogger(__name__)

COLUMNS = (
    ("accuracy_before", "before", "{:.3f}"),
    ("accuracy_after", "after", "{:.3f}"),
    ("mean_vds", "mean VDS (nats)", "{:.3f}"),
    ("teacher_wait_share", "teacher wait", "{:.0%}"),
    ("wire_bytes_per_token", "bytes/token", "{:.0f}"),
    ("seconds", "seconds", "{:.0f}"),
)


@dataclass(frozen=True)
class _Run:
    """What one objective led to."""

    figures: dict[str, float]
    curve: list[dict[str, float]]
    before: Evaluation
    after: Evaluation
    teacher: TeacherInfo


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run the comparison; writes summary.json and report.html under `run_dir` and returns the summary.

    Raises TrainerError where the teacher does not start, or goes away.
    """
    if not config.objectives:
        raise ValueError(
            "the demo compares nothing: give at least one [[objectives]] table in --config"
        )
    summary_file, report = config.run_dir / "summary.json", config.run_dir / "report.html"
    for objective in config.objectives:  # nothing but what an earlier demo left
        shutil.rmtree(config.run_dir / objective.name, ignore_errors=True)
    for file in (summary_file, report):
        file.unlink(missing_ok=True)
    runs = _runs(config)
    summary = _summary(config, runs)
    summary_file.write_text(json.dumps(summary, indent=2) + "\n")
    curves = {name: run.curve for name, run in runs.items()}
    report.write_text(render_report(summary, curves, _examples(config, runs)), encoding="utf-8")
    print(_table(summary["objectives"]))
    print(f"report: {report}")
    return summary


def _runs(config: DemoConfig) -> dict[str, _Run]:
    """One for each objective, by name, all with one teacher."""
    runs: dict[str, _Run] = {}
    try:
        with teacher_process(config.teacher_config, config.run_dir) as address:
            for objective in config.objectives:
                log.info("training objective=%s", objective.name)
                before = next(iter(runs.values())).before if runs else None
                runs[objective.name] = _run(config, objective, address, before)
    except (TeacherGone, Unavailable) as error:  # in a run, or as the next one began
        raise TrainerError(
            f"the demo's teacher went away; see {config.run_dir / 'teacher.log'}, and run the demo again"
        ) from error
    return runs


def _run(
    config: DemoConfig, objective: ObjectiveConfig, address: str, before: Evaluation | None
) -> _Run:
    """Train from the initial student; `before` is that student's evaluation where it is known already."""
    train = _train_config(config, objective, address)
    with Trainer(train) as trainer:
        before = before or trainer.evaluate(config.heldout, config.heldout_limit)
        started_s = time.monotonic()
        trainer.run()
        seconds = time.monotonic() - started_s
        after = trainer.evaluate(config.heldout, config.heldout_limit)
        assert trainer.teachers is not None  # all objectives of a demo distil
        (teacher,), bytes_per_token = trainer.teachers.infos, trainer.teachers.bytes_per_token
    curve = read_metrics(train.run_dir / "metrics.jsonl")
    steered = objective.name != "standard"
    figures = {
        "accuracy_before": before.accuracy,
        "accuracy_after": after.accuracy,
        "steps": train.steps,
        "seconds": round(seconds, 2),
        "teacher_wait_share": _total(curve, "time/teacher_wait_s") / _total(curve, "time/step_s"),
        "wire_bytes_per_token": bytes_per_token,
        "mean_vds": _total(curve, "vds/mean") / train.steps,
        "learning_rate": train.optimizer.lr,
        "gamma": objective.gamma if steered else 0.0,
        "lambda": objective.lambda_ if objective.name == "vgs-lp" else 0.0,
        "eta": curve[-1]["eta/value"],
    }
    return _Run(figures, curve, before, after, teacher)


def _train_config(config: DemoConfig, objective: ObjectiveConfig, address: str) -> TrainConfig:
    return config.train.model_copy(
        update={
            "objective": objective,
            "run_dir": config.run_dir / objective.name,
            "teacher": config.train.teacher.model_copy(update={"address": address}),
        }
    )


def _total(curve: list[dict[str, float]], name: str) -> float:
    return sum(line.get(name, 0.0) for line in curve)


def _summary(config: DemoConfig, runs: dict[str, _Run]) -> dict[str, Any]:
    first = next(iter(runs.values()))
    return {
        "title": config.title,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("vgs-opd", "torch", "transformers", "grpcio")
        },
        "teacher": {
            "model_id": first.teacher.model_id,
            "engine": first.teacher.engine,
            "dtype": first.teacher.dtype,
        },
        "heldout_questions": len(first.before.responses),
        "seed": config.train.seed,
        "objectives": {name: run.figures for name, run in runs.items()},
    }


def _examples(config: DemoConfig, runs: dict[str, _Run]) -> list[AnswerExample]:
    """Held-out questions on which the students differ first, then the others, in the file's order."""
    first = next(iter(runs.values()))
    rows = DataSet(config.heldout, config.train.data)
    said = {"initial": first.before.responses} | {n: run.after.responses for n, run in runs.items()}
    examples = [
        AnswerExample(
            images=rows[i].images,
            question=rows[i].question,
            expected=rows[i].answer,
            responses={name: responses[i] for name, responses in said.items()},
            correct={name: is_correct(r[i], rows[i].answer) for name, r in said.items()},
        )
        for i in range(len(first.before.responses))
    ]
    examples.sort(key=lambda e: len(set(e.correct.values())) == 1)
    return examples[: config.examples]


def _table(objectives: dict[str, dict[str, float]]) -> str:
    header = ["objective", *(title for _, title, _ in COLUMNS)]
    rows = [
        [name, *(form.format(figures[key]) for key, _, form in COLUMNS)]
        for name, figures in objectives.items()
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.rjust(w) for cell, w in zip(r, widths, strict=True)) for r in [header, *rows]
    ]
    return "\n".join(["", *lines, ""])
