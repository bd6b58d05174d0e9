"""The real core over the real engine, in the test's own event loop, with no server around it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from protos.teacher_info import Limits
from teacher_server.batcher import Batcher
from teacher_server.config import TransformersEngineConfig
from teacher_server.core import TeacherCore
from teacher_server.engines.engine import BatchEngine
from teacher_server.engines.transformers_engine import TransformersEngine
from teacher_server.metrics import Metrics

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@contextlib.asynccontextmanager
async def tiny_core(model: Path, metrics: Metrics, **settings: Any) -> AsyncIterator[TeacherCore]:
    """A core for `model`, with `settings` of its engine."""
    config = TransformersEngineConfig(device="cpu", threads=1, **settings)

    def load() -> BatchEngine:
        engine = TransformersEngine(str(model), config, teacher_id="tiny", limits=Limits())
        return engine

    batcher = await Batcher.start(load, 0.0, config.score_batch_tokens, metrics)
    core = TeacherCore(batcher, metrics)
    try:
        yield core
    finally:
        await core.close()


def series_of(text: str) -> Series:
    """A scrape's numbers by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scrape:
    """Numbers of a scrape: `scrape("teacher_items_total", code="OK")` is their sum over the other labels."""

    def __init__(self, text: str) -> None:
        self.series = series_of(text)

    @classmethod
    def of(cls, metrics: Metrics) -> "Scrape":
        return cls(generate_latest(metrics.registry).decode())

    def __call__(self, name: str, **labels: str) -> float:
        found = [v for (n, ls), v in self.series.items() if n == name and ls >= set(labels.items())]
        assert found, f"no series {name}{labels}"
        return sum(found)

    def label_values(self, label: str) -> set[str]:
        return {value for _, labels in self.series for name, value in labels if name == label}
