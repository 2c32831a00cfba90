"""The MCP server for a person's own agent: the same protocol as inside, with the verbs of a host."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.responses import Response

from aegis.daemon.http.answers import Streamed, read_body
from aegis.daemon.http.instances import house, principal
from aegis.daemon.mcp.exchange import Exchange
from aegis.daemon.mcp.model import Caller
from aegis.daemon.mcp.offering import for_person
from aegis.daemon.mcp.plane import ALIVE, MAX_BODY, SOON, alive, event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request


async def serve(request: Request) -> Response:
    """POST /mcp: a message of the Model Context Protocol; DELETE /mcp: the client's session is over."""
    parts, headers = house(request), {name.lower(): value for name, value in request.headers.items()}
    caller = Caller(principal(request), directory=_directory(headers.get("aegis-directory", "")))
    scope = (str(caller.principal), "", headers.get("mcp-session-id", ""))
    if request.method == "DELETE":
        parts.plane.calls.cancel_all(scope)
        return Response(b"{}", media_type="application/json")
    exchange = Exchange(parts, parts.plane.calls, caller, for_person())
    exchange.hear(await read_body(request, MAX_BODY), headers, scope)
    work = asyncio.ensure_future(exchange.run())
    gone = asyncio.ensure_future(_gone(request))
    try:
        streams = "text/event-stream" in headers.get("accept", "")
        await asyncio.wait((work,), timeout=SOON)
        if not work.done():
            await asyncio.wait((work, gone), timeout=ALIVE if streams else None, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and not gone.done():
            streaming, work = work, asyncio.ensure_future(asyncio.sleep(0, b""))
            return Streamed(lambda write: _stream(exchange, streaming, write), "text/event-stream")
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
    if work.cancelled() or not work.done():
        return Response(status_code=499)
    answer = work.result()
    more = {"mcp-session-id": secrets.token_urlsafe(16)} if exchange.heard.opened else {}
    return Response(answer, exchange.heard.status, more, "application/json" if answer else None)


def _directory(said: str) -> str:
    """Where the client works, by its own word, percent-encoded; empty for what is no absolute path."""
    path = unquote(said)
    return path if path.startswith("/") and "\0" not in path else ""


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(exchange: Exchange, work: asyncio.Future[bytes], write: Callable[[bytes], Awaitable[None]]) -> None:
    waited = ALIVE
    try:
        while not work.done():
            await write(b"".join(alive(exchange, waited)))
            await asyncio.wait((work,), timeout=ALIVE)
            waited += ALIVE
        await write(event(work.result()))
    finally:
        work.cancel()
