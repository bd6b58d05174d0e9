"""Which lambda (and learning rate) the toy is run with: accuracy on the validation split alone.

`python -m benchmarks.lambda_choice`, from the repository root, trains each setting as the demo does, from the same
student, in the same order, for the same number of steps, and writes benchmarks/results/lambda_choice.json. Standard
distillation gets the same choice of learning rates. Held-out questions are not read. Part of the grid may be run
(--lambdas, --rates, --no-standard); its figures are added to those that the file holds.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import tempfile
import tomllib
from pathlib import Path

from student_trainer.config import TrainConfig
from student_trainer.demo_config import DemoConfig
from student_trainer.objective_config import ObjectiveConfig
from student_trainer.teacher_process import teacher_process
from student_trainer.train import Trainer

RESULTS = Path("benchmarks/results/lambda_choice.json")
CONFIG = Path("examples/digits/demo.toml")
LAMBDAS = (1.0, 3.0, 10.0)
RATES = (5e-4, 1e-3)
SEEDS = (0,)


def main() -> None:
    """Train every setting and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lambdas", type=float, nargs="*", default=LAMBDAS)
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--no-standard", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    demo = DemoConfig.model_validate(tomllib.loads(CONFIG.read_text()))
    objectives = {} if arguments.no_standard else {"standard": ObjectiveConfig(name="standard")}
    for lambda_ in arguments.lambdas:
        name = f"vgs_lp_lambda_{lambda_:g}"
        objectives[name] = ObjectiveConfig.model_validate(
            {"name": "vgs-lp", "gamma": 2.0, "lambda": lambda_}
        )
    about = {
        "steps": arguments.steps or demo.train.steps,
        "gamma": 2.0,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: importlib.metadata.version(n) for n in ("torch", "transformers")},
        "date": datetime.date.today().isoformat(),
    }
    settings = itertools.product(objectives.items(), arguments.rates, arguments.seeds)
    with (
        tempfile.TemporaryDirectory() as folder,
        teacher_process(demo.teacher_config, Path(folder)) as address,
    ):
        for (name, objective), rate, seed in settings:
            key = f"{name}_lr_{rate:g}_seed_{seed}"
            changes = {
                "objective": objective,
                "seed": seed,
                "steps": arguments.steps or demo.train.steps,
                "run_dir": Path(folder) / key,
                "teacher": demo.train.teacher.model_copy(update={"address": address}),
                "optimizer": demo.train.optimizer.model_copy(update={"lr": rate}),
                "eval": demo.train.eval.model_copy(update={"every": 0}),
            }
            accuracy = _validation_accuracy(demo.train.model_copy(update=changes))
            print(f"{key}: {accuracy:.3f}", flush=True)
            held = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
            held |= {f"{key}_validation_accuracy": round(accuracy, 4)} | about
            arguments.out.write_text(json.dumps(held, indent=2) + "\n")


def _validation_accuracy(config: TrainConfig) -> float:
    assert config.data.validation is not None
    with Trainer(config) as trainer:
        trainer.run()
        return trainer.evaluate(config.data.validation, None).accuracy


if __name__ == "__main__":
    main()
