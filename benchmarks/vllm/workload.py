"""The same work for every peer: prompts with an image, and random responses to them, from a shape and a seed."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from benchmarks.vllm.model import IMAGE_IDS, random_ids, random_image
from protos.arrays import Ids, as_ids
from protos.prompt import Prompt

K = 64
"""Of everybody's top-k."""


@dataclass(frozen=True)
class Shape:
    """Lengths in tokens."""

    prompt: int
    """Expanded, under mm."""
    image: int
    """Tokens of the prompt's image, a square number."""
    response: int
    prompts: int = 8
    responses_per_prompt: int = 8

    @property
    def text(self) -> int:
        """Tokens of the text context: the prompt less its image and the two tokens around it."""
        return self.prompt - self.image - 2

    @property
    def scored_tokens(self) -> int:
        """Response tokens of the whole workload; each is scored in two contexts."""
        return self.prompts * self.responses_per_prompt * self.response


SHAPES = {
    "short": Shape(prompt=100, image=16, response=128),
    "long": Shape(prompt=600, image=256, response=256),
}


@dataclass(frozen=True)
class Question:
    """A prompt and the responses to it."""

    prompt: Prompt
    responses: tuple[Ids, ...]


def workload(shape: Shape, seed: int) -> list[Question]:
    """Nothing in it was seen before: no cache of an earlier repetition helps."""
    rng = np.random.default_rng(seed)
    return [_question(shape, rng) for _ in range(shape.prompts)]


def stock_prompts(shape: Shape, seed: int) -> list[list[int]]:
    """Two token lists for each response, mm and text, of the same lengths.

    Stock vLLM's completions take no image with token ids, so words stand in its place: it is spared the encoder.
    """
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(shape.prompts):
        words = random_ids(rng, shape.prompt)
        for _ in range(shape.responses_per_prompt):
            response = random_ids(rng, shape.response)
            lists += [words + response, words[: shape.text] + response]
    return lists


def _question(shape: Shape, rng: np.random.Generator) -> Question:
    words = random_ids(rng, shape.text)
    mm_ids = [*words[:4], *IMAGE_IDS, *words[4:]]
    file = io.BytesIO()
    random_image(rng, shape.image).save(file, "PNG")
    responses = tuple(
        as_ids(random_ids(rng, shape.response)) for _ in range(shape.responses_per_prompt)
    )
    prompt = Prompt(
        as_ids(mm_ids),
        as_ids(words),
        (file.getvalue(),),
        expected_responses=shape.responses_per_prompt,
    )
    return Question(prompt, responses)
