import numpy as np
import pytest
from checkpoints import tiny_bert, tiny_xlmr

from ctxcomp import Budget, BudgetError, Passage, load, resolve_counter
from ctxcomp.encode.tokens import part_of_tokens

TEXT = (
    "The committee did not approve the 3 proposals that were put forward on Monday, because, as the chair said, "
    "there was no money left in the budget for the year 2024."
)


def test_function_words_go_first():
    words = load("token_pruner").compress("", [Passage(TEXT)], Budget(keep=0.5)).text.split()
    assert {"committee", "proposals"} <= {w.strip(",.") for w in words}
    assert words.count("the") < TEXT.split().count("the")


def test_newlines_cjk_and_spacing_survive():
    text = "Line one of the text here.\nLine two of the text there.\n\n北京是中国的首都和中心城市。  Two  spaces stay."
    result = load("token_pruner").compress("", [Passage(text)], Budget(keep=0.7))
    assert "\n" in result.text
    slices = [text[s.start : s.end] for s in result.spans]
    assert "".join("".join(slices).split()) == "".join(result.text.split())
    assert not any(" " in a for a in result.text if "\u4e00" <= a <= "\u9fff")


@pytest.mark.parametrize("builder", [tiny_bert, tiny_xlmr])
@pytest.mark.parametrize("token_to_word", ["mean", "first"])
def test_any_checkpoint_by_path_with_forced_words(builder, token_to_word, tmp_path):
    builder(tmp_path / "model")
    method = load(
        "token_pruner",
        model=str(tmp_path / "model"),
        token_to_word=token_to_word,
        force_tokens=("not",),
        force_digits=True,
    )
    result = method.compress("", [Passage(TEXT)], Budget(keep=0.4))
    assert {"not", "3", "2024."} <= set(result.text.split())


def test_word_scores_are_the_mean_of_their_tokens(tmp_path):
    tiny_bert(tmp_path / "model")
    from ctxcomp.encode import load_encoder

    method = load("token_pruner", model=str(tmp_path / "model"), phrases=False)
    result = method.compress("", [Passage(TEXT)], Budget(keep=0.9))
    ((offsets, probabilities),) = load_encoder(str(tmp_path / "model"), head="token").keep_probs([TEXT])
    for span in result.spans:
        inside = (offsets[:, 0] >= span.start) & (offsets[:, 1] <= span.end)
        assert span.score == pytest.approx(float(probabilities[inside].mean()), abs=1e-5)


def test_forced_digits_over_the_budget_is_said():
    with pytest.raises(BudgetError, match="the budget is 1"):
        load("token_pruner", force_digits=True).compress("", [Passage(TEXT)], Budget(tokens=1))


def test_forced_words_are_whole_words_as_written():
    text = "Nothing is notable here, but not that; it is NOT so."
    result = load("token_pruner", force_tokens=("not",), min_score=1.1).compress("", [Passage(text)], Budget(keep=1.0))
    assert result.text == "not"


def test_drop_consecutive_keeps_the_first_of_a_row():
    text = "why ? ? ? because"
    kwargs = {"force_tokens": ("?",), "min_score": 1.1}
    assert load("token_pruner", **kwargs).compress("", [Passage(text)], Budget(keep=1.0)).text == "? ? ?"
    dropped = load("token_pruner", drop_consecutive=True, **kwargs).compress("", [Passage(text)], Budget(keep=1.0))
    assert (dropped.text, dropped.stats.tokens_out) == ("?", 1)


@pytest.mark.parametrize("allocate", ["passage", "chunk"])
def test_shares_are_equal_across_passages_and_chunks(allocate):
    dense = "Einstein Curie Planck Bohr Heisenberg Dirac Pauli Fermi Lovelace Turing Neumann Gauss Euler Noether. " * 4
    sparse = "It is that it was and it is so that they are there and this is how it was for them to be in it. " * 4
    counter = resolve_counter("o200k_base")

    def shares(how: str) -> list[float]:
        result = load("token_pruner", allocate=how, counter="o200k_base").compress(
            "", [Passage(dense), Passage(sparse)], Budget(keep=0.5)
        )
        return [counter.count(t) / counter.count(p) for t, p in zip(result.passage_texts, (dense, sparse), strict=True)]

    even, global_ = shares(allocate), shares("global")
    assert abs(even[0] - even[1]) < 0.1 < abs(global_[0] - global_[1])


def test_chunks_of_a_long_document_keep_the_same_share():
    text = (TEXT + " ") * 60
    result = load("token_pruner", allocate="chunk").compress("", [Passage(text)], Budget(keep=0.5))
    counter = resolve_counter(None)
    half = len(text) // 2
    first = "".join(text[s.start : s.end] + " " for s in result.spans if s.start < half)
    assert counter.count(first) / result.stats.tokens_out == pytest.approx(0.5, abs=0.05)


def test_tokens_belong_to_the_word_of_their_last_character():
    start, end = np.array([0, 4, 9]), np.array([3, 8, 10])
    offsets = np.array([[0, 3], [3, 6], [6, 8], [8, 9], [9, 9], [8, 10], [12, 14]])
    assert part_of_tokens(start, end, offsets).tolist() == [0, 1, 1, -1, -1, 2, -1]
    assert part_of_tokens(start[:0], end[:0], offsets).tolist() == [-1] * 7
