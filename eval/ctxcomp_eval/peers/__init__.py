"""Other people's compressors, run as their users run them. A new peer is one file here and one line in `PEERS`."""

from __future__ import annotations

import importlib
from typing import Any

from ctxcomp.compressor import Compressor
from ctxcomp.errors import UnknownMethodError
from ctxcomp.fields import field_types, nearest
from ctxcomp.types import CompressedText

PEERS: dict[str, str] = {
    "llmlingua": "ctxcomp_eval.peers.llmlingua_peer:Llmlingua",
    "langchain_embeddings_filter": "ctxcomp_eval.peers.langchain_peer:LangchainEmbeddingsFilter",
    "headroom": "ctxcomp_eval.peers.headroom_peer:Headroom",
    "sentence_embeddings": "ctxcomp_eval.peers.embeddings_peer:SentenceEmbeddings",
}
"""Peer name -> where its class lives, as ``module:Class``."""


def load_peer(name: str, /, **fields: Any) -> Compressor[CompressedText]:
    """A peer by name; what it needs is looked for when it first compresses.

    Parameters
    ----------
    name: one of `PEERS`.
    fields: its configuration.

    Raises
    ------
    UnknownMethodError: no such peer or field; the message has the nearest name.
    InputError: a field does not take this value.
    """
    if name not in PEERS:
        raise UnknownMethodError(f"no peer {name!r}: {nearest(name, PEERS)}")
    module, _, cls = PEERS[name].partition(":")
    peer: type[Compressor[CompressedText]] = getattr(importlib.import_module(module), cls)
    known = field_types(peer)
    for field in fields:
        if field not in known:
            raise UnknownMethodError(f"peer {name} has no field {field!r}: {nearest(field, known)}")
    return peer(**fields)
