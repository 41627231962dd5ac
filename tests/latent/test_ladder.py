"""The ladder: never over its budget, spans that slice back, the best in full, the tail as vectors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxcomp import Budget, InputError, Passage, Request, load
from ctxcomp.generate.prompts import context_text, mark_for
from ctxcomp.latent import Ladder
from ctxcomp.types import CompressedLatents, CompressedText

SENTENCES = ["Eliot wrote it.", "It rained all day in Leeds.", "The mail was late again.", "Who knows why?"]


@pytest.fixture(scope="module")
def ladder(projector):
    return Ladder(latents=projector, pruner="bm25", full=0.5)


def positions(context, generator):
    """Tokens of the context as the prompt has it, counted anew."""
    mark = mark_for()
    ids, places = generator.prompts.marked(context_text(context, mark), mark) if context.parts else ([], [])
    return len(ids), len(places)


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from([*SENTENCES, "\n", "ümläut 漢字 🙂."]), max_size=5), max_size=5),
    st.integers(0, 160),
    st.sampled_from(["", "Who wrote it in Leeds?"]),
)
def test_the_budget_is_never_exceeded_and_spans_slice_back(ladder, texts, tokens, query):
    passages = [Passage(" ".join(sentences)) for sentences in texts]
    found = ladder.compress(query, passages, Budget(tokens=tokens))
    n, vectors = positions(found, ladder.latent.generator)
    assert n == found.stats.tokens_out <= max(tokens, 0)
    assert vectors == sum(len(p.vectors) for p in found.parts if isinstance(p, CompressedLatents))
    shown: list[int] = []
    for part in found.parts:
        if isinstance(part, CompressedLatents):
            shown += dict.fromkeys(part.sources)
            continue
        rest = part.text
        for span in part.spans:
            piece = passages[span.passage].text[span.start : span.end]
            assert piece in rest
            rest = rest[rest.index(piece) + len(piece) :]
        assert not rest.strip()
        assert part.text == "\n\n".join(t for t in part.passage_texts if t)
        shown += [i for i, t in enumerate(part.passage_texts) if t]
    assert shown == sorted(set(shown))


def test_all_in_full_where_all_fits(ladder):
    passages = [Passage(s) for s in SENTENCES]
    found = ladder.compress("", passages, Budget(keep=1.0))
    assert [type(p) for p in found.parts] == [CompressedText]
    assert found.parts[0].text == "\n\n".join(SENTENCES)
    assert found.stats.tokens_out == found.stats.tokens_in


LEEDS = [
    Passage("Nothing of it here at all.", score=0.1),
    Passage("Leeds is wet. It rained in Leeds when the mail was late.", score=0.9),
    Passage("Something else entirely. Trains run. The mail of Leeds was late. Birds sing all day.", score=0.5),
    Passage("Nobody knows this one.", score=0.2),
]


def kinds(found):
    """Of each passage in the context: "full", "pruned" or "vector"."""
    rungs = {}
    for part in found.parts:
        if isinstance(part, CompressedLatents):
            rungs |= dict.fromkeys(part.sources, "vector")
        else:
            texts = {i: text for i, text in enumerate(part.passage_texts) if text}
            rungs |= {i: "full" if text == LEEDS[i].text else "pruned" for i, text in texts.items()}
    return [rungs.get(i, "") for i in range(len(LEEDS))]


def test_full_then_pruned_then_one_token(ladder):
    """By the retriever's scores: the first in full, of the second the sentence that answers, the rest as vectors."""
    query = "mail Leeds"
    found = ladder.compress(query, LEEDS, Budget(tokens=103))
    assert kinds(found) == ["vector", "full", "pruned", "vector"]
    assert [type(p) for p in found.parts] == [CompressedLatents, CompressedText, CompressedLatents]
    assert "The mail of Leeds was late." in found.parts[1].passage_texts[2]
    assert ladder.latent.generator.generate(query, found, max_tokens=4).usage.prompt_tokens > 103
    assert kinds(ladder.compress(query, LEEDS, Budget(tokens=100))) == ["", "full", "pruned", "vector"]


@settings(max_examples=30)
@given(st.integers(0, 200))
def test_vectors_take_no_room_from_the_pruner(projector, tokens):
    """With no passage in full for its own sake the text is what the pruner keeps alone."""
    made = Ladder(latents=projector, pruner="bm25", full=0)
    found = made.compress("mail Leeds", LEEDS, Budget(tokens=tokens))
    alone = made.text.compress("mail Leeds", LEEDS, Budget(tokens=tokens))
    texts = [part.passage_texts for part in found.parts if isinstance(part, CompressedText)]
    assert [next((t[i] for t in texts if t[i]), "") for i in range(len(LEEDS))] == list(alone.passage_texts)


def test_batches_equal_singles(ladder):
    requests = [Request("mail", tuple(map(Passage, SENTENCES)), Budget(tokens=n)) for n in (5, 40, 60)]
    together = ladder.compress_batch(requests)
    for request, one in zip(requests, together, strict=True):
        alone = ladder.compress_batch([request])[0]
        assert one.stats.tokens_out == alone.stats.tokens_out
        assert [type(p) for p in one.parts] == [type(p) for p in alone.parts]


def test_it_loads_by_name_and_says_what_it_needs(generator, projector_file, projector):
    made = load("ladder", generator=generator, weights=projector_file, retriever=None, pruner="bm25")
    assert made.name == "ladder"
    with pytest.raises(InputError, match="needs generator="):
        load("ladder")
    with pytest.raises(InputError, match=r"full must be in \[0, 1\]"):
        Ladder(latents=projector, full=2)
    with pytest.raises(InputError, match="count with the generator's tokenizer"):
        Ladder(latents=projector, pruner=load("bm25", counter=len))
