from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from protos.arrays import as_ids
from protos.errors import InvalidItem
from protos.item import ScoreItem
from protos.prompt import Prompt
from teacher_server import tracing
from teacher_server.client import Client
from teacher_server.metrics import Metrics
from tests.tiny_core import tiny_core


async def test_spans_tell_what_was_done_and_what_failed(qwen: Path, monkeypatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    async with tiny_core(qwen, Metrics()) as core:
        ids = as_ids([40, 41])
        prepared = await core.prepare(Prompt(ids, ids))

        async def ready():
            return prepared

        await core.score(ready(), ScoreItem(as_ids([50] * 3), k=2), Client("lab", "lab"))
        with pytest.raises(InvalidItem):
            await core.score(ready(), ScoreItem(as_ids([10**6]), k=2))
    prepare, scored, failed = exporter.get_finished_spans()
    assert prepare.name == "teacher.prepare"
    assert dict(scored.attributes) == {
        "vgs.client": "lab", "vgs.priority": "train", "vgs.tokens": 3,
    }  # fmt: skip
    assert scored.status.is_ok or scored.status.is_unset
    assert not failed.status.is_ok
    assert "1000000" in failed.events[0].attributes["exception.message"]


def test_without_the_extra_a_span_is_nothing(monkeypatch) -> None:
    monkeypatch.setattr(tracing, "trace", None)
    with tracing.span("teacher.score", tokens=3):
        pass
