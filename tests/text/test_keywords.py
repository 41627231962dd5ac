from ctxcomp import Budget, Passage, Request
from ctxcomp.candidates import candidates
from ctxcomp.text.keywords import content_words, guarded, top_terms


def units(*texts):
    return candidates(Request("", tuple(map(Passage, texts)), Budget(keep=1.0)), "word")


def marked(mask, found):
    return [text for text, yes in zip(found.texts, mask, strict=True) if yes]


def test_names_numbers_and_negations_are_guarded():
    found = units("", "She did not meet George Eliot in 1871.", "Nothing of note.", "rain fell")
    assert marked(guarded(found), found) == ["not", "George", "Eliot", "1871.", "Nothing"]


def test_other_patterns_and_none():
    found = units('He said "good night" to 3 men.')
    assert marked(guarded(found, ("quotes",)), found) == ['"good', 'night"']
    assert not guarded(found, ()).any()


def test_function_words_and_marks_carry_no_content():
    found = units("The novel — of a (famous) author.")
    assert marked(content_words(found), found) == ["novel", "(famous)", "author."]


def test_top_terms_are_what_the_other_texts_lack():
    terms = top_terms(["bees make honey, honey", "bees make wax", "bees fly"], 1)
    assert terms == [["honey"], ["wax"], ["fly"]]
    assert top_terms([], 2) == []
