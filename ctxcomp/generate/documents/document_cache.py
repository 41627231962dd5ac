"""Retrieved documents read once, kept as compressed key-value caches on disk, and put together for every question."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ctxcomp.errors import CacheError, InputError
from ctxcomp.generate.cache import Codec, KVPolicy
from ctxcomp.generate.cache.policy import as_policy
from ctxcomp.generate.documents import fingerprint, store
from ctxcomp.generate.documents.reader import Layer, Reader
from ctxcomp.generate.documents.record import Record
from ctxcomp.generate.generator import Generator
from ctxcomp.generate.prompts import context_text, messages_for
from ctxcomp.generate.results import Generated
from ctxcomp.generate.sampling import Sampling
from ctxcomp.progress import tracked
from ctxcomp.types import Passage

GAP = "\n\n"
"""What stands behind every document in the prompt."""
PLACE = "the documents stand here"
log = logging.getLogger(__name__)


class DocumentCache:
    """Answers over documents whose keys and values lie on disk: before the first token only the question is read.

    Each document is read by itself, behind the beginning of the prompt; its keys are stored without positions and
    turned to where the document stands. So documents do not see each other, as in Block-Attention (Sun et al., 2024)
    and in CacheBlend (Yao et al., 2024) without its recomputation: exact for one document, an approximation for more.

    Parameters
    ----------
    generator: the local generator; its own ``kv`` policy holds what is put together, and must not evict.
    folder: where the files lie, one for each document; any number of processes may share it.
    policy: how a document is stored, such as "kivi4" or "expected_attention(keep=0.5)+kivi4"; "none" keeps all.
    instruction: the system message of every question.

    Raises
    ------
    ModelError: the model's positions are not rotary, or a layer does not see the whole context.
    InputError: a policy cannot be used here.
    """

    def __init__(
        self, generator: Generator, folder: str | Path, policy: str | KVPolicy = "kivi8", *, instruction: str = ""
    ) -> None:
        self.generator, self.folder, self.instruction = generator, Path(folder), instruction
        stored = as_policy(policy)
        if not isinstance(stored.codec, Codec) or stored.codec.observes:
            raise InputError(f"{policy!r} cannot store documents: use none, int8, int4 or kivi8, kivi4, kivi2")
        if generator.kv is not None and as_policy(generator.kv).observes:
            raise InputError(f"the generator's {generator.kv!r} weighs tokens: let the documents' policy evict instead")
        self.codec = stored.codec
        self._reader = Reader(generator.model, stored.evictor)
        self._before = generator.prompts.encode(self._frame("")[0])
        self._bound = {
            "model": fingerprint.of_model(generator.model),
            "tokenizer": fingerprint.of_tokenizer(generator.tokenizer),
            "policy": repr(stored),
            "before": json.dumps(self._before),
        }
        self._start = self._reader.read([], self._before, evict=False) if self._before else []

    def add(self, passages: Sequence[Passage]) -> int:
        """Read and store the passages that are not stored yet; returns how many those were.

        Raises
        ------
        CacheError: the folder cannot be written.
        """
        missing = [passage for passage in passages if not self.path(passage).is_file()]
        for passage in tracked(missing):
            self._make(passage)
        return len(missing)

    def path(self, passage: Passage) -> Path:
        """The file of a passage; its name depends on the text and on all that made it."""
        facts = json.dumps(self._facts(passage), sort_keys=True)
        return self.folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:40]}.safetensors"

    def record(self, passage: Passage) -> Record:
        """A passage's stored cache; made if it is missing, made again with a warning if its file is damaged."""
        path = self.path(passage)
        if path.is_file():
            try:
                return Record.of_facts(*store.read(path, self._facts(passage)))
            except CacheError as error:
                log.warning("%s; it is made again", error)
        return self._make(passage)

    def generate(self, query: str, passages: Sequence[Passage], **sampling: Any) -> Generated:
        """Answer a question over passages, in this order; ``sampling`` and errors as for ``Generator.generate``."""
        options = Sampling.of(sampling)
        ids, layers = self._join([self.record(passage) for passage in passages])
        after = self._frame(query)[1].removeprefix(GAP if passages else "")
        cache = self.generator.new_cache()
        for i, (keys, values) in enumerate(layers):
            cache.update(keys, values, i)
        return self.generator.complete([[*ids, *self.generator.prompts.encode(after)]], options, cache=cache)[0]

    def _join(self, records: Sequence[Record]) -> tuple[list[int], list[Layer]]:
        """Token ids and, at their positions, keys and values of the prompt up to the question."""
        parts, ids = [self._start] if self._start else [], list(self._before)
        for record in records:
            layers = record.decode(self.codec, self.generator.model.device)
            parts.append(self._reader.turn(layers, len(ids)))
            ids += record.ids
        joined = [
            tuple(torch.cat(states, 2) for states in zip(*layer, strict=True)) for layer in zip(*parts, strict=True)
        ]
        return ids, [(keys, values) for keys, values in joined]

    def _make(self, passage: Passage) -> Record:
        prompts = self.generator.prompts
        ids = prompts.text_tokens(context_text([passage]) + GAP)
        record = Record.encode(self._reader.read(self._before, ids), ids, self.codec)
        store.write(self.path(passage), record.tensors, {**self._facts(passage), **record.facts()})
        return record

    def _facts(self, passage: Passage) -> dict[str, str]:
        text = context_text([passage]).encode("utf-8", "surrogatepass")
        return {**self._bound, "text": hashlib.sha256(text).hexdigest()}

    def _frame(self, query: str) -> tuple[str, str]:
        """The prompt before and after the documents."""
        rendered = self.generator.prompts.render(messages_for(query, PLACE, self.instruction))
        before, _, after = rendered.partition(PLACE)
        return before, after
