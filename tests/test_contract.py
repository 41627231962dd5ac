"""What every compressor promises, for every input: the invariants of the design, over the matrix of `cases`."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator

import pytest
from cases import CASES, PROTECTING, WRITING
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ctxcomp import Budget, BudgetError, CompressedText, Compressor, Passage, Request, load, resolve_counter
from ctxcomp.rewriter import invented

PROSE = (
    "Middlemarch is a novel by George Eliot. It appeared in 1871 and 1872! Did Mrs. Lewes like it?\n\n"
    "- first item, not short\n- second item\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx = 1\n```\n"
    '"Quoted words," she said. 北京是中国的首都。東京は日本の首都です。 مرحبا بالعالم؟ नमस्ते दुनिया। https://x.org/a.b\n'
)
texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=st.sampled_from(list("ab .\n\t!?\"'`|-#0193é北。\u200b\ud800\U0001f600\u0301")), max_size=80),
    st.integers(0, len(PROSE)).flatmap(lambda a: st.integers(a, len(PROSE)).map(lambda b: PROSE[a:b])),
)
passages = st.builds(
    Passage, texts, id=st.sampled_from(["", "a", "{x}"]), title=st.sampled_from([None, "T", "[…]"]),
    score=st.one_of(st.none(), st.floats(-5, 5)),
)  # fmt: skip
budgets = st.one_of(
    st.integers(0, 80).map(lambda n: Budget(tokens=n)), st.floats(0.01, 1.0).map(lambda f: Budget(keep=f))
)
requests = st.builds(Request, texts, st.lists(passages, max_size=4).map(tuple), budgets)

every_case = pytest.mark.parametrize("name", sorted(CASES))


def options_of(compressor: Compressor) -> Compressor:
    """The stage whose layout shows in the text."""
    inner = getattr(compressor, "inner", getattr(compressor, "extraction", compressor))
    return getattr(inner, "stages", (inner,))[-1]


def run(name: str, request: Request) -> CompressedText | None:
    """The result; None where protected text rightly exceeds the budget."""
    try:
        return CASES[name].compress_batch([request])[0]
    except BudgetError:
        if name not in PROTECTING:
            raise
        return None


def check_spans(request: Request, result: CompressedText, compressor: Compressor) -> None:
    """The text is the spans' slices in source order, and between them only gaps, separators, headers and marks."""
    assert result.spans is not None
    options = options_of(compressor)
    keys = [(s.passage, s.start, s.end) for s in result.spans]
    assert keys == sorted(keys)
    assert all(a[0] < b[0] or a[2] <= b[1] for a, b in itertools.pairwise(keys))
    # A piece may occur in a separator too, "-" in "---": every place where it may stand is followed.
    cursors, previous = {0}, -1
    for passage, start, end in keys:
        assert 0 <= start < end <= len(request.passages[passage].text)
        piece = request.passages[passage].text[start:end]
        places = [(cursor, at) for cursor in cursors for at in occurrences(result.text, piece, cursor)]
        after = {
            at + len(piece)
            for cursor, at in places
            if is_filler(result.text[cursor:at], request, passage, previous, options)
        }
        assert after, f"{piece!r} does not follow {result.text[: min(cursors)]!r}"
        cursors, previous = after, passage
    assert any(is_filler(result.text[cursor:], request, previous, previous, options) for cursor in cursors)


def check_written(name: str, request: Request, result: CompressedText) -> None:
    """Only what writes has no spans; a number or name that no passage holds is in the notes."""
    assert name in WRITING
    said, claims = " ".join(result.stats.notes), invented(result.text, request.passages)
    if name.startswith("sheets"):  # cells and words that are kept may meet and look like one name
        source = " ".join(passage.text for passage in request.passages)
        claims = [claim for claim in claims if not all(word in source for word in claim.text.split())]
    assert all(repr(claim.text) in said for claim in claims)


def occurrences(text: str, piece: str, begin: int) -> Iterator[int]:
    """Where a piece stands in a text, from a place on."""
    while (begin := text.find(piece, begin)) >= 0:
        yield begin
        begin += 1


def is_filler(text: str, request: Request, passage: int, previous: int, options: Compressor) -> bool:
    parts = [r"[\s\u200b\ufeff\x00-\x20\u200b-\u200f\u2028-\u202f\u2060-\u206f\x7f-\x9f\xad]"]
    if options.elision:
        parts.append(re.sub(r"\\{\w+\\}", ".*?", re.escape(options.elision)))
    if passage != previous:
        parts.append(re.escape(options.separator))
        if options.header:
            title = request.passages[passage].title or ""
            parts.append(re.escape(f"[{passage + 1}] {title}\n"))
    return re.fullmatch(f"(?:{'|'.join(parts)})*", text, re.DOTALL) is not None


@every_case
@example(request_=Request("", (Passage(""), Passage("0"), Passage("-")), Budget(tokens=11)))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(request_=requests)
def test_spans_budget_and_stats(name: str, request_: Request) -> None:
    before = copy.deepcopy(request_)
    result = run(name, request_)
    assert request_ == before
    if result is None:
        return
    counter = resolve_counter(getattr(options_of(CASES[name]), "counter", None))
    assert result.stats.counter == counter.name
    assert result.stats.tokens_out == counter.count(result.text)
    assert result.stats.tokens_out <= request_.budget.resolve(result.stats.tokens_in)
    assert result.passages == request_.passages
    assert len(result.passage_texts) == len(request_.passages)
    assert all(text in result.text for text in result.passage_texts)
    if result.spans is None:
        check_written(name, request_, result)
    else:
        check_spans(request_, result, CASES[name])


@every_case
@settings(max_examples=8)
@given(batch=st.lists(requests, min_size=2, max_size=4))
def test_a_batch_equals_its_singles(name: str, batch: list[Request]) -> None:
    singles = [run(name, request) for request in batch]
    if None in singles:
        return
    together = CASES[name].compress_batch(batch)
    assert [r.text for r in together] == [r.text for r in singles]
    assert [(r.stats.tokens_in, r.stats.tokens_out) for r in together] == [
        (r.stats.tokens_in, r.stats.tokens_out) for r in singles
    ]


@every_case
def test_same_input_same_output(name: str) -> None:
    plain = re.sub(r'[\d"]', "x", PROSE)  # nothing that a case protects
    request = Request("novel by Eliot", (Passage(plain), Passage(plain[40:])), Budget(keep=0.5))
    first, second = run(name, request), run(name, request)
    assert first is not None
    assert first.text == second.text
    assert first.spans == second.spans


@every_case
@pytest.mark.parametrize("texts_", [[], [""], ["a"], [" \n "], ["", "a", ""], ["\ud800"]])
@pytest.mark.parametrize("query", ["", "a", " "])
def test_nothing_and_next_to_nothing(name: str, texts_: list[str], query: str) -> None:
    result = CASES[name].compress(query, [Passage(t) for t in texts_], Budget(tokens=50))
    assert result.text == ("" if not "".join(texts_).strip() else result.text)
    assert len(result.passage_texts) == len(texts_)
    assert (
        all(t.strip() == left for t, left in zip(texts_, result.passage_texts, strict=True))
        or getattr(CASES[name], "min_score", None) is not None
    )


@every_case
def test_a_budget_of_nothing_keeps_nothing(name: str) -> None:
    result = run(name, Request("novel", (Passage(PROSE.replace("1", "x")),), Budget(tokens=0)))
    assert result is None or (result.text, result.spans, result.stats.tokens_out) == ("", (), 0)


@every_case
def test_what_fits_stays_whole(name: str) -> None:
    result = run(name, Request("", (Passage("One. Two."), Passage("Three.")), Budget(tokens=60)))
    assert [t for t in ("One. Two.", "Three.") if t in result.text] == [
        "One. Two.",
        "Three.",
    ] or name == "token_pruner-hard"


def test_every_method_is_in_the_matrix() -> None:
    from ctxcomp import methods

    text = {name for name, method in methods().items() if method.gives_text}  # others: tests/latent
    assert text <= set(CASES)
    assert {load(name).name for name in text} == text
