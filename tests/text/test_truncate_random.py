import pytest

from ctxcomp import Budget, Passage, load

PASSAGES = [
    Passage("One two three four.", score=1.0),
    Passage("Five six seven eight.", score=3.0),
    Passage("Nine ten."),
]


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "One two three four.\n\nFive"),
        ({"side": "tail"}, "six seven eight.\n\nNine ten."),
        ({"side": "both"}, "One two three\n\nNine ten."),
        ({"by_passage_score": True}, "One\n\nFive six seven eight."),
        ({"by_passage_score": True, "unit": "passage", "fill": True}, "Five six seven eight."),
    ],
)
def test_truncate_keeps_its_side(settings, expected):
    result = load("truncate", counter=words, **settings).compress("", PASSAGES, Budget(tokens=5))
    assert result.text == expected


def test_truncate_stops_at_the_first_word_that_does_not_fit():
    text = "short short " + "x" * 300 + " short short"
    result = load("truncate", counter=len).compress("", [Passage(text)], Budget(tokens=40))
    assert result.text == "short short"


def test_random_depends_on_seed_and_texts_only():
    passages = [Passage(". ".join(f"Sentence number {i}" for i in range(40)) + ".")]
    first = load("random", seed=1).compress("q", passages, Budget(keep=0.3)).text
    assert first == load("random", seed=1).compress("q", [Passage(passages[0].text, id="other")], Budget(keep=0.3)).text
    assert first != load("random", seed=2).compress("q", passages, Budget(keep=0.3)).text


def test_random_is_fair():
    passages = [Passage(" ".join(f"S{i}." for i in range(100)))]
    counts = [0, 0]
    for seed in range(60):
        for span in load("random", seed=seed, counter=words).compress("", passages, Budget(tokens=20)).spans:
            counts[span.start > len(passages[0].text) // 2] += 1
    assert abs(counts[0] - counts[1]) < 0.15 * sum(counts)
