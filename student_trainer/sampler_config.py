"""Settings of the sampler, one class for each kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from student_trainer.settings import Settings


class Sampling(Settings):
    """How the student answers. Always at temperature 1 and top-p 1: the loss is an expectation under the student."""

    max_new_tokens: int = Field(default=512, ge=1)
    """Longest response, tokens."""
    candidates: int = Field(default=16, ge=0)
    """Student's own top ids of every step, sent along to be in the support."""


class TransformersSamplerConfig(Sampling):
    """The trainer samples itself, with transformers' generate."""

    kind: Literal["transformers"] = "transformers"
    """What generates."""
    batch_size: int = Field(default=64, ge=1)
    """Responses generated at a time."""


class VllmSamplerConfig(Sampling):
    """A rollout server samples, and gets the new weights after every step."""

    kind: Literal["vllm"] = "vllm"
    """What generates."""
    batch_size: int = Field(default=512, ge=1)
    """Responses asked for at a time; the teacher holds their prompts meanwhile. How many grow at once is the server's
    `engine.max_running`."""
    address: str = "127.0.0.1:50061"
    """host:port of the rollout server; it serves one trainer. Under torchrun one for each rank, with commas between."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds that `batch_size` responses, or an update of the weights, may take."""
    connect_timeout_s: float = Field(default=300.0, gt=0)
    """Seconds to wait for the server when training starts."""


def _sampler_kind(value: Any) -> str:
    """Tables without a `kind` mean the trainer's own sampler."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind or "transformers"


SamplerConfig = Annotated[
    Annotated[TransformersSamplerConfig, Tag("transformers")]
    | Annotated[VllmSamplerConfig, Tag("vllm")],
    Discriminator(_sampler_kind),
]
