"""Following the log: an async iterator that begins at a cursor and never ends while the store is open.

It holds at most one page. A slow reader therefore costs nothing but its cursor: it goes on from the disk, and what it
missed of the ephemeral events is counted in `evicted`. One that waits is a single future; it is woken by its own
instance's events alone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from aegis.core.events import Event

if TYPE_CHECKING:
    from aegis.store.log import Log

#: How many events are fetched at a time.
PAGE: Final = 256


class Subscription:
    """The events above a cursor, in order, without gap or repetition. One task reads it at a time."""

    def __init__(self, log: Log, after: int, instance: str | None, session: str | None) -> None:
        self._log = log
        self._instance = instance
        self._session = session
        self._fetched: deque[Event] = deque()
        self._next = after
        #: Everything up to here was given to the reader.
        self.cursor = after
        #: The highest number at which an ephemeral event is or may be missing from what was given; 0 for none.
        self.evicted = 0

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while not self._fetched:
            events = await self.page()
            if not events:
                raise StopAsyncIteration
            self._fetched.extend(events)
        event = self._fetched.popleft()
        self.cursor = event.seq if self._fetched else self._next
        return event

    async def page(self) -> list[Event]:
        """What is there by now, at least one event; waits for it. Empty when the store was closed. Not to be mixed with iteration."""
        while not self._log.closed:
            page = self._log.page(self._next, self._instance, self._session, None, PAGE, None)
            self.evicted = max(self.evicted, page.evicted)
            self.cursor = self._next = page.next_seq
            if page.events:
                return page.events
            await self._log.changed(self._instance)
        return []
