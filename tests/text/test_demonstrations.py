import pytest

from ctxcomp import Budget, InputError, Passage, load
from ctxcomp.text.demonstrations import demonstration

EXAMPLES = [
    demonstration("The train from London to York was two hours late because of heavy snow on the line.", "negative"),
    demonstration("What a wonderful and delicious dinner we had at the new place on the corner!", "positive"),
    demonstration("The hotel room was small, dirty and far too expensive for what it offered to us.", "negative"),
    demonstration("The train was on time and its seats were comfortable and clean.", "positive"),
]
QUERY = "The train to Leeds was late again and dirty."


def choose(tokens, query=QUERY, examples=EXAMPLES, **fields):
    return load("demonstrations", **fields).compress(query, examples, Budget(tokens=tokens))


@pytest.mark.parametrize("tokens", [15, 25, 40, 60, 80])
def test_examples_are_there_with_input_and_output_or_not_at_all(tokens):
    result = choose(tokens)
    assert result.stats.tokens_out <= tokens
    chosen = [(text, p) for text, p in zip(result.passage_texts, EXAMPLES, strict=True) if text]
    assert result.stats.notes == (f"{len(chosen)} of 4 examples",)
    for text, passage in chosen:
        head, _, output = text.partition("\nA: ")
        assert output == passage.text.rpartition("\nA: ")[2]
        assert head.startswith("Q: ")
        assert len(head.split()) >= 4


def test_the_most_similar_example_comes_first():
    result = choose(28)
    assert [i for i, text in enumerate(result.passage_texts) if text] in ([0], [3])


def test_squeezing_makes_room_for_more_and_one_keeps_examples_whole():
    whole, squeezed = choose(55, squeeze=1.0), choose(55, squeeze=0.4)
    assert all(text in ("", p.text) for text, p in zip(whole.passage_texts, EXAMPLES, strict=True))
    assert sum(map(bool, squeezed.passage_texts)) > sum(map(bool, whole.passage_texts))


def test_coverage_takes_the_example_that_has_the_missing_word():
    examples = [
        Passage("alpha alpha report today"),
        Passage("alpha report today again"),
        Passage("zebra crossing far away"),
    ]
    fields = {"squeeze": 1.0, "most": 2, "redundancy": 0.0}
    near = choose(100, "alpha zebra", examples, coverage=0.0, **fields)
    wide = choose(100, "alpha zebra", examples, coverage=5.0, **fields)
    assert wide.passage_texts[2]
    assert sum(map(bool, near.passage_texts)) == sum(map(bool, wide.passage_texts)) == 2


def test_redundancy_leaves_out_the_same_example_again():
    twice = [EXAMPLES[0], EXAMPLES[0], EXAMPLES[3], EXAMPLES[1]]
    texts = choose(100, examples=twice, most=2, squeeze=1.0, redundancy=2.0).passage_texts
    assert bool(texts[0]) != bool(texts[1]) or not (texts[0] or texts[1])


def test_a_limit_holds_where_everything_would_fit():
    assert sum(map(bool, choose(1000, most=2).passage_texts)) == 2
    assert choose(1000).text == "\n\n".join(p.text for p in EXAMPLES)


def test_an_output_that_does_not_fit_leaves_nothing():
    example = demonstration("short", "a very long output that cannot be cut because it is the answer")
    assert choose(8, examples=[example]).text == ""


def test_no_query_no_metadata_and_empty_examples():
    assert choose(30, query="").stats.tokens_out <= 30
    assert choose(9, examples=[Passage("One plain text that has no mark of what its input is."), Passage("")]).text


@pytest.mark.parametrize("span", [(0, 10**6), "xy", (5, 2), None.__class__])
def test_a_wrong_mark_is_refused(span):
    with pytest.raises(InputError, match="metadata"):
        choose(5, examples=[Passage("some text of a good length", metadata={"input": span})])


@pytest.mark.parametrize("fields", [{"squeeze": 0.0}, {"squeeze": 2.0}, {"coverage": -1.0}, {"most": -1}])
def test_wrong_fields_are_refused(fields):
    with pytest.raises(InputError):
        load("demonstrations", **fields)


def test_templates_place_the_output_where_they_say():
    passage = demonstration("in", "out", template="[{output}] <- {input}.")
    assert passage.text == "[out] <- in."
    a, b = passage.metadata["input"]
    assert passage.text[a:b] == "in"
    with pytest.raises(InputError, match="once each"):
        demonstration("a", "b", template="{input}")
