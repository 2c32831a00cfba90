"""Lines on a terminal end between words, however a text arrives, and code stays as it is."""

from __future__ import annotations

import pytest

from aegis.cli.flow import Flow, columns, folded

TEXT = "The quick brown fox jumps over the lazy dog and says more about it."


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_words_are_kept_together_however_a_text_arrives(size: int) -> None:
    flow = Flow(30)
    shown = "".join(flow.feed(TEXT[n : n + size]) for n in range(0, len(TEXT), size)) + flow.rest()
    assert shown == "The quick brown fox jumps\nover the lazy dog and says\nmore about it."
    assert flow.rest() == ""


def test_a_word_is_held_back_until_it_is_whole() -> None:
    flow = Flow(80)
    assert flow.feed("hel") == ""
    assert flow.feed("lo ") == "hello"
    assert flow.feed("you\n") == " you\n"
    assert flow.rest() == ""


def test_without_a_width_nothing_changes() -> None:
    flow = Flow(None)
    assert flow.feed(TEXT) + flow.rest() == TEXT
    assert Flow(10).feed(TEXT) == TEXT  # too narrow for words


def test_code_and_tables_stay_as_they_are() -> None:
    code = f"```\n{TEXT}\n```\n    {TEXT}\n| {TEXT} |\n"
    flow = Flow(30)
    shown = "".join(map(flow.feed, code)) + flow.rest()
    assert shown == code
    assert "\n" in flow.feed(TEXT)


def test_a_word_that_is_longer_than_a_line_is_torn() -> None:
    flow = Flow(30, 2)
    shown = flow.feed("see " + "x" * 60 + " there") + flow.rest()
    assert [len(line) for line in shown.split("\n")] == [3, 27, 27, 12]
    assert shown.replace("\n", "") == "see" + "x" * 60 + " there"


def test_lines_of_pieces_are_folded_under_each_other() -> None:
    line = ["  ", ("✓ ", "green"), (TEXT, "dim")]
    assert folded(line, None) == [line]
    assert folded(line, 80) == [line]
    lines = folded(line, 40)
    assert ["".join(piece if isinstance(piece, str) else piece[0] for piece in each) for each in lines] == [
        "  ✓ The quick brown fox jumps over the ",
        "      lazy dog and says more about it.",
    ]
    assert lines[1][-1] == ("lazy dog and says more about it.", "dim")


@pytest.mark.parametrize(("text", "wide"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("✏️", 2), ("📖", 2)])
def test_columns(text: str, wide: int) -> None:
    assert columns(text) == wide
