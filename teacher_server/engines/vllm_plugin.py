"""What vLLM is told in every process of its own, by the entry point vllm.general_plugins: scoring architectures, and on
a CPU to wait asleep.
"""

from __future__ import annotations

import functools
import os
import re

from vllm import __version__
from vllm.distributed.device_communicators import shm_broadcast
from vllm.model_executor.models import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP

PREFIX = "Scoring"
"""Before the name of an architecture, such as Qwen3VLForConditionalGeneration."""
MODULE = "teacher_server.engines.vllm_model"
"""Where vLLM looks for a scoring class, once it is asked for."""
WAIT_ASLEEP = "VGS_WAIT_ASLEEP"
"""Environment variable that our server sets for its own processes; any other vLLM beside it stays as it is."""


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
    if os.environ.get(WAIT_ASLEEP):
        _wait_asleep()


def _wait_asleep() -> None:
    """Who waits for the model must not take the cores that it computes on.

    vLLM's queues between its processes spin for a second before they sleep. That is right beside a GPU; on a CPU it
    took a third of the speed of two cores.
    """
    spinning = getattr(shm_broadcast, "SpinCondition", None)
    if isinstance(spinning, type):
        shm_broadcast.SpinCondition = functools.partial(spinning, busy_loop_s=0.0)  # type: ignore[misc,assignment]
