"""Messages in, messages with less context out: `plan`, then a compressor, then `apply`; or all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ctxcomp.compressor import Compressor
from ctxcomp.counting import CounterLike
from ctxcomp.errors import InputError
from ctxcomp.messages.apply import apply
from ctxcomp.messages.locate import locate
from ctxcomp.messages.types import CompressedMessages, Located
from ctxcomp.types import Budget, CompressedText, Request


def plan(
    messages: Sequence[Mapping[str, Any]],
    budget: Budget,
    *,
    query: str | None = None,
    located: Located | None = None,
    **options: Any,
) -> tuple[Located, list[Request]]:
    """What to compress: one request with the passages of all places, so that they share the budget.

    Parameters
    ----------
    messages: OpenAI's shape; not modified.
    budget: for the passages' own text; tags, numbers and whatever stands around them are not counted in it.
    query: see `locate`.
    located: the context if it was found already; None looks for it.
    options: what else `locate` takes.

    Returns
    -------
    What was found, and no request where there is no context.
    """
    if located is None:
        located = locate(messages, query=query, **options)
    elif options or query is not None:
        raise InputError("give either located or what locate() takes, not both")
    return located, [Request(located.query, located.passages, budget)] if located.passages else []


def tighter(requests: Sequence[Request], done: CompressedMessages) -> list[Request]:
    """The requests to run again because the passages, counted where they stand, are over their budget.

    Tokens do not add up across the seams of a text, and JSON escapes cost tokens of their own: seldom, and by little.
    Returns no request where the budget holds, as it nearly always does.
    """
    if not requests:
        return []
    allowed = sum(r.budget.resolve(c.stats.tokens_in) for r, c in zip(requests, done.results, strict=True))
    spent = sum(c.stats.tokens_out for c in done.results)
    if done.tokens_context <= allowed or not spent:
        return []
    fitting = [int(c.stats.tokens_out * allowed / done.tokens_context) for c in done.results]
    return [
        replace(r, budget=Budget(tokens=max(0, min(fit, c.stats.tokens_out - 1))))
        for r, c, fit in zip(requests, done.results, fitting, strict=True)
    ]


def compress_messages(
    messages: Sequence[Mapping[str, Any]],
    compressor: Compressor[CompressedText],
    budget: Budget,
    *,
    query: str | None = None,
    located: Located | None = None,
    counter: CounterLike = None,
    elision: str | None = None,
    **options: Any,
) -> CompressedMessages:
    """Shorten the context in chat messages and leave everything else to the character.

    Parameters
    ----------
    messages: OpenAI's shape; not modified. Messages without context come back with the same content.
    compressor: as `ctxcomp.load` gives.
    budget: for the passages' own text, all places together; tags, numbers and what stands around them is not counted.
    query, located, options: see `plan`.
    counter: counts; None is the compressor's own counter.
    elision: see `apply`.

    Raises
    ------
    InputError: an argument is of the wrong kind.
    BudgetError: text that must be kept does not fit into the budget.
    """
    counter = getattr(compressor, "counter", None) if counter is None else counter
    located, requests = plan(messages, budget, query=query, located=located, **options)
    done = apply(messages, located, [], counter=counter)
    first = requests
    while requests:
        done = apply(messages, located, compressor.compress_batch(requests), counter=counter, elision=elision)
        requests = tighter(first, done)
    return done
