"""Names of methods, and `load`. A new method is one line in `METHODS`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctxcomp.errors import InputError, MissingDependencyError, UnknownMethodError
from ctxcomp.fields import field_types, nearest

if TYPE_CHECKING:
    from ctxcomp.compressor import Compressor

DEFAULT_METHOD = "sentence_pruner"
PLUGIN_GROUP = "ctxcomp.methods"


@dataclass(frozen=True, slots=True)
class Method:
    """Where a method lives, as ``module:Class``, and what it does in one line.

    ``gives_text`` is whether the result is text, which every model reads.
    """

    target: str
    summary: str
    gives_text: bool = True

    def resolve(self) -> type[Compressor[Any]]:
        """The class; imports its module.

        Raises
        ------
        MissingDependencyError: the module or the class cannot be imported.
        """
        module, _, name = self.target.partition(":")
        try:
            found: type[Compressor[Any]] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise MissingDependencyError(f"{self.target} cannot be imported ({error}): install it again") from error
        return found


METHODS: dict[str, Method] = {
    "truncate": Method("ctxcomp.text.truncate:Truncate", "the beginning, the end or both: the null baseline"),
    "random": Method("ctxcomp.text.random:Random", "sentences at random, seeded: the honest baseline"),
    "bm25": Method("ctxcomp.text.bm25:Bm25", "sentences that share the query's rare words"),
    "embedding_select": Method(
        "ctxcomp.text.embedding_select:EmbeddingSelect",
        "sentences whose embedding is close to the query's (RECOMP extractive)",
    ),
    "sentence_pruner": Method(
        "ctxcomp.text.sentence_pruner:SentencePruner",
        "sentences that a cross-encoder, embeddings and words find needed (Provence-like); the default",
    ),
    "token_pruner": Method(
        "ctxcomp.text.token_pruner:TokenPruner",
        "drops words a token classifier finds dispensable, whatever the query (LLMLingua-2)",
    ),
    "semantic_drop": Method(
        "ctxcomp.text.semantic_drop:SemanticDrop",
        "drops words whose removal moves the sentence embedding least (TCRA-style)",
    ),
    "summarize": Method(
        "ctxcomp.text.summarize:Summarize",
        "one text for all passages: extraction, a T5 checkpoint or a chat model, checked for inventions (RECOMP, TCRA)",
    ),
    "chunk_rewrite": Method(
        "ctxcomp.text.chunk_rewrite:ChunkRewrite",
        "chunks by meaning, each with a keep of its own; names, numbers and key terms put back (SCOPE-style)",
    ),
    "demonstrations": Method(
        "ctxcomp.text.demonstrations:Demonstrations",
        "few-shot examples for a query, by similarity and coverage, their inputs shortened (UniICL's idea)",
    ),
    "sheets": Method(
        "ctxcomp.tables.sheets:Sheets",
        "spreadsheets and tables as tables: headers, borders and the rows asked for (SheetCompressor)",
    ),
}

LATENT_METHODS: dict[str, Method] = {
    "projector": Method(
        "ctxcomp.latent.projector:Projector",
        "one token a passage for a local generator, from the retriever's vector (xRAG)",
        gives_text=False,
    ),
    "memory_slots": Method(
        "ctxcomp.latent.memory_slots:MemorySlots",
        "a few tokens a passage for a local generator, from a small model (C3-like)",
        gives_text=False,
    ),
    "ladder": Method(
        "ctxcomp.latent.ladder:Ladder",
        "passages in full, pruned, or as single vectors, as budget and worth allow, for a local generator",
        gives_text=False,
    ),
}
"""Methods whose results only a local generator reads: they need one, so what offers every method leaves them out."""


def methods() -> dict[str, Method]:
    """All methods by name: the built-in ones, and plug-ins from the entry-point group ``ctxcomp.methods``."""
    from importlib.metadata import entry_points  # slow to import and to search: only where plug-ins matter

    plugins = {
        e.name: Method(e.value, f"plug-in of {e.dist.name if e.dist else e.module}")
        for e in entry_points(group=PLUGIN_GROUP)
    }
    return plugins | METHODS | LATENT_METHODS


def load(name: str = DEFAULT_METHOD, /, **fields: Any) -> Compressor[Any]:
    """A compressor by name; its results are ``CompressedText`` unless it is one of ``LATENT_METHODS``.

    Parameters
    ----------
    name: a method, or several joined by "+": a `Chain` from coarse to fine, as in ``"bm25+token_pruner"``.
    fields: the method's configuration. In a chain a field goes to every stage that has it, and
        ``stage__field`` to the stages of that name; ``widen`` is the chain's own.

    Raises
    ------
    UnknownMethodError: no such method or field; the message has the nearest name.
    InputError: a field does not take this value.
    """
    if not isinstance(name, str):
        raise InputError(f"load() takes the name of a method, got {type(name).__name__}")
    names = name.split("+")
    known = METHODS if all(one in METHODS for one in names) else methods()
    for one in names:
        if one not in known:
            raise UnknownMethodError(f"no method {one!r}: {nearest(one, known)}")
    vectors = [one for one in names if not known[one].gives_text]
    if vectors and len(names) > 1:
        raise InputError(f"{vectors[0]} gives vectors, not text, and cannot be a stage of a Chain: 'ladder' joins both")
    classes = [known[one].resolve() for one in names]
    own = {"widen": fields.pop("widen")} if len(names) > 1 and "widen" in fields else {}
    settings = _settings(names, [field_types(cls) for cls in classes], fields)
    stages = tuple(cls(**given) for cls, given in zip(classes, settings, strict=True))
    if len(stages) == 1:
        return stages[0]
    from ctxcomp.compose import Chain

    return Chain(stages=stages, **own)


def _settings(names: list[str], takes: list[dict[str, Any]], fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The fields of each stage."""
    settings: list[dict[str, Any]] = [{} for _ in names]
    for key, value in fields.items():
        stage, _, field = key.rpartition("__")
        mine = [i for i, one in enumerate(names) if stage in ("", one)]
        if not mine:
            raise UnknownMethodError(f"{key!r}: {'+'.join(names)} has no stage {stage!r}")
        targets = [i for i in mine if field in takes[i]]
        if not targets:
            known = {"widen" for _ in names[1:]}.union(*(takes[i] for i in mine))
            raise UnknownMethodError(f"{stage or '+'.join(names)} has no field {field!r}: {nearest(field, known)}")
        for i in targets:
            settings[i][field] = value
    return settings
