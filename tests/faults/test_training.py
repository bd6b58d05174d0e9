"""A training run whose teacher, or whose own process, is killed: its parameters are those of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from student_trainer.cli import TEACHER_GONE
from student_trainer.config import TrainConfig
from student_trainer.train import Trainer
from tests.faults.teacher_process import TeacherProcess, teachers
from tests.pictures import noise
from tests.tiny_models import make_qwen3_vl

STEPS = 6


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("student"), seed=11)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "noise.png").write_bytes(noise(3, (32, 32)))
    lines = [
        {"image": "noise.png" if i % 2 else None, "question": f"what is number {i}?", "answer": "1"}
        for i in range(6)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def settings(student: Path, rows: Path, run_dir: Path, addresses: str, **teacher) -> dict:
    return {
        "model": str(student),
        "run_dir": str(run_dir),
        "steps": STEPS,
        "device": "cpu",
        "threads": 1,
        "data": {"train": str(rows)},
        "sampler": {"max_new_tokens": 8, "candidates": 4},
        "teacher": {"address": addresses, "k": 6, **teacher},
        "objective": {"name": "vgs-lp", "lambda": 1.0},
        "optimizer": {"lr": 1e-3},
        "batch": {"prompts": 3, "responses_per_prompt": 2, "microbatch": 6},
        "checkpoint": {"every": 2, "keep": 9},
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def run(config: dict, at_step: Callable[[int], None] = lambda step: None) -> Path:
    with Trainer(TrainConfig.model_validate(config)) as trainer:
        step = trainer.learner.step

        def told(batch, number):
            at_step(trainer.step)
            return step(batch, number)

        trainer.learner.step = told
        return trainer.run()


@pytest.fixture(scope="module")
def pair(qwen: Path, tmp_path_factory: pytest.TempPathFactory):
    with teachers(qwen, tmp_path_factory.mktemp("teachers"), 2) as processes:
        yield processes


@pytest.fixture(scope="module")
def undisturbed(student, rows, pair, tmp_path_factory) -> Path:
    return run(settings(student, rows, tmp_path_factory.mktemp("run"), pair[0].address))


def test_the_teacher_is_killed_in_the_middle(undisturbed, student, rows, pair, tmp_path):
    process: TeacherProcess = pair[0]
    killed: list[threading.Thread] = []

    def kill(step: int) -> None:
        if step in (1, 4):
            process.kill()
            killed.append(threading.Thread(target=lambda: process.start().wait_healthy()))
            killed[-1].start()

    last = run(settings(student, rows, tmp_path / "run", process.address), kill)
    for thread in killed:
        thread.join()
    assert len(killed) == 2
    assert same(last, undisturbed)


def test_replicas_restarted_under_a_run(undisturbed, student, rows, pair, tmp_path):
    def restart(step: int) -> None:
        if step in (1, 3):
            process = pair[step // 2]
            assert process.terminate() == 0
            process.start().wait_healthy()

    addresses = ",".join(process.address for process in pair)
    last = run(settings(student, rows, tmp_path / "run", addresses), restart)
    assert same(last, undisturbed)


def start_trainer(config: dict, *flags: str) -> subprocess.Popen[bytes]:
    path = Path(config["run_dir"]).with_suffix(".toml")
    sections = {k: v for k, v in config.items() if isinstance(v, dict)}
    lines = [f"{k} = {json.dumps(v)}" for k, v in config.items() if k not in sections]
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
    path.write_text("\n".join(lines) + "\n")
    return subprocess.Popen(
        [sys.executable, "-m", "student_trainer", "train", "--config", str(path), *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )


def test_the_trainer_is_killed_and_goes_on(undisturbed, student, rows, pair, tmp_path):
    cache = {"cache_dir": str(tmp_path / "scores")}
    config = settings(student, rows, tmp_path / "run", pair[0].address, **cache)
    config["checkpoint"] = {"every": 2, "keep": 9}
    trainer = start_trainer(config)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert trainer.poll() is None, trainer.stderr.read().decode()[-2000:]
        time.sleep(0.01)
    trainer.send_signal(signal.SIGKILL)
    trainer.communicate()
    again = start_trainer(config, "--resume")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said.decode()[-2000:]
    assert same(tmp_path / "run" / "checkpoints" / f"step-{STEPS:06d}", undisturbed)
    last = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in last] == list(range(1, STEPS + 1))
    assert max(line["wire/cache_hits"] for line in last) > 0  # what was scored before is not again


def test_a_teacher_that_stays_away_leaves_a_checkpoint(undisturbed, student, rows, pair, tmp_path):
    process: TeacherProcess = pair[1]
    config = settings(student, rows, tmp_path / "run", process.address, outage_s=2.0)
    config["checkpoint"] = {"every": 0}
    trainer = start_trainer(config)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().splitlines()):
        assert trainer.poll() is None, trainer.stderr.read().decode()[-2000:]
        time.sleep(0.01)
    process.kill()
    _, said = trainer.communicate(timeout=60)
    assert trainer.returncode == TEACHER_GONE, said.decode()[-2000:]
    assert "go on with --resume once the teacher is back" in said.decode()
    process.start().wait_healthy()
    again = start_trainer(config, "--resume")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said.decode()[-2000:]
    assert same(tmp_path / "run" / "checkpoints" / f"step-{STEPS:06d}", undisturbed)
