"""The trainer against a real server: any family, any batching, resumed, and with teachers that fail."""

import json
import logging
import math
import re
import struct
import zlib
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from protos.errors import InternalFault, PreconditionFailed, Unavailable
from protos.replica_set import TeacherAway
from protos.scores import Scores
from student_trainer.checkpoint import checkpoints
from student_trainer.config import TrainConfig
from student_trainer.errors import Diverged, TeacherGone, TooManyDropped
from student_trainer.learner import Learner
from student_trainer.metrics import read_metrics
from student_trainer.prior import Prior
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.train import Trainer, train
from student_trainer.world import World
from tests.loopback import serving
from tests.pictures import noise
from tests.tiny_models import make_llava, make_qwen3_vl


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, photographs: tuple[bytes, bytes]) -> Path:
    """Questions about the photographs: one image, two of different sizes, none."""
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
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "qwen": make_qwen3_vl(tmp_path_factory.mktemp("student"), seed=11),
        "llava": make_llava(tmp_path_factory.mktemp("student"), seed=12),
    }


@pytest.fixture(scope="module")
def deterministic(qwen: Path):
    with serving(qwen, engine={"deterministic": True}) as address:
        yield address


def config(model: Path, address: str, rows: Path, run_dir: Path, **sections) -> TrainConfig:
    settings = {
        "model": str(model),
        "run_dir": run_dir,
        "steps": 1,
        "device": "cpu",
        "data": {"train": str(rows)},
        "sampler": {"max_new_tokens": 8, "candidates": 4},
        "teacher": {"address": address, "k": 6},
        "objective": {"name": "vgs-lp", "lambda": 1.0},
        "optimizer": {"lr": 1e-3},
        "batch": {"prompts": 5, "responses_per_prompt": 2, "microbatch": 4},
    }
    return TrainConfig.model_validate(settings | sections)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("family", ["qwen", "llava"])
@pytest.mark.parametrize("objective", ["standard", "vgs", "vgs-lp"])
def test_one_step_on_photographs(family, objective, students, rows, tmp_path, request):
    teacher = request.getfixturevalue(family)
    with serving(teacher) as address:
        settings = config(
            students[family], address, rows, tmp_path, objective={"name": objective, "lambda": 1.0}
        )
        last = train(settings)
    before, after = weights(students[family]), weights(last)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert any("visual" in name or "vision" in name for name in moved), "the encoder is trained too"
    assert all(tensor.isfinite().all() for tensor in after.values())
    (line,) = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["vds/max"] > 0
    assert line["rollout/dropped"] == 0
    assert 0 < line["support/student_mass"] <= 1
    assert ("loss/vis" in line) == (objective != "standard")
    assert ("loss/lp" in line) == (objective == "vgs-lp")


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("standard-lp", {"loss/lp"}),
        ("adaptive-vgs", {"loss/vis", "loss/lp"}),
        ("language-steering", {"loss/vp"}),
    ],
)
def test_every_variant_is_a_setting(name, terms, deterministic, students, rows, tmp_path):
    settings = config(
        students["qwen"], deterministic, rows, tmp_path, steps=2,
        objective={
            "name": name, "lambda": 1.0, "eta": "dynamic", "quantiles": "running",
            "averaging": "token", "detach_target": False,
        },
    )  # fmt: skip
    last = train(settings)
    assert all(tensor.isfinite().all() for tensor in weights(last).values())
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        found = {key for key in line if key in ("loss/vis", "loss/lp", "loss/vp")}
        assert found == terms
        assert line["vds/threshold_low"] <= line["vds/threshold"]
    steered = [line["eta/value"] != 1 for line in lines]
    assert steered == [name != "standard-lp"] * 2
    assert lines[0]["eta/value"] != lines[1]["eta/value"] or name == "standard-lp"


def test_grey_pictures_may_stand_in_the_text_context(deterministic, students, rows, tmp_path):
    found = {}
    for context in ("drop", "grey"):
        data = {"train": str(rows), "text_context": context}
        settings = config(students["qwen"], deterministic, rows, tmp_path / context, data=data)
        with Trainer(settings) as trainer:
            torch.manual_seed(0)
            batch, _ = trainer.next_batch()
            prompt = next(one.prompt for one in batch if one.prompt.wire.images)
            assert (len(prompt.mm.ids) == len(prompt.text.ids)) == (context == "grey")
            assert bool(prompt.text.tensors) == (context == "grey")
            metrics = trainer.learner.accumulate(batch, 0)
            found[context] = metrics["vds/mean"], metrics["loss/lang"]
    assert found["drop"][0] != found["grey"][0], "another context, other numbers"
    assert all(math.isfinite(value) for pair in found.values() for value in pair)


@pytest.fixture
def scored(deterministic, students, rows, tmp_path) -> tuple[Trainer, list[ScoredRollout]]:
    settings = config(
        students["qwen"], deterministic, rows, tmp_path,
        batch={"prompts": 8, "responses_per_prompt": 2, "microbatch": 16},
        objective={"name": "vgs-lp", "lambda": 1.0, "eta": "auto"},
    )  # fmt: skip
    with Trainer(settings) as trainer:
        torch.manual_seed(0)
        batch, _ = trainer.next_batch()
        yield trainer, batch


def another_learner(trainer: Trainer, **batch: int) -> Learner:
    """Of the same student, with other sizes."""
    settings = trainer._config
    sizes = settings.batch.model_copy(update=batch)
    prior = Prior(settings.objective, trainer.student)
    return Learner(
        trainer.student,
        settings.model_copy(update={"batch": sizes}),
        trainer.student.vocab_size,
        World(torch.device("cpu")),
        prior,
    )


def test_microbatches_change_nothing(scored):
    trainer, batch = scored
    assert len(batch) == 16
    found = {}
    for size in (16, 4, 1):
        learner = another_learner(trainer, microbatch=size)
        metrics = learner.accumulate(batch, 0)
        gradient = torch.cat([p.grad.flatten() for p in trainer.student.parameters])
        found[size] = gradient, metrics, learner.control.weights.eta
    whole, metrics, eta = found[16]
    assert whole.abs().max() > 1e-3
    for size in (4, 1):
        gradient, others, other_eta = found[size]
        torch.testing.assert_close(gradient, whole, atol=1e-6, rtol=0)
        assert others == pytest.approx(metrics, abs=1e-5)
        assert other_eta == pytest.approx(eta, rel=1e-5)


def test_with_k_the_vocabulary_loss_and_gradient_are_the_full_ones(
    qwen, qwen_reference, students, rows, tmp_path
):
    """Through server, wire, support and chunked head, against log-softmax over everything and autograd."""
    vocabulary = qwen_reference.model.get_output_embeddings().weight.shape[0]
    with serving(qwen) as address:
        settings = config(
            students["qwen"], address, rows, tmp_path,
            teacher={"address": address, "k": vocabulary},
            objective={"name": "vgs-lp", "gamma": 2.0, "lambda": 0.5, "eta": 1.0},
        )  # fmt: skip
        with Trainer(settings) as trainer:
            torch.manual_seed(0)
            batch, _ = trainer.next_batch()
            student, learner = trainer.student, trainer.learner
            learner.accumulate(batch, 0)
            got = torch.cat([p.grad.flatten() for p in student.parameters])
            threshold = learner.thresholds.state[1]
    student.model.zero_grad(set_to_none=True)
    for one in batch:
        mm, text = (
            student.read(
                [one.prompt], [one.rollout], context, lambda hidden, head: head.logits(hidden)
            ).log_softmax(-1)
            for context in ("mm", "text")
        )
        wire = one.prompt.wire
        question = qwen_reference.processor.tokenizer.decode(wire.text_ids)
        question = question.removeprefix("<|im_start|>user\n").partition("<|im_end|>")[0]
        teacher_mm = qwen_reference.logprobs(question, wire.images, one.rollout.response_ids)
        teacher_text = qwen_reference.logprobs(question, (), one.rollout.response_ids)
        target = (text.detach() + teacher_mm - teacher_text).log_softmax(-1)
        preserved = (torch.from_numpy(one.scores.vds.copy()) > threshold).float()
        terms = (mm.exp() * (mm - teacher_mm)).sum(-1)
        terms = terms + 2.0 * (mm.exp() * (mm - target)).sum(-1)
        terms = terms + 0.5 * preserved * (text.exp() * (text - teacher_text)).sum(-1)
        (terms.mean() / len(batch)).backward()
    full = torch.cat([p.grad.flatten() for p in student.parameters])
    assert full.abs().max() > 1e-2
    torch.testing.assert_close(got, full, atol=1e-6, rtol=1e-6)


def test_chunks_of_the_head_change_nothing(scored):
    trainer, batch = scored
    found = []
    for rows_at_a_time in (1024, 3):
        another_learner(trainer, chunk_rows=rows_at_a_time).accumulate(batch, 0)
        found.append(torch.cat([p.grad.flatten() for p in trainer.student.parameters]))
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)


def test_a_resumed_run_is_the_same_to_the_last_bit(deterministic, students, rows, tmp_path):
    def run(name: str, steps: int, resume: bool = False) -> Path:
        settings = config(students["qwen"], deterministic, rows, tmp_path / name, steps=steps)
        return train(settings.model_copy(update={"resume": resume}))

    straight = run("straight", 6)
    run("parted", 3)
    resumed = run("parted", 6, resume=True)
    assert straight.name == resumed.name == "step-000006"
    expected, got = weights(straight), weights(resumed)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    lines = (tmp_path / "parted" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_a_run_is_not_overwritten(deterministic, students, rows, tmp_path):
    settings = config(students["qwen"], deterministic, rows, tmp_path)
    train(settings)
    with pytest.raises(ValueError, match=r"holds a run already; say --resume"):
        train(settings)


class Refusing:
    """Refuses some responses of each step, as a teacher with a fault would."""

    def __init__(self, trainer: Trainer, refused: set[int]) -> None:
        self._submit = trainer.teachers[""].submit_score
        self._refused = refused
        self._count = 0

    def __call__(self, *arguments: object) -> Future[Scores]:
        self._count += 1
        if self._count - 1 not in self._refused:
            return self._submit(*arguments)
        failed: Future[Scores] = Future()
        failed.set_exception(InternalFault("no scores for this one"))
        return failed


def test_a_response_without_scores_leaves_the_batch(
    deterministic, students, rows, tmp_path, caplog
):
    settings = config(students["qwen"], deterministic, rows, tmp_path)
    with Trainer(settings) as trainer, caplog.at_level(logging.WARNING):
        trainer.teachers[""].submit_score = Refusing(trainer, {3})
        batch, metrics = trainer.next_batch()
        assert len(batch) == 9
        losses = trainer.learner.accumulate(batch, 0)
        alone = [trainer.learner.accumulate([one], 0)["loss/standard"] for one in batch]
    assert metrics["rollout/dropped"] == 1
    assert "no scores for this one" in caplog.text
    # N is 9: the mean over the responses that have scores.
    assert losses["loss/standard"] == pytest.approx(sum(alone) / 9, rel=1e-4)


def test_too_many_without_scores_stop_the_run(deterministic, students, rows, tmp_path):
    settings = config(students["qwen"], deterministic, rows, tmp_path)
    with Trainer(settings) as trainer:
        trainer.teachers[""].submit_score = Refusing(trainer, {0, 1})
        with pytest.raises(TooManyDropped, match=r"2 of 10 .*InternalFault.*max_dropped_share"):
            trainer.train_step()
    assert trainer.step == 0


def _png_header(width: int, height: int) -> bytes:
    """The beginning of a picture of so many pixels: enough to be refused."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"")


def test_rows_that_cannot_be_read_are_counted(
    deterministic, students, rows, tmp_path, caplog, monkeypatch
):
    # As in a process of its own; the teacher beside it here has a limit of its own.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2**30 // 12)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    lines.append({"image": "torn.png", "question": "what is it?", "answer": ""})
    lines.append({"image": None, "question": "what is <|image_pad|>?", "answer": ""})
    lines.append({"image": "huge.png", "question": "what is it?", "answer": ""})
    lines.append({"image": None, "question": "what is it? " * 1000, "answer": ""})
    (rows.parent / "torn.png").write_bytes(noise(9)[:99])
    (rows.parent / "huge.png").write_bytes(_png_header(20_000, 10_000))
    path = rows.parent / "some_bad.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = config(
        students["qwen"], deterministic, path, tmp_path,
        batch={"prompts": 9, "responses_per_prompt": 2, "microbatch": 4},
        teacher={"address": deterministic, "k": 6, "max_dropped_share": 0.5},
    )  # fmt: skip
    short = settings.data.model_copy(update={"max_prompt_tokens": 2000})
    with (
        Trainer(settings.model_copy(update={"data": short})) as trainer,
        caplog.at_level(logging.WARNING),
    ):
        metrics = trainer.train_step()
    assert metrics["rollout/dropped"] == 8
    assert re.search(
        r"row 7: an image of \d+ bytes can't be decoded: .*200000000 pixels", caplog.text
    )
    assert re.search(r"row 8: the prompt has \d+ tokens, .*max_prompt_tokens is 2000", caplog.text)
    assert "row 5: an image of 99 bytes can't be decoded" in caplog.text
    assert "row 6: 1 placeholders for 0 images" in caplog.text


def test_a_resumed_run_keeps_its_settings(deterministic, students, rows, tmp_path):
    settings = config(students["qwen"], deterministic, rows, tmp_path)
    train(settings)

    def resume(section: str, **changed: object) -> None:
        own = getattr(settings, section).model_copy(update=changed)
        train(settings.model_copy(update={"resume": True, "steps": 2, section: own}))

    with pytest.raises(ValueError, match=r"other settings of optimizer.*--run-dir"):
        resume("optimizer", lr=1.0)
    with pytest.raises(ValueError, match=r"other settings of teacher.*--run-dir"):
        resume("teacher", k=5)
    resume("batch", microbatch=3)


def test_a_gradient_that_is_not_finite_ends_the_run(deterministic, students, rows, tmp_path):
    settings = config(students["qwen"], deterministic, rows, tmp_path, steps=2)
    with Trainer(settings) as trainer:
        trainer.train_step()
        before = [p.detach().clone() for p in trainer.student.parameters]
        batch, _ = trainer.next_batch()
        torn = np.full_like(batch[0].scores.mm_logprobs, math.nan)
        batch[0] = replace(batch[0], scores=replace(batch[0].scores, mm_logprobs=torn))
        with pytest.raises(Diverged, match=r"norm is nan; look for a fault in the data"):
            trainer.learner.step(batch, trainer.step)
        assert all(map(torch.equal, before, trainer.student.parameters))


def lines_of(run_dir: Path) -> list[dict[str, float]]:
    return read_metrics(run_dir / "metrics.jsonl")


@pytest.mark.parametrize(
    ("failure", "ends_as"), [(TeacherAway("gone"), TeacherGone), (Unavailable("gone"), Unavailable)]
)
def test_an_evaluation_that_fails_is_made_up(students, rows, tmp_path, qwen, failure, ends_as):
    """Who samples is gone at the last evaluation: what was trained is kept, and is evaluated by the resumed run."""
    with serving(qwen) as address:
        settings = config(
            students["qwen"], address, rows, tmp_path, steps=2,
            data={"train": str(rows), "validation": str(rows)}, eval={"every": 2, "limit": 3},
        )  # fmt: skip
        with Trainer(settings) as trainer:
            answer, asked = trainer.sampler.answer, []

            def fail_later(*arguments):
                asked.append(arguments)
                if len(asked) > 1:
                    raise failure
                return answer(*arguments)

            trainer.sampler.answer = fail_later
            with pytest.raises(ends_as, match="gone"):
                trainer.run()
        assert [folder.name for folder in checkpoints(tmp_path / "checkpoints")] == ["step-000002"]
        evaluated = [("eval/accuracy" in line, line["step"]) for line in lines_of(tmp_path)]
        assert evaluated == [(True, 0), (False, 1), (False, 2)]
        for _ in range(2):  # the second has nothing left to do
            train(settings.model_copy(update={"resume": True}))
            again = [("eval/accuracy" in line, line["step"]) for line in lines_of(tmp_path)]
            assert again == [*evaluated, (True, 2)]


def test_an_evaluation_names_the_row_that_it_cannot_read(deterministic, students, rows, tmp_path):
    bad = rows.parent / "bad_validation.jsonl"
    (rows.parent / "torn.png").write_bytes(noise(9)[:99])
    bad.write_text(json.dumps({"image": "torn.png", "question": "what?", "answer": ""}) + "\n")
    settings = config(students["qwen"], deterministic, rows, tmp_path)
    with (
        Trainer(settings) as trainer,
        pytest.raises(ValueError, match=r"bad_validation\.jsonl row 0: an image of 99 bytes"),
    ):
        trainer.evaluate(bad, None)


def test_an_evaluation_names_the_row_that_is_too_long(deterministic, students, rows, tmp_path):
    data = {"train": str(rows), "max_prompt_tokens": 20}
    settings = config(students["qwen"], deterministic, rows, tmp_path, data=data)
    with (
        Trainer(settings) as trainer,
        pytest.raises(ValueError, match=r"rows\.jsonl row 0: the prompt has \d+ tokens"),
    ):
        trainer.evaluate(rows, None)


def test_bfloat16_passes_leave_float32_weights(deterministic, students, rows, tmp_path):
    last = train(config(students["qwen"], deterministic, rows, tmp_path, precision="bfloat16"))
    before, after = weights(students["qwen"]), weights(last)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_the_threshold_is_the_quantile_of_all_tokens(scored):
    trainer, batch = scored
    vds = np.concatenate([one.scores.vds for one in batch])
    expected = np.quantile(vds.astype(np.float64), 0.7)
    trainer.learner.accumulate(batch, 0)
    assert trainer.learner.thresholds.state[1] == pytest.approx(expected, rel=1e-6)


def test_warm_up_and_clipping(deterministic, students, rows, tmp_path):
    settings = config(
        students["qwen"], deterministic, rows, tmp_path, steps=3,
        optimizer={"lr": 1e-3, "warmup_steps": 4, "max_grad_norm": 1e-3},
    )  # fmt: skip
    with Trainer(settings) as trainer:
        rates = [trainer.train_step()["optimizer/lr"] for _ in range(3)]
        gradient = torch.cat([p.grad.flatten() for p in trainer.student.parameters])
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3])
    assert float(gradient.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_another_tokenizer_is_refused_before_any_rollout(llava, students, rows, tmp_path):
    with serving(llava) as address, pytest.raises(PreconditionFailed, match="another tokenizer"):
        train(config(students["qwen"], address, rows, tmp_path))


def test_a_teacher_that_sees_nothing_is_pointed_out(deterministic, students, tmp_path, caplog):
    blind = tmp_path / "blind.jsonl"
    blind.write_text(
        json.dumps({"image": None, "question": "left or right?", "answer": "left"}) + "\n"
    )
    settings = config(
        students["qwen"], deterministic, blind, tmp_path / "run", steps=6,
        batch={"prompts": 1}, objective={"name": "vgs-lp", "eta": 1.0},
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        train(settings)
    warnings = [record.message for record in caplog.records if "mean VDS" in record.message]
    assert len(warnings) == 1
