"""What is kept of a turn: on its way to the program, and while it runs."""

from __future__ import annotations

from typing import Any

from aegis.core.bounds import MAX_SAID
from aegis.core.events import Text
from aegis.drivers import Message
from aegis.drivers.codex.results import Failure


class Sent:
    """A turn's messages on their way to the program."""

    def __init__(self, turn: str, ids: list[str], items: list[dict[str, Any]]) -> None:
        self.turn, self.ids, self.items = turn, ids, items
        self.request = 0  # our number of the request that carries them, once it is written
        self.cut = False
        self.added: list[list[Message]] = []  # what came for the turn before the program named it


class Turn:
    """A turn that runs."""

    def __init__(self, ident: str, sent: Sent | None) -> None:
        self.ident = ident  # the program's name of it
        self.sent = sent  # None: the program began it by itself
        self.taken = sent is None  # its messages are in the conversation
        self.cut = sent is not None and sent.cut
        self.unseen: list[str] = []  # messages that no model call has included yet
        self.added: dict[str, list[str]] = {}  # messages handed over meanwhile, by the name they went under
        self.text = ""  # what the agent said last
        self.failed: object = None  # what the program told last of what went wrong
        self.final: Failure | None = None  # what it would try again and again, and what no repetition mends
        self.input = self.output = self.cached = self.rounds = 0
        self.cutting = False  # the program has been asked to stop
        self._pieces: dict[str, list[str]] = {}  # of texts whose whole is not told yet, by item
        self._size = 0

    def piece(self, item: str, text: str) -> None:
        """A piece of a text came. Of a text that never comes as a whole a part is kept."""
        room = MAX_SAID - self._size
        self._size += len(text)
        if room > 0:
            self._pieces.setdefault(item, []).append(text[:room])

    def whole(self, item: str, text: str) -> None:
        """A text came as a whole."""
        self._size -= sum(map(len, self._pieces.pop(item, ())))
        self.text = text

    def rest(self, model: str) -> list[Text]:
        """What came in pieces and never as a whole, because the message was broken off."""
        texts = [Text(text, model=model) for pieces in self._pieces.values() if (text := "".join(pieces))]
        self._pieces.clear()
        if texts:
            self.text = texts[-1].text
        return texts
