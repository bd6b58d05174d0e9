"""Any model of vLLM's registry as a scoring model: the same layers and weights, with a pooler that returns scores.

`ScoringX` exists for every architecture X that vLLM serves; it is made when the registry asks for it by name.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models import ModelRegistry
from vllm.model_executor.models.interfaces_base import VllmModelForPooling

from teacher_server.engines.vllm_plugin import PREFIX
from teacher_server.engines.vllm_pooler import ScorePooler


def __getattr__(name: str) -> type:
    architecture = name.removeprefix(PREFIX).partition("__")[0]
    if not name.startswith(PREFIX) or architecture not in ModelRegistry.models:
        raise AttributeError(name)
    return _scoring_class(architecture)


@cache
def _scoring_class(architecture: str) -> type:
    base: Any = ModelRegistry.models[architecture].load_model_cls()

    class ScoringModel(base, VllmModelForPooling):
        is_pooling_model = True

        def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            settings = vllm_config.additional_config
            assert isinstance(settings, dict), "engine_arguments passes a dictionary"
            self.pooler = ScorePooler(
                self._logits,
                chunk_rows=settings["chunk_rows"],
                max_parked_rows=settings["max_parked_rows"],
            )

        def _logits(self, hidden: Tensor) -> Tensor:
            logits = self.compute_logits(hidden)
            assert logits is not None, "every rank gathers the logits"
            return logits

    ScoringModel.__name__ = ScoringModel.__qualname__ = PREFIX + architecture
    return ScoringModel
