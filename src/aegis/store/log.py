"""Reading the log by cursor: durable events from the disk, recent and ephemeral ones from the ring, as one sequence.

A reader never sees an event above `head`, and `head` moves only when everything up to it can be read; so nothing ever
appears behind a cursor. Whoever waits is woken by an event of the instance it waits for, and by nothing else.
For the thread of the event loop only.
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.events import Event
from aegis.store.ring import EPHEMERAL, Ring, weight
from aegis.store.sqlite import reported

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

#: A page ends when it has this many bytes, whatever its limit; one event is always in it.
PAGE_BYTES: Final = 4 * 1024 * 1024


class Page(NamedTuple):
    """Some events in order.

    `next_seq` is the cursor to go on with: forwards, everything up to it is read; with `before`, the number to read before.
    `evicted` is the highest number above `after` at which an ephemeral event of the instance is or may be missing; 0 means
    that nothing is. The texts of such events stand in the durable events that follow them.
    """

    events: list[Event]
    next_seq: int
    evicted: int


class Log:
    """The readable end of the log."""

    def __init__(self, connection: sqlite3.Connection, path: Path, ring: Ring) -> None:
        self._connection = connection
        self._path = path
        self._ring = ring
        self._first = ring.floor  # the last number of the life before: ephemeral events up to it are lost
        self._waiting: dict[str | None, set[asyncio.Future[None]]] = {}
        self.head = ring.floor
        self.closed = False

    def publish(self, events: list[Event], lost: Iterable[Event]) -> None:
        """Make events visible and wake who waits for them."""
        self._ring.extend(events)
        for event in lost:
            self._ring.lose(event)
        if events:
            self.head = events[-1].seq
            self._wake({event.instance for event in events} | {None})

    def close(self) -> None:
        """Wake everybody; there will be no more events."""
        self.closed = True
        self._wake(set(self._waiting))

    async def changed(self, instance: str | None) -> None:
        """Return at the next event of `instance` (None: of any), or at the end of the store.

        Nothing can slip by between a look at the log and this call: both happen in the loop's thread without a pause.
        """
        if self.closed:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(instance, set()).add(future)
        try:
            await future
        finally:
            waiting = self._waiting.get(instance)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiting[instance]

    def page(
        self, after: int, instance: str | None, session: str | None, types: Collection[str] | None, limit: int, before: int | None
    ) -> Page:
        """Up to `limit` events above `after`: the oldest of them, or with `before` the newest below that."""
        with reported(self._path):
            return self._page(after, instance, session, types, limit, before)

    def _page(
        self, after: int, instance: str | None, session: str | None, types: Collection[str] | None, limit: int, before: int | None
    ) -> Page:
        found = self._forwards(after, instance) if before is None else self._backwards(after, before, instance)
        events: list[Event] = []
        size = 0
        full = False
        for event in found:
            if (session is not None and event.session != session) or (types is not None and event.type not in types):
                continue
            size += weight(event)
            if len(events) >= limit or (events and size > PAGE_BYTES):
                full = True
                break
            events.append(event)
        if before is not None:
            events.reverse()
            next_seq = events[0].seq if events else before
        else:
            next_seq = events[-1].seq if full else max(after, self.head)
        return Page(events, next_seq, self._evicted(after, instance, types))

    def _forwards(self, after: int, instance: str | None) -> Iterator[Event]:
        recent = self._ring.tail(instance)
        if after >= self._ring.floor:
            return recent.after(after)
        old = self._rows("seq > ? AND seq <= ?", (after, self._ring.floor), instance, "ASC")
        return chain(old, recent.after(after))

    def _backwards(self, after: int, before: int, instance: str | None) -> Iterator[Event]:
        for event in self._ring.tail(instance).before(before):
            if event.seq <= after:
                return
            yield event
        yield from self._rows("seq > ? AND seq <= ?", (after, min(before - 1, self._ring.floor)), instance, "DESC")

    def _rows(self, where: str, params: tuple[Any, ...], instance: str | None, order: str) -> Iterator[Event]:
        if instance is not None:
            where, params = "instance = ? AND " + where, (instance, *params)
        sql = f"SELECT seq, ts, type, CAST(data AS BLOB), instance, session, turn FROM events WHERE {where} ORDER BY seq {order}"
        for seq, ts, kind, data, at, session, turn in self._connection.execute(sql, params):
            yield Event(seq, ts, kind, msgspec.Raw(data), at, session, turn)

    def _evicted(self, after: int, instance: str | None, types: Collection[str] | None) -> int:
        if types is not None and EPHEMERAL.isdisjoint(types):
            return 0
        gone = self._ring.gone(instance)
        if not gone and after < self._first and self._lived_before(instance):
            gone = self._first  # nobody knows which ephemeral events the life before had, only that all of them are lost
        return gone if gone > after else 0

    def _lived_before(self, instance: str | None) -> bool:
        """Whether the instance (None: any) had events before this opening."""
        return next(self._rows("seq <= ?", (self._first,), instance, "ASC"), None) is not None

    def _wake(self, instances: Iterable[str | None]) -> None:
        for instance in instances:
            for future in self._waiting.pop(instance, ()):
                if not future.done():
                    future.set_result(None)
