"""Spans for OpenTelemetry where its API is installed (extra `otel`); otherwise nothing, at no cost.

Who exports them is the operator's choice: `opentelemetry-instrument teacher-server serve ...` reads OTEL_* variables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

try:
    from opentelemetry import trace
except ImportError:  # the extra is not installed
    trace = None

NAME = "vgs-opd"


@contextlib.contextmanager
def span(name: str, **attributes: str | int | float) -> Iterator[None]:
    """A span around the context; an error that leaves it is recorded."""
    if trace is None:
        yield
        return
    named = {f"vgs.{key}": value for key, value in attributes.items()}
    with trace.get_tracer(NAME).start_as_current_span(name, attributes=named):
        yield
