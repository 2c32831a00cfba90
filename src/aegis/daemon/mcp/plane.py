"""The MCP server of every instance: HTTP over the channels of its tether, one identity for each of its sessions.

Who calls follows from the tether and from the bearer of a session; without a right one nothing is said, and the attempt is on record.
Answers are JSON. A call that takes long is answered by a stream of events, where the client takes one, so that it sees that the call
lives. There is no stream from the server to the client: nothing is sent that was not asked for.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.envelopes import DEFAULT_SESSION
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.daemon.mcp import protocol
from aegis.daemon.mcp.exchange import Calls, Exchange
from aegis.daemon.mcp.model import Caller
from aegis.daemon.mcp.offering import Shelf, beside, for_instance, without
from aegis.services.agents.bearers import bearer_of, program_bearer_of, session_of
from aegis.services.broker.connection import Connection, Gone, Refused, Request
from aegis.services.gate import Decision, Verdict
from aegis.services.tools import ToolCaller

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.core.clock import Clock
    from aegis.daemon.wiring import House
    from aegis.sandboxes.link import Channel
    from aegis.services.agents import Instance
    from aegis.services.agents.life import Life
    from aegis.services.gate import Gate

_log = logging.getLogger(__name__)

#: The largest message, in bytes, and the most that is kept for one instance at a time.
MAX_BODY: Final = 16 * 1024 * 1024
_MAX_HELD: Final = 2 * MAX_BODY
#: Calls that are done sooner, in seconds, are not watched over; most are.
SOON: Final = 0.05
#: After so many seconds without an answer, and each time again, a client that takes a stream is told that the call lives.
ALIVE: Final = 10.0
#: Attempts with a wrong bearer are recorded one by one, but of one instance at most one a second; the next record counts the others.
_QUIET: Final = 1.0
_PATH: Final = re.compile(r"/s/([A-Za-z0-9_-]{1,400})/mcp/?")
_LOCAL: Final = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_JSON: Final = ("content-type", "application/json")
_STREAM: Final = (("content-type", "text/event-stream"), ("cache-control", "no-cache"))


class Plane:
    """Serves the `mcp` channels. `house` is given to it once there is one."""

    house: House

    def __init__(self, gate: Gate, clock: Clock) -> None:
        self._gate = gate
        self._clock = clock
        self._held: dict[str, int] = {}
        self._wrong: dict[str, tuple[float, int]] = {}  # instance -> when a wrong bearer was last recorded, and how many came since
        self.calls = Calls()

    async def ended(self, instance: Instance) -> None:
        """The sandbox of an instance has gone: so do the tool servers that ran for it."""
        await self.house.tools.ended(instance.id)

    async def serve(self, channel: Channel, life: Life) -> None:
        """Answer the requests of one connection until either side ends it, then close the channel. Raises only CancelledError."""
        instance = life.instance
        held = 0

        def take(size: int) -> bool:
            nonlocal held
            if self._held.get(instance.id, 0) + size > _MAX_HELD:
                return False
            held += size
            self._held[instance.id] = self._held.get(instance.id, 0) + size
            return True

        def give_back() -> None:
            nonlocal held
            if held:
                left = self._held.get(instance.id, 0) - held
                held = 0
                if left > 0:
                    self._held[instance.id] = left
                else:
                    self._held.pop(instance.id, None)

        connection = Connection(channel, take, MAX_BODY)
        try:
            while (request := await connection.request()) is not None:
                life.hold()  # it must not be frozen while it waits for an answer
                try:
                    await self._answer(connection, request, life)
                finally:
                    life.release()
                give_back()
        except Refused as refused:
            await _refuse(connection, refused.status, refused.message)
        except Gone:
            pass
        except Exception:
            _log.exception("the mcp channel of %s failed", instance.handle)
        finally:
            give_back()
            await connection.close()

    async def _answer(self, connection: Connection, request: Request, life: Life) -> None:
        wrong = strange(request.headers)
        if wrong is not None:
            await _refuse(connection, 403, wrong, "call it from a program in this sandbox, at the address that AEGIS_MCP_URL gives")
            return
        caller = await self._caller(connection, request, life.instance)
        if caller is None:
            return
        scope = (life.instance.id, caller.session or "", request.headers.get("mcp-session-id", ""))
        if request.method == "DELETE":
            self.calls.cancel_all(scope)
            await connection.respond(200, [_JSON], b"{}")
            return
        if request.method != "POST":
            await _refuse(
                connection, 405, f"{request.method} is not for this address", "send messages with POST", ("allow", "POST, DELETE")
            )
            return
        exchange = Exchange(self.house, self.calls, caller, await self._shelf(caller, life.instance, request.body))
        exchange.hear(request.body, request.headers, scope)
        await respond(connection, exchange, streams="text/event-stream" in request.headers.get("accept", ""))

    async def _shelf(self, caller: Caller, instance: Instance, body: bytes) -> Shelf:
        """What the caller has: Aegis's own, and, for a message that is about tools, what the registry has for it.

        What cannot be called is not listed; a call of it says why.
        """
        shelf = for_instance(instance.launch.tools)
        lists = b"tools/list" in body
        if lists:
            decide = self._gate.decide
            denied = (
                name
                for name, tool in shelf.tools.items()
                if decide(caller.principal, "tool.call", tool.verb.id).verdict is Verdict.DENY
                or decide(caller.principal, "tool.list", tool.verb.id).verdict is Verdict.DENY
            )
            shelf = without(shelf, frozenset(denied))
        tools = self.house.tools
        if b"tools/" not in body or not tools.has(instance):
            return shelf
        who = ToolCaller(principal=caller.principal, instance=instance, session=caller.session)
        try:
            offered = (await tools.offered(who)).tools if lists else list((await tools.last(who)).values())
        except AegisError as error:  # a declaration that cannot be read: its own tools it has all the same
            _log.warning("the tools of %s cannot be listed: %s", instance.handle, error.message)
            return shelf
        return beside(shelf, offered)

    async def _caller(self, connection: Connection, request: Request, instance: Instance) -> Caller | None:
        """Who the request proves to be of; None when it was refused."""
        if request.path in ("/mcp", "/mcp/"):
            session: str | None = DEFAULT_SESSION
        else:
            found = _PATH.fullmatch(request.path)
            session = session_of(found[1]) if found is not None else None
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if session is not None and kind.lower() == "bearer":
            said = given.strip().encode()
            converses = hmac.compare_digest(said, bearer_of(instance.token, session).encode())
            if converses or hmac.compare_digest(said, program_bearer_of(instance.token, session).encode()):
                return Caller(Principal(PrincipalKind.INSTANCE, instance.id), instance, session, converses=converses)
        if session is None:
            await _refuse(connection, 404, "there is nothing at this address", "AEGIS_MCP_URL has the right one")
        elif not given:
            await _refuse(connection, 401, "no bearer was sent", "send `Authorization: Bearer $AEGIS_MCP_TOKEN`", _CHALLENGE)
        else:
            await self._record_wrong(instance, session)
            await _refuse(connection, 401, "this is not the bearer of this session", "AEGIS_MCP_TOKEN has the right one", _CHALLENGE)
        return None

    async def _record_wrong(self, instance: Instance, session: str) -> None:
        """Put an attempt with a wrong bearer on record, before it is answered."""
        now = self._clock.monotonic()
        last, unsaid = self._wrong.get(instance.id, (float("-inf"), 0))
        if now - last < _QUIET:
            self._wrong[instance.id] = (last, unsaid + 1)
            return
        self._wrong[instance.id] = (now, 0)
        principal = Principal(PrincipalKind.INSTANCE, instance.id)
        data: dict[str, Any] = {"session": session[:200]} | ({"before": unsaid} if unsaid else {})
        await self._gate.record(Decision(principal, "mcp.call", instance.handle, False, "not the bearer of this session", data))


_CHALLENGE: Final = ("www-authenticate", "Bearer")


def strange(headers: dict[str, str]) -> str | None:
    """Why a request does not come from where it should: a page in a browser, or a name that was made to mean this address."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if not _LOCAL.fullmatch(host):
        return f"Host {host[:80]!r} is not this server"
    if origin is not None and not _LOCAL.fullmatch(origin.partition("://")[2]):
        return f"Origin {origin[:80]!r} may not speak to this server"
    return None


async def respond(connection: Connection, exchange: Exchange, *, streams: bool) -> None:
    """Run what was heard and answer it. When the client goes away, what is under way ends. Raises Gone."""
    heard = exchange.heard
    work = asyncio.ensure_future(exchange.run())
    watch: asyncio.Future[None] | None = None
    streaming = False
    try:
        await asyncio.wait((work,), timeout=SOON)
        waited = 0.0
        while not work.done():
            watch = watch or asyncio.ensure_future(connection.gone())
            await asyncio.wait((work, watch), timeout=ALIVE if streams else None, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                break
            if watch.done():
                raise Gone
            if not streaming:
                await connection.start(200, _STREAM)
                streaming = True
            waited += ALIVE
            await connection.send(b"".join(alive(exchange, waited)))
    finally:
        for task in (work, watch):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
    body = work.result()
    if streaming:
        await connection.send(event(body))
        await connection.finish()
        return
    headers = [_JSON] if body else []
    if heard.opened:
        headers.append(("mcp-session-id", secrets.token_urlsafe(16)))
    await connection.respond(heard.status, headers, body)


def alive(exchange: Exchange, waited: float) -> Iterable[bytes]:
    """What a stream says so that it is seen to live: progress, where that is wanted."""
    wanted = [call for call in exchange.heard.calls if call.token is not None]
    if not wanted:
        yield b": still at it\r\n\r\n"
    for call in wanted:
        yield event(msgspec.json.encode(protocol.progress(call, waited, f"{call.name} goes on")))


def event(data: bytes) -> bytes:
    """A message as an event of a stream."""
    return b"event: message\r\ndata: " + data + b"\r\n\r\n"


async def _refuse(connection: Connection, status: int, message: str, hint: str = "", *headers: tuple[str, str]) -> None:
    """Answer a request that is not for a verb at all, and end the connection."""
    error = AegisError(ErrorKind.DENIED if status in (401, 403) else ErrorKind.USAGE, message, hint)
    try:
        await connection.respond(status, [_JSON, ("connection", "close"), *headers], msgspec.json.encode(error.to_dict()))
    except Gone:
        return
