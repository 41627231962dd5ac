"""`compress_context`: around any function that calls an LLM, shortens the context among its arguments."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from ctxcomp.errors import InputError
from ctxcomp.fields import nearest
from ctxcomp.integrations.calls import Arguments, BudgetLike, Text, Way, as_budget
from ctxcomp.messages.locate import MIN_CHARACTERS, Finder
from ctxcomp.types import Budget, CompressedText

P = ParamSpec("P")
R = TypeVar("R")
Hook = Callable[[CompressedText], Any]

BUDGET_KEYWORD = "ctxcomp_budget"
BYPASS_KEYWORD = "ctxcomp_bypass"
_QUERY_NAMES = ("query", "question")


class Decorator(Protocol):
    """What `compress_context` returns: gives back a function of the same type."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]:
        """The function with a shorter context."""


def compress_context(
    *,
    keep: float | None = None,
    tokens: int | None = None,
    context: str | None = None,
    messages: str | None = None,
    query: str | Callable[[Arguments], str] | None = None,
    find: Finder | None = None,
    roles: Sequence[str] = ("user", "tool", "function"),
    min_characters: int = MIN_CHARACTERS,
    elision: str | None = None,
    compressor: Text | str | None = None,
    on_compressed: Hook | None = None,
) -> Decorator:
    """Shorten the context of each call of a function: sync, async, a generator or an async generator, or a method.

    The decorated function takes two more keywords: ``ctxcomp_budget=`` (a `Budget`, a number of tokens or a share to
    keep) for one call, and ``ctxcomp_bypass=True`` to leave one call as it is. A function that has these parameters
    itself, to please a type checker, gets them too.

    Parameters
    ----------
    keep, tokens: the budget, exactly one of them: the share of the context's tokens, in (0, 1], or their number.
    context: the parameter that holds the context: a str, or a list or tuple of str, `Passage`, LangChain documents or
        mappings with a ``text``. The function gets the same kind, without the passages of which nothing is left.
    messages: the parameter that holds chat messages (OpenAI's, LangChain's, or a str with the whole prompt), in which
        the context is looked for, see `ctxcomp.messages`. With ``context``, they are only asked for the query.
        Without either, the parameter named "messages".
    query: the parameter that holds the question, or a callable of the arguments by name. None takes the last user
        message, or with ``context`` the parameter "query" or "question".
    find: instead of looking for context, see `ctxcomp.messages.locate`: takes a message, returns its pieces that are.
    roles, min_characters: see `ctxcomp.messages.locate`.
    elision: stands where passages of messages went away; None leaves nothing.
    compressor: as `ctxcomp.load` gives, or a name for it. It is loaded at the first call, never earlier.
    on_compressed: called with each `CompressedText` before the function is; awaited if it is async.

    Raises
    ------
    InputError: when it is applied: the function has no such parameter, or the hook does not go with it.
    BudgetError: not exactly one of ``keep`` and ``tokens``, or out of range.
    """
    budget = Budget(tokens=tokens, keep=keep)
    if context is not None and (find is not None or elision is not None):
        raise InputError("find and elision are for messages: leave them out with context")
    options = {"roles": tuple(roles), "min_characters": min_characters, "find": find, "elision": elision}

    def decorate(function: Callable[P, R], /) -> Callable[P, R]:
        if isinstance(function, (staticmethod, classmethod)):
            return cast("Callable[P, R]", type(function)(decorate(function.__func__)))
        way = _way(function, context, messages, query, compressor, options)
        return cast("Callable[P, R]", _wrapped(function, _Calls(function, way, budget, on_compressed)))

    return decorate


class _Calls:
    """What happens between a caller and a function."""

    def __init__(self, function: Callable[..., Any], way: Way, budget: Budget, hook: Hook | None) -> None:
        self.function, self.way, self.budget, self.hook = function, way, budget, hook
        self.signature = inspect.signature(function)
        self.own_keywords = {BUDGET_KEYWORD, BYPASS_KEYWORD} & set(self.signature.parameters)

    def prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[CompressedText]]:
        """The arguments for the function, and what the compressor gave."""
        given = {name: kwargs.get(name) for name in (BUDGET_KEYWORD, BYPASS_KEYWORD)}
        kwargs = {name: value for name, value in kwargs.items() if name not in given or name in self.own_keywords}
        budget = self.budget if given[BUDGET_KEYWORD] is None else as_budget(cast("BudgetLike", given[BUDGET_KEYWORD]))
        if given[BYPASS_KEYWORD]:
            return args, kwargs, []
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:
            return args, kwargs, []  # the function says it better when it is called
        arguments = _by_name(bound)
        name = self.way.name
        if name not in arguments and name not in self.signature.parameters:
            raise InputError(
                f"{_name(self.function)} was called without {name!r}, which compress_context is to shorten"
            )
        shorter = self.way.shortened(arguments, budget)
        if shorter is None:
            return args, kwargs, []
        name, value, results = shorter
        if name in bound.arguments:
            bound.arguments[name] = value
        else:
            rest = _rest(self.signature)
            bound.arguments[rest] = {**bound.arguments[rest], name: value}
        return bound.args, bound.kwargs, results

    def sync(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Compress, and tell the hook."""
        args, kwargs, results = self.prepare(args, kwargs)
        for result in results if self.hook else ():
            self.hook(result)  # type: ignore[misc]
        return args, kwargs

    async def asynchronous(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Compress in a thread, so that the event loop goes on, and tell the hook."""
        import asyncio  # slow to import, and only async callers need it

        args, kwargs, results = await asyncio.to_thread(self.prepare, args, kwargs)
        for result in results if self.hook else ():
            told = self.hook(result)  # type: ignore[misc]
            if inspect.isawaitable(told):
                await told
        return args, kwargs


def _wrapped(function: Callable[..., Any], calls: _Calls) -> Callable[..., Any]:
    """The wrapper of the function's own kind."""
    inner = inspect.unwrap(function)  # clients wrap their async methods in plain functions
    if inspect.isasyncgenfunction(inner):
        make = _async_generator
    elif inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(function).__call__):
        make = _async
    elif inspect.iscoroutinefunction(calls.hook):
        raise InputError(f"on_compressed is async and {_name(function)} is not: give a plain function")
    else:
        make = _generator if inspect.isgeneratorfunction(inner) else _sync
    return functools.wraps(function)(make(function, calls))


def _sync(function: Callable[..., Any], calls: _Calls) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = calls.sync(args, kwargs)
        return function(*args, **kwargs)

    return wrapper


def _generator(function: Callable[..., Any], calls: _Calls) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        args, kwargs = calls.sync(args, kwargs)
        return (yield from function(*args, **kwargs))

    return wrapper


def _async(function: Callable[..., Any], calls: _Calls) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = await calls.asynchronous(args, kwargs)
        return await function(*args, **kwargs)

    return wrapper


def _async_generator(function: Callable[..., Any], calls: _Calls) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        args, kwargs = await calls.asynchronous(args, kwargs)
        async with contextlib.aclosing(function(*args, **kwargs)) as inner:
            step = anext(inner)
            while True:
                try:
                    item = await step
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001  # what the consumer throws in is the inner one's to handle
                    step = inner.athrow(error)
                else:
                    step = inner.asend(sent)

    return wrapper


def _way(
    function: Callable[..., Any],
    context: str | None,
    messages: str | None,
    query: str | Callable[[Arguments], str] | None,
    compressor: Text | str | None,
    options: Mapping[str, Any],
) -> Way:
    """The way for a function, with every name checked."""
    if not callable(function):
        raise InputError(f"compress_context goes around a function, got {type(function).__name__}")
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise InputError(f"{_name(function)} does not tell its parameters: wrap it in a function that does") from error
    if context is None and messages is None:
        messages = "messages"
    if context is not None and query is None and messages is None:
        query = next((name for name in _QUERY_NAMES if name in parameters), None)
        if query is None:
            raise InputError(f"{_name(function)}: say with query= which of {_listed(parameters)} holds the question")
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for role, name in (("context", context), ("messages", messages), ("query", query)):
        if isinstance(name, str) and not open_ended and not _is_named(parameters.get(name)):
            known = [one for one, parameter in parameters.items() if _is_named(parameter)]
            hint = nearest(name, known) if known else "it has none"
            raise InputError(f"{role}={name!r}: {_name(function)} has no parameter of that name: {hint}")
    return Way(context, messages, query, compressor, options)


def _is_named(parameter: inspect.Parameter | None) -> bool:
    return parameter is not None and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments that were given, those of ``**kwargs`` among them."""
    rest = _rest(bound.signature)
    return {**{n: value for n, value in bound.arguments.items() if n != rest}, **bound.arguments.get(rest, {})}


def _rest(signature: inspect.Signature) -> str:
    """The name of the parameter ``**kwargs``, "" if there is none."""
    return next((name for name, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD), "")


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "no parameters"


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
