from ctxcomp import Budget, Passage, load
from ctxcomp.highlight import highlight


def marked(text: str, *, tokens: int = 6, color: bool = False, name: str = "f") -> str:
    result = load("bm25").compress("cat", [Passage(text)], Budget(tokens=tokens))
    return highlight(result, (name,), color=color)


def test_kept_and_dropped_text_stand_in_the_order_of_the_source():
    assert marked("Dogs bark. The cat sat. Birds sing.") == (
        "== f (12 of 35 characters)\n[-Dogs bark. -]The cat sat.[- Birds sing.-]"
    )


def test_colours_are_closed_before_the_next_begins():
    text = marked("Dogs bark. The cat sat.", color=True)
    assert text == "\x1b[36mf (12 of 23 characters)\x1b[0m\n\x1b[2mDogs bark. \x1b[0m\x1b[1mThe cat sat.\x1b[0m"


def test_the_text_cannot_command_the_terminal():
    text = marked("The cat\x1b[2J sat\x07.\r\nA\rdog\x9b5n.\x00\x7f", tokens=99, color=True, name="\x1b]0;x\x07")
    assert set(text.replace("\x1b[36m", "").replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")) & {
        "\x1b", "\x07", "\x9b", "\r", "\0", "\x7f",
    } == set()  # fmt: skip
    assert "cat�[2J sat�.\x1b[0m\n\x1b[1mA\ndog�5n." in text.replace("\x1b[0m \x1b[1m", " ")


def test_every_passage_is_shown_even_if_nothing_of_it_is_kept():
    result = load("bm25").compress(
        "cat", [Passage("Dogs bark."), Passage("The cat sat."), Passage("")], Budget(tokens=5)
    )
    assert highlight(result, ("a", "b", "c"), color=False) == (
        "== a (0 of 10 characters)\n[-Dogs bark.-]\n\n== b (12 of 12 characters)\nThe cat sat.\n\n"
        "== c (0 of 0 characters)\n"
    )
