"""Traces, where an endpoint is configured: OpenTelemetry is imported only then. No text gets into them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ctxcomp.optional import require
from ctxcomp.version import __version__


class Span(Protocol):
    """The part of OpenTelemetry's span that is used here."""

    def update_name(self, name: str) -> None:
        """Rename."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes."""


class NoSpan:
    """Stands in where nothing is traced."""

    def update_name(self, name: str) -> None:
        """Nothing."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Nothing."""


class NoTracer:
    """Traces nothing."""

    @contextlib.contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[Span]:
        """Around one request."""
        yield NoSpan()

    def stage(self, name: str, seconds: float, ago: float = 0.0) -> None:
        """A stage that is over."""

    def close(self) -> None:
        """Nothing to send."""


class Tracer(NoTracer):
    """Sends spans to an OTLP endpoint over HTTP, in the background.

    Raises
    ------
    MissingDependencyError: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        sdk = require("opentelemetry.sdk.trace", extra="otel")
        export = require("opentelemetry.sdk.trace.export", extra="otel")
        otlp = require("opentelemetry.exporter.otlp.proto.http.trace_exporter", extra="otel")
        resources = require("opentelemetry.sdk.resources", extra="otel")
        self._propagate = require("opentelemetry.propagate", extra="otel")
        self._kinds = require("opentelemetry.trace", extra="otel").SpanKind
        about = resources.Resource.create({"service.name": "ctxcomp", "service.version": __version__})
        self._provider = sdk.TracerProvider(resource=about)
        exporter = otlp.OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ctxcomp_service", __version__)

    @contextlib.contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[Span]:
        """Around one request; continues the caller's trace."""
        parent = self._propagate.extract(headers)
        with self._tracer.start_as_current_span("request", context=parent, kind=self._kinds.SERVER) as span:
            yield span

    def stage(self, name: str, seconds: float, ago: float = 0.0) -> None:
        """A stage of the current request that took ``seconds`` and ended ``ago`` seconds before now."""
        end = time.time_ns() - int(ago * 1e9)
        span = self._tracer.start_span(name, start_time=end - int(seconds * 1e9))
        span.end(end_time=end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def open_tracer(endpoint: str | None) -> NoTracer:
    """The tracer that the settings ask for."""
    return Tracer(endpoint) if endpoint else NoTracer()
