"""Several ranks, as processes over loopback: the numbers of one process, whichever way its work is shared out."""

import dataclasses
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from benchmarks.trainer.ranks import (
    STEPS,
    Leg,
    Losses,
    largest_difference,
    on_ranks,
    record,
    run,
    run_all,
)
from protos.errors import TeacherError
from protos.replica_set import TeacherAway
from student_trainer.config import BatchConfig, EvalConfig, TrainConfig
from student_trainer.errors import TrainerError
from student_trainer.sampler_config import VllmSamplerConfig
from student_trainer.sampling import make_sampler
from student_trainer.sharding import refuse_other_weights
from student_trainer.student_config import LoraConfig, StudentConfig
from student_trainer.train import Trainer, train
from student_trainer.world import World
from tests.loopback import serving
from tests.pictures import noise
from tests.tiny_models import make_qwen3_vl

HALF = STEPS // 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, photographs: tuple[bytes, bytes]) -> Path:
    """Four questions about pictures, one without."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "temple.jpg").write_bytes(photographs[0])
    (folder / "flower.png").write_bytes(photographs[1])
    (folder / "noise.webp").write_bytes(noise(3, (33, 61), "WEBP"))
    images = ["temple.jpg", ["flower.png", "temple.jpg"], None, "noise.webp", "flower.png"]
    lines = [
        {"image": image, "question": f"what colour is number {i}?", "answer": str(i)}
        for i, image in enumerate(images)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("student"), seed=11, tied=True)


@pytest.fixture(scope="module")
def config(qwen: Path, student: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory):
    """vgs-lp with rewards, eta measured, and a prior that has weights of its own."""
    with serving(qwen) as address:
        yield TrainConfig.model_validate(
            {
                "model": str(student),
                "run_dir": tmp_path_factory.mktemp("recorded"),
                "steps": STEPS,
                "device": "cpu",
                "data": {"train": str(rows)},
                "sampler": {"max_new_tokens": 8, "candidates": 4},
                "teacher": {"address": address, "k": 6},
                "objective": {"name": "vgs-lp", "lambda": 1.0, "eta": "auto", "prior": "average"},
                "grpo": {"alpha": 0.7},
                "optimizer": {"lr": 1e-3},
                "batch": {"prompts": 5, "responses_per_prompt": 2, "microbatch": 4},
                "trackers": (),
            }
        )


@pytest.fixture(scope="module")
def recording(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rollouts with scores; random students earn no reward, so that advantages are made up."""
    path = record(config, tmp_path_factory.mktemp("recording") / "rollouts")
    steps, random = pickle.loads(path.read_bytes()), np.random.default_rng(0)
    made_up = [
        [dataclasses.replace(one, advantage=float(random.normal())) for one in step]
        for step in steps
    ]
    assert all(
        [len(one.prompt.wire.images) > 0 for one in step] == [True] * 8 + [False] * 2
        for step in made_up
    )
    path.write_bytes(pickle.dumps(made_up))
    return path


def refusals(config: TrainConfig) -> list[str]:
    """What two ranks say to what they can't do; and that they can count."""
    world, said = World(torch.device("cpu")), []
    assert world.gather(torch.arange(world.rank + 1)).tolist() == [0, 0, 1]
    assert world.sums([1, world.rank]) == [2, 1]
    gradients = [torch.full((2, size), world.rank + 1.0).t() for size in (3, 2**23, 1, 2)]
    world.add_gradients(gradients)
    assert all(bool((gradient == 3).all()) for gradient in gradients)

    def refused(call) -> None:
        with pytest.raises((ValueError, TrainerError, TeacherError)) as error:
            call()
        said.append(f"{type(error.value).__name__}: {error.value}")

    refused(lambda: Trainer(config.model_copy(update={"batch": BatchConfig(prompts=1)})))
    one = config.model_copy(update={"sampler": VllmSamplerConfig(address="127.0.0.1:1")})
    refused(lambda: make_sampler(one, None, None, 1, world))
    refused(lambda: refuse_other_weights([torch.ones(2) * world.rank], world))
    refuse_other_weights([torch.ones(2)], world)
    refused(lambda: world.leave_together(TeacherAway("gone") if world.first else None))
    other = ValueError("torn") if world.first else TeacherAway("gone")
    refused(lambda: world.leave_together(other))
    world.leave_together(None)
    return said


@dataclasses.dataclass(frozen=True)
class Together:
    """What the tests below ask of two ranks; starting them takes longest."""

    alone: Losses
    found: dict[str, Losses]
    """By leg, on two ranks, and on one that goes on from two."""
    alone_bfloat16: Losses
    alone_adapters: Losses
    said: list[list[str]]
    """By rank."""


def both(work: tuple[list[Leg], TrainConfig]) -> tuple[dict[str, Losses], list[str]]:
    legs, config = work
    return run_all(legs), refusals(config)


@pytest.fixture(scope="module")
def together(
    config: TrainConfig, recording: Path, tmp_path_factory: pytest.TempPathFactory
) -> Together:
    folder = tmp_path_factory.mktemp("legs")

    def leg(name: str, kind: str = "ddp", changes: dict | None = None, **about) -> Leg:
        own = {"parallel": kind, "run_dir": folder / name} | (changes or {})
        return Leg(name, config.model_copy(update=own), recording, **about)

    def resumed(name: str, kind: str = "ddp") -> Leg:
        saved = folder / name / f"step-{HALF:06d}"
        return leg(f"{name} resumed", kind, first=HALF, end=HALF + 2, resume=saved)

    coarse = {"precision": "bfloat16"}
    adapters = StudentConfig(lora=LoraConfig(rank=4), activation_checkpointing=True)
    alone = run(leg("alone", save_after=HALF))
    legs = [
        leg("ddp", save_after=HALF),
        leg("fsdp2", "fsdp2", save_after=HALF),
        resumed("alone", "fsdp2"),
        leg("bfloat16", "fsdp2", coarse, end=1),
        leg("adapters", "fsdp2", {"student": adapters}, end=2),
    ]
    (found, *said), (_, *more) = on_ranks(both, (legs, config))
    found |= run_all([resumed("ddp"), resumed("fsdp2")])
    return Together(
        alone,
        found,
        run(leg("bfloat16", "ddp", coarse, end=1)),
        run(leg("adapters", "ddp", {"student": adapters}, end=2)),
        [*said, *more],
    )


def test_ranks_change_nothing(together: Together):
    """Pictures on one rank alone, more microbatches there, rewards mixed in; weights whole on each rank, or shared."""
    for name in ("ddp", "fsdp2"):
        assert largest_difference(together.found[name], together.alone) <= 1e-5, name
    totals = [losses["loss/total"] for losses in together.alone]
    assert max(totals) - min(totals) > 0.01, "the student has learned"


def test_a_run_goes_on_with_another_number_of_ranks(together: Together):
    expected = together.alone[HALF : HALF + 2]
    for name in ("alone resumed", "ddp resumed", "fsdp2 resumed"):
        assert largest_difference(together.found[name], expected) <= 1e-5, name


def test_sharded_bfloat16_layers_are_nearly_those_of_autocast(together: Together):
    (sharded,), (alone,) = together.found["bfloat16"], together.alone_bfloat16
    assert sharded == pytest.approx(alone, abs=0.02)
    assert sharded != together.alone[0]


def test_sharded_adapters(together: Together):
    """Beside frozen weights, with layers computed again: no gradient reaches the first layer but the pictures'."""
    assert largest_difference(together.found["adapters"], together.alone_adapters) <= 1e-5
    assert together.alone_adapters[1] != together.alone[1]


def test_ranks_refuse_and_leave_together(together: Together):
    first, second = together.said
    assert first[:3] == second[:3]
    assert "are fewer questions a step than there are ranks, 2" in first[0]
    assert "1 rollout servers, and there are 2 ranks" in first[1]
    assert "the ranks have loaded different weights" in first[2]
    assert first[3:] == ["TeacherAway: gone", "ValueError: torn"]
    assert second[3].startswith("TeacherAway: another rank")
    assert second[4].startswith("RankFailed: another rank")


def test_torchrun_and_one_process_go_on_with_each_other(config: TrainConfig, tmp_path: Path):
    """Sharded, overlapping, and with an evaluation that has a question for one rank only; then alone."""
    settings = config.model_copy(
        update={
            "run_dir": tmp_path / "run",
            "steps": 3,
            "parallel": "fsdp2",
            "max_lag": 1,
            "grpo": None,
            "data": config.data.model_copy(update={"validation": config.data.train}),
            "eval": EvalConfig(every=3, limit=1),
            "teacher": config.teacher.model_copy(update={"cache_dir": tmp_path / "scores"}),
        }
    )
    path = tmp_path / "train.toml"
    values = settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    path.write_text(tomli_w.dumps(values))
    torchrun = "-m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node 2"
    command = [sys.executable, *torchrun.split(), "-m", "student_trainer", "train"]
    done = subprocess.run(
        [*command, "--config", str(path)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"rank-0", "rank-1"}
    last = tmp_path / "run" / "checkpoints" / "step-000003"
    model = AutoModelForImageTextToText.from_pretrained(last, dtype="auto")
    assert model.dtype == torch.float32
    before = load_file(Path(config.model) / "model.safetensors")
    after = load_file(last / "model.safetensors")
    assert after.keys() == before.keys(), "tied weights are saved once"
    assert any(not torch.equal(before[name], after[name]) for name in before)
    resumed = train(settings.model_copy(update={"steps": 4, "resume": True, "parallel": "ddp"}))
    assert resumed.name == "step-000004"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [line["step"] for line in metrics if "loss/total" in line] == [1, 2, 3, 4]
    assert all(line["rollout/dropped"] == 0 for line in metrics if "loss/total" in line)
    assert all(math.isfinite(line["loss/total"]) for line in metrics if "loss/total" in line)
