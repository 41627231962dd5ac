"""Chains keep their spans true to the source; fallbacks are seen and hold the budget."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxcomp import (
    Budget,
    Cached,
    Chain,
    CompressedText,
    Compressor,
    FallbackToInput,
    InputError,
    ModelError,
    Passage,
    Request,
    Span,
    Stats,
    load,
    resolve_counter,
)  # fmt: skip
from ctxcomp.segment import GAP

TEXT = "Zürich lies on a lake. Paris is big. The mayor of Zürich is Corine Mauch. Rain falls.\r\n\r\nNew line. End."


@dataclass(frozen=True, kw_only=True)
class Fickle(Compressor[CompressedText]):
    """Repeats the first passage: faithful, twice, or not at all when the passage says so."""

    counter: str = "minilm"
    error: type[Exception] = ModelError

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> CompressedText:
        counter = resolve_counter(self.counter)
        text = request.passages[0].text
        if "explode" in text:
            raise self.error("the weights are gone")
        again = text + " " + text if "inflate" in text else text
        stats = Stats(counter.count(text), counter.count(again), 0.0, counter.name, self.name)
        spans = None if "rewrite" in text else (Span(0, 0, len(text)),)
        return CompressedText(
            text=again, spans=spans, passages=request.passages, passage_texts=(again,), stats=stats
        )  # fmt: skip


def check_source(result: CompressedText) -> None:
    """What is left of each passage is its spans' slices, in order, with nothing but gaps between them."""
    cursors = [0] * len(result.passages)
    for span in result.spans:
        piece, left = result.passages[span.passage].text[span.start : span.end], result.passage_texts[span.passage]
        start = cursors[span.passage]
        while left[start] in GAP:
            start += 1
        assert piece
        assert left.startswith(piece, start)
        cursors[span.passage] = start + len(piece)
    assert all(not left[cursor:].strip(GAP) for left, cursor in zip(result.passage_texts, cursors, strict=True))


texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=list('ab .\n\t!?"`|-#01é北。\u200b\ud800\U0001f600\u0301'), max_size=80),
    st.integers(0, len(TEXT)).map(lambda i: TEXT[i:] + TEXT[:i]),
)
chains = st.sampled_from(
    [
        load("bm25+truncate"), load("random+random+random", random__unit="word", widen=1),
        load("bm25+random+truncate", bm25__unit="passage", random__unit="sentence", widen=1.7),
        load("random+truncate", random__unit="word", truncate__unit="passage", truncate__side="tail"),
        load("truncate+bm25", truncate__side="both", bm25__unit="paragraph", header="[{number}] ", separator=" | "),
        Chain(stages=(load("bm25+random"), load("truncate", side="both"))),
    ]
)  # fmt: skip
budgets = st.one_of(
    st.integers(0, 40).map(lambda n: Budget(tokens=n)), st.floats(0.05, 1).map(lambda f: Budget(keep=f))
)


@settings(max_examples=150)
@given(chains, st.lists(texts, max_size=3), budgets)
def test_spans_of_a_chain_slice_the_source_and_the_budget_holds(chain, found, budget):
    passages = [Passage(text, id=str(i)) for i, text in enumerate(found)]
    result = chain.compress("mayor ab 01", passages, budget)
    check_source(result)
    assert result.passages == tuple(passages)
    assert resolve_counter().count(result.text) == result.stats.tokens_out
    assert result.stats.tokens_out <= budget.resolve(result.stats.tokens_in)
    if budget.keep == 1:
        assert result.stats.keep == 1 or not result.stats.tokens_in


def test_a_chain_narrows_from_coarse_to_fine():
    passages = [Passage("Dogs bark. They run."), Passage("The cat sat on a mat. It slept."), Passage("Rain falls.")]
    chain = load("bm25+bm25+truncate", unit="sentence", truncate__unit="word", widen=3)
    result = chain.compress("cat", passages, Budget(tokens=3))
    assert result.passage_texts == ("", "The cat sat", "")
    assert result.spans == tuple(replace(s, passage=1) for s in result.spans)
    assert result.stats.method == "bm25+bm25+truncate"
    assert result.stats.tokens_in == load("truncate").compress("", passages, Budget(keep=1)).stats.tokens_in


def test_keep_one_keeps_everything():
    result = load("bm25+truncate").compress("cat", [Passage(TEXT)], Budget(keep=1))
    assert (result.text, result.stats.keep) == (TEXT, 1.0)


def test_a_batch_equals_its_singles():
    chain = load("bm25+truncate")
    requests = [
        Request(q, (Passage(TEXT), Passage("A cat.")), Budget(tokens=n)) for q in ("cat", "") for n in (0, 5, 30)
    ]
    together = chain.compress_batch(requests)
    alone = [chain.compress_batch([request])[0] for request in requests]
    assert [(r.text, r.spans) for r in together] == [(r.text, r.spans) for r in alone]
    assert chain.compress_batch([]) == []


def test_widen_is_the_room_of_the_earlier_stage():
    stages = (load("bm25"), load("truncate", side="tail"))
    texts = [Chain(stages=stages, widen=w).compress("mayor", [Passage(TEXT)], Budget(tokens=10)).text for w in (1, 99)]
    assert texts[0].endswith("is Corine Mauch.")
    assert texts[1].endswith("New line. End.")


@pytest.mark.parametrize("budget", [Budget(tokens=5), Budget(tokens=10**400), Budget(keep=0.5)])
def test_no_room_is_too_wide_and_no_chain_too_long(budget):
    chain = Chain(stages=(load("truncate"),) * 30, widen=1e300)
    result = chain.compress("", [Passage(TEXT)], budget)
    assert result.stats.tokens_out <= budget.resolve(result.stats.tokens_in)


def test_protected_spans_move_with_the_text():
    at = TEXT.index("Rain falls.")
    passage = Passage(TEXT, metadata={"protect": [[at, at + 4]], "other": 1})
    result = load("bm25+truncate", truncate__unit="sentence", widen=2).compress("mayor", [passage], Budget(tokens=8))
    assert result.text == "Rain falls."
    assert result.passages == (passage,)


def test_malformed_protection_is_the_input_error_of_the_stage():
    with pytest.raises(InputError, match=r"metadata\['protect'\] must be \[start, end\] pairs, got 5"):
        load("bm25+truncate").compress("", [Passage(TEXT, metadata={"protect": 5})], Budget(tokens=3))


def test_long_texts_do_not_take_quadratic_time():
    passage = Passage("".join(f"Sentence {i} has a few words. " for i in range(20_000)))
    began = time.process_time()
    result = load("random+truncate", counter=len).compress("", [passage], Budget(keep=0.4))
    assert time.process_time() - began < 20
    assert len(result.spans) > 20_000
    check_source(result)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ()}, "at least one stage"), ({"stages": ("bm25",)}, "stages must be a list of a Compressor"),
        ({"stages": load("bm25")}, "stages must be"), ({"stages": (load("bm25"),), "widen": 0.9}, "widen must be 1 or"),
        ({"stages": (load("bm25"),), "widen": float("nan")}, "widen must be a finite number"),
        ({"stages": (load("bm25"),), "widen": "3"}, "widen must be a finite number"),
        ({"stages": (load("bm25", elision="…"), load("truncate"))}, "cannot place elision marks"),
        ({"stages": (load("bm25", counter="minilm"), load("truncate"))}, "must share one counter"),
    ],
)  # fmt: skip
def test_impossible_chains_are_refused_when_they_are_made(fields, message):
    with pytest.raises(InputError, match=message):
        Chain(**fields)


def test_a_stage_that_rewrites_can_only_be_the_last():
    passages = [Passage("rewrite this")]
    with pytest.raises(InputError, match="fickle rewrites text, so it can only be the last stage"):
        Chain(stages=(Fickle(), load("truncate", counter="minilm"))).compress("", passages, Budget(tokens=9))
    result = Chain(stages=(load("truncate", counter="minilm"), Fickle())).compress("", passages, Budget(tokens=9))
    assert (result.text, result.spans, result.passages) == ("rewrite this", None, tuple(passages))


def test_lists_of_stages_are_welcome_and_chains_are_values():
    chain = Chain(stages=[load("bm25"), load("truncate")])
    assert chain == load("bm25+truncate")
    assert hash(chain) == hash(load("bm25+truncate"))


def requests_of(*texts: str, tokens: int = 6) -> list[Request]:
    return [Request("", (Passage(text),), Budget(tokens=tokens)) for text in texts]


def test_only_the_request_that_fails_falls_back():
    safe = FallbackToInput(inner=Fickle())
    results = safe.compress_batch(requests_of("all is well", "please explode now", "inflate it", "fine"))
    assert [r.text for r in results] == ["all is well", "please explode now", "inflate it", "fine"]
    assert [r.stats.fallback for r in results] == [
        None, "ModelError: the weights are gone", "inflation: 4 -> 8 tokens", None,
    ]  # fmt: skip
    assert [r.stats.method for r in results] == ["fickle", *["fallback_to_input(fickle)"] * 2, "fickle"]
    assert "[fallback: ModelError: the weights are gone]" in str(results[1].stats)


def test_the_budget_holds_in_the_inner_counter():
    for inner in (
        Fickle(),
        Cached(inner=Fickle()),
        Chain(stages=(Fickle(),)),
        FallbackToInput(inner=Fickle(), survives=()),
    ):
        (result,) = FallbackToInput(inner=inner).compress_batch(requests_of("explode " * 50))
        assert result.stats.counter == "minilm-wordpiece"
        assert result.stats.tokens_out == resolve_counter("minilm").count(result.text) == 6
        check_source(result)


def test_over_budget_results_are_not_passed_on():
    (result,) = FallbackToInput(inner=Fickle()).compress_batch(requests_of("much too long for six tokens, is it not"))
    assert result.stats.fallback == "over the budget: 11 tokens where 6 are allowed"
    assert result.stats.tokens_out <= 6


def test_errors_of_the_caller_and_errors_not_listed_are_not_survived():
    with pytest.raises(InputError):
        FallbackToInput(inner=Fickle(error=InputError)).compress_batch(requests_of("explode"))
    with pytest.raises(KeyError):
        FallbackToInput(inner=Fickle(error=KeyError), survives=(OSError, ModelError)).compress_batch(
            requests_of("explode")
        )
    with pytest.raises(InputError, match=r"passages\[0\] must be a Passage, got str"):
        FallbackToInput(inner=Fickle()).compress("", ["text"], Budget(tokens=3))


def test_a_fallback_inside_a_chain_is_still_reported():
    chain = Chain(stages=(FallbackToInput(inner=Fickle()), load("truncate", counter="minilm")))
    (result,) = chain.compress_batch(requests_of("please explode"))
    assert result.stats.fallback == "ModelError: the weights are gone"


@pytest.mark.parametrize("fields", [{"inner": "bm25"}, {"inner": Fickle, "survives": (OSError,)},
    {"inner": Fickle(), "survives": OSError}, {"inner": Fickle(), "survives": (int,)}])  # fmt: skip
def test_misuse_is_refused_when_it_is_made(fields):
    with pytest.raises(InputError, match=r"(inner|survives) must be"):
        FallbackToInput(**fields)


def test_fallbacks_are_values():
    safe = FallbackToInput(inner=load("bm25"), survives=(OSError,))
    assert pickle.loads(pickle.dumps(safe)) == safe
    assert hash(safe) == hash(FallbackToInput(inner=load("bm25"), survives=(OSError,)))
    assert safe.name == "fallback_to_input(bm25)"
    assert safe.compress_batch([]) == []
