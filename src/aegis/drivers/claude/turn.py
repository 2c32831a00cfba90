"""What is kept of a turn while it runs."""

from __future__ import annotations

from typing import Final

from aegis.core.bounds import MAX_SAID
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, Text
from aegis.drivers import Finished
from aegis.drivers.claude.results import Told

#: Texts of a turn that are remembered, so that they are not told twice.
_SEEN: Final = 50_000


class Turn:
    """A turn: asked for by `mail`, begun by the `program`, or a sub-agent in the background that is `asking` between turns."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.unseen: list[str] = []  # its messages that no model call has included yet
        self.told = Told()
        self.model = ""  # that spoke last
        self.thinking_tokens = 0
        #: Deltas of the text whose whole is not told yet.
        self.pieces: list[str] = []
        self._size = 0  # characters of these, with those that are not kept
        self._seen: set[tuple[str, int]] = set()

    def piece(self, text: str) -> None:
        """A delta came. Of a text that never comes as a whole a part is kept."""
        room = MAX_SAID - self._size
        self._size += len(text)
        if room > 0:
            self.pieces.append(text[:room])

    def first(self, message: str, text: str) -> bool:
        """Whether this text of a message is told for the first time."""
        key = (message, hash(text))
        if key in self._seen:
            return False
        if len(self._seen) < _SEEN:
            self._seen.add(key)
        return True

    def rest(self) -> list[Text]:
        """What came in pieces and never as a whole, because the message was broken off."""
        text = "".join(self.pieces)
        self.forget()
        if not text:
            return []
        self.told.text = text
        return [Text(text, model=self.model)]

    def forget(self) -> None:
        """The text whose deltas came was told as a whole."""
        self.pieces.clear()
        self._size = 0

    def without_result(self) -> Finished:
        """Its end, when the program says that it is idle and has told no result."""
        if self.told.cut:
            return Finished(Outcome.CANCELLED, self.told.text, reason="interrupted")
        if self.origin != "mail":
            return Finished(Outcome.COMPLETED, self.told.text, reason="idle")
        error = AegisError(ErrorKind.FAILED, "Claude Code ended the turn and told no result")
        return Finished(Outcome.FAILED, self.told.text, error.to_dict(), reason="idle")
