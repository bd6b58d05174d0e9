"""The settings of the student's passes against plain ones: the same loss and gradient on the same scored rollouts."""

import json
import shutil
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch._dynamo.utils import counters

from student_trainer.config import TrainConfig
from student_trainer.learner import Learner
from student_trainer.objective_config import ObjectiveConfig
from student_trainer.packing_check import refuse_unpackable
from student_trainer.prior import Prior
from student_trainer.sampler import TransformersSampler
from student_trainer.sampler_config import TransformersSamplerConfig
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.student import Student
from student_trainer.student_config import LoraConfig, StudentConfig
from student_trainer.student_layers import compile_layers
from student_trainer.train import Trainer
from student_trainer.world import World
from tests.loopback import serving
from tests.pictures import noise
from tests.tiny_models import make_llava, make_qwen3_vl

Batch = list[ScoredRollout]
Scored = tuple[TrainConfig, Batch]


@pytest.fixture(scope="module", params=["qwen", "llava"])
def scored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Answers of different lengths to questions about one picture, two of different sizes, and none."""
    folder = tmp_path_factory.mktemp("passes")
    make = {"qwen": make_qwen3_vl, "llava": make_llava}[request.param]
    model = make(folder / "student", seed=11)
    # Many ids end an answer: lengths differ.
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(20, 90))}))
    sizes = {"a.png": (64, 40), "b.png": (33, 90), "c.png": (120, 50)}
    for seed, (name, size) in enumerate(sizes.items()):
        (folder / name).write_bytes(noise(seed, size))
    images = ["a.png", ["b.png", "c.png"], None]
    rows = [
        {"image": image, "question": "what is it?" + " and what else?" * i, "answer": ""}
        for i, image in enumerate(images)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(request.getfixturevalue(request.param)) as address:
        settings = TrainConfig.model_validate(
            {
                "model": str(model),
                "run_dir": folder / "run",
                "device": "cpu",
                "data": {"train": str(folder / "rows.jsonl")},
                "sampler": {"max_new_tokens": 8, "candidates": 4},
                "teacher": {"address": address, "k": 6},
                "objective": {"name": "vgs-lp", "lambda": 1.0},
                "grpo": {},
                "batch": {"prompts": 3, "responses_per_prompt": 2, "microbatch": 4},
            }
        )
        with Trainer(settings) as trainer:
            torch.manual_seed(0)
            batch, _ = trainer.next_batch()
    assert len({one.length for one in batch}) > 2
    return settings, [replace(one, advantage=float(i % 3 - 1)) for i, one in enumerate(batch)]


def found(
    scored: Scored,
    student: StudentConfig,
    precision: Literal["float32", "bfloat16"] = "float32",
    **objective: object,
) -> tuple[dict[str, float], torch.Tensor]:
    """Metrics and gradient of an objective."""
    settings, batch = scored
    mixed = objective.pop("grpo", False)
    if objective:
        own = ObjectiveConfig.model_validate({"lambda": 1.0, **objective})
        settings = settings.model_copy(update={"objective": own})
    settings = settings.model_copy(update={"grpo": settings.grpo if mixed else None})
    one = Student(settings.model, "cpu", precision, student)
    learner = Learner(
        one, settings, one.vocab_size, World(torch.device("cpu")), Prior(settings.objective, one)
    )
    metrics = learner.accumulate(batch, 0)
    return metrics, gradient_of(one)


def gradient_of(student: Student) -> torch.Tensor:
    """[P]; zeros for what has none."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in student.parameters]
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "vgs-lp"},
        {"name": "vgs-lp", "grpo": True},
        {"name": "vgs-lp", "detach_target": False},
        {"name": "vgs-lp", "prior": "frozen"},
        {"name": "vgs-lp", "eta": "dynamic"},
        {"name": "standard-lp"},
        {"name": "vgs"},
        {"name": "language-steering"},
        {"name": "grpo", "grpo": True},
    ],
    ids=lambda objective: "-".join(str(value) for value in objective.values()),
)
def test_packed_is_padded(objective, scored):
    expected, gradient = found(scored, StudentConfig(), **objective)
    metrics, got = found(scored, StudentConfig(packing=True), **objective)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(got, gradient, atol=1e-5, rtol=1e-5)
    assert metrics == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_attention_is_a_choice(scored):
    settings, _ = scored
    config = StudentConfig(attention="eager", packing=True)
    model = Student(settings.model, "cpu", "float32", config).model
    assert model.config.get_text_config()._attn_implementation == "eager"
    expected, gradient = found(scored, StudentConfig())
    metrics, got = found(scored, config)
    torch.testing.assert_close(got, gradient, atol=1e-5, rtol=1e-5)
    assert metrics == pytest.approx(expected, abs=1e-5, rel=1e-5)


def test_a_model_that_reads_on_is_refused(scored):
    settings, _ = scored
    student = Student(settings.model, "cpu", "float32")
    backbone = student.model.get_decoder()
    forward = backbone.forward
    # As a recurrent layer would: positions no longer tell sequences apart.
    backbone.forward = lambda **inputs: forward(**{**inputs, "position_ids": None})
    with pytest.raises(ValueError, match=r"in one row .*student\.packing = false"):
        refuse_unpackable(student, "float32")


def test_layers_computed_again_hold_less_and_change_nothing(scored):
    settings, batch = scored
    held, results = {}, {}
    for again in (False, True):
        config = StudentConfig(activation_checkpointing=again)
        student = Student(settings.model, "cpu", "float32", config)
        held[again] = 0

        def keep(tensor: torch.Tensor, again: bool = again) -> torch.Tensor:
            held[again] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            read = student.read(
                [one.prompt for one in batch],
                [one.rollout for one in batch],
                "mm",
                lambda hidden, head: head.logits(hidden).log_softmax(-1).square().mean(),
            )
        read.backward()
        results[again] = [read.detach(), *(p.grad for p in student.parameters)]
        assert not any(module.training for module in student.model.modules())
    pairs = zip(results[True], results[False], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs if b is not None)
    assert held[True] < held[False] / 2


def test_dropout_stays_off_in_layers_computed_again(scored, tmp_path):
    settings, batch = scored
    folder = shutil.copytree(settings.model, tmp_path / "student")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["attention_dropout"] = config["vision_config"]["attention_dropout"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    one = batch[0]
    reads = [
        Student(str(model), "cpu", "float32", StudentConfig(activation_checkpointing=True)).read(
            [one.prompt], [one.rollout], "mm", lambda hidden, head: head.logits(hidden)
        )
        for model in (settings.model, folder)
    ]
    assert torch.equal(*reads)


@pytest.mark.parametrize("scored", ["qwen"], indirect=True)
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, while it traces
def test_compiled_layers_are_one_graph_for_all_lengths_and_none_for_sampling(scored):
    settings, batch = scored
    _, gradient = found(scored, StudentConfig())
    torch._dynamo.reset()
    counters.clear()
    student = Student(settings.model, "cpu", "float32", StudentConfig(compile=True))
    compile_layers(student.model, student.device, "aot_eager")  # all but the C++
    prior = Prior(settings.objective, student)
    settings = settings.model_copy(update={"grpo": None})
    world = World(torch.device("cpu"))
    Learner(student, settings, student.vocab_size, world, prior).accumulate(batch, 0)
    got = gradient_of(student)
    torch.testing.assert_close(got, gradient, atol=1e-5, rtol=1e-5)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs <= 2, "one with a gradient, one without"
    assert isinstance(settings.sampler, TransformersSamplerConfig)
    sampler = TransformersSampler(student, settings.sampler, student.vocab_size)
    prompts = [one.prompt for one in batch]
    sampler.sample(prompts, 0, sampler.generator(0), lambda *_: None)
    assert counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


def test_without_a_compiler_nothing_starts(scored, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"'no-such-compiler'.*student\.compile = false"):
        Student(scored[0].model, "cpu", "float32", StudentConfig(compile=True))


@pytest.mark.parametrize(
    "student",
    [
        StudentConfig(),
        StudentConfig(packing=True, activation_checkpointing=True, lora=LoraConfig(rank=4)),
    ],
    ids=["plain", "all"],
)
def test_bfloat16_is_near(student, scored):
    expected, gradient = found(scored, student)
    metrics, got = found(scored, student, "bfloat16")
    assert metrics["loss/total"] == pytest.approx(expected["loss/total"], rel=0.1)
    assert got.dtype == torch.float32
    assert not torch.equal(got, gradient)
    assert torch.cosine_similarity(got, gradient, dim=0) > 0.95
