"""Routes of the log: a page, lines without end, server-sent events, a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import Streamed, error_response, json_response, query_flag, query_int
from aegis.daemon.http.following import as_lines, as_sse, follow, resume, wants_sse
from aegis.daemon.http.instances import house

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket


async def events(request: Request) -> Response:
    """GET /v1/events: the oldest after a number, or with `before` the newest before it; followed with `follow` or as SSE."""
    parts, query = house(request), request.query_params
    name = query.get("instance")
    place = parts.registry.get(name).id if name else None
    session = query.get("session") or None
    types = [kind for kind in query.get("types", "").split(",") if kind] or None
    after, sse = resume(request, "after") or 0, wants_sse(request)
    if not sse and not query_flag(request, "follow"):
        limit = query_int(request, "limit", 100, 1, 1000)
        before = query_int(request, "before", 0, 0, 2**62) if query.get("before") else None
        page = parts.store.events(after, instance=place, session=session, types=types, limit=limit, before=before)
        return json_response({"events": page.events, "next_seq": page.next_seq, "evicted": page.evicted})
    subscription = parts.store.subscribe(after=after, instance=place, session=session)
    encode = as_sse if sse else as_lines

    async def produce(write: Callable[[bytes], Awaitable[None]]) -> None:
        async for news in follow(subscription, types):
            if told := encode(news):
                await write(told)

    return Streamed(produce, "text/event-stream" if sse else "application/x-ndjson")


async def upgrade(request: Request) -> Response:
    """What a plain GET of a WebSocket is told."""
    answer = error_response(
        AegisError(ErrorKind.USAGE, f"{request.url.path[:200]} speaks WebSocket only", "the same as lines: `GET /v1/events?follow=1`")
    )
    answer.status_code = 426
    answer.headers["upgrade"] = "websocket"
    answer.headers["connection"] = "upgrade"
    return answer


async def socket(websocket: WebSocket) -> None:
    """The WebSocket of all events, or of those of the instance that the path names."""
    from aegis.daemon.http import sockets  # the library costs memory that few daemons need

    await sockets.serve(websocket)
