"""The latest events, in memory: what subscribers at the head read, and the only place ephemeral events are.

Bounded in number and bytes. When an ephemeral event falls out, its number is noted for its instance, so that a reader who
comes too late can be told.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from aegis.core.events import FACTS, Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: How many events are kept at most.
MOST: Final = 20_000
#: How many bytes they may take at most, by the estimate of `weight`.
MOST_BYTES: Final = 16 * 1024 * 1024
_OVERHEAD: Final = 400  # what one event takes beside its data, measured

EPHEMERAL: Final = frozenset(name for name, fact in FACTS.items() if fact.ephemeral)


def weight(event: Event) -> int:
    """About how many bytes of memory an event takes."""
    return len(bytes(event.data)) + _OVERHEAD


class Tail:
    """A list that grows at its end and shrinks at its start, ordered by number."""

    __slots__ = ("_events", "_start")

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._events) - self._start

    def append(self, event: Event) -> None:
        self._events.append(event)

    def drop(self) -> Event:
        """Take the oldest away."""
        event = self._events[self._start]
        self._start += 1
        if self._start > 64 and self._start * 2 > len(self._events):  # give the room back now and then, not each time
            del self._events[: self._start]
            self._start = 0
        return event

    def after(self, seq: int) -> Iterator[Event]:
        """The events above `seq`, oldest first. Not to be held while the list changes."""
        for index in range(self._index(seq), len(self._events)):
            yield self._events[index]

    def before(self, seq: int) -> Iterator[Event]:
        """The events below `seq`, newest first. Not to be held while the list changes."""
        for index in range(self._index(seq - 1) - 1, self._start - 1, -1):
            yield self._events[index]

    def _index(self, seq: int) -> int:
        return bisect_right(self._events, seq, lo=self._start, key=lambda event: event.seq)


class Ring:
    """The last events of the home. For the thread of the event loop only."""

    def __init__(self, floor: int, *, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        """`floor` is the number up to which nothing is here, at the start the last one of the life before."""
        self.floor = floor
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._all = Tail()
        self._of: dict[str, Tail] = {}
        self._gone: dict[str | None, int] = {}
        self._gone_any = 0

    def extend(self, events: Iterable[Event]) -> None:
        """Add events, in order, and let the oldest go when there are too many."""
        for event in events:
            self._all.append(event)
            self._bytes += weight(event)
            if event.instance is not None:
                tail = self._of.get(event.instance)
                if tail is None:
                    tail = self._of[event.instance] = Tail()
                tail.append(event)
        while len(self._all) > self._most or self._bytes > self._most_bytes:
            self._drop()

    def lose(self, event: Event) -> None:
        """Note that an ephemeral event can no longer, or could never, be read."""
        if event.type in EPHEMERAL:
            self._gone[event.instance] = max(event.seq, self._gone.get(event.instance, 0))
            self._gone_any = max(event.seq, self._gone_any)

    def gone(self, instance: str | None) -> int:
        """The highest number of an ephemeral event of `instance` (None: of any) that was here and is not any more; 0 for none."""
        return self._gone_any if instance is None else self._gone.get(instance, 0)

    def tail(self, instance: str | None) -> Tail:
        """The events of one instance, or of all."""
        return self._all if instance is None else self._of.get(instance, _NOTHING)

    def _drop(self) -> None:
        event = self._all.drop()
        self._bytes -= weight(event)
        self.floor = event.seq
        if event.instance is not None:
            tail = self._of[event.instance]
            tail.drop()
            if not tail:
                del self._of[event.instance]
        self.lose(event)


_NOTHING: Final = Tail()
