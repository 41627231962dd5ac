"""The drop-in for llmlingua 0.2.2: equal to what the real one answered, and clear where it fails or ignores."""

import inspect
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp.compat.llmlingua import PromptCompressor
from ctxcomp.compat.llmlingua_chunks import _cuts, untag
from ctxcomp.compat.llmlingua_options import _UNREAD
from ctxcomp.compat.llmlingua_words import Words, _means, keep_words
from ctxcomp.counting import is_cached
from ctxcomp.errors import InputError, ModelError
from ctxcomp_eval.bench import llmlingua_goldens

pytest.importorskip("torch")
pytest.importorskip("transformers")
if not is_cached("cl100k_base"):
    pytest.skip("cl100k_base is not in tiktoken's cache: set TIKTOKEN_CACHE_DIR", allow_module_level=True)

LINES = [json.loads(line) for line in Path(__file__).with_name("goldens.jsonl").read_text("utf-8").splitlines()]
SIGNATURES, GOLDENS = LINES[0]["signatures"], LINES[1:]
PEER = os.environ.get("CTXCOMP_PEER_PYTHON")
TEXT = "The council met on 12 May 1871 to discuss the new bridge. Nobody had asked the ferrymen, who were not amused."


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: make(folder) for kind, make in llmlingua_goldens.MAKERS.items()}


@pytest.fixture(scope="module")
def compressors(paths):
    return {kind: PromptCompressor(str(path), "cpu", use_llmlingua2=True) for kind, path in paths.items()}


@pytest.fixture
def compressor(compressors):
    return compressors["wordpiece"]


def answer(compressor, case):
    try:
        return getattr(compressor, case["method"])(**case["arguments"])
    except InputError:
        return None


def golden_id(number):
    return f"{GOLDENS[number]['kind']}-{number}"


@pytest.mark.parametrize("number", range(len(GOLDENS)), ids=golden_id)
def test_answers_what_the_peer_answered(compressors, number):
    case = GOLDENS[number]
    found = answer(compressors[case["kind"]], case)
    # Where the peer failed, so do we, with an InputError.
    assert found == case.get("result")
    if found is not None:
        assert list(found) == list(case["result"])


def test_the_goldens_exercise_what_they_should():
    results = [case["result"] for case in GOLDENS if "result" in case]
    assert len(GOLDENS) >= 40
    assert len(results) >= 30
    assert sum(0 < r["compressed_tokens"] < r["origin_tokens"] for r in results) >= 20
    assert max(r["origin_tokens"] for r in results) > 1000


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_torch_gives_the_same(paths, kind):
    torch_runtime = PromptCompressor(str(paths[kind]), "cpu", use_llmlingua2=True, runtime="torch")
    cases = [case for case in GOLDENS if case["kind"] == kind][:8]
    assert [answer(torch_runtime, case) for case in cases] == [case.get("result") for case in cases]


@pytest.mark.skipif(PEER is None, reason="CTXCOMP_PEER_PYTHON names no environment with llmlingua 0.2.2")
@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_answers_what_the_peer_answers_now(compressors, paths, kind, tmp_path):
    calls = list(llmlingua_goldens.cases(30, 99, llmlingua_goldens.PROSE))
    answers = llmlingua_goldens.record(PEER, paths[kind], calls, tmp_path)
    assert [answer(compressors[kind], call) for call in calls] == [a.get("result") for a in answers]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_is_the_peers(name):
    ours = list(inspect.signature(getattr(PromptCompressor, name)).parameters.values())[1:]
    ours = [p for p in ours if p.kind is not p.KEYWORD_ONLY]
    plain = [[p.name, None if p.default is p.empty else p.default, p.default is p.empty] for p in ours]
    plain = [[n, list(d) if isinstance(d, tuple) else d if not hasattr(d, "keys") else {}, e] for n, d, e in plain]
    assert plain == SIGNATURES[name]


@pytest.mark.parametrize("name", _UNREAD)
def test_an_option_without_effect_is_refused(compressor, name):
    default, advice = _UNREAD[name]
    other = {bool: lambda d: not d, int: lambda d: d + 1, float: lambda d: d + 1, str: lambda d: d + "x"}
    value = other[type(default)](default) if default is not None else [1]
    with pytest.raises(InputError) as error:
        compressor.compress_prompt([TEXT], **{name: value})
    assert name in str(error.value)
    assert advice in str(error.value)
    compressor.compress_prompt([TEXT], **{name: default})


def test_llmlingua_1_is_refused(paths):
    with pytest.raises(InputError, match="LLMLingua-1, which ctxcomp does not offer"):
        PromptCompressor(str(paths["wordpiece"]), "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"open_api_config": {"api_key": "x"}}, "open_api_config"),
        ({"llmlingua2_config": {"batch": 3}}, "max_batch_size"),
        ({"llmlingua2_config": {"max_force_token": -1}}, "max_force_token"),
        ({"model_config": {"quantization_config": 1}}, "quantization_config"),
        ({"model_config": {"torch_dtype": "float8"}}, "torch_dtype"),
        ({"model_config": {"pad_to_left": False}}, "pad_to_left"),
        ({"compat": "0.3"}, "compat"),
        ({"device_map": None}, "device_map"),
    ],
)
def test_constructor_arguments_without_effect_are_refused(paths, change, message):
    with pytest.raises(InputError, match=message):
        PromptCompressor(
            **{"model_name": str(paths["wordpiece"]), "device_map": "cpu", "use_llmlingua2": True} | change
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": [TEXT], "rate": 0.0}, "rate above 0"),
        ({"context": [TEXT], "rate": -1.0}, "rate above 0"),
        ({"context": [TEXT], "rate": float("nan")}, "rate must be a finite number"),
        ({"context": None}, "context must be"),
        ({"context": [TEXT, 3]}, r"context\[1\]"),
        ({"context": ["", ""]}, "drop empty contexts"),
        ({"context": [""], "target_token": 5}, "at least one context"),
        ({"context": ["say <|endoftext|>"]}, "spells a special token"),
        ({"context": ["\ud800 lone"]}, "Unicode"),
        ({"context": [TEXT, TEXT], "context_level_rate": 1.5, "rate": 1.0}, "percentile -50"),
        ({"context": [TEXT], "token_to_word": "max"}, "token_to_word"),
        ({"context": [TEXT], "force_tokens": "abc"}, "force_tokens must be a list"),
        ({"context": [TEXT], "force_tokens": ["x"] * 101}, "max_force_token"),
    ],
)
def test_where_the_peer_crashes_the_error_says_what_to_do(compressor, arguments, message):
    with pytest.raises(InputError, match=message):
        compressor.compress_prompt(**arguments)


def test_unknown_characters_alone_are_refused(compressor):
    with pytest.raises(InputError, match="no word that the model knows"):
        compressor.compress_prompt(["\U0001f600"])


def test_any_name_works(paths, compressor, tmp_path):
    (tmp_path / "mine").symlink_to(paths["wordpiece"], target_is_directory=True)
    renamed = PromptCompressor(str(tmp_path / "mine"), "cpu", use_llmlingua2=True)
    assert renamed.compress_prompt([TEXT]) == compressor.compress_prompt([TEXT])


def test_calling_is_compressing(compressor):
    assert compressor([TEXT], rate=0.3) == compressor.compress_prompt([TEXT], rate=0.3)


def test_a_missing_vocabulary_says_how_to_get_it(paths, monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(ModelError, match="TIKTOKEN_CACHE_DIR"):
        PromptCompressor(str(paths["wordpiece"]), "cpu", use_llmlingua2=True)


def test_a_foreign_tokenizer_is_refused(paths, tmp_path):
    for file in paths["wordpiece"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    foreign = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    foreign["model"] = {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(foreign), "utf-8")
    with pytest.raises(ModelError, match="WordLevel"):
        PromptCompressor(str(tmp_path), "cpu", use_llmlingua2=True)


def test_neither_arguments_nor_global_generators_change(paths):
    import torch

    config, context, forced, ends = {"torch_dtype": torch.float32}, [TEXT, TEXT + "\n"], ["\n"], ["\n"]
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    fresh = PromptCompressor(str(paths["wordpiece"]), "cpu", config, use_llmlingua2=True)
    fresh.compress_prompt(context, force_tokens=forced, chunk_end_tokens=ends)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert before == after
    assert (config, context) == ({"torch_dtype": torch.float32}, [TEXT, TEXT + "\n"])
    assert (forced, ends) == (["\n"], ["\n"])


def test_no_torch_without_added_tokens(paths):
    code = f"""
import sys
from ctxcomp.compat.llmlingua import PromptCompressor
c = PromptCompressor({str(paths["wordpiece"])!r}, "cpu", use_llmlingua2=True)
assert c.compress_prompt([{TEXT!r}], force_tokens=["."])["compressed_tokens"] > 0
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fixed_gives_xlmr_its_specials_and_bert_nothing_new(paths, compressors):
    for kind, differs in (("wordpiece", False), ("sentencepiece", True)):
        fixed = PromptCompressor(str(paths[kind]), "cpu", use_llmlingua2=True, compat="fixed")
        ours, theirs = (c._engine.tokenizer.sequences([TEXT])[0] for c in (fixed, compressors[kind]))
        assert (ours[[0, -1]] != theirs[[0, -1]]).all() == differs
        assert (ours[1:-1] == theirs[1:-1]).all()
        p, q = (c._engine.model.probabilities([i])[0] for c, i in ((fixed, ours), (compressors[kind], theirs)))
        assert (abs(p - q).max() > 1e-3) == differs


def test_tags_that_change_nothing_work_and_others_are_refused(compressors):
    compress = compressors["sentencepiece"].structured_compress_prompt
    assert compress([f"<llmlingua>{TEXT}</llmlingua>"], target_token=9) == compress([TEXT], target_token=9)
    for tag in ("llmlingua, compress=False", "llmlingua, rate=0.7"):
        with pytest.raises(InputError, match="one rate per call"):
            compress([f"<{tag}>{TEXT}</llmlingua>"], rate=0.2)
    for lost in ("a < b", "before <llmlingua>in</llmlingua>"):
        with pytest.raises(InputError, match="would lose text"):
            compress([lost])
    with pytest.raises(InputError, match="would lose text"):  # WordPiece rewrites the tags themselves
        compressors["wordpiece"].structured_compress_prompt([f"<llmlingua>{TEXT}</llmlingua>"])


def test_untag_keeps_all_text():
    assert untag("<llmlingua>a</llmlingua><llmlingua, rate=0.5, compress=True>b</llmlingua>", 0.5) == "ab"
    assert untag("", 0.5) == ""


def test_compress_json_says_what_to_do(compressor):
    with pytest.raises(InputError, match="Compress the long string values instead"):
        compressor.compress_json({"a": TEXT}, {"a": {"rate": 0.5}})


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30), min_size=1, max_size=20))
def test_word_means_are_the_peers_scalar_sums(words):
    flat = np.array([p for word in words for p in word], dtype=np.float32)
    ends = np.cumsum([len(word) for word in words])
    expected = [sum(np.float32(p) for p in word) / len(word) for word in words]
    assert _means(flat, np.append(0, ends)[:-1], ends).tolist() == [float(value) for value in expected]


@given(st.lists(st.sampled_from([".", "a", "b"]), max_size=60), st.integers(3, 12))
def test_cuts_cover_the_text_in_order(tokens, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxcomp.compat.llmlingua_chunks.MAX_TOKENS", size + 2)
        cuts = _cuts(tokens, frozenset("."))
    assert [i for a, b in cuts for i in range(a, b)] == list(range(len(tokens)))
    assert all(0 < b - a <= size + 1 for a, b in cuts)
    for a, b in cuts[:-1]:
        assert tokens[b - 1] == "." or (b - a == size + 1 and "." not in tokens[a + 1 : b])


def peer_keep(texts, probabilities, reduce_rate, dropping):
    """What the paper's code does, on Python lists of scalars."""
    probabilities, forced = list(probabilities), dropping or []
    if dropping is not None:
        limit, between, previous = np.percentile(probabilities, int(100 * reduce_rate)), False, None
        for i, text in enumerate(texts):
            if text not in forced:
                between = between or probabilities[i] > limit
                continue
            if not between and text == previous:
                probabilities[i] = 0.0
            between, previous = False, text
    limit = np.percentile([p for p, t in zip(probabilities, texts, strict=True) for _ in t], int(100 * reduce_rate + 1))
    flags, last = [], None
    for p, text in zip(probabilities, texts, strict=True):
        keep = bool(p > limit or (limit == 1.0 and p == limit))
        if keep and dropping is not None and text in forced and text == last:
            keep = False
        flags.append(keep)
        last = text if keep else last
    return flags


@given(
    st.lists(
        st.tuples(st.sampled_from([".", "the", "word", "longer"]), st.one_of(st.none(), st.floats(0, 1, width=32))),
        min_size=1,
        max_size=40,
    ),
    st.floats(0.01, 0.99),
    st.booleans(),
)
def test_kept_words_are_those_of_the_scalar_loop(words, reduce_rate, drop):
    texts = [text for text, _ in words]
    # None stands for a word whose pieces are all forced: a Python float in the peer.
    scalars = [1.0 if p is None else np.float32(p) for _, p in words]
    values = np.array([float(p) for p in scalars])
    plain = np.array([p is None for _, p in words])
    dropping = frozenset({".", "the"}) if drop else None
    kept = keep_words(
        Words(texts, values, plain, values.astype(np.float32)), reduce_rate, lambda ts: [len(t) for t in ts], dropping
    )
    assert kept.tolist() == peer_keep(texts, scalars, reduce_rate, dropping)
