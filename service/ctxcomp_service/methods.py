"""The methods on offer: names, and the options that may come over the network."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctxcomp.compressor import Compressor
from ctxcomp.counting import is_cached, resolve_counter
from ctxcomp.errors import InputError, UnknownMethodError
from ctxcomp.fields import describe, field_types, nearest
from ctxcomp.registry import METHODS, Method, load, methods
from ctxcomp.types import CompressedText
from ctxcomp_service.settings import MethodSettings, Settings

SHARED_OPTIONS = (
    "unit", "allocate", "per_token", "min_score", "floor_tokens", "cap_tokens", "fill", "protect", "separator",
    "header", "elision",
)  # fmt: skip
OWN_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "truncate": ("side", "by_passage_score"),
    "random": ("seed",),
    "bm25": ("k1", "b", "passage_weight"),
    "embedding_select": ("similarity", "passage_weight", "retriever_weight", "position_weight"),
    "sentence_pruner": ("cross_passages",),
    "token_pruner": ("token_to_word", "force_tokens", "force_digits", "drop_consecutive"),
}
"""Options from the network. Nothing here names a file, a model or a device."""

# A regular expression from the network can keep a core busy for ever.
PROTECT_NAMES = frozenset({"digits", "quotes"})
TEXT_CHARACTERS = 200
LIST_ITEMS = 100
LARGEST_NUMBER = 1_000_000_000
STAGES = 4


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a method: its name, what it takes in words, and its default."""

    name: str
    takes: str
    default: Any


@dataclass(frozen=True, slots=True)
class Description:
    """An offered method, for those who choose."""

    summary: str
    options: list[Option]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request runs on. Requests with equal keys share a batch."""

    key: str
    method: str
    compressor: Compressor[CompressedText]


class Catalogue:
    """The methods that the settings offer.

    Raises
    ------
    InputError: the settings name a method or a field that is not there.
    """

    def __init__(self, settings: Settings) -> None:
        self.offered = dict(settings.methods) or {name: MethodSettings() for name in METHODS}
        self.default = settings.method
        own = {settings.generator.model: settings.generator.path} if settings.generator else {}
        self._counters = own | dict(settings.counters)
        self._make = functools.lru_cache(maxsize=256)(self._build)
        for name in self.offered:
            self.plan(name, {}, None)
        for counter in self._counters.values():
            resolve_counter(counter)
        wanted = [settings.method]
        for policy in (settings.defaults, *settings.keys):
            wanted += [policy.method or settings.method, *(policy.methods or ())]
        for name in wanted:
            self.plan(name, {}, None)

    def plan(self, method: str, options: Mapping[str, Any], model: str | None) -> Plan:
        """The compressor for a request; may load modules, so call it off the event loop.

        Parameters
        ----------
        method: an offered name, or several joined by "+".
        options: fields from the network.
        model: whose tokenizer counts; None for the default.

        Raises
        ------
        UnknownMethodError: there is no such method or option; it says which there are.
        InputError: an option does not take this value.
        """
        counter = self.counter(model)
        given = json.dumps(options, sort_keys=True, default=str)
        return self._make(method, given, counter)

    def _build(self, method: str, given: str, counter: str | None) -> Plan:
        names = method.split("+")
        if len(names) > STAGES:
            raise InputError(f"a chain has at most {STAGES} methods, got {len(names)}")
        options: dict[str, Any] = json.loads(given)
        for name in names:
            if name not in self.offered:
                raise UnknownMethodError(f"no method {name!r:.80}: {nearest(name[:80], self.offered)}")
        allowed = {o for name in names for o in self._allowed(name)} | ({"widen"} if len(names) > 1 else set())
        for key, value in options.items():
            field = key.rpartition("__")[2]
            if field not in allowed:
                raise UnknownMethodError(f"no option {key!r:.80}: {nearest(field[:80], allowed)}")
            _check_value(field, value)
        compressor = self._load(names, options, counter)
        return Plan(f"{method} {given} {counter}", method, compressor)

    def _load(self, names: list[str], options: dict[str, Any], counter: str | None) -> Compressor[CompressedText]:
        fields: dict[str, Any] = {}
        for name in names:
            own = self.offered[name].fields
            # Options of the operator are not the caller's to change.
            fields |= {(f"{name}__{key}" if len(names) > 1 else key): value for key, value in own.items()}
        if counter is not None:
            fields["counter"] = counter
        return load("+".join(self.offered[name].method or name for name in names), **{**options, **fields})

    def counter(self, model: str | None) -> str | None:
        """The tokenizer for a model's name, None for the default.

        Only names that the settings or OpenAI's models have: a name from the network never reaches the file system.
        """
        if model is None:
            return None
        if model in self._counters:
            return self._counters[model]
        return _known_encoding(model)

    def _allowed(self, name: str) -> tuple[str, ...]:
        offered = self.offered[name]
        if offered.options is not None:
            return tuple(o for o in offered.options if o not in offered.fields)
        parts = (offered.method or name).split("+")
        own = [option for part in parts for option in (*SHARED_OPTIONS, *OWN_OPTIONS.get(part, ()))]
        return tuple(o for o in dict.fromkeys(own) if o not in offered.fields)

    @functools.cached_property
    def described(self) -> dict[str, Description]:
        """What each offered method does, and what callers may set of it."""
        known = methods() if self.offered.keys() - METHODS.keys() else METHODS
        return {name: Description(self._summary(name, known), self._options(name, known)) for name in self.offered}

    def _options(self, name: str, known: Mapping[str, Method]) -> list[Option]:
        found = []
        for part in (self.offered[name].method or name).split("+"):
            cls = known[part].resolve()
            types = field_types(cls)
            defaults = {f.name: f.default for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
            found += [Option(o, _takes(o, types[o]), defaults[o]) for o in self._allowed(name) if o in types]
        return list({option.name: option for option in found}.values())

    def label(self, method: str) -> str:
        """The method's name for metrics: chains, which callers make up, are one."""
        return method if method in self.offered else "chain"

    def _summary(self, name: str, known: Mapping[str, Method]) -> str:
        return "; then ".join(known[part].summary for part in (self.offered[name].method or name).split("+"))


def _takes(option: str, kind: Any) -> str:
    return "a list of 'digits', 'quotes'" if option == "protect" else describe(kind)


def _check_value(field: str, value: Any) -> None:
    """Bound what an option may be: the methods check kinds, not what a stranger's number does to their arithmetic."""
    if field == "protect" and not (isinstance(value, list) and all(v in PROTECT_NAMES for v in map(str, value))):
        raise InputError("protect takes a list of 'digits' and 'quotes' here: regular expressions stay on the server")
    items = value if isinstance(value, list) else [value]
    if len(items) > LIST_ITEMS:
        raise InputError(f"{field} takes at most {LIST_ITEMS} items, got {len(items)}")
    for item in items:
        if isinstance(item, str) and len(item) > TEXT_CHARACTERS:
            raise InputError(f"{field} takes at most {TEXT_CHARACTERS} characters, got {len(item)}")
        if isinstance(item, str) and any("\ud800" <= c <= "\udfff" for c in item):
            raise InputError(f"{field} holds half of a surrogate pair, which has no UTF-8")
        if isinstance(item, (int, float)) and not abs(item) <= LARGEST_NUMBER:
            raise InputError(f"{field} takes numbers between -{LARGEST_NUMBER:,} and {LARGEST_NUMBER:,}")
        if not isinstance(item, (str, int, float, bool, type(None))):
            raise InputError(f"{field} takes a plain value or a list of them, got {type(item).__name__}")


@functools.lru_cache(maxsize=1024)
def _known_encoding(model: str) -> str | None:
    """Tiktoken's encoding for a name, if its vocabulary is on disk: requests never cause a download."""
    import tiktoken

    if model in ("minilm", "minilm-wordpiece"):
        return "minilm"
    try:
        encoding = model if model in tiktoken.list_encoding_names() else tiktoken.encoding_name_for_model(model)
    except KeyError:
        return None
    return encoding if is_cached(encoding) else None
