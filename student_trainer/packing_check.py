"""Whether a model keeps sequences apart that stand in one row."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image

from student_trainer.data import Sample
from student_trainer.data_config import DataConfig
from student_trainer.prompting import PromptBuilder
from student_trainer.rollout import Rollout

if TYPE_CHECKING:
    from student_trainer.student import Student

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest difference of a state, relative to its length; a state that saw another sequence is off by more."""


@torch.no_grad()
def refuse_unpackable(student: Student, precision: Literal["float32", "bfloat16"]) -> None:
    """Read two small prompts in both contexts with and without padding.

    Raises ValueError where the states differ: recurrent layers carry one sequence's state into the next, and some
    families build masks or positions of their own.
    """
    builder = PromptBuilder(student.processor, DataConfig())
    prompts = [
        builder.build(Sample((_picture(*size),), question, ""), 0)
        for size, question in (((64, 48), "what is it?"), ((96, 96), "what is the colour of it?"))
    ]
    rollouts = [
        Rollout(prompt.wire.text_ids[-length:].astype(np.int32), None, True, 0)
        for prompt, length in zip(prompts, (3, 6), strict=True)
    ]
    states, before = {}, student.packing
    for packing in (False, True):
        student.packing = packing
        found = student.read_together(
            prompts, rollouts, {"mm": lambda hidden, _: hidden, "text": lambda hidden, _: hidden}
        )
        states[packing] = torch.cat(list(found.values())).float()
    student.packing = before
    off = (states[True] - states[False]).norm(dim=-1) / states[False].norm(dim=-1)
    if not float(off.max()) <= TOLERANCE[precision]:
        raise ValueError(
            f"{type(student.model).__name__} reads sequences differently where they stand in one row (its states are "
            f"off by {float(off.max()):.0%}); set student.packing = false"
        )


def _picture(width: int, height: int) -> bytes:
    """A slope from black to red and blue, as PNG."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, np.zeros_like(across), down], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
