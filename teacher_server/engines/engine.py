"""The seam between the server and whatever computes scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from protos.errors import TeacherError
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import TeacherInfo
from teacher_server.chat_format import ChatFormat


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """A prompt that an engine can score responses to; its image files are no longer needed."""

    digest: bytes
    """Of the prompt, computed from the bytes that came (protos.fingerprint.prompt_digest)."""
    mm_length: int
    """Tokens after expansion."""
    text_length: int
    expected_responses: int
    contexts: Any
    """The engine's own."""
    memory_bytes: int
    """What keeping it costs."""
    messages: str = ""
    """Of a prompt that came as messages, to go on from; empty for one of ids."""


@dataclass(frozen=True, eq=False)
class Job:
    """One response to one prepared prompt."""

    prompt: PreparedPrompt
    item: ScoreItem
    client: str = ""
    """Whose turn it takes: see teacher_server.fair_queue."""
    weight: float = 1.0
    """The client's share beside others'."""

    @property
    def cost(self) -> int:
        """Tokens that a forward pass over both contexts sees at most."""
        return self.prompt.mm_length + self.prompt.text_length + 2 * len(self.item.response_ids)

    @property
    def longest(self) -> int:
        """Tokens of the longer context with the response."""
        return max(self.prompt.mm_length, self.prompt.text_length) + len(self.item.response_ids)


class Engine(Protocol):
    """What the server talks to: any number of prompts and jobs at a time."""

    @property
    def info(self) -> TeacherInfo:
        """Identity and limits."""
        ...

    @property
    def chat(self) -> ChatFormat | None:
        """How messages and texts become ids; None: clients send ids alone."""
        ...

    async def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        """Expand and preprocess. `images` are decoded, in the order of their placeholders. Where the text context is
        "grey", its images are the same with `teacher_server.images.grey`.
        """
        ...

    async def score(self, job: Job) -> Scores:
        """Scores of one job; raises a TeacherError. Cancelling the awaiting task drops the job."""
        ...

    async def died(self) -> None:
        """Returns when the engine can never score again; what waits for scores fails with Unavailable."""
        ...

    async def close(self) -> None:
        """Finish what runs and free the device."""
        ...


class BatchEngine(Protocol):
    """A synchronous engine that scores a whole batch at a time; `teacher_server.batcher` makes an Engine of it."""

    info: TeacherInfo
    max_batch_tokens: int
    max_batch_jobs: int | None

    @property
    def chat(self) -> ChatFormat | None:
        """See Engine.chat."""
        ...

    def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        """See Engine.prepare."""
        ...

    def score_batch(self, jobs: Sequence[Job]) -> list[Scores | TeacherError]:
        """One answer per job, in order; a job's error is its own."""
        ...
