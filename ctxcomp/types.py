"""The nouns of ctxcomp: what goes into a compressor and what comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ctxcomp.errors import BudgetError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrieved text.

    Parameters
    ----------
    text: the passage, any Unicode.
    id: the caller's name for it; carried through, never interpreted.
    title: shown by header templates, never counted as part of ``text``.
    score: the retriever's score; higher is better, the scale is the retriever's own.
    metadata: carried through untouched.
    embedding: the retriever's stored vector, shape ``[dim]``; methods that can reuse it do.
    """

    text: str
    id: str = ""
    title: str | None = None
    score: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    embedding: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, kind, optional in (("text", str, False), ("id", str, False), ("title", str, True)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (optional and value is None):
                raise InputError(f"Passage.{name} must be a str, got {type(value).__name__}")
        if not isinstance(self.metadata, Mapping):
            raise InputError(f"Passage.metadata must be a mapping, got {type(self.metadata).__name__}")
        if self.score is not None and not _is_finite(self.score):
            raise InputError(f"Passage.score must be a finite number or None, got {self.score!r:.50}")


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False


@dataclass(frozen=True, slots=True)
class Span:
    """``passages[passage].text[start:end]``: half-open, in characters; ``score`` is the method's."""

    passage: int
    start: int
    end: int
    score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may remain: exactly one of ``tokens`` and ``keep``.

    Parameters
    ----------
    tokens: at most this many tokens, >= 0.
    keep: at most this share of the tokens that came in, in (0, 1].
    """

    tokens: int | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) == (self.keep is None):
            raise BudgetError(
                f"a budget takes exactly one of tokens=N and keep=F, got tokens={self.tokens}, keep={self.keep}"
            )
        if self.tokens is not None and (isinstance(self.tokens, bool) or not isinstance(self.tokens, int)):
            raise BudgetError(f"Budget.tokens must be a whole number, got {self.tokens!r}")
        if self.tokens is not None and self.tokens < 0:
            raise BudgetError(f"Budget.tokens must be 0 or more, got {self.tokens}")
        if self.keep is not None and (isinstance(self.keep, bool) or not isinstance(self.keep, (int, float))):
            raise BudgetError(f"Budget.keep must be a number in (0, 1], got {self.keep!r}")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise BudgetError(f"Budget.keep must be in (0, 1], got {self.keep}: it is tokens out / tokens in")

    def resolve(self, tokens_in: int) -> int:
        """The budget in tokens for an input of ``tokens_in`` tokens (``keep`` rounds down)."""
        if self.tokens is not None:
            return self.tokens
        # 1e-9 keeps 0.29 * 100 at 29, where the float product is 28.999...
        return math.floor(float(self.keep or 0.0) * tokens_in + 1e-9)


@dataclass(frozen=True, slots=True)
class Stats:
    """What one compression did.

    Parameters
    ----------
    tokens_in: tokens of the uncompressed context, assembled the same way as the compressed one.
    tokens_out: tokens of the result; for latents and images the positions they occupy.
    seconds: wall time; requests of one batch share their encoder passes, so each carries an equal share.
    counter: the name of the tokenizer that counted.
    method: the registry name of the method, with its stages if it is a composition.
    fallback: why the result is not the method's own work; None when it is.
    notes: what a method that writes text found about it, for example names that the source does not have.
    """

    tokens_in: int
    tokens_out: int
    seconds: float
    counter: str
    method: str
    fallback: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))

    @property
    def keep(self) -> float:
        """Tokens out / tokens in; 1.0 for an empty input."""
        return self.tokens_out / self.tokens_in if self.tokens_in else 1.0

    def __str__(self) -> str:
        said = ([f"fallback: {self.fallback}"] if self.fallback else []) + list(self.notes)
        note = "".join(f" [{one}]" for one in said)
        return (
            f"{self.tokens_in} -> {self.tokens_out} tokens (keep {self.keep:.3f}), "
            f"{self.seconds * 1000:.0f} ms, {self.method}, {self.counter}{note}"
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One query with its passages and budget: the unit of a batch."""

    query: str
    passages: tuple[Passage, ...]
    budget: Budget

    def __post_init__(self) -> None:
        if not isinstance(self.query, str):
            raise InputError(f"query must be a str (empty for none), got {type(self.query).__name__}")
        if isinstance(self.passages, (str, Passage)) or not isinstance(self.passages, Iterable):
            raise InputError(f"passages must be a sequence of Passage, got {type(self.passages).__name__}")
        object.__setattr__(self, "passages", tuple(self.passages))
        for i, passage in enumerate(self.passages):
            if not isinstance(passage, Passage):
                raise InputError(f"passages[{i}] must be a Passage, got {type(passage).__name__}: use Passage(text)")
        if not isinstance(self.budget, Budget):
            raise InputError(f"budget must be Budget(tokens=N) or Budget(keep=F), got {type(self.budget).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What every compressor returns; the kinds below say what of."""

    stats: Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedText(Compressed):
    """A shorter context as text.

    Parameters
    ----------
    text: the assembled context.
    spans: what was kept, in source order; ``text`` is made of these slices plus separators, headers and
        elision marks. None only where text was generated.
    passages: the passages of the request, as they came in.
    """

    text: str
    spans: tuple[Span, ...] | None
    passages: tuple[Passage, ...]
    passage_texts: tuple[str, ...]
    """What is left of each passage, without headers; "" where nothing is."""

    def with_stats(self, **changes: Any) -> CompressedText:
        """The same result with some statistics replaced."""
        return replace(self, stats=replace(self.stats, **changes))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompressedVision(Compressed):
    """The visual tokens that are left of the pages of one prompt.

    Parameters
    ----------
    features: ``[n, hidden]``, for the model that encoded the pages; merging methods mix what they drop into them.
    indices: int64 ``[n]``, their places among the prompt's visual tokens, rising.
    pages: int64 ``[n]``, the page of each, counted from 0.
    tokens_in, tokens_out: visual tokens of each page, before and after.
    deeper: what goes into later layers (DeepStack), each ``[n, hidden]``.
    generator: the model they are for, as ``name@fingerprint``.
    sizes: width and height of each page in pixels, by which its place in another prompt is laid out; () for pages that
        were pruned within a prompt of the caller's own.
    positions: "original" or "contiguous", see ``VisualPruner``.
    prompt: the rendered prompt that they were pruned in and its tensors, which serve again where the same is asked.
    """

    features: Any
    indices: Any
    pages: Any
    tokens_in: tuple[int, ...]
    tokens_out: tuple[int, ...]
    deeper: tuple[Any, ...] = ()
    generator: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    positions: Literal["original", "contiguous"] = "original"
    prompt: tuple[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompressedLatents(Compressed):
    """A context as vectors that stand in a prompt where tokens would: only the generator they were made for reads them.

    Parameters
    ----------
    vectors: input embeddings, float32 ``[n, hidden]``, in the order of the prompt.
    generator: the model they are for, as ``name@fingerprint``.
    sources: for each vector the index of its passage, ``[n]``.
    passages: the passages of the request, as they came in.
    """

    vectors: NDArray[np.float32]
    generator: str
    sources: tuple[int, ...]
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompressedMixed(Compressed):
    """A context of several kinds, in the order of the prompt: text, and either vectors or pages."""

    parts: tuple[CompressedText | CompressedLatents | CompressedVision, ...]
