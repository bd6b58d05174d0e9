"""Who samples: the trainer itself or a rollout server. Both have one face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Generator

from protos.arrays import Ids
from student_trainer.config import TrainConfig
from student_trainer.prompting import PromptBuilder, StudentPrompt
from student_trainer.rollout import OnFinished
from student_trainer.sampler import TransformersSampler
from student_trainer.sampler_config import VllmSamplerConfig
from student_trainer.student import Student
from student_trainer.vllm_sampler import VllmSampler
from student_trainer.world import World


class Sampler(Protocol):
    """Answers of the student as it is now."""

    student: Student

    def update(self, policy_step: int) -> None:
        """Sample from now on with the student's present weights, those after `policy_step` optimizer steps."""
        ...

    def generator(self, seed: int) -> Generator:
        """Randomness that `sample` draws from: the process's own is also the learner's, on another thread."""
        ...

    def sample(
        self,
        prompts: Sequence[StudentPrompt],
        policy_step: int,
        generator: Generator,
        on_finished: OnFinished,
    ) -> None:
        """One response to each prompt; `on_finished(index, rollout)` is called while others still grow. All draws are
        from `generator`, one of this sampler's.
        """
        ...

    def answer(self, prompts: Sequence[StudentPrompt], batch_size: int) -> list[Ids]:
        """Greedy responses, in order, for evaluation."""
        ...

    def close(self) -> None:
        """Let go of what was opened."""
        ...


def make_sampler(
    config: TrainConfig, student: Student, builder: PromptBuilder, vocab_size: int, world: World
) -> Sampler:
    """The sampler that the configuration names; ids at or above `vocab_size` are never sampled.

    The trainer's own samples from a copy where it works while the student trains, or where no rank has it whole.
    """
    if isinstance(config.sampler, VllmSamplerConfig):
        address = _own_address(config.sampler.address, world)
        own = config.sampler.model_copy(update={"address": address})
        return VllmSampler(student, own, vocab_size, builder)
    apart = config.max_lag > 0 or world.sharded
    return TransformersSampler(
        student, config.sampler, vocab_size, apart, logprobs=config.rewards is not None
    )


def _own_address(addresses: str, world: World) -> str:
    """The rollout server of this rank: one serves one policy, so that each rank has its own."""
    given = [address.strip() for address in addresses.split(",")]
    if len(given) < world.size:
        raise ValueError(
            f"sampler.address names {len(given)} rollout servers, and there are {world.size} ranks; give one for each, "
            "with commas between"
        )
    return given[world.rank]
