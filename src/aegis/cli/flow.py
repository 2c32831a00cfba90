"""Where lines end on a terminal: between words, with the margin that the text began with. Pure; `Output` and `View` use it.

Without a width nothing is changed: what goes to a pipe keeps the lines that it had.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aegis.cli.output import Piece

_FENCE: Final = "```"
#: Lines that begin so are laid out already: code, and tables.
_LAID_OUT: Final = ("    ", "\t", "|")
#: On a narrower terminal words are not kept together.
_NARROWEST: Final = 24


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    # U+FE0F asks for the colourful form of the sign before it, which is two columns wide where that alone is one.
    return sum(
        0 if combining(char) or char == "\u200d" else 1 if char == "\ufe0f" else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def _words(text: str) -> Iterator[str]:
    """Words and the white space between them, in turn."""
    return ("".join(part) for _, part in groupby(text, str.isspace))


class Flow:
    """A text that arrives in pieces, of which no word is torn apart at the right edge.

    What is not yet known to be a whole word is held back until it is. Code, between fences or indented, and tables stay as they are.

    Args:
        width: columns of the terminal; None changes nothing.
        margin: columns that each line has lost to a margin already.
    """

    def __init__(self, width: int | None, margin: int = 0) -> None:
        self._room = width - margin - 1 if width is not None and width - margin > _NARROWEST else None
        self._column = 0
        self._held = ""  # a word that may go on
        self._gap = ""  # the white space before it
        self._line = ""  # the beginning of the present line, which tells what kind of line it is
        self._fenced = False

    def feed(self, text: str) -> str:
        """As much of the text as can be shown now, with line ends where they belong."""
        if self._room is None:
            return text
        return "".join(self._fed(text, self._room))

    def rest(self) -> str:
        """What was held back; afterwards the next text begins a line."""
        if self._room is None:
            return ""
        shown = "".join(self._word(self._room)) + self._gap
        self._column, self._gap, self._line = 0, "", ""
        return shown

    def _fed(self, text: str, room: int) -> Iterator[str]:
        for n, line in enumerate(text.split("\n")):
            if n:
                yield from self._word(room)
                yield "\n"
                self._fenced ^= self._line.lstrip().startswith(_FENCE)
                self._column, self._gap, self._line = 0, "", ""
            for word in _words(line):
                self._line = (self._line + word)[:16]
                if self._fenced or self._line.startswith((*_LAID_OUT, _FENCE)):
                    yield from self._word(room)
                    yield self._gap + word
                    self._gap = ""
                elif word.isspace():
                    yield from self._word(room)
                    self._gap += word
                else:
                    self._held += word

    def _word(self, room: int) -> Iterator[str]:
        """The held word, on the next line where it does not fit on this one."""
        if not self._held:
            return
        gap, word = self._gap, self._held
        self._gap = self._held = ""
        if self._column and self._column + columns(gap) + columns(word) > room:
            yield "\n"
            self._column, gap = 0, ""
        while columns(gap) + columns(word) > room:  # longer than a line: torn apart here, so that it keeps the margin
            cut = max(room - columns(gap), 1)
            yield gap + word[:cut] + "\n"
            gap, word = "", word[cut:]
        yield gap + word
        self._column += columns(gap) + columns(word)


def folded(line: Sequence[Piece], width: int | None, indent: int = 4) -> list[list[Piece]]:
    """A line of pieces as lines of at most `width` columns, broken between words; those after the first are indented."""
    pieces = [(piece, "") if isinstance(piece, str) else piece for piece in line]
    if width is None or width <= _NARROWEST or sum(columns(text) for text, _ in pieces) <= width:
        return [list(line)]
    before = pieces[0][0] if pieces else ""
    indent += len(before) - len(before.lstrip(" "))
    found: list[list[Piece]] = [[]]
    column = 0
    for text, style in pieces:
        for word in _words(text):
            size = columns(word)
            if column + size > width and column > indent:
                if word.isspace():
                    continue
                found.append([" " * indent])
                column = indent
            if word.isspace() and column == indent and len(found) > 1:
                continue
            found[-1].append((word, style))
            column += size
    return [_joined(each) for each in found]


def _joined(line: list[Piece]) -> list[Piece]:
    """The same with neighbours of one style as one piece."""
    found: list[tuple[str, str]] = []
    for piece in line:
        text, style = (piece, "") if isinstance(piece, str) else piece
        if found and found[-1][1] == style:
            found[-1] = (found[-1][0] + text, style)
        else:
            found.append((text, style))
    return list(found)
