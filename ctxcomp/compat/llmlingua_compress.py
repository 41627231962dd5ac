"""What one call of llmlingua 0.2.2 does, on our encoder: chunk, score, filter contexts, drop words, report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.compat.llmlingua_chunks import chunk, uncut_words
from ctxcomp.compat.llmlingua_model import KeepModel
from ctxcomp.compat.llmlingua_tokenizer import PeerTokenizer
from ctxcomp.compat.llmlingua_words import WordRules, Words, keep_words, left_to_right_mean, percentile
from ctxcomp.errors import InputError

MEMO_WORDS = 200_000


class Cl100k:
    """Token counts as the peer takes them; counts of words are remembered."""

    def __init__(self, encoding: Any) -> None:
        self.encoding = encoding
        self._memo: dict[str, int] = {}

    def total(self, texts: Sequence[str]) -> int:
        """Tokens of all texts together."""
        return sum(self._count(text) for text in texts)

    def words(self, words: Sequence[str]) -> list[int]:
        """Tokens of each word."""
        memo = self._memo
        if len(memo) > MEMO_WORDS:
            memo.clear()
        for word in set(words).difference(memo):
            memo[word] = self._count(word)
        return [memo[word] for word in words]

    def _count(self, text: str) -> int:
        try:
            return len(self.encoding.encode(text))
        except ValueError as error:
            raise InputError(
                f"{text[:60]!r} spells a special token of cl100k_base such as '<|endoftext|>', which cannot be "
                "counted; llmlingua 0.2.2 fails on it too: remove it from the text"
            ) from error


@dataclass(frozen=True)
class Engine:
    """What a compressor holds between calls."""

    tokenizer: PeerTokenizer
    model: KeepModel
    counter: Cl100k


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One call's options that LLMLingua-2 reads, by the peer's names and with its meaning."""

    rate: float
    target_token: float
    use_context_level_filter: bool
    use_token_level_filter: bool
    target_context: int
    context_level_rate: float
    context_level_target_token: float
    force_context_ids: Sequence[int] | None
    return_word_label: bool
    word_sep: str
    label_sep: str
    token_to_word: str
    force_tokens: Sequence[str]
    force_reserve_digit: bool
    drop_consecutive: bool
    chunk_end_tokens: Sequence[str]

    def check(self, contexts: Sequence[str], max_force_token: int) -> None:
        """Refuse what cannot be used.

        Raises
        ------
        InputError: a value has the wrong type or is out of range.
        """
        for i, text in enumerate(contexts):
            if not isinstance(text, str):
                raise InputError(f"context[{i}] must be a str, got {type(text).__name__}")
        for name in ("rate", "target_token", "target_context", "context_level_rate", "context_level_target_token"):
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, got {value!r}")
        for name in ("force_tokens", "chunk_end_tokens"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(token, str) for token in value):
                raise InputError(f"{name} must be a list of str, got {value!r}")
        if self.token_to_word not in ("mean", "first"):
            raise InputError(f"token_to_word must be 'mean' or 'first', got {self.token_to_word!r}")
        if len(self.force_tokens) > max_force_token:
            raise InputError(
                f"{len(self.force_tokens)} force_tokens, at most {max_force_token} are allowed: raise "
                "llmlingua2_config={'max_force_token': N}"
            )


@dataclass
class Call:
    """The state of one compression."""

    engine: Engine
    settings: Settings
    contexts: list[str]
    token_map: dict[str, str] = field(init=False)
    chunks: list[list[str]] = field(init=False)
    rules: WordRules = field(init=False)

    def __post_init__(self) -> None:
        settings, tokenizer = self.settings, self.engine.tokenizer
        forced = list(settings.force_tokens)
        sizes = [len(tokens) for tokens in tokenizer.pieces(forced)]
        self.token_map = {t: tokenizer.added[i] for i, t in enumerate(forced) if sizes[i] != 1}
        ends = [*settings.chunk_end_tokens]
        ends += [self.token_map[token] for token in ends if token in self.token_map]
        texts = []
        for text in self.contexts:
            for original, added in self.token_map.items():
                text = text.replace(original, added)
            texts.append(text)
        self.chunks = chunk(tokenizer, texts, ends)
        self.rules = WordRules(
            tokenizer, forced, self.token_map,
            force_digits=settings.force_reserve_digit, first=settings.token_to_word == "first",
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        """The peer's result dictionary."""
        settings, counter = self.settings, self.engine.counter
        tokens_in = counter.total(self.contexts)
        rate: float = settings.rate
        scored: list[list[Words]] | None = None
        kept = list(range(len(self.contexts)))
        if settings.use_context_level_filter and len(self.contexts) != 1:
            scored = self._score(self.chunks)
            kept = self._choose(scored, tokens_in)
            if settings.target_token >= 0:
                reserved = counter.total([text for i in kept for text in self.chunks[i]])
                rate = min(_over(settings.target_token, reserved), 1.0)
        elif settings.target_token > 0:
            rate = min(_over(settings.target_token, tokens_in), 1.0)
        reduce_rate = max(0, 1 - rate) if settings.use_token_level_filter else 0
        if reduce_rate <= 0:
            outcomes = [self._whole(self.chunks[i]) for i in kept]
        else:
            words = [scored[i] for i in kept] if scored else self._score([self.chunks[i] for i in kept])
            outcomes = [self._cut(chunks, reduce_rate) for chunks in words]
        result = self._report(tokens_in, [text for text, _, _ in outcomes])
        if settings.return_word_label:
            labels = dict(zip(kept, ((words, flags) for _, words, flags in outcomes), strict=True))
            result["fn_labeled_original_prompt"] = self._labelled(labels, scored)
        return result

    def _score(self, chunks: list[list[str]]) -> list[list[Words]]:
        """The words of every chunk of every context; all chunks run through the encoder together."""
        engine = self.engine
        sequences = engine.tokenizer.sequences([text for texts in chunks for text in texts])
        scores = iter(zip(sequences, engine.model.probabilities(sequences), strict=True))
        result = []
        for texts in chunks:
            pairs = [next(scores) for _ in texts]
            shown = [~engine.tokenizer.masked(ids) for ids, _ in pairs]
            result.append([self.rules.words(i[seen], p[seen]) for (i, p), seen in zip(pairs, shown, strict=True)])
        return result

    def _choose(self, scored: list[list[Words]], tokens_in: int) -> list[int]:
        """The contexts that the context filter keeps."""
        means = [_joined([words.model_values for words in chunks]) for chunks in scored]
        scores = np.array([left_to_right_mean(values) for values in means], dtype=np.float32)
        rate = self._context_rate(tokens_in)
        threshold = percentile(scores, int(100 * (1 - rate)), f"context_level_rate={rate:g}")
        forced = self.settings.force_context_ids or ()
        return [i for i, score in enumerate(scores.tolist()) if score >= threshold or i in forced]

    def _context_rate(self, tokens_in: int) -> float:
        settings = self.settings
        rate, target = settings.context_level_rate, settings.context_level_target_token
        if settings.target_context <= 0 and rate >= 1.0 and target <= 0:
            tokens = settings.use_token_level_filter
            if settings.target_token < 0 and settings.rate < 1.0:
                rate = (settings.rate + 1.0) / 2 if tokens else settings.rate
            if settings.target_token >= 0:
                target = settings.target_token * 2 if tokens else settings.target_token
        if settings.target_context >= 0:
            rate = min(_over(settings.target_context, len(self.contexts)), 1.0)
        if target >= 0:
            rate = min(_over(target, tokens_in), 1.0)
        return rate

    def _whole(self, chunks: list[str]) -> tuple[str, list[str], list[int]]:
        """A context that keeps all its words."""
        texts = []
        for text in chunks:
            for original, added in self.token_map.items():
                text = text.replace(added, original)
            texts.append(text)
        words = [word for text in texts for word in uncut_words(text)]
        return "".join(texts), words, [1] * len(words)

    def _cut(self, chunks: list[Words], reduce_rate: float) -> tuple[str, list[str], list[int]]:
        """A context without its least wanted words."""
        dropping = frozenset(self.settings.force_tokens) if self.settings.drop_consecutive else None
        text, flags = "", []
        for words in chunks:
            kept = keep_words(words, reduce_rate, self.engine.counter.words, dropping)
            text += self.engine.tokenizer.join([words.texts[i] for i in np.flatnonzero(kept)])
            flags += kept.astype(int).tolist()
        return text, self._shown(chunks), flags

    def _shown(self, chunks: list[Words]) -> list[str]:
        """Words as the labels spell them."""
        words = [word for chunk in chunks for word in chunk.texts]
        return [word.lstrip("▁") for word in words] if self.engine.tokenizer.kind == "unigram" else words

    def _labelled(
        self, labels: dict[int, tuple[list[str], list[int]]], scored: list[list[Words]] | None
    ) -> str:  # fmt: skip
        lines = []
        for i in range(len(self.contexts)):
            if i in labels:
                words, flags = labels[i]
            else:
                words = self._shown(scored[i]) if scored else []
                flags = [0] * len(words)
            lines += [f"{word}{self.settings.label_sep}{flag}" for word, flag in zip(words, flags, strict=True)]
        return self.settings.word_sep.join(lines)

    def _report(self, tokens_in: int, texts: list[str]) -> dict[str, Any]:
        tokens_out = self.engine.counter.total(texts)
        ratio = _over(tokens_in, tokens_out) if tokens_out else 1
        return {
            "compressed_prompt": "\n\n".join(texts),
            "compressed_prompt_list": texts,
            "origin_tokens": tokens_in,
            "compressed_tokens": tokens_out,
            "ratio": f"{ratio:.1f}x",
            "rate": f"{_over(1, ratio) * 100:.1f}%",
            "saving": f", Saving ${(tokens_in - tokens_out) * 0.06 / 1000:.1f} in GPT-4.",
        }


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def _over(part: float, whole: float) -> float:
    """``part / whole``; an empty input has no share.

    Raises
    ------
    InputError: ``whole`` is 0.
    """
    if not whole:
        raise InputError(
            "a target in tokens or contexts needs contexts that hold text, got none; llmlingua 0.2.2 fails on it too: "
            "pass at least one context that is not empty"
        )
    return part / whole
