"""The tokenizer as llmlingua 0.2.2 sees it: transformers' pipeline, its special tokens, and 100 added ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.errors import InputError, ModelError

Ids = NDArray[np.int64]
MAX_TOKENS = 512
"""Positions per chunk with specials; fixed in llmlingua 0.2.2."""

_NAMES = {
    "wordpiece": {"unk": "[UNK]", "sep": "[SEP]", "cls": "[CLS]", "mask": "[MASK]"},
    "unigram": {
        **{"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>"},
        **{"pad": "<pad>", "cls": "<s>", "mask": "<mask>"},
    },
}
# What transformers' clean_up_tokenization does, in its order.
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class PeerTokenizer:
    """A checkpoint's tokenizer with the added tokens ``[NEW0]``, ``[NEW1]``, ...

    Parameters
    ----------
    path: the checkpoint directory.
    added: how many tokens are added, >= 0.
    fixed: give XLM-R its own ``<s>`` and ``</s>``, where llmlingua 0.2.2 gives it ``<unk>``.

    Raises
    ------
    ModelError: the tokenizer is neither WordPiece nor Unigram.
    """

    def __init__(self, path: Path, added: int, *, fixed: bool) -> None:
        from tokenizers import AddedToken

        from ctxcomp.loading import read_tokenizer

        settings = _settings(path)
        self.backend = read_tokenizer(path)
        self.kind = _kind(self.backend, path)
        if str(settings.get("tokenizer_class", "")).removesuffix("Fast") in ("BertTokenizer", "XLMRobertaTokenizer"):
            _rebuild(self.backend, self.kind, settings)
        self.base_size = self.backend.get_vocab_size()
        self.added = [f"[NEW{i}]" for i in range(added)]
        self.backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in self.added])
        names = {key: _content(settings.get(f"{key}_token", text)) for key, text in _NAMES[self.kind].items()}
        names |= {k: _content(settings[f"{k}_token"]) for k in ("bos", "eos") if settings.get(f"{k}_token")}
        self.specials = frozenset(names.values())
        self._unk = self._id(names["unk"], 0)
        # llmlingua 0.2.2 writes BERT's names whatever the model, and XLM-R reads them as unknown.
        first, last = (names["cls"], names["sep"]) if fixed else ("[CLS]", "[SEP]")
        self._first, self._last = self._id(first, self._unk), self._id(last, self._unk)
        tokens = self.backend.get_added_tokens_decoder().items()
        self._stripping = [i for i, token in tokens if token.lstrip or token.rstrip or token.normalized]
        self._cleans_up = bool(settings.get("clean_up_tokenization_spaces", False))

    def pieces(self, texts: Sequence[str]) -> list[list[str]]:
        """The token strings of each text, without specials."""
        return [encoding.tokens for encoding in self._encode(texts)]

    def sequences(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text as the model sees them: between the specials, cut at 512."""
        result = []
        for encoding in self._encode(texts):
            ids = encoding.ids
            if self._stripping and not set(self._stripping).isdisjoint(ids):
                # Such a token's string holds the blanks it swallowed, so that its way back to an id finds nothing.
                ids = [self._id(token, self._unk) for token in encoding.tokens]
            result.append(np.array([self._first, *ids, self._last][:MAX_TOKENS], dtype=np.int64))
        return result

    def join(self, tokens: list[str]) -> str:
        """Token strings as text."""
        return str(self.backend.decoder.decode(tokens)) if self.backend.decoder else " ".join(tokens)

    def round_trip(self, texts: Sequence[str]) -> list[str]:
        """Each text, encoded and decoded."""
        decoded = [self.backend.decode(e.ids, skip_special_tokens=False) for e in self._encode(texts)]
        return [_clean_up(text) if self._cleans_up else text for text in decoded]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text with the specials of a whole sequence."""
        outer = int(self.backend.num_special_tokens_to_add(False))
        return [outer + len(encoding.ids) for encoding in self._encode(texts)]

    def masked(self, ids: Ids) -> NDArray[np.bool_]:
        """Positions that the peer's mask hides: where a text spells ``[PAD]``, WordPiece reads its padding token."""
        return np.asarray(ids == self._id("[PAD]", -1))

    def token(self, index: int) -> str:
        """The string of an id."""
        return str(self.backend.id_to_token(index))

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        try:
            return list(self.backend.encode_batch(list(texts), add_special_tokens=False))
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(f"a text is not a str of valid Unicode (a lone surrogate?): {error}") from error

    def _id(self, token: str, default: int) -> int:
        found = self.backend.token_to_id(token)
        return default if found is None else int(found)


def _settings(path: Path) -> dict[str, Any]:
    file = path / "tokenizer_config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON: {error}") from error
    return dict(found)


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _kind(backend: Any, path: Path) -> Literal["wordpiece", "unigram"]:
    name = type(backend.model).__name__
    if name == "WordPiece":
        return "wordpiece"
    if name == "Unigram":
        return "unigram"
    raise ModelError(
        f"the tokenizer of {path} is {name}: LLMLingua-2 has rules for WordPiece (BERT) and Unigram (XLM-R) only"
    )


def _rebuild(backend: Any, kind: str, settings: dict[str, Any]) -> None:
    """Do as transformers 5 does: for these classes it takes the vocabulary and builds the rest anew."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    if kind == "wordpiece":
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case", True),
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
        return
    backend.normalizer = _precompiled(backend.normalizer)
    scheme: Literal["always", "never"] = "always" if settings.get("add_prefix_space", True) else "never"
    space = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)


def _precompiled(normalizer: Any) -> Any:
    """The SentencePiece map inside a normalizer, alone; an empty sequence where there is none."""
    from tokenizers import normalizers

    parts: Any = normalizer if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    found = next((part for part in parts if isinstance(part, normalizers.Precompiled)), None)
    return normalizers.Sequence([]) if found is None else found


def _clean_up(text: str) -> str:
    for spaced in _CLEAN_UP:
        text = text.replace(spaced, spaced.strip() if spaced != " ' " else "'")
    return text
