"""Following the log over a connection: pages as they come, signs of life, and where a reader that comes back goes on.

Wherever events are followed the cursor is the number of the last one that was read, and reading goes on after it: nothing that is
kept is left out or told twice, however often the connection or the daemon dies in between. Pieces that are not kept are counted in
`evicted`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.events import FACTS
from aegis.daemon.http.answers import query_int

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from starlette.requests import Request

    from aegis.core.events import Event
    from aegis.store import Subscription

#: One who follows is told so often that the connection lives, in seconds.
HEARTBEAT: Final = 15.0
_ENCODER: Final = msgspec.json.Encoder()


class News(msgspec.Struct, frozen=True):
    """What there is to tell: events that were asked for, and, when that is new, up to which number pieces are gone.

    `cursor` is where to go on after it. Neither events nor `evicted` is a sign of life.
    """

    events: list[Event]
    cursor: int
    evicted: int = 0


async def follow(subscription: Subscription, types: Collection[str] | None = None) -> AsyncIterator[News]:
    """What a subscription has, of these types, without end; ends when the store is closed."""
    pieces = types is None or any(FACTS[kind].ephemeral for kind in types if kind in FACTS)
    told = 0
    while True:
        before = subscription.cursor
        try:
            async with asyncio.timeout(HEARTBEAT):
                page = await subscription.page()
        except TimeoutError:
            yield News([], subscription.cursor)
            continue
        if not page:
            return
        gone = subscription.evicted if pieces and subscription.evicted > told else 0
        told = max(told, gone)
        wanted = page if types is None else [event for event in page if event.type in types]
        if gone:  # before the events, so that nobody takes its number for a cursor
            yield News([], before, gone)
        if wanted:
            yield News(wanted, subscription.cursor)


def resume(request: Request, name: str) -> int | None:
    """The cursor of a request, None when it names none: of the query's `name` and `Last-Event-ID` the greater.

    A browser that connects again asks for the same address as at first, and says in the header how far it came.
    """
    last = request.headers.get("last-event-id", "")
    read = int(last) if last.isascii() and last.isdigit() and len(last) < 20 else -1
    cursor = max(query_int(request, name, -1, 0, 2**62), read)
    return cursor if cursor >= 0 else None


def wants_sse(request: Request) -> bool:
    """Whether a request asks for server-sent events."""
    return "text/event-stream" in request.headers.get("accept", "")


def as_sse(news: News) -> bytes:
    """News as server-sent events. What is not an event of the log has no `id` but that of the cursor."""
    if news.evicted:
        return b'event: evicted\ndata: {"evicted":%d}\n\n' % news.evicted
    if not news.events:
        return b": alive\nid: %d\n\n" % news.cursor
    return b"".join(b"id: %d\nevent: %s\ndata: %s\n\n" % (e.seq, e.type.encode(), _ENCODER.encode(e)) for e in news.events)


def as_lines(news: News) -> bytes:
    """News as lines of JSON: the events alone, an empty line as a sign of life."""
    return _ENCODER.encode_lines(news.events) if news.events or news.evicted else b"\n"
