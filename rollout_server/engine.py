"""What the server needs of an engine: answers of the weights that it holds, and new weights."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

from protos.policy import Policy
from protos.rollout_info import RolloutInfo
from protos.rollout_request import RolloutRequest
from protos.sampled_response import SampledResponse
from rollout_server.checkpoint_layout import CheckpointLayout


class Engine(Protocol):
    """One model whose weights change while it runs. Whose they are is the caller's affair."""

    info: RolloutInfo
    """Without a policy."""
    placeholder_id: int
    """Stands for one image in a prompt."""
    layout: CheckpointLayout
    """The weights that an update must bring."""

    @property
    def alive(self) -> bool:
        """False once it has failed for good; only a restart mends it."""
        ...

    def sample(
        self, request: RolloutRequest, policy: Policy | None
    ) -> AsyncGenerator[SampledResponse, None]:
        """Responses in order of completion, stamped with `policy`; leaving early gives the others up.

        `request` has been checked by `rollout_server.validation`. Raises the errors of `protos.errors`.
        """
        ...

    async def load(self, path: Path, policy: Policy) -> None:
        """Replace all weights by a safetensors file's. No answer is under way."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
