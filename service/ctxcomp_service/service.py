"""What every route calls: one compression, with its limits, quota, batch, deadline and failure policy."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctxcomp.counting import resolve_counter
from ctxcomp.errors import CtxcompError, InputError
from ctxcomp.types import Budget, CompressedText, Passage, Request, Span, Stats
from ctxcomp_service.auth import Caller, Keyring
from ctxcomp_service.batching import Batcher, plain
from ctxcomp_service.cache import ResultCache, content_key, size_in_memory
from ctxcomp_service.errors import ServiceError, as_service_error
from ctxcomp_service.methods import Catalogue, Plan
from ctxcomp_service.metrics import Metrics
from ctxcomp_service.queueing import Work
from ctxcomp_service.settings import Limits, Settings
from ctxcomp_service.store import Store, open_store
from ctxcomp_service.telemetry import open_tracer
from ctxcomp_service.units import Scored, Unit, scored

log = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4
PURGE_SECONDS = 60.0
SAMPLE = Passage("Middlemarch is a novel by George Eliot. It was published in eight parts. " * 8)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, why it is the input itself (None when it is the method's own work), and its units if asked for."""

    result: CompressedText
    fallback: str | None = None
    units: tuple[Unit, ...] | None = None


class Service:
    """The state of one process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keyring = Keyring(settings)
        self.catalogue = Catalogue(settings)
        self.metrics = Metrics()
        self.tracer = open_tracer(str(settings.otlp_endpoint) if settings.otlp_endpoint else None)
        self.store: Store = open_store(settings.store)
        self.batcher = Batcher(settings.batching, settings.queue, self.metrics.batch.observe)
        self.cache = ResultCache(settings.cache_bytes)
        self.draining = False
        self._loaded = False
        self._purging: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the store and load the default method; afterwards the service is ready.

        Raises
        ------
        CtxcompError: the store or the method cannot be used.
        """
        await self.store.open()
        self._purging = asyncio.create_task(self._purge(), name="ctxcomp-purge")
        self.batcher.start()
        if self.settings.preload:
            plan = await asyncio.to_thread(self.catalogue.plan, self.catalogue.default, {}, None)
            for _ in range(3):  # the first loads, the others tell how long work takes
                await self.batcher.run(plan, Request("Who wrote it?", (SAMPLE,), Budget(keep=0.5)), "")
        self._loaded = True

    @property
    def is_ready(self) -> bool:
        """Whether requests are welcome."""
        return self._loaded and self.batcher.is_alive and not self.draining

    async def stop(self) -> None:
        """Finish what was accepted, then close."""
        self._loaded = False
        await self.batcher.stop()
        if self._purging is not None:
            self._purging.cancel()
        await self.store.close()
        await asyncio.to_thread(self.tracer.close)

    async def compress(
        self,
        caller: Caller,
        request: Request,
        method: str | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        model: str | None = None,
        scores: bool = False,
    ) -> Outcome:
        """Compress one request for a caller.

        Parameters
        ----------
        method: an offered one, or several joined by "+"; None for the caller's own.
        options: fields of the method that may come over the network.
        model: whose tokenizer counts.
        scores: give every unit with its score as well.

        Raises
        ------
        ServiceError: 403, 413, 429, 503 or 504.
        InputError: an option, the method or the budget cannot be used.
        """
        name = method or caller.method
        check_limits(request, self.settings.limits)
        if not caller.may_use(name):
            raise ServiceError(403, "method_not_allowed", f"this key may not use the method {name!r:.80}")
        work = scored if scores else plain
        plan, key = await asyncio.to_thread(self._prepare, caller, request, name, options or {}, model, work)
        reserved = sum(len(p.text) for p in request.passages) // CHARACTERS_PER_TOKEN
        caller.allowance.take_tokens(reserved)
        used = reserved  # who goes away, or asks for what cannot be done, has still kept the worker busy
        try:
            outcome = self._remembered(key) or await self._attempt(caller, request, plan, work)
            used = outcome.result.stats.tokens_in
        except ServiceError:
            used = 0
            raise
        finally:
            caller.allowance.settle(reserved, used)
        self._observe(outcome, plan)
        self._remember(key, outcome)
        return outcome

    def _prepare(
        self, caller: Caller, request: Request, name: str, options: Mapping[str, Any], model: str | None, work: Work
    ) -> tuple[Plan, str]:
        plan = self.catalogue.plan(name, options, model)
        return plan, content_key(caller.tenant, f"{plan.key} {work.__name__}", request) if self.cache.most_bytes else ""

    async def _attempt(self, caller: Caller, request: Request, plan: Plan, work: Work) -> Outcome:
        """The method's own result, or what the failure policy makes of a failure."""
        limit = self.settings.limits.seconds
        try:
            async with asyncio.timeout(limit):
                with self.metrics.queue.track_inprogress():
                    done = await self.batcher.run(plan, request, caller.tenant, work)
        except InputError:
            raise
        except TimeoutError:
            failure = ServiceError(504, "too_slow", f"not done within {limit:g} s: send less, or come back later")
        except ServiceError as error:
            failure = error
        except CtxcompError as error:
            failure = as_service_error(error)
        else:
            self._observe_stages(done.queued, done.worked)
            if isinstance(done.result, Scored):
                return Outcome(done.result.result, units=done.result.units)
            return Outcome(done.result)
        if caller.on_failure == "closed":
            raise failure
        log.warning("fallback", extra={"reason": failure.code, "method": plan.method})
        return Outcome(await asyncio.to_thread(untouched, request, plan, failure.code), failure.code)

    async def keep_original(self, caller: Caller, text: str) -> str:
        """Store a text for `/v1/retrieve`; returns its id, 24 hexadecimal digits that only this tenant can use.

        Raises
        ------
        CacheError: the store cannot be used.
        """
        key = original_id(self.store.secret, caller.tenant, text)
        await self.store.put(caller.tenant, key, text)
        return key

    async def original(self, caller: Caller, key: str) -> str:
        """The text that `keep_original` stored.

        Raises
        ------
        ServiceError: 404, it is unknown, expired, or another tenant's.
        """
        text = await self.store.get(caller.tenant, key)
        if text is None:
            raise ServiceError(404, "unknown_original", "there is no such original, or it has expired")
        return text

    def _remembered(self, key: str) -> Outcome | None:
        if not self.cache.most_bytes:
            return None
        found: Outcome | None = self.cache.get(key)
        self.metrics.cache.labels("no" if found is None else "yes").inc()
        return found

    def _remember(self, key: str, outcome: Outcome) -> None:
        if key and outcome.fallback is None:
            self.cache.put(key, outcome, size_in_memory(outcome.result, len(outcome.units or ())))

    def _observe_stages(self, queued: float, worked: float) -> None:
        self.metrics.stage.labels("queue").observe(queued)
        self.metrics.stage.labels("compress").observe(worked)
        self.tracer.stage("queue", queued, ago=worked)
        self.tracer.stage("compress", worked)

    def _observe(self, outcome: Outcome, plan: Plan) -> None:
        stats, method = outcome.result.stats, self.catalogue.label(plan.method)
        self.metrics.tokens_in.labels(method).inc(stats.tokens_in)
        self.metrics.tokens_out.labels(method).inc(stats.tokens_out)
        self.metrics.keep.labels(method).observe(stats.keep)
        if outcome.fallback:
            self.metrics.fallbacks.labels(outcome.fallback).inc()
        told = {"method": method, "tokens_in": stats.tokens_in, "tokens_out": stats.tokens_out}
        log.info("compressed", extra={**told, "fallback": outcome.fallback})

    async def _purge(self) -> None:
        while True:
            await asyncio.sleep(PURGE_SECONDS)
            with contextlib.suppress(CtxcompError):  # whoever needs the store next is told
                await self.store.purge()


def original_id(secret: bytes, tenant: str, text: str) -> str:
    """24 hexadecimal digits that nobody without the secret can compute, other for each tenant."""
    message = tenant.encode() + b"\0" + text.encode("utf-8", "surrogatepass")
    return hmac.new(secret, message, hashlib.sha256).hexdigest()[:24]


def check_limits(request: Request, limits: Limits) -> None:
    """Refuse what is too large.

    Raises
    ------
    ServiceError: 413, names the limit and what was given.
    """
    given = (
        ("passages", len(request.passages), limits.passages),
        ("characters in passages", sum(len(p.text) for p in request.passages), limits.characters),
        ("characters in the query", len(request.query), limits.query_characters),
    )
    for what, n, allowed in given:
        if n > allowed:
            raise ServiceError(413, "too_large", f"at most {allowed:,} {what} are allowed, got {n:,}")


def untouched(request: Request, plan: Plan, reason: str) -> CompressedText:
    """The input as it came, over the budget if it is: the failure policy "input"."""
    began = time.perf_counter()
    texts = tuple(p.text for p in request.passages)
    text = str(getattr(plan.compressor, "separator", "\n\n")).join(t for t in texts if t)
    counter = resolve_counter(getattr(plan.compressor, "counter", None))
    n = counter.count(text)
    return CompressedText(
        text=text,
        spans=tuple(Span(i, 0, len(t)) for i, t in enumerate(texts) if t),
        passages=request.passages,
        passage_texts=texts,
        stats=Stats(n, n, time.perf_counter() - began, counter.name, plan.method, reason),
    )
