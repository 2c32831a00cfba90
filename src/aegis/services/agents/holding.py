"""Pieces of text as a program says them: an end that may begin a secret waits for the next piece, so that none is told in two.

Without secrets, and nearly always with them, a piece goes on at once and as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from aegis.core.events import TextDelta, ThinkingDelta, ToolProgress

if TYPE_CHECKING:
    from aegis.core.events import Fact
    from aegis.store import Store

_PIECES = (TextDelta, ThinkingDelta, ToolProgress)


class Holding:
    """What waits of one conversation."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[tuple[type[Fact], str | None], TextDelta | ThinkingDelta | ToolProgress] = {}

    def pass_on(self, fact: Fact) -> Fact | None:
        """The fact as it may be told now; None when all of it waits."""
        if not isinstance(fact, _PIECES):
            return fact
        key = (type(fact), fact.call_id if isinstance(fact, ToolProgress) else fact.parent)
        before = self._waiting.pop(key, None)
        text = before.text + fact.text if before is not None else fact.text
        held = self._store.cleaner.held(text)
        if held:
            self._waiting[key] = cast("TextDelta", msgspec.structs.replace(fact, text=text[len(text) - held :]))
            text = text[: len(text) - held]
        if not text and fact.text:
            return None
        return fact if text is fact.text else msgspec.structs.replace(fact, text=text)

    def release(self) -> list[Fact]:
        """What waits: something whole follows, so it began no secret, or one that the whole shows."""
        found: list[Fact] = list(self._waiting.values())
        self._waiting.clear()
        return found
