"""The trainer's side of a rollout server, with a stand-in for vLLM behind the real server; see tests/rollout_server."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from protos.errors import PreconditionFailed, TeacherError
from student_trainer.config import TrainConfig
from student_trainer.data import Sample
from student_trainer.data_config import DataConfig
from student_trainer.prompting import PromptBuilder
from student_trainer.sampler import TransformersSampler
from student_trainer.sampler_config import TransformersSamplerConfig, VllmSamplerConfig
from student_trainer.sampling import make_sampler
from student_trainer.student import Student
from student_trainer.train import Trainer
from student_trainer.world import World
from tests.loopback import serving
from tests.pictures import noise
from tests.rollout_server.loopback import serving_rollouts
from tests.rollout_server.stand_in import StandIn


@pytest.fixture(scope="module")
def engine(qwen: Path) -> StandIn:
    return StandIn(qwen)


@pytest.fixture(scope="module")
def address(qwen: Path, engine: StandIn):
    async def start(config):
        return engine

    with serving_rollouts(qwen, start) as address:
        yield address


@pytest.fixture
def student(qwen: Path) -> Student:
    return Student(str(qwen), "cpu", "float32")


@pytest.fixture
def prompts(student: Student):
    builder = PromptBuilder(student.processor, DataConfig())
    samples = [Sample((noise(i, (32 + i, 40)),), "what is it?", "") for i in range(2)]
    samples.append(Sample((), "no picture at all?", ""))
    return [builder.build(sample, 1) for sample in samples]


def connect(student: Student, address: str):
    sampler = VllmSamplerConfig(address=address, max_new_tokens=6, candidates=3)
    builder = PromptBuilder(student.processor, DataConfig())
    return make_sampler(
        TrainConfig(sampler=sampler), student, builder, student.vocab_size, World(student.device)
    )


def test_rollouts_are_those_of_the_weights_that_were_sent(student, address, prompts):
    sampler = connect(student, address)
    own = TransformersSampler(
        student, TransformersSamplerConfig(max_new_tokens=6), student.vocab_size
    )
    try:
        with torch.no_grad():
            for step in range(2):
                sampler.update(step)
                expected = [own.answer([prompt], 1)[0] for prompt in prompts]
                for got, answer in zip(sampler.answer(prompts, 2), expected, strict=True):
                    np.testing.assert_array_equal(got, answer)
                for parameter in student.parameters:
                    parameter += 0.1 * torch.randn_like(parameter)
        rollouts = {}
        asked = [prompt for prompt in prompts for _ in range(2)]
        sampler.sample(asked, 1, sampler.generator(1), rollouts.__setitem__)
        assert sorted(rollouts) == list(range(6))
        assert {rollout.policy_step for rollout in rollouts.values()} == {1}
        for rollout in rollouts.values():
            assert len(rollout.candidates.ids) == 3 * len(rollout.response_ids)
        with pytest.raises(PreconditionFailed, match=r"@1, not .*@2"):
            sampler.sample(asked, 2, sampler.generator(1), rollouts.__setitem__)
    finally:
        sampler.close()


def test_answers_depend_on_their_own_seed_alone(student, address, prompts):
    sampler = connect(student, address)
    sampler.update(0)
    found = []
    try:
        for own, of_the_process in ((3, 1), (3, 2), (4, 1)):
            torch.manual_seed(of_the_process)
            rollouts = {}
            sampler.sample(prompts, 0, sampler.generator(own), rollouts.__setitem__)
            found.append([rollouts[i].response_ids.tolist() for i in range(len(prompts))])
    finally:
        sampler.close()
    first, second, other = found
    assert first == second != other


def test_an_update_that_breaks_off_leaves_the_old_weights(student, address, prompts, engine):
    sampler = connect(student, address)
    sampler.update(0)
    loads = engine.loads
    whole = sampler._buffers

    def torn(state):
        yield next(whole(state))
        raise OSError("the trainer died here")

    sampler._buffers = torn
    with pytest.raises(TeacherError):
        sampler.update(1)
    sampler._buffers = whole
    rollouts = {}
    sampler.sample(prompts, 0, sampler.generator(0), rollouts.__setitem__)
    assert len(rollouts) == 3
    assert engine.loads == loads
    sampler.update(1)
    sampler.close()


def test_another_model_is_refused(address, llava):
    with pytest.raises(PreconditionFailed, match="another tokenizer than the student"):
        connect(Student(str(llava), "cpu", "float32"), address)


def test_training_sends_the_weights_after_every_step(qwen, engine, address, tmp_path):
    (tmp_path / "a.png").write_bytes(noise(1, (64, 40)))
    lines = [{"image": "a.png", "question": f"what is {word}?", "answer": ""} for word in "abc"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    loads = engine.loads
    with serving(qwen) as teacher:
        settings = {
            "model": str(qwen),
            "run_dir": tmp_path / "run",
            "steps": 2,
            "device": "cpu",
            "data": {"train": str(rows), "validation": str(rows)},
            "sampler": {"kind": "vllm", "address": address, "max_new_tokens": 5, "candidates": 4},
            "teacher": {"address": teacher, "k": 6},
            "objective": {"lambda": 1.0},
            "optimizer": {"lr": 1e-3},
            "batch": {"prompts": 3, "responses_per_prompt": 2, "microbatch": 4},
            "eval": {"every": 2},
        }
        with Trainer(_config(settings)) as trainer:
            trainer.run()
            trained = trainer.student.model.state_dict()
    assert engine.loads - loads == 3, "once at the start, then after each step"
    held = engine.student.model.state_dict()
    assert all(torch.equal(trained[name], held[name]) for name in trained)
    log = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in log] == [0, 1, 2], "evaluated before the first step, too"
    assert all(line["time/weights_s"] > 0 for line in log[1:])
    resumed = settings | {"resume": True, "steps": 3}
    resumed["teacher"] = settings["teacher"] | {"address": "127.0.0.1:1", "connect_timeout_s": 0.1}
    resumed["sampler"] = settings["sampler"] | {"address": "127.0.0.1:1"}
    with pytest.raises(ConnectionError):  # changed addresses alone are no other run
        Trainer(_config(resumed))
    resumed["sampler"] = settings["sampler"] | {"candidates": 5}
    with pytest.raises(ValueError, match="other settings of sampler"):
        Trainer(_config(resumed))


def _config(settings):
    return TrainConfig.model_validate(settings)
