"""`python -m benchmarks.science` (`make science`): the table of objectives on the toy, and what holds of the paper.

Settings are chosen on the validation questions with the student of seed 0, four for each objective; figures are of the
held-out questions over several seeds (of the initial student, sampling and data order). Results are kept one file a run
under runs/science, and a second call goes on where the first ended: delete the folder once the trainer has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import multiprocessing
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.science.page import page
from benchmarks.science.setting import Setting, candidates
from benchmarks.science.table import table
from benchmarks.science.toy import Run, config, result
from examples.digits.make_models import make
from student_trainer.geometry_config import GeometryConfig
from student_trainer.run_folder import GEOMETRY
from student_trainer.run_geometry import run_geometry
from student_trainer.teacher_process import teacher_process
from student_trainer.train import train

FOLDER = Path("runs/science")
OUT = Path("benchmarks/results/science.json")
PAGE = FOLDER / "report.html"
ANGLES_STEPS, ANGLES_RATE = 20, 5e-4
TASKS = ("base", "chatty")
TEACHER = """model = "{model}"
teacher_id = "{task}"
[engine]
device = "cpu"
threads = 1
"""


def main() -> None:
    """Make the models, choose, train, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=TASKS)
    parser.add_argument("--names", nargs="*", help="objectives of the table; all without")
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level="WARNING")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the teacher ends with us
    found = {task: science(task, arguments) for task in arguments.tasks}
    results = {task: heldout for task, (heldout, _) in found.items()}
    validation = {task: accuracies for task, (_, accuracies) in found.items()}
    geometry = {
        task: json.loads((FOLDER / f"{task}-angles" / GEOMETRY).read_text())
        for task in arguments.tasks
    }
    angles = {task: measured["angles"] for task, measured in geometry.items()}
    flat = table(results, validation, angles, arguments.steps)
    OUT.write_text(json.dumps(flat, indent=2) + "\n")
    PAGE.write_text(page(results, flat, geometry), encoding="utf-8")
    print(f"wrote {OUT} and {PAGE}")


def science(
    task: str, arguments: argparse.Namespace
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    """Held-out results of a task by objective, one for each seed, and validation accuracies by setting.

    Runs that are kept are not done again.
    """
    models = FOLDER / "models" / task
    make(task, "teacher", 0, models / "teacher")
    for seed in range(arguments.seeds):
        make(task, "student", seed, models / f"student-{seed}")
    settings = FOLDER / f"{task}-teacher.toml"
    settings.write_text(TEACHER.format(model=models / "teacher", task=task))
    with contextlib.ExitStack() as opened:
        address = opened.enter_context(
            teacher_process(settings, FOLDER / task, "benchmarks.science.remembering_teacher")
        )
        pool = ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn"))
        opened.callback(pool.shutdown, cancel_futures=True)
        grid = {n: s for n, s in candidates().items() if n in (arguments.names or candidates())}
        tried = [
            Run(task, 0, arguments.steps, setting, models, heldout=False)
            for settings in grid.values()
            for setting in settings
        ]
        accuracies = run_all(tried, address, pool)
        chosen = choose(grid, accuracies)
        final = [
            Run(task, seed, arguments.steps, setting, models, heldout=True)
            for seed, setting in itertools.product(range(arguments.seeds), [None, *chosen.values()])
        ]
        done = run_all(final, address, pool)
        measure_angles(task, models, address)
    found: dict[str, list[dict[str, Any]]] = {}
    for run in final:
        found.setdefault("initial" if run.setting is None else run.setting.name, []).append(
            done[run]
        )
    return found, {
        run.setting.key: accuracies[run]["validation_accuracy"] for run in tried if run.setting
    }


def measure_angles(task: str, models: Path, address: str) -> None:
    """Between the terms' gradients after a fifth of a standard run, on validation questions."""
    folder = FOLDER / f"{task}-angles"
    if (folder / GEOMETRY).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    setting = Setting("standard", "standard", ANGLES_RATE)
    run = config(Run(task, 0, ANGLES_STEPS, setting, models, heldout=False), address, folder)
    train(run)
    run_geometry(
        GeometryConfig(
            run=folder, threads=1, sampler=run.sampler, teacher=run.teacher, device="cpu"
        )
    )


def run_all(
    runs: Iterable[Run], address: str, pool: ProcessPoolExecutor
) -> dict[Run, dict[str, Any]]:
    """Figures of each run."""
    waiting = {pool.submit(result, run, address, FOLDER / "results"): run for run in runs}
    found = {}
    for future in as_completed(waiting):
        run = waiting[future]
        found[run] = future.result()
        shares = {k: v for k, v in found[run].items() if k.endswith("accuracy")}
        print(run.key, shares, found[run]["seconds"], flush=True)
    return found


def choose(
    grid: Mapping[str, Sequence[Setting]], tried: Mapping[Run, Mapping[str, Any]]
) -> dict[str, Setting]:
    """The setting of each objective with the best validation accuracy; of equals the first."""
    accuracy = {run.setting: figures["validation_accuracy"] for run, figures in tried.items()}
    return {
        name: max(settings, key=lambda setting: accuracy[setting])
        for name, settings in grid.items()
    }


if __name__ == "__main__":
    main()
