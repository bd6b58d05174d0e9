"""Rollouts by transformers' generate: every response is handed on as soon as it is finished.

B responses at a time, P padded prompt length, t tokens so far, V vocabulary, C candidates.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from protos.arrays import Ids
from protos.item import Candidates
from student_trainer.prompting import StudentPrompt
from student_trainer.rollout import OnFinished, Rollout
from student_trainer.sampler_config import TransformersSamplerConfig
from student_trainer.student import Student


class TransformersSampler:
    """Samples at temperature 1 from the whole vocabulary, less the ids that stand for images and padding."""

    def __init__(
        self,
        student: Student,
        config: TransformersSamplerConfig,
        vocab_size: int,
        apart: bool = False,
        logprobs: bool = False,
    ) -> None:
        """`vocab_size`: ids at or above it are not sampled, the smaller of student's and teacher's.

        `apart`: from a copy of the student as it was at the last `update`. `logprobs`: rollouts come with those of
        their tokens.
        """
        self.student = student
        self._config = config
        self._vocab_size = vocab_size
        self._copy = copy.deepcopy(student.model).requires_grad_(False) if apart else None
        self._logprobs = logprobs

    @torch.no_grad()
    def update(self, policy_step: int) -> None:
        """Copy the student's weights, where a copy samples; else the student itself does."""
        if self._copy is None:
            return
        for own, new in zip(self._copy.parameters(), self.student.whole_parameters(), strict=True):
            own.copy_(new)

    def close(self) -> None:
        """Nothing to close."""

    def generator(self, seed: int) -> Generator:
        """Randomness for `sample`, on the student's device."""
        return Generator(self.student.device).manual_seed(seed)

    def sample(
        self,
        prompts: Sequence[StudentPrompt],
        policy_step: int,
        generator: Generator,
        on_finished: OnFinished,
    ) -> None:
        """One response to each prompt; `on_finished(index, rollout)` is called while others still grow."""
        for first in range(0, len(prompts), self._config.batch_size):
            batch = prompts[first : first + self._config.batch_size]
            recorder = self._recorder(self._config.candidates, self._logprobs, generator)

            def hand_on(row: int, ids: Ids, finished: bool, first=first, recorder=recorder) -> None:
                rollout = Rollout(
                    ids,
                    recorder.candidates(row, len(ids)),
                    finished,
                    policy_step,
                    recorder.logprobs(row, len(ids)),
                )
                on_finished(first + row, rollout)

            self._generate(batch, recorder, hand_on)

    def answer(self, prompts: Sequence[StudentPrompt], batch_size: int) -> list[Ids]:
        """Greedy responses, in order, for evaluation."""
        answers: list[Ids] = [np.empty(0, dtype=np.int32)] * len(prompts)
        for first in range(0, len(prompts), batch_size):

            def keep(row: int, ids: Ids, finished: bool, offset: int = first) -> None:
                answers[offset + row] = ids

            recorder = self._recorder(0, logprobs=False, generator=None)
            self._generate(prompts[first : first + batch_size], recorder, keep)
        return answers

    def _recorder(self, candidates: int, logprobs: bool, generator: Generator | None) -> _Recorder:
        return _Recorder(
            candidates, logprobs, sorted(self.student.vision_ids()), self._vocab_size, generator
        )

    @torch.no_grad()
    def _generate(
        self,
        prompts: Sequence[StudentPrompt],
        recorder: _Recorder,
        hand_on: Callable[[int, Ids, bool], None],
    ) -> None:
        inputs = self.student.prompt_inputs([prompt.mm for prompt in prompts])
        watcher = _Watcher(inputs["input_ids"].shape[1], self.student.eos_ids, recorder, hand_on)
        # A copy is never compiled; the student may be at work beside it.
        with self.student.precision() if self._copy else self.student.sampling():
            output = (self._copy or self.student.model).generate(
                **inputs,
                # The recorder draws, and from a generator of its own: `generate` would from that of the whole process.
                do_sample=False,
                max_new_tokens=self._config.max_new_tokens,
                logits_processor=LogitsProcessorList([recorder]),
                stopping_criteria=StoppingCriteriaList([watcher]),
            )
        watcher.flush(output)


class _Recorder(LogitsProcessor):
    """Notes the student's own top ids of every step, bars what may not be sampled, and draws from the rest."""

    def __init__(
        self,
        candidates: int,
        logprobs: bool,
        suppressed: Sequence[int],
        vocab_size: int,
        generator: Generator | None,
    ) -> None:
        self._count = candidates
        self._suppressed = list(suppressed)
        self._vocab_size = vocab_size
        self._generator = generator  # None: nothing is drawn, the likeliest is taken
        self._steps: list[np.ndarray] = []  # i32 [B, C] each
        self._last: Tensor | None = None  # f32 [B, V], of the step whose token is being drawn
        self._wants_logprobs = logprobs
        self._drawn: list[np.ndarray] = []  # f32 [B] each

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        known = scores[:, : self._vocab_size]
        if self._count:
            top = known.topk(min(self._count, known.shape[1])).indices
            self._steps.append(top.int().cpu().numpy())
        if self._wants_logprobs:
            self._last = known.float().log_softmax(-1)
        scores = scores.clone()
        scores[:, self._suppressed] = float("-inf")
        scores[:, self._vocab_size :] = float("-inf")
        if self._generator is None:
            return scores
        # As `generate` would draw, finished rows too. It takes the likeliest, and all that is left is this id.
        drawn = torch.multinomial(scores.softmax(-1), 1, generator=self._generator)
        return torch.full_like(scores, float("-inf")).scatter_(1, drawn, 0.0)

    def drawn(self, ids: Tensor) -> None:
        """Take note of the token of each row, [B]."""
        if self._last is not None:
            row = torch.arange(len(ids), device=ids.device)
            # A finished row is padded, perhaps with an id beyond the vocabulary; nobody reads its entry.
            inside = ids.clamp(max=self._last.shape[1] - 1)
            self._drawn.append(self._last[row, inside].cpu().numpy())

    def candidates(self, row: int, tokens: int) -> Candidates | None:
        """C ids for each token of a finished response."""
        if not self._count:
            return None
        return Candidates.from_array(np.stack([step[row] for step in self._steps[:tokens]]))

    def logprobs(self, row: int, tokens: int) -> np.ndarray | None:
        """Of each token of a finished response, f32 [T], before anything was barred."""
        if not self._wants_logprobs:
            return None
        return np.stack([step[row] for step in self._drawn[:tokens]])


class _Watcher(StoppingCriteria):
    """Hands rows on at their end of sequence; never stops generation itself."""

    def __init__(
        self,
        prompt_length: int,
        eos_ids: Sequence[int],
        recorder: _Recorder,
        hand_on: Callable[[int, Ids, bool], None],
    ) -> None:
        self._prompt_length = prompt_length
        self._eos = torch.tensor(eos_ids)
        self._recorder = recorder
        self._hand_on = hand_on
        self._handed: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Any = None, **_: Any) -> Any:
        self._recorder.drawn(input_ids[:, -1])
        ended = torch.isin(input_ids[:, -1], self._eos.to(input_ids.device))
        for row in ended.nonzero()[:, 0].tolist():
            if row not in self._handed:
                self._give(row, input_ids, finished=True)
        return torch.zeros_like(ended)

    def flush(self, output: Tensor) -> None:
        """Hand on what was cut at the longest length."""
        for row in range(len(output)):
            if row not in self._handed:
                self._give(row, output, finished=False)

    def _give(self, row: int, ids: Tensor, finished: bool) -> None:
        self._handed.add(row)
        response = ids[row, self._prompt_length :].int().cpu().numpy()
        self._hand_on(row, response, finished)
