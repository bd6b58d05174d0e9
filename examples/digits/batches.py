"""Batches for supervised training, drawn afresh from pairs of digit images.

B samples, L tokens of prompt and response, padded on the right.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen3VLProcessor

from examples.digits.pictures import Digits, compose
from examples.digits.questions import KINDS, QUESTIONS

IGNORED = -100  # the label that cross-entropy leaves out


def render(processor: Qwen3VLProcessor, question: str, with_picture: bool) -> str:
    """Return the prompt with one placeholder for the picture, or in the text-only context."""
    picture = [{"type": "image"}] if with_picture else []
    content = [*picture, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, add_generation_prompt=True)


class Batches:
    """Draws batches; the patches of every digit and the ids of every prompt are computed once."""

    def __init__(
        self,
        processor: Qwen3VLProcessor,
        digits: Digits,
        write: Callable[[str, int, int], str],
        seed: int,
    ) -> None:
        """Draw from all pairs of these digits.

        `write(kind, left, right)` returns the response to a question about two digits.
        """
        self.write = write
        self.tokenizer = processor.tokenizer
        self.image_token_id = processor.image_token_id
        self.labels = digits.labels
        self.rng = np.random.default_rng(seed)
        pictures = [compose(image, image) for image in digits.images]
        inputs = processor.image_processor(images=pictures, return_tensors="pt")
        # Each digit is one merged token, so the four patches of the left digit come first, and in a
        # picture of one digit twice both halves are the same.
        self.patches = inputs["pixel_values"].unflatten(0, (len(digits), 2, 4))[:, 0]  # [N, 4, P]
        self.grid = inputs["image_grid_thw"][:1]  # [1, 3]
        self.prompts = {
            (question, with_picture): self._prompt_ids(processor, question, with_picture)
            for questions in QUESTIONS.values()
            for question in questions
            for with_picture in (True, False)
        }

    def _prompt_ids(
        self, processor: Qwen3VLProcessor, question: str, with_picture: bool
    ) -> list[int]:
        text = render(processor, question, with_picture)
        if with_picture:
            text = text.replace(processor.image_token, processor.image_token * 2)
        return self.tokenizer(text).input_ids

    def draw(self, size: int, text_only: float, noise: float) -> dict[str, Tensor]:
        """Return the model's inputs and labels for a batch of `size` samples.

        The fraction `text_only` of them comes without its picture; `noise` is the standard
        deviation of what is added to the pixels. Labels are the response and its end token.
        """
        pairs = self.rng.integers(len(self.labels), size=(size, 2))
        seen = np.arange(size) >= round(text_only * size)
        sequences, labels = [], []
        for (left, right), with_picture in zip(self.labels[pairs].tolist(), seen, strict=True):
            kind = self.rng.choice(KINDS)
            prompt = self.prompts[str(self.rng.choice(QUESTIONS[kind])), bool(with_picture)]
            words = self.write(kind, left, right) + self.tokenizer.eos_token
            ids = self.tokenizer(words).input_ids
            sequences.append(torch.tensor(prompt + ids))
            labels.append(torch.tensor([IGNORED] * len(prompt) + ids))
        input_ids = pad_sequence(sequences, True, self.tokenizer.pad_token_id)  # [B, L]
        batch = {
            "input_ids": input_ids,
            "attention_mask": (input_ids != self.tokenizer.pad_token_id).long(),
            "labels": pad_sequence(labels, True, IGNORED),
            "mm_token_type_ids": (input_ids == self.image_token_id).int(),
        }
        if seen.any():
            pixels = self.patches[pairs[seen]].flatten(0, 2)  # [8 patches each, P]
            batch["pixel_values"] = pixels + noise * torch.randn_like(pixels)
            batch["image_grid_thw"] = self.grid.expand(int(seen.sum()), 3)
        return batch
