"""What a script can do in one answer."""

from __future__ import annotations

from typing import Any

import msgspec


class Say(msgspec.Struct, frozen=True):
    """Text in pieces, `every` seconds apart."""

    pieces: tuple[str, ...]
    every: float = 0.0

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


class Think(msgspec.Struct, frozen=True):
    """Reasoning."""

    text: str


class Call(msgspec.Struct, frozen=True):
    """A tool call."""

    name: str
    input: dict[str, Any]


class Pause(msgspec.Struct, frozen=True):
    """Nothing, for some seconds."""

    seconds: float


class Fail(msgspec.Struct, frozen=True):
    """An HTTP error instead of an answer; with `times`, only for the first repetitions of this request."""

    status: int
    times: int | None = None


Act = Say | Think | Call | Pause | Fail


def say(text: str, every: float = 0.0) -> Say:
    """`text` cut between words into a bounded number of pieces."""
    size = max(20, len(text) // 400)
    pieces = []
    start = 0
    while start < len(text):
        end = start + size
        space = text.find(" ", end, end + size)
        end = space + 1 if space >= 0 else end
        pieces.append(text[start:end])
        start = end
    return Say(tuple(pieces), every)
