import gzip
import json

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxcomp import Budget, InputError, Passage, Request, load, resolve_counter
from ctxcomp.candidates import candidates
from ctxcomp.segment import Kind
from ctxcomp.text.clauses import ASIDE, LOWEST, main_clauses, sentence_worths

SENTCOMP = SHARED / "data" / "compression" / "sentcomp_dev.jsonl.gz"

# What is an aside stands in brackets.
SENTENCES = (
    "Fire destroyed a home on Saturday, a fire captain said Monday.",
    "[After the war,] Ann left the town while it rained.",
    "[After being stuck for years, in which nothing moved,] Jojo is suing her label.",
    "[Omaha police say] a warrant has been issued.",
    "[The minister said on Friday that] the bridge would be closed.",
    "Rooney [said he] wanted to be buried in Hollywood and was.",
    "Spuul [has announced that it] will close.",
    "Toronto, [Canada's largest city,] has survived the storm.",
    "Toronto, [Canada's largest city, a place of ice,] survived the storm.",
    "Kevin Pietersen, [who cost a lot at the auction,] feels more loved in India.",
    "Bananas, apples and pears are fruit.",
    "The plan was praised, which pleased them, and was then forgotten.",
    "In the rain, on the hill.",
)

OTHERS = (
    "Der Minister sagte am Montag, dass die Stadt, die damals noch klein war, an das neue Land fiel.",
    "Na de oorlog was de stad, die in het westen lag, in handen van het leger.",
    "Après la guerre, la ville, qui était petite, fut prise par l'armée.",
    "Por la mañana, el ministro, que no ha venido, dijo que se va a Madrid.",
    "После войны город, который был взят, остался в руках армии.",
    "战争之后,这座城市落入了军队手中。",
    "```python\nwith open(name) as file:  # after the loop, said that is.\n    return [line for line in file]\n```",
    "| the | who said |\n|---|---|\n| after the war, it was | of |",
    "- After the war, the town was small.\n- He said that it was.",
    '{"said": "the man, who was", "of": ["the", "and"]}',
    "# After the war, the town",
    "Apples, pears, plums, cherries",
    "the words of a line, which has no end",
)


def words_of(*texts):
    return candidates(Request("", tuple(map(Passage, texts)), Budget(keep=0.5)), "word")


@pytest.mark.parametrize("marked", SENTENCES)
@pytest.mark.parametrize("apart", [False, True], ids=["text", "tokens"])
def test_asides(marked, apart):
    words, expected, inside = [], [], False
    for word in marked.replace("[", "[ ").replace("]", " ]").split():
        if word in "[]":
            inside = word == "["
            continue
        pieces = word.replace(",", " ,").replace(".", " .").split() if apart else [word]
        words += pieces
        expected += [inside] * len(pieces)
    expected = [aside and word != "." for word, aside in zip(words, expected, strict=True)]
    times = {"on", "Friday", "Saturday,", "Saturday", "Monday.", "Monday"}
    found = sentence_worths(words) + 0.15 * np.arange(len(words))
    assert [w for w, worth in zip(words, found, strict=True) if worth <= -ASIDE + 1e-9] == [
        w for w, aside in zip(words, expected, strict=True) if aside
    ]
    assert all(w in times for w, worth in zip(words, found, strict=True) if -ASIDE + 1e-9 < worth < -1e-9)


@pytest.mark.parametrize("text", OTHERS)
def test_other_languages_code_lists_and_tables_keep_their_scores(text):
    units = words_of(text, "After the war, the town, which was small, was rebuilt.")
    scores = np.random.default_rng(0).random(len(units))
    weighed = main_clauses(units, scores, 1.0)
    other, english = units.units_of(0), units.units_of(1)
    assert (weighed[other] == scores[other]).all()
    assert np.argmax(weighed[english]) == 3  # "the" of "the town"


VOCABULARY = (
    "the of and said says that he is was after before who which in on Monday last The Ann closed town being , . ? "
    "( ) town, town. (town) said, “was ” Ärger 北京 ул. 12 - * | \n \n\n - ``` { } http://a.b"
).split(" ")
TEXTS = st.lists(st.sampled_from(VOCABULARY), max_size=40).map(" ".join)


@settings(max_examples=100)
@given(
    texts=st.lists(TEXTS | st.text(max_size=30), min_size=1, max_size=3),
    weight=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_scores_stay_probabilities_and_what_is_no_prose_keeps_them(texts, weight, seed):
    units = words_of(*texts)
    scores = np.random.default_rng(seed).choice([0.0, 1e-9, 0.2, 0.5, 0.9, 1.0], len(units))
    weighed = main_clauses(units, scores, weight)
    assert weighed.shape == scores.shape
    assert ((weighed >= 0) & (weighed <= 1)).all()
    other = units.kind != Kind.TEXT
    assert (weighed[other] == scores[other]).all()
    assert np.allclose(main_clauses(units, scores, 0.0), scores, atol=2e-5)


@settings(max_examples=100)
@given(words=st.lists(st.sampled_from([w for w in VOCABULARY if w.strip()]), max_size=60))
def test_later_words_of_one_rank_are_worth_less_and_something_is_no_aside(words):
    worths = sentence_worths(words)
    assert worths.shape == (len(words),)
    assert ((worths >= LOWEST) & (worths <= 0)).all()
    assert not words or worths.max() > -ASIDE


def test_token_pruner_shortens_to_the_clause():
    text = "After the storm, the mayor, who was in Paris, said on Friday that the bridge would be closed for two years."
    gist = "the bridge would be closed for two years."
    room = Budget(tokens=resolve_counter(None).count(gist))
    assert load("token_pruner", clauses=1.0).compress("", [Passage(text)], room).text == gist
    assert load("token_pruner").compress("", [Passage(text)], room).text != gist


@pytest.mark.parametrize("weight", [-0.1, 1.01])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(InputError, match=r"clauses must be in \[0, 1\]"):
        load("token_pruner", clauses=weight)


@pytest.mark.skipif(not SENTCOMP.is_file(), reason="needs shared/data/compression")
def test_closer_to_headlines_than_without():
    with gzip.open(SENTCOMP, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(50), strict=False)]
    requests = [Request("", (Passage(" ".join(row["tokens"])),), Budget(keep=0.4)) for row in rows]
    f1 = {}
    for weight in (0.0, 1.0):
        results = load("token_pruner", clauses=weight).compress_batch(requests)
        f1[weight] = np.mean([shared(r, row) for r, row in zip(results, rows, strict=True)])
    assert f1[1.0] > f1[0.0] + 0.15


def shared(result, row):
    """F1 of the words kept; in the file 0 marks those of the headline."""
    starts = np.cumsum([0, *(len(token) + 1 for token in row["tokens"])])[:-1].tolist()
    wanted = {at for at, deleted in zip(starts, row["keep"], strict=True) if not deleted}
    kept = {at for at in starts if any(span.start <= at < span.end for span in result.spans)}
    return 2 * len(kept & wanted) / (len(kept) + len(wanted))
