import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, InputError, Passage, load
from ctxcomp.rewriter import invented
from ctxcomp.text.chunks import outliers, shares, split

NOVEL = "Middlemarch is a novel by George Eliot. The novel appeared in eight parts in 1871. Its author was an editor. "
BEES = "Bees make honey from the nectar of flowers. A hive holds 40,000 bees in the summer. The queen lays the eggs. "
TAX = "The tax on income fell by a tenth. The treasury lost 12 million that year. Voters were pleased with the tax. "
QUERY = "Who wrote the novel Middlemarch?"


def unit_vectors(rows):
    vectors = np.asarray(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_chunks_end_where_the_topic_does():
    vectors = unit_vectors([[1, 0.1], [1, 0], [1, 0.05], [0, 1], [0.1, 1]])
    assert split(vectors, [10] * 5, 1.0, 1, 100) == [slice(0, 3), slice(3, 5)]
    assert split(vectors, [10] * 5, 1.0, 25, 100) == [slice(0, 5)]
    assert split(vectors[:1], [10], 1.0, 1, 100) == [slice(0, 1)]
    # The weakest joint of what is too long.
    assert split(vectors, [10] * 5, 9.0, 1, 40) == [slice(0, 3), slice(3, 5)]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), st.integers(1, 40), st.integers(40, 200), st.floats(0, 3))
def test_chunks_cover_the_passage_and_keep_to_their_sizes(sizes, least, most, spread):
    generator = np.random.default_rng(len(sizes))
    chunks = split(unit_vectors(generator.normal(size=(len(sizes), 8))), sizes, spread, least, most)
    assert [i for chunk in chunks for i in range(chunk.start, chunk.stop)] == list(range(len(sizes)))
    assert all(sum(sizes[chunk]) <= most or chunk.stop - chunk.start == 1 for chunk in chunks)


def test_an_outlier_is_unlike_all_others():
    vectors = unit_vectors([[1, 0], [1, 0.1], [1, 0.2], [1, 0.1], [-1, 1]])
    assert outliers(vectors, 1.0).tolist() == [False] * 4 + [True]
    assert not outliers(vectors[2:], 1.0).any()


rooms = st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 200)), min_size=1, max_size=20)


@given(rooms, st.integers(0, 1000), st.floats(0.01, 2), st.floats(0, 1))
def test_shares_add_up_and_favour_what_is_relevant(chunks, tokens, temperature, floor):
    relevance, sizes = np.array([r for r, _ in chunks]), [n for _, n in chunks]
    given_ = shares(relevance, sizes, tokens, temperature, floor)
    assert given_.sum() <= tokens
    assert given_.sum() >= min(tokens, sum(sizes)) - len(sizes)
    assert all(0 <= g <= n for g, n in zip(given_, sizes, strict=True))
    best = int(np.argmax(relevance))
    kept = given_ / np.array(sizes)
    assert kept[best] >= kept.max() - 2 / sizes[best] - 2 / min(sizes)


def test_a_worthless_chunk_gets_its_floor_and_no_more():
    given_ = shares(np.array([0.5, -np.inf]), [100, 100], 120, 0.1, 0.1)
    assert given_.tolist() == [100, 10]


def test_the_relevant_chunk_keeps_more_than_the_others():
    passages = [Passage(TAX), Passage(NOVEL), Passage(BEES)]
    result = load("chunk_rewrite", least=8, terms=0).compress(QUERY, passages, Budget(keep=0.5))
    kept = [len(text) / len(p.text) for text, p in zip(result.passage_texts, passages, strict=True)]
    assert kept[1] == max(kept)
    assert kept[1] > 0.8


def test_key_terms_are_put_back_as_slices_and_counted_in_a_note():
    passages = [Passage(NOVEL + BEES + TAX)]
    bare = load("chunk_rewrite", reserve=0.0, terms=0).compress(QUERY, passages, Budget(tokens=30))
    full = load("chunk_rewrite", reserve=0.4, terms=0).compress(QUERY, passages, Budget(tokens=45))
    assert "40,000" not in bare.text
    for term in ("1871", "40,000", "12"):
        assert term in full.text
    assert any(note.endswith("key terms put back") for note in full.stats.notes)
    assert all(passages[0].text[s.start : s.end] in full.text for s in full.spans)


def shorten(prompt):
    return prompt.partition("Passages:\n")[2].partition(".")[0] + "."


def test_a_writer_for_each_chunk_and_its_key_terms_in_brackets():
    writer = load("summarize", chat=shorten)
    method = load("chunk_rewrite", writer=writer, least=20, reserve=0.5, terms=0)
    result = method.compress(QUERY, [Passage(NOVEL), Passage(BEES)], Budget(tokens=45))
    assert result.spans is None
    assert result.stats.tokens_out <= 45
    assert "(Also: " in result.text
    assert "George Eliot" in result.text


def test_inventions_of_a_writer_are_caught_once_more():
    writer = load("summarize", chat=lambda _: "Ada Quill wrote it.", inventions="report")
    result = load("chunk_rewrite", writer=writer).compress(QUERY, [Passage(NOVEL + BEES)], Budget(keep=0.5))
    assert "Quill" not in result.text
    assert "'Quill'" in " ".join(result.stats.notes)
    assert invented(result.text, result.passages) == []


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0.0}, {"floor": 1.5}, {"reserve": 1.0}, {"least": 0}, {"least": 9, "most": 8}, {"spread": -1.0}],
)
def test_wrong_fields_are_refused(fields):
    with pytest.raises(InputError):
        load("chunk_rewrite", **fields)


def test_many_languages_and_blocks():
    text = "北京是中国的首都。东京是日本的首都。 مرحبا بالعالم؟ नमस्ते दुनिया। "
    blocks = "\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx = 1\n```\n"
    passages = [Passage((text + blocks) * 5), Passage(""), Passage("\ud800")]
    result = load("chunk_rewrite").compress("首都", passages, Budget(tokens=60))
    assert 0 < result.stats.tokens_out <= 60
