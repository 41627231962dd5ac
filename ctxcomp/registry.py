"""Names of methods, and `load`. A new method is one line in `METHODS`."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ctxcomp.errors import UnknownMethodError
from ctxcomp.fields import field_types, known_fields

if TYPE_CHECKING:
    from ctxcomp.compressor import Compressor
    from ctxcomp.types import CompressedText

DEFAULT_METHOD = "embedding_select"
PLUGIN_GROUP = "ctxcomp.methods"


@dataclass(frozen=True, slots=True)
class Method:
    """Where a method lives, as ``module:Class``, and what it does in one line."""

    target: str
    summary: str

    def resolve(self) -> type[Compressor[CompressedText]]:
        """The class; imports its module."""
        module, _, name = self.target.partition(":")
        found: type[Compressor[CompressedText]] = getattr(importlib.import_module(module), name)
        return found


METHODS: dict[str, Method] = {
    "truncate": Method("ctxcomp.text.truncate:Truncate", "the beginning, the end or both: the null baseline"),
    "random": Method("ctxcomp.text.random:Random", "sentences at random, seeded: the honest baseline"),
    "bm25": Method("ctxcomp.text.bm25:Bm25", "sentences that share the query's rare words"),
    "embedding_select": Method(
        "ctxcomp.text.embedding_select:EmbeddingSelect",
        "sentences whose embedding is close to the query's (RECOMP extractive); the default",
    ),
    "token_pruner": Method(
        "ctxcomp.text.token_pruner:TokenPruner",
        "drops words a token classifier finds dispensable, whatever the query (LLMLingua-2)",
    ),
}


def methods() -> dict[str, Method]:
    """All methods by name: the built-in ones, and plug-ins from the entry-point group ``ctxcomp.methods``."""
    plugins = {
        e.name: Method(e.value, f"plug-in of {e.dist.name if e.dist else e.module}")
        for e in entry_points(group=PLUGIN_GROUP)
    }
    return plugins | METHODS


def load(name: str = DEFAULT_METHOD, **fields: Any) -> Compressor[CompressedText]:
    """A compressor by name.

    Parameters
    ----------
    name: a method, or several joined by "+": a `Chain` from coarse to fine, as in ``"bm25+token_pruner"``.
    fields: the method's configuration. In a chain a field goes to every stage that has it, and
        ``stage__field`` to the one stage; ``widen`` is the chain's own.

    Raises
    ------
    UnknownMethodError: no such method or field; the message has the nearest name.
    InputError: a field does not take this value.
    """
    names = name.split("+")
    known = methods()
    for one in names:
        if one not in known:
            near = difflib.get_close_matches(one, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise UnknownMethodError(f"no method {one!r}: {hint}")
    classes = [known[one].resolve() for one in names]
    if len(names) == 1:
        known_fields(classes[0], fields, name)
        return classes[0](**fields)
    return _chain(names, classes, fields)


def _chain(
    names: list[str], classes: list[type[Compressor[CompressedText]]], fields: dict[str, Any]
) -> Compressor[CompressedText]:
    from ctxcomp.compose import Chain

    settings: list[dict[str, Any]] = [{} for _ in names]
    own = {"widen": fields.pop("widen")} if "widen" in fields else {}
    for key, value in fields.items():
        stage, _, field = key.rpartition("__")
        targets = [
            i
            for i, cls in enumerate(classes)
            if (not stage or names[i] == stage) and (field in field_types(cls) or stage)
        ]
        if not targets:
            raise UnknownMethodError(f"no stage of {'+'.join(names)} takes {key!r}")
        for i in targets:
            settings[i][field] = value
    for one, cls, chosen in zip(names, classes, settings, strict=True):
        known_fields(cls, chosen, one)
    return Chain(stages=tuple(cls(**s) for cls, s in zip(classes, settings, strict=True)), **own)
