"""What the front end may ask of vLLM's workers beside scores; vLLM mixes it into its worker class."""

from __future__ import annotations

from typing import Any

from teacher_server.engines.vllm_pooler import ScorePooler


class PairWorker:
    """Reaches the halves that a worker has parked. Calls run between steps, on every rank, in the same order."""

    model_runner: Any

    def drop_parked(self, keys: list[str]) -> None:
        """Forget these halves."""
        if (pooler := self._pooler()) is not None:
            pooler.parked.drop(keys)

    def parked_keys(self) -> list[str]:
        """Of the halves that wait."""
        pooler = self._pooler()
        return [] if pooler is None else pooler.parked.keys()

    def _pooler(self) -> ScorePooler | None:
        pooler = getattr(self.model_runner.get_model(), "pooler", None)
        return pooler if isinstance(pooler, ScorePooler) else None
