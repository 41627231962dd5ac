"""The peers: what each must keep of the contract, and that each is what its users run."""

import os
import sys

import numpy as np
import pytest

from ctxcomp import Budget, MissingDependencyError, Passage, Request, load, resolve_counter
from ctxcomp.compat.llmlingua import PromptCompressor
from ctxcomp.counting import is_cached
from ctxcomp.encode import load_encoder
from ctxcomp.errors import InputError, UnknownMethodError
from ctxcomp.text.token_pruner import DEFAULT_HEAD
from ctxcomp_eval.faithfulness import faithful
from ctxcomp_eval.peers import PEERS, load_peer
from ctxcomp_eval.peers.base import largest
from ctxcomp_eval.peers.foreign import Foreign, PeerError, connect
from ctxcomp_eval.peers.headroom_peer import VARIABLE as HEADROOM
from ctxcomp_eval.peers.headroom_peer import line_spans
from ctxcomp_eval.peers.llmlingua_checkpoint import checkpoint
from ctxcomp_eval.peers.llmlingua_peer import VARIABLE as LLMLINGUA
from ctxcomp_eval.peers.llmlingua_trace import LABEL_SEP, WORD_SEP, from_source, kept_words, source_words

TEXTS = (
    "The bridge over the Sill was opened on 12 May 1871. It cost 3.5 million crowns. Nobody had asked the ferrymen. "
    "They were not amused, and they said so in a letter to the council.",
    "  ",
    "Ferries run on the lake from April to October. A ticket is twenty-four crowns. Dogs travel free of charge! "
    "The landing stage lies behind the old town hall.\n\nIn winter the boats are painted.",
    "Résumé: the Müller family built boats for ninety years. Their yard closed in 1999. The last boat was a ferry.",
)
PASSAGES = tuple(Passage(text, id=str(i)) for i, text in enumerate(TEXTS))
QUERY = "What did the bridge cost?"
CONTEXTS = [text for text in TEXTS if text.strip()]
KEEPS = (0.1, 0.3, 0.6, 1.0)


def peer(name, **fields):
    """A peer that runs here, or a skip that says what is missing."""
    if name == "llmlingua":
        fields = {"package": "compat", **fields}
        if not is_cached("cl100k_base"):
            pytest.skip("cl100k_base is not in tiktoken's cache: set TIKTOKEN_CACHE_DIR")
    found = load_peer(name, **fields)
    try:
        found.compress(QUERY, PASSAGES[:1], Budget(keep=0.5))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return found


def requests(keeps=KEEPS):
    return [Request(QUERY, PASSAGES, Budget(keep=keep)) for keep in keeps]


@pytest.mark.parametrize(("name", "fields"), [(name, {}) for name in PEERS] + [("llmlingua", {"join": "source"})])
def test_every_peer_counts_as_we_do_and_is_faithful_where_it_has_spans(name, fields):
    found, counter = peer(name, **fields), resolve_counter()
    tokens_in = load("truncate").compress(QUERY, PASSAGES, Budget(keep=1)).stats.tokens_in
    batch = found.compress_batch(requests())
    for request, result in zip(requests(), batch, strict=True):
        assert result.stats.tokens_in == tokens_in
        assert result.stats.tokens_out == counter.count(result.text)
        assert result.stats.method == name
        assert result.passages == PASSAGES
        assert len(result.passage_texts) == len(PASSAGES)
        assert result.passage_texts[1] == ""
        assert result.spans is None or faithful(result)
        alone = found.compress(request.query, request.passages, request.budget)
        assert (alone.text, alone.spans, alone.passage_texts) == (result.text, result.spans, result.passage_texts)
    sizes = [result.stats.tokens_out for result in batch]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    if name != "headroom":  # it has a smallest result, and a largest overshoot
        allowed = [request.budget.resolve(tokens_in) for request in requests()]
        assert all(out <= most for out, most in zip(sizes, allowed, strict=True))


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("passages", [(), (Passage(""),), (Passage(" \n "), Passage(""))])
def test_nothing_in_nothing_out(name, passages):
    result = peer(name).compress(QUERY, passages, Budget(keep=0.5))
    assert (result.text, result.spans, result.stats.tokens_in) == ("", (), 0)
    assert result.passage_texts == ("",) * len(passages)


def test_unknown_names_and_fields_are_refused_with_the_nearest():
    with pytest.raises(UnknownMethodError, match="'llmlingua'"):
        load_peer("llmlingu")
    with pytest.raises(UnknownMethodError, match="'force_digits'"):
        load_peer("llmlingua", force_digit=True)
    with pytest.raises(InputError, match="rate must be"):
        load_peer("headroom", rate="max")
    with pytest.raises(InputError, match="chunk_characters"):
        load_peer("langchain_embeddings_filter", chunk_characters=0)


def test_sentence_embeddings_rank_by_the_cosine_and_nothing_else():
    result = load_peer("sentence_embeddings").compress(QUERY, PASSAGES, Budget(keep=0.99))
    encoder = load_encoder("minilm")
    query = encoder.embed([QUERY])[0]
    for span in result.spans:
        text = TEXTS[span.passage][span.start : span.end]
        assert span.score == pytest.approx(float(encoder.embed([text])[0] @ query), abs=1e-5)


def test_largest_is_the_last_that_fits():
    assert [largest(1, 9, lambda n, most=most: n <= most) for most in (0, 1, 5, 9, 12)] == [1, 1, 5, 9, 9]


@pytest.fixture(scope="module")
def plain():
    """llmlingua's drop-in on the same checkpoint, without the peer around it."""
    peer("llmlingua")
    return PromptCompressor(str(checkpoint(DEFAULT_HEAD)), "cpu", use_llmlingua2=True)


class TestLlmlingua:
    def test_the_checkpoint_has_the_weights_of_our_head(self):
        path = checkpoint(DEFAULT_HEAD)
        ours = load_encoder("minilm", head=DEFAULT_HEAD).keep_probs([TEXTS[0]])[0][1]
        theirs = load_encoder(path, head="token").keep_probs([TEXTS[0]])[0][1]
        plain = load_encoder("minilm").embed([TEXTS[0]])
        assert np.allclose(ours, theirs, atol=1e-6)
        assert not np.allclose(plain, load_encoder(path).embed([TEXTS[0]]), atol=1e-2)  # the adapters are in it
        assert checkpoint(DEFAULT_HEAD) == path

    @pytest.mark.parametrize("context_filter", [False, True])
    def test_the_text_is_what_llmlingua_gives_at_the_highest_rate_within_the_budget(self, plain, context_filter):
        found = peer("llmlingua", context_filter=context_filter)
        counter = resolve_counter()
        texts = [
            plain.compress_prompt_llmlingua2(
                CONTEXTS, rate=percent / 100, use_context_level_filter=context_filter
            )["compressed_prompt"]
            for percent in range(1, 101)
        ]  # fmt: skip
        for request, result in zip(requests(), found.compress_batch(requests()), strict=True):
            most = request.budget.resolve(result.stats.tokens_in)
            fitting = [text for text in texts if counter.count(text) <= most]
            assert result.text == fitting[-1]
            assert result.spans is None
            joined = "\n\n".join(text for text in result.passage_texts if text)
            assert context_filter or joined == result.text.strip("\n")

    def test_asked_passes_keep_on_as_the_rate(self, plain):
        result = peer("llmlingua", rate="asked").compress(QUERY, PASSAGES, Budget(keep=0.4))
        assert result.text == plain.compress_prompt(CONTEXTS, rate=0.4)["compressed_prompt"]

    def test_joined_from_the_source_it_keeps_the_same_words(self):
        own, source = (
            peer("llmlingua", rate="asked", join=join).compress(QUERY, PASSAGES, Budget(keep=0.5))
            for join in ("own", "source")
        )
        letters = [
            "".join(filter(str.isalnum, text.lower().replace("é", "e").replace("ü", "u")))
            for text in (own.text, source.text)
        ]
        assert letters[0] == letters[1]
        assert faithful(source)
        assert own.text == own.text.lower()
        assert source.text != source.text.lower()

    def test_everything_joined_from_the_source_is_the_source(self):
        result = peer("llmlingua", join="source").compress(QUERY, PASSAGES, Budget(keep=1.0))
        assert result.text == "\n\n".join(CONTEXTS)

    @pytest.mark.skipif(not os.environ.get(LLMLINGUA), reason=f"{LLMLINGUA} names no Python with llmlingua 0.2.2")
    @pytest.mark.slow
    def test_the_real_package_gives_the_same(self):
        real, ours = (peer("llmlingua", package=package).compress_batch(requests()) for package in ("real", "compat"))
        assert [(r.text, r.passage_texts) for r in real] == [(r.text, r.passage_texts) for r in ours]


class TestLangchain:
    def test_the_result_is_the_contextual_compression_retrievers(self):
        found = peer("langchain_embeddings_filter", chunk_characters=60, order="similarity")
        from langchain_classic.retrievers import ContextualCompressionRetriever
        from langchain_core.retrievers import BaseRetriever

        from ctxcomp_eval.peers.langchain_peer import documents_of, embeddings_of

        class Fixed(BaseRetriever):
            def _get_relevant_documents(self, query, *, run_manager):
                return documents_of(PASSAGES)

        result = found.compress(QUERY, PASSAGES, Budget(keep=0.5))
        texts = result.text.split("\n\n")
        pipeline = found.pipeline(len(texts), embeddings_of("minilm"))
        retriever = ContextualCompressionRetriever(base_compressor=pipeline, base_retriever=Fixed())
        assert [document.page_content for document in retriever.invoke(QUERY)] == texts
        assert len(texts) > 1
        one_more = found.pipeline(len(texts) + 1, embeddings_of("minilm"))
        retriever = ContextualCompressionRetriever(base_compressor=one_more, base_retriever=Fixed())
        longer = "\n\n".join(document.page_content for document in retriever.invoke(QUERY))
        assert resolve_counter().count(longer) > Budget(keep=0.5).resolve(result.stats.tokens_in)

    def test_source_order_holds_the_same_documents(self):
        given = {
            order: peer("langchain_embeddings_filter", chunk_characters=60, order=order).compress(
                QUERY, PASSAGES, Budget(keep=0.6)
            )
            for order in ("source", "similarity")
        }
        assert given["similarity"].spans is None
        assert sorted(given["source"].text.split("\n\n")) == sorted(given["similarity"].text.split("\n\n"))
        assert given["source"].passage_texts == given["similarity"].passage_texts

    def test_whole_passages_without_a_splitter(self):
        found = peer("langchain_embeddings_filter", chunk_characters=None)
        result = found.compress(QUERY, PASSAGES, Budget(keep=0.5))
        assert result.text in TEXTS
        assert "bridge" in result.text

    def test_duplicates_go_unless_they_may_stay(self):
        twice = (PASSAGES[0], Passage(TEXTS[0]))
        for redundant, times in ((True, 1), (False, 2)):
            result = peer("langchain_embeddings_filter", redundant=redundant).compress(QUERY, twice, Budget(keep=1.0))
            assert result.text.count("3.5 million") == times


class TestHeadroom:
    def test_the_result_is_the_crushers_at_the_largest_target_within_the_budget(self):
        found = peer("headroom")
        crusher = connect("headroom", HEADROOM, "")
        content, counter = "\n\n".join(CONTEXTS), resolve_counter()
        texts = [crusher.call(content=content, context=QUERY, target_ratio=n / 1000)[0] for n in range(1, 1001)]
        for request, result in zip(requests(), found.compress_batch(requests()), strict=True):
            fitting = [text for text in texts if counter.count(text) <= request.budget.resolve(result.stats.tokens_in)]
            assert result.text == (fitting or texts)[-1 if fitting else 0]

    def test_asked_passes_keep_on_as_the_target(self):
        result = peer("headroom", rate="asked").compress(QUERY, PASSAGES, Budget(keep=0.4))
        content = "\n\n".join(CONTEXTS)
        text, _ = connect("headroom", HEADROOM, "").call(content=content, context=QUERY, target_ratio=0.4)
        assert result.text == text


def test_lines_are_found_in_order_and_in_one_passage_each():
    passages = [Passage("One. Two. One."), Passage("Two. Three.")]
    spans = line_spans("Two.\nOne.\nTwo.", passages)
    assert [(s.passage, s.start, s.end) for s in spans] == [(0, 5, 9), (0, 10, 14), (1, 0, 4)]
    assert line_spans("Three.\nOne.", passages) is None
    assert line_spans("", passages) == ()


def test_a_missing_package_is_named_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("CTXCOMP_TEST_PYTHON", sys.executable)
    with pytest.raises(MissingDependencyError, match="CTXCOMP_TEST_PYTHON"):
        connect("llmlingua", "CTXCOMP_TEST_PYTHON", "pip install it", str(tmp_path), "0")


def test_a_python_that_is_none_is_an_error():
    with pytest.raises(PeerError, match="cannot be started"):
        Foreign("/nowhere/python", "headroom")


def test_a_worker_that_ends_says_why(tmp_path):
    with pytest.raises(PeerError, match="KeyError: 'nobody'"):
        Foreign(sys.executable, "nobody")


def test_a_worker_that_is_killed_is_an_error_each_time():
    peer("headroom")
    worker = Foreign(os.environ.get(HEADROOM, sys.executable), "headroom")
    worker._process.kill()
    for message in ("ended: it said nothing", "has ended"):
        with pytest.raises(PeerError, match=message):
            worker.call(content="A text.", context="", target_ratio=0.5)


def test_what_a_peer_raises_is_an_error_and_the_worker_goes_on():
    peer("headroom")
    crusher = connect("headroom", HEADROOM, "")
    with pytest.raises(PeerError, match="TypeError"):
        crusher.call(no_such_argument=1)
    assert crusher.call(content="A text.", context="", target_ratio=0.5)[0] == "A text."


def test_words_that_are_not_in_the_source_do_not_lead_the_trace_astray():
    tokenizer = load_encoder("minilm").tokenizer
    text = "Twenty-four ferries, unforgettable ones."
    words = [word.text for word in source_words([text], tokenizer)]
    assert words == ["twenty", "-", "four", "ferries", ",", "unforgettable", "ones", "."]
    given = [("twenty", 1), ("[new]", 1), ("-", 1), ("four", 1), ("ferries", 0), ("unforgettable", 1), ("ones", 0)]
    labelled = WORD_SEP.join(f"{word}{LABEL_SEP}{label}" for word, label in given)
    parts, spans = from_source(kept_words(labelled, [text], tokenizer), [text])
    assert parts == ("Twenty-four unforgettable",)
    assert [text[span.start : span.end] for span in spans] == ["Twenty", "-", "four", "unforgettable"]
    assert kept_words("", [text], tokenizer) == []
