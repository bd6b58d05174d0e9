"""Gradients by decile of VDS: against each other, and against autograd token by token."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from protos.scores import Scores
from student_trainer.cli import _read_config, main
from student_trainer.config import TrainConfig
from student_trainer.geometry_config import GeometryConfig
from student_trainer.geometry_table import geometry_table
from student_trainer.learner import GEOMETRY, Learner
from student_trainer.loss import token_weights
from student_trainer.microbatch import Microbatch
from student_trainer.prior import Prior
from student_trainer.run_geometry import find_checkpoint, run_geometry
from student_trainer.sampler_config import TransformersSamplerConfig, VllmSamplerConfig
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.train import Trainer, train
from student_trainer.vds_deciles import (
    DECILES,
    PAIRS,
    TOP,
    decile_of,
    token_geometry,
    token_gradients,
)
from student_trainer.world import World
from tests.tiny_models import make_qwen3_vl

ALONE = World(torch.device("cpu"))
NOWHERE = torch.zeros(()), torch.zeros(())


def test_deciles_are_equally_large_whatever_the_ties():
    vds = torch.tensor([0.0] * 50 + [1.0, 3.0, 2.0] * 11)
    found = decile_of(vds)
    assert torch.bincount(found).tolist() == [9, 8, 8, 9, 8, 8, 9, 8, 8, 8]
    assert found[:50].tolist() == sorted(found[:50].tolist()), "of equals the earlier comes first"
    assert found[50:].min() >= found[:50].max()
    assert vds[found == 9].min() == 3.0


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, photographs: tuple[bytes, bytes]) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "temple.jpg").write_bytes(photographs[0])
    (folder / "flower.png").write_bytes(photographs[1])
    names = ("temple.jpg", "flower.png", None)
    lines = [{"image": name, "question": "what is it?", "answer": str(name)} for name in names]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


@pytest.fixture(scope="module")
def run(qwen_server: str, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of two steps."""
    student = make_qwen3_vl(tmp_path_factory.mktemp("student"), seed=11)
    config = TrainConfig.model_validate(
        {
            "model": str(student),
            "run_dir": tmp_path_factory.mktemp("runs") / "run",
            "steps": 2,
            "device": "cpu",
            "data": {"train": str(rows), "validation": str(rows)},
            "sampler": {"max_new_tokens": 6, "candidates": 4},
            "teacher": {"address": qwen_server, "k": 6},
            "objective": {"name": "vgs", "gamma": 3.0, "eta": 1.0},
            "batch": {"prompts": 3, "responses_per_prompt": 2, "microbatch": 4},
            "checkpoint": {"every": 1},
            "geometry_every": 2,
            "trackers": [],
        }
    )
    train(config)
    return config


Scored = tuple[Learner, list[ScoredRollout], int]


@pytest.fixture(scope="module")
def scored(run: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    settings = run.model_copy(update={"run_dir": tmp_path_factory.mktemp("runs") / "scored"})
    with Trainer(settings) as trainer:
        batch, _ = trainer.next_batch()
        width = trainer.student.vocab_size
        prior = Prior(settings.objective, trainer.student)
        return Learner(trainer.student, settings, width, ALONE, prior), batch, width


def microbatches(batch: list[ScoredRollout], size: int, width: int) -> list[Microbatch]:
    tokens = sum(one.length for one in batch)
    parts = [batch[first : first + size] for first in range(0, len(batch), size)]
    lengths = [torch.tensor([one.length for one in part]) for part in parts]
    return [
        Microbatch.of(part, token_weights(own, tokens), NOWHERE, width, torch.device("cpu"))
        for part, own in zip(parts, lengths, strict=True)
    ]


def flat(learner: Learner, parts, name: str) -> torch.Tensor:
    parts.combine({name: 1.0})
    found = torch.cat([p.grad.flatten().double() for p in learner._parameters])
    learner.optimizer.zero_grad()
    return found


def all_vds(batch: list[ScoredRollout]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([one.vds for one in batch]))


def test_deciles_add_up_to_the_whole(scored: Scored):
    learner, batch, width = scored
    made = microbatches(batch, 4, width)
    vds = all_vds(batch)
    decile = decile_of(vds)
    whole = learner.parts(made, GEOMETRY, None)  # all tokens weigh 1 / T
    by_decile = [token_gradients(learner, made, decile == d) for d in range(DECILES)]
    for name in GEOMETRY:
        total = sum(
            float((decile == d).sum()) / len(vds) * flat(learner, parts, name)
            for d, parts in enumerate(by_decile)
        )
        expected = flat(learner, whole, name)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(total, expected, atol=1e-6, rtol=1e-5)


def test_it_is_what_autograd_finds_token_by_token(scored: Scored):
    """Each token's terms on its support written out again, and their gradients averaged and compared."""
    learner, batch, width = scored
    vds = all_vds(batch)
    chosen = decile_of(vds) >= TOP
    found = token_geometry(learner, microbatches(batch, 1, width), vds, chosen, ALONE)
    sums = {name: torch.zeros(()) for name in GEOMETRY}
    row = 0
    for one in batch:
        for t in range(one.length):
            row += 1
            if chosen[row - 1]:
                for name, value in terms(learner, one, t).items():
                    sums[name] = sums[name] + value / chosen.sum()
    gradients = {
        name: torch.cat(
            [
                g.flatten().double()
                for g in torch.autograd.grad(
                    value, learner._parameters, retain_graph=True, materialize_grads=True
                )
            ]
        )
        for name, value in sums.items()
    }
    for name, gradient in gradients.items():
        assert found.norms[name] == pytest.approx(float(gradient.norm()), rel=1e-4)
    for name, (a, b) in PAIRS.items():
        cosine = gradients[a] @ gradients[b] / gradients[a].norm() / gradients[b].norm()
        assert found.angles[name] == pytest.approx(math.degrees(torch.acos(cosine)), abs=0.05)


def terms(learner: Learner, one: ScoredRollout, t: int) -> dict[str, torch.Tensor]:
    scores: Scores = one.scores
    low, high = scores.row_splits[t : t + 2]
    ids = torch.from_numpy(scores.support_ids[low:high].astype(np.int64))

    def buckets(student: torch.Tensor) -> torch.Tensor:
        rest = student.clone()
        rest[ids] = -math.inf
        return torch.cat([student[ids], rest.logsumexp(0)[None]])

    def teacher(logprobs: np.ndarray, tail: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.append(logprobs[low:high], tail[t]))

    mm, text = (
        buckets(
            learner._student.read(
                [one.prompt], [one.rollout], context, lambda hidden, head: head.logits(hidden)
            )[t].log_softmax(-1)
        )
        for context in ("mm", "text")
    )
    teacher_mm = teacher(scores.mm_logprobs, scores.mm_tail)
    teacher_text = teacher(scores.text_logprobs, scores.text_tail)
    target = (text.detach() + teacher_mm - teacher_text).log_softmax(-1)
    return {
        "standard": (mm.exp() * (mm - teacher_mm)).sum(),
        "lang": (text.exp() * (text - teacher_text)).sum(),
        "vis": (mm.exp() * (mm - target)).sum(),
    }


def test_the_command_measures_a_run(run: TrainConfig, capsys: pytest.CaptureFixture[str]):
    assert main(["geometry", "--run", str(run.run_dir), "--responses-per-prompt", "3"]) == 0
    found = json.loads((run.run_dir / "geometry.json").read_text())
    assert (found["checkpoint"], found["step"]) == ("step-000002", 2)
    assert (found["prompts"], found["responses"], found["dropped"]) == (3, 9, 0)
    assert sum(found["tokens_by_decile"]) == found["tokens"]
    assert found["top_30"]["tokens"] + found["low_70"]["tokens"] == found["tokens"]
    assert found["top_30"]["vds_low"] >= found["low_70"]["vds_high"]
    assert found["vds_low"] == sorted(found["vds_low"])
    assert set(found["angles"]) == set(PAIRS)
    for angles in found["angles"].values():
        assert len(angles) == DECILES
        assert all(0 <= degrees <= 180 for degrees in angles)
    assert all(norm > 0 for norms in found["norms"].values() for norm in norms)
    out = capsys.readouterr().out
    assert "top 30 %" in out
    assert f"{found['angles']['lang_vis'][9]:.1f}" in out


def test_the_same_measurement_is_the_same(run: TrainConfig):
    config = GeometryConfig(
        run=run.run_dir, checkpoint="step-000001", limit=2, microbatch=1,
        device="cpu", sampler=run.sampler, teacher=run.teacher,
    )  # fmt: skip
    first, second = run_geometry(config), run_geometry(config)
    assert first["step"] == 1
    assert first["angles"]["std_vis"] == pytest.approx(second["angles"]["std_vis"], abs=1e-3)
    assert geometry_table(first).count("\n") == 13


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--checkpoint", "step-000009"], "it has step-000001, step-000002, last"),
        (["--checkpoint", "best"], "no checkpoint 'best'"),
        (["--data", "/nowhere.jsonl"], "/nowhere.jsonl"),
    ],
)
def test_wrong_settings_end_with_2(run: TrainConfig, capsys, arguments, says):
    assert main(["geometry", "--run", str(run.run_dir), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys):
    assert main(["geometry", "--run", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_settings_of_the_run_are_taken_over(tmp_path: Path):
    (tmp_path / "config.toml").write_text(
        'model = "m"\ndevice = "cpu"\n[teacher]\naddress = "there:1"\nk = 6\n'
        '[sampler]\nkind = "vllm"\naddress = "elsewhere:2"\nmax_new_tokens = 7\n'
    )
    told = ["--run", str(tmp_path), "--teacher.address", "here:3"]
    config = _read_config("geometry", GeometryConfig, told)
    assert (config.device, config.teacher.address, config.teacher.k) == ("cpu", "here:3", 6)
    assert config.sampler == VllmSamplerConfig(address="elsewhere:2", max_new_tokens=7)
    own = _read_config("geometry", GeometryConfig, [*told, "--sampler.kind", "transformers"])
    assert own.sampler == TransformersSamplerConfig(max_new_tokens=7)


def test_last_and_best_are_found(run: TrainConfig, tmp_path: Path):
    folder = run.run_dir / "checkpoints"
    assert find_checkpoint(folder, "last") == (folder / "step-000002", 2)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text('{"step": 7, "accuracy": 0.5}')
    assert find_checkpoint(tmp_path, "best") == (tmp_path / "best", 7)


def test_training_measures_where_it_is_asked(run: TrainConfig):
    lines = [json.loads(x) for x in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
    measured = {name for name in lines[0] if name.startswith("geometry/")}
    assert measured == {
        "geometry/norm_standard", "geometry/norm_lang", "geometry/norm_vis", "geometry/eta",
        "geometry/lang_vis_degrees", "geometry/standard_vis_degrees", "geometry/standard_lang_degrees",
    }  # fmt: skip
    assert not any(name.startswith("geometry/") for name in lines[1])
    s, v = lines[0]["geometry/norm_standard"], lines[0]["geometry/norm_vis"]
    c = math.cos(math.radians(lines[0]["geometry/standard_vis_degrees"]))
    steered = math.sqrt(s * s + 2 * 3.0 * s * v * c + 9.0 * v * v)
    assert lines[0]["geometry/eta"] == pytest.approx(s / steered, rel=1e-6)
