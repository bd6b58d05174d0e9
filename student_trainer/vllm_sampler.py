"""Rollouts by a rollout server: it gets the new weights after every step, and answers are asked for by policy.

The server runs vLLM in an environment of its own; nothing here imports it.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Generator

from protos.arrays import Ids
from protos.policy import Policy
from protos.rollout_client import RolloutClient
from protos.rollout_request import RolloutPrompt, RolloutRequest
from protos.sampled_response import SampledResponse
from protos.weights import Weight, WeightSet
from student_trainer.prompting import PromptBuilder, StudentPrompt
from student_trainer.rollout import OnFinished, Rollout
from student_trainer.sampler_config import VllmSamplerConfig
from student_trainer.student import Student

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class VllmSampler:
    """Samples at temperature 1 from the whole vocabulary, less the ids that stand for images and padding."""

    def __init__(
        self,
        student: Student,
        config: VllmSamplerConfig,
        vocab_size: int,
        builder: PromptBuilder,
    ) -> None:
        """Connects; PreconditionFailed where the server's tokenizer is not the student's."""
        self.student = student
        self._config = config
        self._vocab_size = vocab_size
        # A trainer that is started anew is another run: its step 0 has other weights.
        self._run = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self._policy = Policy(self._run, 0)
        self._client = RolloutClient(
            config.address,
            tokenizer_fingerprint=builder.tokenizer_fingerprint,
            processor_fingerprint=builder.processor_fingerprint,
            timeout_s=config.timeout_s,
            connect_timeout_s=config.connect_timeout_s,
        )
        self._dtype = self._client.info.dtype

    def update(self, policy_step: int) -> None:
        """Hand the student's weights over, in the server's own dtype; returns once it samples with them."""
        state = self.student.checkpoint_weights()
        weights = WeightSet(
            tuple(Weight(name, tuple(tensor.shape)) for name, tensor in state.items()), self._dtype
        )
        policy = Policy(self._run, policy_step)
        self._client.update_weights(weights, self._buffers(state), policy)
        self._policy = policy

    def close(self) -> None:
        """End the connection; the server stays."""
        self._client.close()

    def generator(self, seed: int) -> Generator:
        """Randomness for `sample`: of the seeds that the server draws from."""
        return Generator().manual_seed(seed)

    def sample(
        self,
        prompts: Sequence[StudentPrompt],
        policy_step: int,
        generator: Generator,
        on_finished: OnFinished,
    ) -> None:
        """One response to each prompt; `on_finished(index, rollout)` is called while others still grow.

        A prompt that is given several times in a row is sent and read once. Raises EchoMismatch or
        PreconditionFailed where answers would come from another policy than `policy_step`'s.
        """
        grouped = [list(group) for _, group in itertools.groupby(enumerate(prompts), _identity)]
        seeds = torch.randint(2**63 - 1, (len(grouped),), generator=generator).tolist()
        wires = tuple(
            _wire(group[0][1], len(group), seed) for group, seed in zip(grouped, seeds, strict=True)
        )
        policy = Policy(self._run, policy_step)
        for response in self._ask(wires, policy, self._config.candidates, greedy=False):
            index, _ = grouped[response.prompt_index][response.response_index]
            on_finished(
                index,
                Rollout(
                    response.response_ids,
                    response.candidates,
                    response.finished,
                    policy_step,
                    response.logprobs,
                ),
            )

    def answer(self, prompts: Sequence[StudentPrompt], batch_size: int) -> list[Ids]:
        """Greedy responses, in order, for evaluation."""
        answers: list[Ids] = [np.empty(0, dtype=np.int32)] * len(prompts)
        for first in range(0, len(prompts), batch_size):
            wires = tuple(_wire(prompt, 1, 0) for prompt in prompts[first : first + batch_size])
            for response in self._ask(wires, self._policy, 0, greedy=True):
                answers[first + response.prompt_index] = response.response_ids
        return answers

    def _ask(
        self, wires: tuple[RolloutPrompt, ...], policy: Policy, candidates: int, greedy: bool
    ) -> Iterator[SampledResponse]:
        return self._client.sample(
            RolloutRequest(
                prompts=wires,
                policy=policy,
                max_new_tokens=self._config.max_new_tokens,
                candidates=candidates,
                stop_ids=np.array(self.student.eos_ids, dtype=np.int32),
                suppressed_ids=np.array(sorted(self.student.vision_ids()), dtype=np.int32),
                vocab_size=self._vocab_size,
                greedy=greedy,
            )
        )

    def _buffers(self, state: dict[str, torch.Tensor]) -> Iterator[memoryview]:
        """The weights' bytes, one tensor converted at a time."""
        for tensor in state.values():
            plain = tensor.to("cpu", DTYPES[self._dtype]).contiguous()
            yield plain.flatten().view(torch.uint8).numpy().data


def _identity(item: tuple[int, StudentPrompt]) -> int:
    return id(item[1])


def _wire(prompt: StudentPrompt, responses: int, seed: int) -> RolloutPrompt:
    return RolloutPrompt(
        ids=prompt.wire.mm_ids,
        images=prompt.wire.images,
        responses=responses,
        expanded_length=len(prompt.mm.ids),
        seed=seed,
    )
