"""Cross-encoders: how relevant a passage is to a query, and how likely each of its tokens is to be needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode.load import Dtype, Runtime, load_encoder
from ctxcomp.encode.pair_models import load_pair_model, pair_window
from ctxcomp.encode.pair_sequences import MIN_WINDOW, PairForm, PairSequence, cut_pair, distinct, read_pair_form
from ctxcomp.encode.tokens import tokenize
from ctxcomp.encode.windows import owners
from ctxcomp.errors import InputError, ModelError
from ctxcomp.loading import open_checkpoint, pick_device

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ctxcomp.encode.encoder import Encoder

Floats = NDArray[np.float32]
MAX_QUERY_TOKENS = 64
"""Of a longer query our own head sees the first 64 tokens, as in its training."""
WINDOW_TOKENS = 256
"""Positions of a sequence for our own head, whose training pairs were mostly shorter.

On 70 questions of its development set, each with three passages joined to one of 325 tokens, the best sentence held
the answer in .543 at 512 positions, .600 at 323 and at 224; the sentences' AUC over all was .845, .860 and .869.
"""
OVERLAP_TOKENS = 64
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class PairScores:
    """What a cross-encoder says about one pair.

    Parameters
    ----------
    rank: logit of relevance, the best of the passage's windows.
    offsets: int64 ``[n, 2]``, character ranges of the passage's tokens.
    keep: float32 ``[n]``, logit that a token is needed; None where the model has no such output. Where windows
        overlap it comes from the one in which the token has more context on its shorter side.
    """

    rank: float
    offsets: NDArray[np.int64]
    keep: Floats | None


class PairScorer(Protocol):
    """Scores pairs of query and passage; make one with ``load_pair_scorer``."""

    @property
    def weights_hash(self) -> str:
        """The key for anything derived from the weights."""
        ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[PairScores]:
        """Scores of ``(query, passage)`` pairs, in input order."""
        ...


class PairModel(Protocol):
    """What runs the sequences."""

    def run(self, sequences: Sequence[PairSequence]) -> list[tuple[float, Floats | None]]:
        """Rank logit and keep logits ``[n]`` of whole sequences, specials included."""
        ...


@dataclass(frozen=True, eq=False)
class WindowedScorer:
    """A cross-encoder that sees whole passages, window by window.

    Parameters
    ----------
    window: positions of a sequence with its specials.
    max_query: tokens of a query that stay; at most a quarter of the window do.
    """

    weights_hash: str
    tokenizer: Tokenizer = field(repr=False)
    form: PairForm = field(repr=False)
    window: int
    max_query: int
    model: PairModel = field(repr=False)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[PairScores]:
        """Scores of ``(query, passage)`` pairs, in input order; equal pairs run once and share their result.

        No passage is truncated. Of a long query the start stays. An empty query or passage leaves its place between
        the specials empty.
        """
        unique, place = distinct(pairs)
        texts = list(dict.fromkeys(text for pair in unique for text in pair))
        tokens = dict(zip(texts, tokenize(self.tokenizer, texts), strict=True))
        sequences: list[PairSequence] = []
        spans = []
        for query, passage in unique:
            own, cut = cut_pair(
                self.form, tokens[query], tokens[passage],
                window=self.window, max_query=self.max_query, overlap=OVERLAP_TOKENS,
            )  # fmt: skip
            sequences += own
            spans.append(cut)
        outputs = iter(zip(sequences, self.model.run(sequences), strict=True))
        results = []
        for (_, passage), cut in zip(unique, spans, strict=True):
            parts = [next(outputs) for _ in cut]
            rank = max(rank for _, (rank, _) in parts)
            keep = _merge([(sequence.start, values) for sequence, (_, values) in parts], cut)
            results.append(PairScores(rank, tokens[passage].offsets, keep))
        return [results[i] for i in place]


def _merge(parts: Sequence[tuple[int, Floats | None]], spans: list[tuple[int, int]]) -> Floats | None:
    """Values of all passage tokens from those of the sequences, each with the position where its passage starts."""
    values = np.empty(spans[-1][1], dtype=np.float32)
    owner = owners(len(values), spans)
    for i, ((start, part), (a, b)) in enumerate(zip(parts, spans, strict=True)):
        if part is None:
            return None
        mine = owner[a:b] == i
        values[a:b][mine] = part[start : start + b - a][mine]
    return values


@dataclass(frozen=True, eq=False)
class HeadedEncoder:
    """An encoder with a head: output 0 at the first token ranks, output 1 keeps tokens; token types are all 0."""

    encoder: Encoder

    def run(self, sequences: Sequence[PairSequence]) -> list[tuple[float, Floats | None]]:
        """Rank logit and keep logits ``[n]`` of whole sequences."""
        logits = self.encoder.token_logits([sequence.ids for sequence in sequences])
        return [(float(values[0, 0]), values[:, 1]) for values in logits]


def load_pair_scorer(
    model: str | Path = "minilm",
    *,
    head: str | Path = "none",
    runtime: Runtime = "auto",
    dtype: Dtype = "auto",
    device: str = "auto",
    threads: int = 0,
    batch_tokens: int = 2048,
) -> PairScorer:
    """Load a cross-encoder; the same arguments give the same object.

    Three kinds are known: an encoder with a head file of our own; OpenProvence; and any sequence classifier with one
    label, its score, or two, no and yes (then the rank is the log-odds of yes). The last kind has no keep logits.

    Parameters
    ----------
    model: "minilm", a checkpoint directory, or a hub id in the local cache.
    head: a head file for an encoder (output 0 the rank logit at the first token, output 1 every token's keep logit), or
        "none" for the checkpoint's own heads.
    runtime: "auto" as for ``load_encoder`` with a head file; published cross-encoders run on torch.
    dtype, device, threads, batch_tokens: as for ``load_encoder``.

    Raises
    ------
    InputError: arguments that no runtime can serve together.
    ModelError: the checkpoint or head is missing, damaged or of an unsupported kind.
    """
    if str(head) != "none":
        encoder = load_encoder(
            model, head=head, runtime=runtime, dtype=dtype, device=device, threads=threads, batch_tokens=batch_tokens
        )
        return _headed(encoder, str(head))
    if runtime == "onnx" or dtype == "int8":
        raise InputError(
            f"a published cross-encoder runs on torch in a float format, got runtime={runtime!r}, dtype={dtype!r}"
        )
    if batch_tokens < 1:
        raise InputError(f"batch_tokens must be >= 1, got {batch_tokens}")
    with _LOCK:
        return _published(str(model), dtype, pick_device(device), batch_tokens)


@lru_cache(maxsize=16)
def _headed(encoder: Encoder, head: str) -> WindowedScorer:
    if encoder.num_labels < 2:
        raise ModelError(f"the head {head} has {encoder.num_labels} output: a pair scorer needs 2, rank and keep")
    window = _checked_window(min(WINDOW_TOKENS, encoder.max_tokens), encoder.name)
    form = read_pair_form(encoder.tokenizer, encoder.name)
    model = HeadedEncoder(encoder)
    return WindowedScorer(encoder.weights_hash, encoder.tokenizer, form, window, MAX_QUERY_TOKENS, model)


@lru_cache(maxsize=4)
def _published(model: str, dtype: Dtype, device: str, batch_tokens: int) -> WindowedScorer:
    checkpoint = open_checkpoint(model)
    window = _checked_window(pair_window(checkpoint), model)
    tokenizer = checkpoint.tokenizer()
    form = read_pair_form(tokenizer, model)
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    loaded = load_pair_model(checkpoint, device=device, dtype=dtype, batch_tokens=batch_tokens)
    return WindowedScorer(checkpoint.weights_hash, tokenizer, form, window, window, loaded)


def _checked_window(window: int, source: str) -> int:
    if window < MIN_WINDOW:
        raise ModelError(f"{source!r} has {window} positions: a pair needs at least {MIN_WINDOW}")
    return window
