"""What a running teacher tells Prometheus. docs/operations.md says what each number is worth."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily

from protos.errors import CODES, InternalFault, TeacherError
from protos.item import Priority
from protos.teacher_info import TeacherInfo
from teacher_server.engines.prefix_stats import PrefixStats
from teacher_server.fair_queue import PRIORITIES

CONTEXTS = ("mm", "text", "alone")
"""The last one: of a prompt without images, whose two contexts are one."""
COUNTED_CODES = ("OK", *(code.name for code in CODES.values()))
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def code_of(error: BaseException | None) -> str:
    """Name of the gRPC status that `error` is answered with; "OK" for None."""
    if error is None:
        return "OK"
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    kind = type(error) if isinstance(error, TeacherError) else InternalFault
    return CODES.get(kind, CODES[InternalFault]).name


class Place:
    """A job's place in the queue, until it is served or withdrawn."""

    def __init__(self, metrics: Metrics, client: str, priority: Priority, tokens: int) -> None:
        self._gauges = (
            (metrics.queue_items.labels(priority), 1),
            (metrics.queue_tokens.labels(priority), tokens),
        )
        self._wait = metrics.queue_wait.labels(metrics.label(client), priority)
        self._since_s = time.monotonic()
        self._left = False
        for gauge, amount in self._gauges:
            gauge.inc(amount)

    def leave(self) -> None:
        """The job waits no longer, for whatever reason; only the first call counts."""
        if self._left:
            return
        self._left = True
        for gauge, amount in self._gauges:
            gauge.dec(amount)
        self._wait.observe(time.monotonic() - self._since_s)


@dataclass
class Served:
    """What an item came to."""

    tokens: int = 0
    """Scored."""


class Metrics:
    """One server's numbers, in a registry of their own: a process may run several servers.

    Clients are told apart by their configured names alone. All others count as "", so that no peer can make new
    time series.
    """

    def __init__(self, clients: Iterable[str] = ()) -> None:
        self.registry = _Registry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Prefixes(self))
        self.prefixes: PrefixStats | None = None
        self._clients: set[str] = set()
        self._define_clients()
        self._define_queue()
        self._define_engine()
        for client in ("", *clients):
            self.know(client)

    def _define_clients(self) -> None:
        r = self.registry
        client = ["client"]
        self._build = Info("teacher_build", "Who serves what.", registry=r)
        self._draining = Gauge("teacher_draining", "1 while nothing new is admitted.", registry=r)
        self._streams_open = Gauge("teacher_streams_open", "Score calls.", client, registry=r)
        self._streams_ended = Counter(
            "teacher_streams_ended", "Score calls by their status.", ["code"], registry=r
        )
        self._received = Counter(
            "teacher_items_received", "Responses to be scored.", client, registry=r
        )
        self._items = Counter(
            "teacher_items", "Answers to them, by status.", [*client, "code"], registry=r
        )
        self._tokens = Counter(
            "teacher_scored_tokens", "Response tokens scored.", client, registry=r
        )
        self._item_seconds = Histogram(
            "teacher_item_seconds",
            "From an item's arrival to its scores.",
            ["priority"],
            buckets=SECONDS,
            registry=r,
        )
        self._prompts = Counter(
            "teacher_prompts", "Prompts prepared or refused, by status.", ["code"], registry=r
        )
        self._prepare_seconds = Histogram(
            "teacher_prepare_seconds",
            "To decode and expand a prompt, its wait for a thread included.",
            buckets=SECONDS,
            registry=r,
        )
        self._bytes = Counter(
            "teacher_message_bytes", "Of messages, unframed.", ["direction"], registry=r
        )

    def _define_queue(self) -> None:
        r = self.registry
        priority = ["priority"]
        self.queue_items = Gauge("teacher_queue_items", "Waiting items.", priority, registry=r)
        self.queue_tokens = Gauge(
            "teacher_queue_tokens", "Tokens of both contexts that wait.", priority, registry=r
        )
        self.queue_wait = Histogram(
            "teacher_queue_wait_seconds",
            "How long an item waited, until it was served or given up.",
            ["client", *priority],
            buckets=SECONDS,
            registry=r,
        )
        for name in PRIORITIES:  # empty is a number too
            self.queue_items.labels(name)
            self.queue_tokens.labels(name)

    def _define_engine(self) -> None:
        r = self.registry
        self._inside_items = Gauge("teacher_engine_items", "Items in the engine.", registry=r)
        self._inside_tokens = Gauge("teacher_engine_tokens", "Tokens in the engine.", registry=r)
        self._capacity = Gauge(
            "teacher_engine_capacity_tokens", "Tokens that the engine takes.", registry=r
        )
        self._engine_seconds = Histogram(
            "teacher_engine_seconds",
            "Of a batch where the server packs, else of an item.",
            ["priority"],
            buckets=SECONDS,
            registry=r,
        )
        self._fill = Histogram(
            "teacher_batch_fill_ratio",
            "Padded tokens of a batch over its budget.",
            ["priority"],
            buckets=SHARES,
            registry=r,
        )
        self._batch_items = Histogram(
            "teacher_batch_items", "Items of a batch.", ["priority"], buckets=ITEMS, registry=r
        )

    # ------------------------------------------------------------------------------ the server

    def know(self, client: str) -> None:
        """Count this client by its name from now on. It must be one that the server's owner gave."""
        self._clients.add(client)
        self._received.labels(client)  # a rate needs a zero to start from
        self._tokens.labels(client)
        for code in COUNTED_CODES:
            self._items.labels(client, code)

    def label(self, client: str) -> str:
        """The client's name, or "" for one that has none."""
        return client if client in self._clients else ""

    def describe(self, info: TeacherInfo) -> None:
        """Who serves what."""
        self._build.info(
            {
                "teacher_id": info.teacher_id,
                "model": info.model_id,
                "engine": info.engine,
                "version": info.versions.get("vgs-opd", ""),
            }
        )

    def draining(self) -> None:
        """Nothing new is admitted from now on."""
        self._draining.set(1)

    # ----------------------------------------------------------------------------- front ends

    def stream_opened(self, name: str) -> None:
        """A Score call of the client that is configured as `name` began; "": of an anonymous one."""
        self.know(name)
        self._streams_open.labels(name).inc()

    def stream_closed(self, name: str, code: str) -> None:
        """The call ended with this status."""
        self._streams_open.labels(name).dec()
        self._streams_ended.labels(code).inc()

    def stream_refused(self, code: str) -> None:
        """A call that never began: not authenticated, or the server drains."""
        self._streams_ended.labels(code).inc()

    def item_refused(self, client: str, error: BaseException) -> None:
        """A front end refused an item, so that the core never saw it."""
        self.item_received(client)
        self.item_answered(client, code_of(error))

    def prompt_answered(self, code: str) -> None:
        """A prompt was prepared, or refused."""
        self._prompts.labels(code).inc()

    def bytes_in(self, size: int) -> None:
        """A message came."""
        self._bytes.labels("in").inc(size)

    def bytes_out(self, size: int) -> None:
        """A message was sent."""
        self._bytes.labels("out").inc(size)

    # --------------------------------------------------------------------------------- the core

    def item_received(self, client: str) -> None:
        """An item came."""
        self._received.labels(self.label(client)).inc()

    def item_answered(self, client: str, code: str, tokens: int = 0) -> None:
        """An item was answered; `tokens` of its response were scored."""
        self._items.labels(self.label(client), code).inc()
        self._tokens.labels(self.label(client)).inc(tokens)

    @contextlib.contextmanager
    def item(self, client: str, priority: Priority) -> Iterator[Served]:
        """An item from its receipt to its answer, which is what the context is left with."""
        self.item_received(client)
        started_s = time.monotonic()
        served = Served()
        try:
            yield served
        except BaseException as error:
            self.item_answered(client, code_of(error))
            raise
        self.item_answered(client, "OK", served.tokens)
        self._item_seconds.labels(priority).observe(time.monotonic() - started_s)

    @contextlib.contextmanager
    def prompt(self) -> Iterator[None]:
        """A prompt while it is prepared."""
        started_s = time.monotonic()
        try:
            yield
        except BaseException as error:
            self.prompt_answered(code_of(error))
            raise
        self.prompt_answered("OK")
        self._prepare_seconds.observe(time.monotonic() - started_s)

    # ---------------------------------------------------------------------------------- engines

    def queued(self, client: str, priority: Priority, tokens: int) -> Place:
        """A job joined the queue."""
        return Place(self, client, priority, tokens)

    def capacity(self, tokens: int) -> None:
        """What the engine takes at a time."""
        self._capacity.set(tokens)

    @contextlib.contextmanager
    def in_engine(self, priority: Priority, items: int, tokens: int) -> Iterator[None]:
        """What the engine was given, as long as it has it."""
        self._inside_items.inc(items)
        self._inside_tokens.inc(tokens)
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._inside_items.dec(items)
            self._inside_tokens.dec(tokens)
            self._engine_seconds.labels(priority).observe(time.monotonic() - started_s)

    def batch(self, priority: Priority, items: int, tokens: int, budget: int) -> None:
        """The server packed a batch."""
        self._batch_items.labels(priority).observe(items)
        self._fill.labels(priority).observe(tokens / budget)


class _Registry(CollectorRegistry):
    """Without the `_created` series, which double the page and which Prometheus does not use."""

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family


class _Prefixes:
    """Reads an engine's PrefixStats when it is asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        asked = CounterMetricFamily(
            "teacher_prefix_tokens", "Prompt tokens needed by responses.", labels=["context"]
        )
        cached = CounterMetricFamily(
            "teacher_prefix_cached_tokens", "Those not computed again.", labels=["context"]
        )
        if (stats := self._metrics.prefixes) is not None:
            for context in CONTEXTS:
                asked.add_metric([context], stats.asked[context])
                cached.add_metric([context], stats.cached[context])
        yield asked
        yield cached
