"""One request and its answer, passed on between a program and a server, piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Final, Protocol

import h11
import msgspec

from aegis.core.text import one_line
from aegis.services.egress.heads import MAX_HEAD, BadRequest, ByteChannel, Head, Incoming, answer_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.services.egress.places import Place

_PIECE: Final = 64 * 1024
Headers = list[tuple[bytes, bytes]]


class Patience(msgspec.Struct, frozen=True):
    """How long a client, a server or a person may take, in seconds."""

    head: float = 30.0  # for the whole head of a request, and for the first bytes of a tunnel
    kept: float = 120.0  # between two requests
    resolve: float = 10.0
    connect: float = 15.0
    idle: float = 900.0  # without a byte in either direction
    half: float = 60.0  # the same, once one direction has ended
    answer: float = 900.0  # for the head of an answer, and between its pieces
    person: float = 120.0  # for the answer of a person who is asked


class Refused(Exception):
    """Nothing goes there. `status` is the answer's, the text is for people, `hint` says what a person can do.

    `rule` is the rule or policy that decided, empty where none did; `allowed` says what would be allowed there.
    """

    def __init__(self, status: int, message: str, hint: str = "", *, rule: str = "", allowed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint
        self.rule = rule
        self.allowed = list(allowed)


class Wire(Protocol):
    """A connection to a server, and what is counted of it."""

    place: Place
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent: int
    received: int

    def note(self, text: str) -> None:
        """Add to what is recorded of it."""
        ...


class Watch:
    """Sees what passes; this one lets everything be."""

    def request(self, data: bytes) -> None:
        """A piece of the request's body."""

    def head(self, status: int, headers: Headers) -> Headers:
        """The headers of the answer, as the client gets them."""
        return headers

    def answer(self, data: bytes) -> bytes:
        """A piece of the answer's body, as the client gets it; what is held back comes later."""
        return data

    def rest(self) -> bytes:
        """What was held back of the answer's body."""
        return b""


class Exchange:
    """Passes requests of one client on, one after the other."""

    def __init__(self, channel: ByteChannel, incoming: Incoming, patience: Patience) -> None:
        self._channel = channel
        self._incoming = incoming
        self._patience = patience
        self._answering = False  # an answer has begun and not ended

    async def head(self) -> tuple[h11.Connection, h11.Request] | None:
        """The next request's head; None when the client has ended. Raises BadRequest and TimeoutError."""
        async with asyncio.timeout(self._patience.head):
            raw = await self._incoming.head()
        if raw is None:
            return None
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        parser.receive_data(raw)
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequest(f"not HTTP: {error}", error.error_status_hint) from None
        if not isinstance(event, h11.Request):
            raise BadRequest("not an HTTP request")
        return parser, event

    async def begun(self) -> bool:
        """Whether another request begins, in good time."""
        try:
            async with asyncio.timeout(self._patience.kept):
                data = await self._incoming.read()
        except TimeoutError:
            return False
        self._incoming.put_back(data)
        return bool(data)

    async def run(self, client: h11.Connection, head: Head, wire: Wire, watch: Watch) -> tuple[bool, bool]:
        """One request and its answer; whether another may follow from the client, and to the server."""
        server = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        try:
            first = server.send(h11.Request(method=head.method, target=head.target, headers=head.headers))
        except h11.LocalProtocolError as error:
            raise BadRequest(f"not HTTP: {error}") from None
        asking = asyncio.create_task(self._send_body(client, server, wire, watch, first or b""))
        try:
            await self._answer(client, server, wire, watch, asking)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        on = server.our_state is h11.DONE and server.their_state is h11.DONE and not server.trailing_data[0]
        if client.our_state is not h11.DONE or client.their_state is not h11.DONE:
            return False, on
        self._incoming.put_back(client.trailing_data[0])
        return True, on

    async def _send_body(self, client: h11.Connection, server: h11.Connection, wire: Wire, watch: Watch, first: bytes) -> None:
        """Pass the request on. Raises BadRequest; a server that does not want it all is no error."""
        data: bytes | None = first
        while True:
            if data:
                wire.sent += len(data)
                with contextlib.suppress(OSError):
                    wire.writer.write(data)
                    await wire.writer.drain()
            try:
                event = client.next_event()
            except h11.RemoteProtocolError as error:
                raise BadRequest(f"not HTTP: {error}") from None
            data = None
            if event is h11.NEED_DATA:
                if client.they_are_waiting_for_100_continue:
                    await self._write(client, h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                async with asyncio.timeout(self._patience.idle):
                    client.receive_data(await self._incoming.read())
            elif isinstance(event, h11.Data):
                watch.request(bytes(event.data))
                data = server.send(h11.Data(data=bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                data = server.send(h11.EndOfMessage())  # what was to follow the body is not passed on
                if data:
                    wire.sent += len(data)
                    with contextlib.suppress(OSError):
                        wire.writer.write(data)
                        await wire.writer.drain()
                return
            else:
                raise BadRequest("the request ends within its body")

    async def _answer(self, client: h11.Connection, server: h11.Connection, wire: Wire, watch: Watch, asking: asyncio.Task[None]) -> None:
        """Pass the answer on. Raises Refused before its first byte went out; after that a fault cuts the connection."""
        begun = False
        try:
            while True:
                event = server.next_event()
                if event is h11.NEED_DATA:
                    server.receive_data(await self._of_server(wire, asking))
                elif isinstance(event, h11.Response):
                    headers = watch.head(event.status_code, answer_headers(event))
                    begun = True
                    await self._write(client, h11.Response(status_code=event.status_code, headers=headers, reason=event.reason))
                elif isinstance(event, h11.Data):
                    if data := watch.answer(bytes(event.data)):
                        await self._write(client, h11.Data(data=data))
                elif isinstance(event, h11.EndOfMessage):
                    if data := watch.rest():
                        await self._write(client, h11.Data(data=data))
                    await self._write(client, h11.EndOfMessage())
                    return
                elif not isinstance(event, h11.InformationalResponse):
                    raise h11.RemoteProtocolError("the server ended without an answer")
        except (h11.RemoteProtocolError, h11.LocalProtocolError, OSError, TimeoutError) as error:
            wire.note(f"the answer broke off: {error or type(error).__name__}")
            if begun:
                await self._channel.close(error="the answer broke off")
                return
            late = isinstance(error, TimeoutError)
            raise Refused(504 if late else 502, f"{wire.place} gave no answer: {error or 'it took too long'}") from None

    async def _of_server(self, wire: Wire, asking: asyncio.Task[None]) -> bytes:
        """The next bytes of the server. A fault in the request meanwhile is raised."""
        reading = asyncio.ensure_future(wire.reader.read(_PIECE))
        try:
            async with asyncio.timeout(self._patience.answer):
                while not reading.done():
                    await asyncio.wait({reading} if asking.done() else {reading, asking}, return_when=asyncio.FIRST_COMPLETED)
                    if asking.done():
                        asking.result()
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        data = reading.result()
        wire.received += len(data)
        return data

    async def _write(self, client: h11.Connection, event: h11.Event) -> None:
        data = client.send(event)
        if isinstance(event, h11.Response):
            self._answering = True
        if data:
            await self._channel.write(data)
        if isinstance(event, h11.EndOfMessage):
            self._answering = False

    async def refuse(self, refusal: Refused) -> None:
        """Answer with an error, unless an answer has begun; the text goes into the status line too, which is all that some show."""
        if self._answering:
            return
        text = f"{refusal}; {refusal.hint}" if refusal.hint else str(refusal)
        line = one_line(text, 400).encode("ascii", "replace")
        kind = _KINDS.get(refusal.status, "usage" if refusal.status < 500 else "failed")
        told = {
            "error": {"kind": kind, "message": str(refusal), "hint": refusal.hint},
            "rule": refusal.rule or None,
            "allowed": refusal.allowed,
        }
        body = json.dumps(told, ensure_ascii=False).encode() + b"\n"
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % (refusal.status, line, len(body))
        with contextlib.suppress(Exception):
            await self._channel.write(head + b"connection: close\r\nx-aegis-egress: refused\r\n\r\n" + body)


_KINDS: Final = {
    403: "denied",
    408: "timeout",
    431: "too_large",
    501: "unavailable",
    502: "unreachable",
    503: "unavailable",
    504: "timeout",
}
