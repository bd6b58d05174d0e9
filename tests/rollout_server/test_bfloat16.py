"""An engine in bfloat16, as on a GPU: weights cross in its dtype, logits are float32 as the trainer's."""

import importlib.util

import numpy as np
import pytest
import torch

from student_trainer.data import Sample
from student_trainer.data_config import DataConfig
from student_trainer.prompting import PromptBuilder
from student_trainer.rollout import Rollout
from student_trainer.sampler_config import VllmSamplerConfig
from student_trainer.student import Student
from student_trainer.vllm_sampler import VllmSampler, _wire
from tests.pictures import noise
from tests.rollout_server.conftest import disturb
from tests.rollout_server.loopback import serving_rollouts

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="needs the vLLM environment"
    ),
    pytest.mark.filterwarnings("default"),
]


@torch.no_grad()
def test_a_bfloat16_engine_follows_the_student(qwen):
    student = Student(str(qwen), "cpu", "float32")
    builder = PromptBuilder(student.processor, DataConfig())
    prompts = [builder.build(Sample((noise(i),), "what is it?", ""), 1) for i in range(4)]
    with serving_rollouts(qwen, engine={"dtype": "bfloat16"}) as address:
        config = VllmSamplerConfig(address=address, max_new_tokens=16)
        sampler = VllmSampler(student, config, student.vocab_size, builder)
        assert sampler._client.info.dtype == "BF16"
        for step in range(2):
            sampler.update(step)
            gaps = []
            wires = tuple(_wire(prompt, 4, step) for prompt in prompts)
            for response in sampler._ask(wires, sampler._policy, 0, greedy=False):
                rollout = Rollout(response.response_ids, None, response.finished, step)
                logits = student.read(
                    [prompts[response.prompt_index]],
                    [rollout],
                    "mm",
                    lambda h, head: head.logits(h),
                )
                own = logits.log_softmax(-1)
                ids = torch.tensor(response.response_ids, dtype=torch.long)
                gaps.append(response.logprobs - own[torch.arange(len(ids)), ids].numpy())
            spread = np.abs(np.concatenate(gaps))
            assert spread.mean() < 0.05
            disturb(student, "", seed=step, size=0.05)
        sampler.close()
