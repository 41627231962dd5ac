"""What Prometheus scrapes, in a registry of its own. Labels hold only what the settings name."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Set by `ctxcomp serve --workers`: each process writes its numbers there, and any of them answers for all."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The service's metrics."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.requests = Counter("ctxcomp_requests", "Answers", ["route", "status"], registry=r)
        self.seconds = Histogram(
            "ctxcomp_request_seconds", "Time to the whole answer", ["route"], buckets=SECONDS, registry=r
        )
        self.tokens_in = Counter("ctxcomp_tokens_in", "Tokens before", ["method"], registry=r)
        self.tokens_out = Counter("ctxcomp_tokens_out", "Tokens after", ["method"], registry=r)
        self.keep = Histogram("ctxcomp_keep", "Tokens out / tokens in", ["method"], buckets=SHARES, registry=r)
        self.stage = Histogram("ctxcomp_stage_seconds", "Time by stage", ["stage"], buckets=SECONDS, registry=r)
        self.queue = Gauge(
            "ctxcomp_queue_requests", "Requests waiting or at work", registry=r, multiprocess_mode="livesum"
        )
        self.batch = Histogram("ctxcomp_batch_requests", "Requests in one batch", buckets=SIZES, registry=r)
        self.cache = Counter("ctxcomp_cache", "Results looked up in the cache", ["found"], registry=r)
        self.fallbacks = Counter("ctxcomp_fallbacks", "Inputs given back as they came", ["reason"], registry=r)

    def exposition(self) -> bytes:
        """The text that `/metrics` answers."""
        if not os.environ.get(MULTIPROCESS_VARIABLE):
            return generate_latest(self.registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)
