"""Makes the scoring architectures known to vLLM in every process of its own: a vllm.general_plugins entry point."""

from __future__ import annotations

import re

from vllm import __version__
from vllm.model_executor.models import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP

PREFIX = "Scoring"
"""Before the name of an architecture, such as Qwen3VLForConditionalGeneration."""
MODULE = "teacher_server.engines.vllm_model"
"""Where vLLM looks for a scoring class, once it is asked for."""


def register() -> None:
    """May be called again without harm."""
    known = set(ModelRegistry.get_supported_archs())
    for architecture in known:
        name = PREFIX + architecture
        if architecture.startswith(PREFIX) or name in known:
            continue
        # vLLM remembers on disk what it learnt of a class by that name: another version must ask again.
        version = re.sub(r"\W", "_", __version__)
        ModelRegistry.register_model(name, f"{MODULE}:{name}__{version}")
        if architecture in MODELS_CONFIG_MAP:
            MODELS_CONFIG_MAP.setdefault(name, MODELS_CONFIG_MAP[architecture])
