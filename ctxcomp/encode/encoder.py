"""The encoder that compressors see: texts or token ids in, states, logits, vectors or keep probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode.batching import pad, plan
from ctxcomp.encode.tokens import Tokens, part_of_tokens, tokenize
from ctxcomp.encode.windows import owners, windows
from ctxcomp.errors import InputError
from ctxcomp.loading import Pooling
from ctxcomp.progress import tracked

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class Backend(Protocol):
    """What runs one padded batch."""

    def run(self, ids: Ids, lengths: Ids, output: str) -> Floats:
        """``output`` is "hidden", "mean", "cls" or "logits"."""
        ...


@dataclass(frozen=True, eq=False)
class Encoder:
    """A loaded encoder; make one with ``load_encoder``.

    Parameters
    ----------
    name: the model as it was asked for.
    tokenizer: without truncation or padding.
    hidden_size: width of a token state.
    max_tokens: positions of the model, with the two specials.
    window: positions that ``embed`` uses by default: what the checkpoint was trained with, at most ``max_tokens``.
    num_labels: outputs of the token-classification head, 0 without one.
    weights_hash: sha256 over config, weights and head file: the key for anything derived from them.
    runtime: "onnx" or "torch".
    dtype, device: what it runs in and on.
    pooling: how token states become a vector.
    batch_tokens: padded tokens per forward pass, at most; bounds peak memory.
    labels: names of the head's outputs, where its file tells them.
    independent: whether each output is a probability of its own, by a sigmoid, or one of a softmax over all.
    """

    name: str
    tokenizer: Tokenizer = field(repr=False)
    hidden_size: int
    max_tokens: int
    window: int
    num_labels: int
    weights_hash: str
    cls_id: int
    sep_id: int
    pad_id: int
    runtime: str
    dtype: str
    device: str
    pooling: Pooling
    batch_tokens: int
    backend: Backend = field(repr=False)
    labels: tuple[str, ...] = ()
    independent: bool = False

    def label_of(self, *names: str) -> int:
        """The output that the head's file calls by the first of these names that it knows; 1 where it knows none."""
        return next((self.labels.index(name) for name in names if name in self.labels), 1)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids and character offsets of whole texts, without specials."""
        return tokenize(self.tokenizer, texts)

    def hidden(self, sequences: Sequence[Ids]) -> list[Floats]:
        """Token states float32 ``[n, hidden]`` of id sequences that include their specials, in input order.

        Raises
        ------
        InputError: a sequence is empty, too long or holds an id outside the vocabulary.
        """
        return self._run(sequences, "hidden")

    def token_logits(self, sequences: Sequence[Ids]) -> list[Floats]:
        """Logits float32 ``[n, labels]`` of id sequences that include their specials, in input order.

        Raises
        ------
        InputError: as for ``hidden``, or the encoder was loaded without a head.
        """
        if not self.num_labels:
            raise InputError(f"{self.name!r} was loaded without a head: load it with head='token' or a head file")
        return self._run(sequences, "logits")

    def embed(
        self, texts: Sequence[str], *, normalize: bool = True, max_tokens: int | None = None, overlap: int = 32
    ) -> Floats:
        """One vector per text, float32 ``[texts, hidden]``; nothing is truncated.

        A text longer than the window is encoded in overlapping windows, and their vectors averaged, weighted by
        their tokens. An empty text is its two specials.

        Parameters
        ----------
        normalize: scale to length 1.
        max_tokens: window in tokens with specials, in [3, ``self.max_tokens``]; None for ``self.window``.
        overlap: tokens that neighbouring windows share, at least; cut to half a window.
        """
        size = self._window(self.window if max_tokens is None else max_tokens)
        tokens = self.tokenize(texts)
        spans = [windows(len(t), size, min(overlap, size // 2)) for t in tokens]
        sequences = [self.with_specials(t.ids[a:b]) for t, cut in zip(tokens, spans, strict=True) for a, b in cut]
        pooled = self._run(sequences, self.pooling)
        vectors = np.zeros((len(texts), self.hidden_size), dtype=np.float32)
        start = 0
        for row, cut in enumerate(spans):
            weights = np.array([max(1, b - a) for a, b in cut], dtype=np.float32)
            vectors[row] = weights @ np.stack(pooled[start : start + len(cut)]) / weights.sum()
            start += len(cut)
        return _unit_length(vectors) if normalize else vectors

    def embed_parts(
        self, texts: Sequence[str], parts: Sequence[NDArray[np.int64]], *, overlap: int = 32
    ) -> tuple[Floats, list[Floats]]:
        """Vectors of texts and of parts of them from one pass: each the mean of its tokens' states, of length 1.

        A part's vector knows the text around it (late chunking, Günther et al. 2024). A token in two windows has the
        states of the one with more context; a part without tokens has the vector of its text.

        Parameters
        ----------
        parts: per text int64 ``[k, 2]``, half-open character ranges in ascending order that do not overlap.
        overlap: tokens that neighbouring windows share, at least; cut to half a window.

        Returns
        -------
        float32 ``[texts, hidden]``, and per text float32 ``[k, hidden]``.
        """
        size = self._window(self.window)
        tokens = self.tokenize(texts)
        spans = [windows(len(t), size, min(overlap, size // 2)) for t in tokens]
        sequences = [self.with_specials(t.ids[a:b]) for t, cut in zip(tokens, spans, strict=True) for a, b in cut]
        states = iter(self._run(sequences, "hidden"))
        whole = np.empty((len(texts), self.hidden_size), dtype=np.float32)
        pieces = []
        for row, (t, cut, ranges) in enumerate(zip(tokens, spans, parts, strict=True)):
            owner = owners(len(t), cut)
            own = [next(states)[1:-1][owner[a:b] == i] for i, (a, b) in enumerate(cut)]
            tokens_of = np.concatenate(own)
            whole[row] = tokens_of.mean(axis=0) if len(tokens_of) else 0
            part = part_of_tokens(ranges[:, 0], ranges[:, 1], t.offsets)
            found = np.tile(whole[row], (len(ranges), 1))
            held = np.unique(part[part >= 0])
            order = np.flatnonzero(part >= 0)
            if len(held):
                firsts = np.searchsorted(part[order], held)
                sizes = np.diff(np.append(firsts, len(order)))[:, None]
                found[held] = np.add.reduceat(tokens_of[order], firsts) / sizes
            pieces.append(_unit_length(found))
        return _unit_length(whole), pieces

    def keep_probs(
        self, texts: Sequence[str], *, label: int = 1, max_tokens: int | None = None, overlap: int = 64
    ) -> list[tuple[Ids, Floats]]:
        """The probability of ``label`` for every token of every text; nothing is truncated.

        Long texts run in overlapping windows; where two overlap, a token's value comes from the window in which it
        has more context on its shorter side.

        Parameters
        ----------
        label: which output means "keep"; a head with one output is a sigmoid and needs no label.
        max_tokens: window in tokens with specials; None for ``self.max_tokens``.
        overlap: tokens that neighbouring windows share, at least; cut to half a window.

        Returns
        -------
        Per text: offsets int64 ``[n, 2]`` and probabilities float32 ``[n]``.
        """
        if self.num_labels > 1 and not 0 <= label < self.num_labels:
            raise InputError(f"label must be in [0, {self.num_labels}), got {label}")
        size = self._window(self.max_tokens if max_tokens is None else max_tokens)
        tokens = self.tokenize(texts)
        spans = [windows(len(t), size, min(overlap, size // 2)) if len(t) else [] for t in tokens]
        sequences = [self.with_specials(t.ids[a:b]) for t, cut in zip(tokens, spans, strict=True) for a, b in cut]
        logits = iter(self.token_logits(sequences))
        results = []
        for t, cut in zip(tokens, spans, strict=True):
            owner = owners(len(t), cut)
            values = np.zeros(len(t), dtype=np.float32)
            for i, (a, b) in enumerate(cut):
                probabilities = self._probabilities(next(logits)[1:-1], label)
                mine = owner[a:b] == i
                values[a:b][mine] = probabilities[mine]
            results.append((t.offsets, values))
        return results

    def with_specials(self, ids: Ids) -> Ids:
        """``ids`` between the two specials."""
        return np.concatenate([[self.cls_id], ids, [self.sep_id]]).astype(np.int64)

    def _probabilities(self, logits: Floats, label: int) -> Floats:
        if self.independent or logits.shape[1] == 1:
            return np.asarray(1 / (1 + np.exp(-logits[:, label if self.independent else 0])), dtype=np.float32)
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exp[:, label] / exp.sum(axis=1), dtype=np.float32)

    def _window(self, max_tokens: int) -> int:
        if not 3 <= max_tokens <= self.max_tokens:
            raise InputError(f"max_tokens must be in [3, {self.max_tokens}] for {self.name!r}, got {max_tokens}")
        return max_tokens - 2

    def _run(self, sequences: Sequence[Ids], output: str) -> list[Floats]:
        unique: dict[bytes, int] = {}
        arrays = [np.ascontiguousarray(sequence, dtype=np.int64) for sequence in sequences]
        place = [unique.setdefault(array.tobytes(), len(unique)) for array in arrays]
        distinct = [np.frombuffer(key, dtype=np.int64) for key in unique]
        self._check(distinct)
        results: list[Floats] = [np.empty(0, np.float32)] * len(distinct)
        for batch in tracked(plan([len(array) for array in distinct], self.batch_tokens)):
            ids, lengths = pad([distinct[i] for i in batch], self.pad_id)
            states = self.backend.run(ids, lengths, output)
            for row, i, length in zip(states, batch, lengths, strict=True):
                # A copy, so that a caller who keeps one result does not keep its batch.
                results[i] = row.copy() if output in ("mean", "cls") else row[:length].copy()
        return [results[i] for i in place]

    def _check(self, sequences: Sequence[Ids]) -> None:
        size = self.tokenizer.get_vocab_size()
        for ids in sequences:
            if not 1 <= len(ids) <= self.max_tokens:
                raise InputError(f"a sequence must have 1 to {self.max_tokens} ids with specials, got {len(ids)}")
            if ids.min() < 0 or ids.max() >= size:
                raise InputError(f"ids must be in [0, {size}), got {ids.min()} to {ids.max()}")


def _unit_length(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)
