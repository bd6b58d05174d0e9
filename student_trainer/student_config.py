"""Settings of the student's model: what is trained of it, and how its passes are run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from student_trainer.settings import Settings


class LoraConfig(Settings):
    """Low-rank adapters by peft; the weights under them stay as they are."""

    rank: int = Field(default=16, ge=1)
    """Rank of each adapter."""
    alpha: float = Field(default=32.0, gt=0)
    """The adapters' product is scaled by alpha / rank."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Ends of the names of the layers that get an adapter, such as "q_proj"; "all-linear": all linear ones, the
    vision encoder's too, but the output."""


class StudentConfig(Settings):
    """How the student's passes are run, and what of it is trained."""

    attention: str | None = None
    """transformers' attn_implementation: "sdpa", "eager", "flash_attention_2"; None: its own choice."""
    packing: bool = False
    """Forward passes without padding: the sequences of a microbatch one after the other, and both contexts in one pass
    where both have a gradient. It pays with an attention that knows sequence ends ("flash_attention_2")."""
    activation_checkpointing: bool = False
    """Layers keep their inputs alone, and are computed again in the backward pass."""
    compile: bool = False
    """torch.compile of the language model's layers, in training alone; needs a compiler."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of the weights."""
