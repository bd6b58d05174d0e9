"""Settings of the data: which rows, which columns, what stands in the text context."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from student_trainer.settings import Settings


class DataConfig(Settings):
    """What the student is asked."""

    train: str = ""
    """JSONL or Parquet file of training rows."""
    validation: str | None = None
    """Rows for every choice of a setting; evaluated during training if `eval.every` says so."""
    image_column: str = "image"
    """A path (relative to the file), encoded bytes, a `datasets.Image` struct, a list of these, or nothing; "" for
    data without images."""
    question_column: str = "question"
    """Text of the user's turn."""
    answer_column: str = "answer"
    """Final answer as text, for evaluation; distillation itself does not read it."""
    teacher_column: str | None = None
    """Which of the teachers in `teacher.named` scores a row; None: there is one."""
    system_prompt: str | None = None
    """System turn; None: none."""
    after_images: str = "\n"
    """Stands between the images and the question."""
    image_marker: str | None = None
    """Text inside the question that stands for an image, such as "<image>"; a question without it has its images first.
    None: no text does."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Training prompts of more tokens, those of images counted, are dropped; such a validation row ends the run. None:
    there is no limit. Give what sampler and teacher take, less the longest response."""
    text_context: Literal["drop", "grey"] = "drop"
    """What both models see where there is to be no picture: nothing, or a uniform grey one of the same size."""
