"""Training and judging one student of the toy; results are kept in files, so that nothing is done twice."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.science.setting import Setting
from student_trainer.answer import is_correct
from student_trainer.config import TrainConfig
from student_trainer.data import DataSet
from student_trainer.metrics import read_metrics
from student_trainer.train import Trainer

DATA = Path("examples/digits/data")
BATCH = 32
"""Answers in an optimizer step."""
MAX_NEW_TOKENS = {"base": 25, "chatty": 40}
CANDIDATES = {"base": 8, "chatty": 16}
"""Of the student's own ids in the support: more where there are more ways to say the same."""
SAMPLES = 2
"""Answers to each held-out question at temperature 1."""


@dataclass(frozen=True)
class Run:
    """One student to be trained from one initial checkpoint."""

    task: str
    seed: int
    steps: int
    setting: Setting | None
    """None: the student as it is."""
    models: Path
    """Folder of the task's models."""
    heldout: bool
    """Judge on held-out questions, otherwise on those of validation."""

    @property
    def key(self) -> str:
        """Name of the file that keeps its results."""
        split = "heldout" if self.heldout else "validation"
        return f"{self.training}_{split}"

    @property
    def training(self) -> str:
        """Name of the training run's folder, whatever it is judged on."""
        what = "initial" if self.setting is None else self.setting.key
        return f"{self.task}_{what}_seed{self.seed}_{self.steps}steps"


def result(run: Run, address: str, folder: Path) -> dict[str, Any]:
    """Its figures: kept ones if there are any."""
    kept = folder / f"{run.key}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    started_s = time.monotonic()
    figures = _judged(run, address, folder.parent / "students" / run.training)
    about = {} if run.setting is None else asdict(run.setting)
    figures |= about | {"task": run.task, "seed": run.seed, "steps": run.steps}
    figures["seconds"] = round(time.monotonic() - started_s, 1)
    folder.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps(figures, indent=2) + "\n")
    partial.rename(kept)
    return figures


def config(run: Run, address: str, run_dir: Path) -> TrainConfig:
    """As examples/digits/student.toml, with the run's own numbers."""
    setting = run.setting or Setting("initial", "standard", 1e-9)
    return TrainConfig.model_validate(
        {
            "model": str(run.models / f"student-{run.seed}"),
            "run_dir": run_dir,
            "steps": run.steps,
            "seed": run.seed,
            "device": "cpu",
            "threads": 1,
            "data": {
                "train": str(DATA / "train.parquet"),
                "validation": str(DATA / "validation.parquet"),
            },
            "sampler": {
                "max_new_tokens": MAX_NEW_TOKENS[run.task],
                "candidates": CANDIDATES[run.task],
            },
            "teacher": {"address": address, "k": 8},
            "optimizer": {"lr": setting.learning_rate, "betas": [0.9, 0.95]},
            "checkpoint": {"every": 0, "keep": 1},
            "resume": True,
            "trackers": [],
        }
        | setting.overrides(BATCH)
    )


def _judged(run: Run, address: str, run_dir: Path) -> dict[str, Any]:
    """Trained first, where `run_dir` does not hold the trained student."""
    settings = config(run, address, run_dir)
    with Trainer(settings) as trainer:
        _remember_prompts(trainer, run.task)
        if run.setting is not None:
            trainer.run()
        if not run.heldout:
            rows = str(DATA / "validation.parquet")
            return {"validation_accuracy": trainer.evaluate(rows, None).accuracy}
        rows = str(DATA / "heldout.parquet")
        figures = {
            "greedy_accuracy": trainer.evaluate(rows, None).accuracy,
            "sampled_accuracy": _sampled_accuracy(trainer, DataSet(rows, settings.data), run.seed),
        }
    return figures | _ends(read_metrics(run_dir / "metrics.jsonl"))


_PROMPTS: dict[str, Any] = {}
"""Of this process, by task: a prompt is the same for all students of a task."""


def _remember_prompts(trainer: Trainer, task: str) -> None:
    """Render and expand each question once: at this size it would be a third of the time."""
    if task not in _PROMPTS:
        _PROMPTS[task] = functools.cache(trainer.builder.build)
    trainer.builder.build = _PROMPTS[task]


def _sampled_accuracy(trainer: Trainer, rows: DataSet, seed: int) -> float:
    """Mean accuracy of `SAMPLES` answers to each question at temperature 1."""
    prompts = [trainer.builder.build(rows[i], 0) for i in range(len(rows))]
    tokenizer = trainer.student.processor.tokenizer
    generator = trainer.sampler.generator(seed)
    right = 0

    def judge(index: int, rollout: Any) -> None:
        nonlocal right
        text = tokenizer.decode(rollout.response_ids.tolist(), skip_special_tokens=True)
        right += is_correct(text, prompts[index].answer)

    for _ in range(SAMPLES):
        trainer.sampler.sample(prompts, trainer.step, generator, judge)
    return right / (SAMPLES * len(prompts))


def _ends(curve: list[dict[str, float]]) -> dict[str, float]:
    """Means of some metrics over the first and the last tenth of the steps."""
    names = ("loss/standard", "loss/lang_top", "vds/mean", "steering/gamma", "steering/lambda")
    tenth = max(1, len(curve) // 10)
    return {
        f"{name}_{when}": sum(line[name] for line in lines) / len(lines)
        for when, lines in (("first", curve[:tenth]), ("last", curve[-tenth:]))
        for name in names
        if curve and all(name in line for line in lines)
    }
