"""Output embedding tied to the input's, as in small models: the checkpoint has it once, the engine uses it twice."""

import importlib.util

import pytest

from student_trainer.data import Sample
from student_trainer.data_config import DataConfig
from student_trainer.prompting import PromptBuilder
from student_trainer.sampler_config import VllmSamplerConfig
from student_trainer.student import Student
from student_trainer.vllm_sampler import VllmSampler
from tests.pictures import noise
from tests.rollout_server.conftest import disturb, own_answers
from tests.rollout_server.loopback import serving_rollouts
from tests.tiny_models import make_qwen3_vl

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="needs the vLLM environment"
    ),
    pytest.mark.filterwarnings("default"),
]


def test_both_uses_of_a_tied_embedding_are_updated(tmp_path):
    model = make_qwen3_vl(tmp_path / "tied", seed=21, tied=True)
    student = Student(str(model), "cpu", "float32")
    builder = PromptBuilder(student.processor, DataConfig())
    prompts = [builder.build(Sample((noise(i),), "what is it?", ""), 1) for i in range(3)]
    with serving_rollouts(model) as address:
        config = VllmSamplerConfig(address=address, max_new_tokens=16)
        sampler = VllmSampler(student, config, student.vocab_size, builder)
        for step, part in enumerate(["nothing", "embed_tokens", "visual", "embed_tokens"]):
            disturb(student, part, seed=step, size=0.1)
            sampler.update(step)
            assert [a.tolist() for a in sampler.answer(prompts, 4)] == own_answers(student, prompts)
        sampler.close()
