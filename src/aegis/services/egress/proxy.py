"""One connection of a program to its proxy: requests one after the other, or a tunnel.

Each request is decided anew and gets a connection of its own to the server. A tunnel carries TLS to the host it was opened for, on
other ports than 443 also HTTP to that host, and anything only where the rule says `tcp://`.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Protocol

import h11
import msgspec

from aegis.core.errors import AegisError
from aegis.core.text import one_line
from aegis.services.egress.heads import MAX_HEAD, BadRequest, ByteChannel, Head, Incoming, answer_headers, read_head
from aegis.services.egress.tls import DENIED_ALERT, MAX_HELLO, ClientHello, NotTls, read_hello

if TYPE_CHECKING:
    from aegis.services.egress.places import Place

_PIECE: Final = 64 * 1024
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_HANDSHAKE: Final = b"\x16"


class Patience(msgspec.Struct, frozen=True):
    """How long a client or a server may take, in seconds."""

    head: float = 30.0  # for the whole head of a request, and for the first bytes of a tunnel
    kept: float = 120.0  # between two requests
    resolve: float = 10.0
    connect: float = 15.0
    idle: float = 900.0  # without a byte in either direction
    half: float = 60.0  # the same, once one direction has ended
    answer: float = 900.0  # for the head of an answer, and between its pieces


class Refused(Exception):
    """Nothing goes there. `status` is the answer's, the text is for people, `hint` says what a person can do."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint


class Way(Protocol):
    """A connection to the outside that was allowed, recorded, and made."""

    place: Place
    raw: bool  # any bytes may pass
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent: int
    received: int

    async def deny(self, reason: str) -> None:
        """Record that what came after all was not allowed."""
        ...

    def note(self, text: str) -> None:
        """Add to what is recorded of it."""
        ...

    async def close(self) -> None:
        """End it and record what passed. Idempotent."""
        ...


class Reach(Protocol):
    """Decides, records and connects. Raises Refused."""

    async def __call__(self, place: Place, *, clear: bool = False) -> Way:
        """A way to a place; `clear`: for HTTP without TLS."""
        ...


class Proxy:
    """Serves one connection."""

    def __init__(self, channel: ByteChannel, reach: Reach, patience: Patience) -> None:
        self._channel = channel
        self._incoming = Incoming(channel)
        self._reach = reach
        self._patience = patience
        self._answering = False  # an answer has begun and not ended

    async def serve(self) -> None:
        """Until either side has ended. What the tether raises when it ends goes through.

        A channel that is closed while the client still talks does not cost it the answer: the guest goes on reading for a moment.
        """
        try:
            await self._requests(None, None)
        except BadRequest as error:
            await self._refuse(Refused(error.status, str(error)))
        except Refused as refusal:
            await self._refuse(refusal)
        except TimeoutError:
            await self._refuse(Refused(408, "the request took too long"))
        finally:
            await self._channel.close()

    async def carry(self, place: Place) -> None:
        """Carry bytes of any kind to and from one place."""
        try:
            way = await self._reach(place)
            try:
                await self._pump(way)
            finally:
                await way.close()
        except Refused:
            pass  # it is recorded, and what the program speaks is not known here
        finally:
            await self._channel.close()

    async def _requests(self, within: Place | None, first: Way | None) -> None:
        """Requests to the proxy, or those in a tunnel, for which `first` is the connection to begin with."""
        while True:
            if first is None and (data := await self._begun()):
                self._incoming.put_back(data)
            elif first is None:
                return
            async with asyncio.timeout(self._patience.head):
                raw = await self._incoming.head()
            if raw is None:
                return
            parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
            parser.receive_data(raw)
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                raise BadRequest(f"not HTTP: {error}", error.error_status_hint) from None
            if not isinstance(event, h11.Request):
                raise BadRequest("not an HTTP request")
            head = read_head(event, within)
            if head.method == b"CONNECT":
                await self._tunnel(head.place)
                return
            way, first = first or await self._reach(head.place, clear=True), None
            try:
                kept = await self._exchange(parser, head, way)
            finally:
                await way.close()
            if not kept:
                return

    async def _begun(self) -> bytes:
        """The first bytes of the next request; empty when none comes."""
        try:
            async with asyncio.timeout(self._patience.kept):
                return await self._incoming.read()
        except TimeoutError:
            return b""

    # A request.

    async def _exchange(self, client: h11.Connection, head: Head, way: Way) -> bool:
        """One request and its answer; whether another may follow."""
        server = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        try:
            first = server.send(h11.Request(method=head.method, target=head.target, headers=head.headers))
        except h11.LocalProtocolError as error:
            raise BadRequest(f"not HTTP: {error}") from None
        asking = asyncio.create_task(self._send_body(client, server, way, first or b""))
        try:
            await self._answer(client, server, way, asking)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        if client.our_state is not h11.DONE or client.their_state is not h11.DONE:
            return False
        self._incoming.put_back(client.trailing_data[0])
        return True

    async def _send_body(self, client: h11.Connection, server: h11.Connection, way: Way, first: bytes) -> None:
        """Pass the request on. Raises BadRequest; a server that does not want it all is no error."""
        data: bytes | None = first
        while True:
            if data:
                way.sent += len(data)
                with contextlib.suppress(OSError):
                    way.writer.write(data)
                    await way.writer.drain()
            try:
                event = client.next_event()
            except h11.RemoteProtocolError as error:
                raise BadRequest(f"not HTTP: {error}") from None
            data = None
            if event is h11.NEED_DATA:
                if client.they_are_waiting_for_100_continue:
                    await self._write(client, h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                more = await self._read_within(self._patience.idle)
                client.receive_data(more)
            elif isinstance(event, h11.Data):
                data = server.send(h11.Data(data=bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                data = server.send(h11.EndOfMessage())  # what was to follow the body is not passed on
                if data:
                    way.sent += len(data)
                    with contextlib.suppress(OSError):
                        way.writer.write(data)
                        await way.writer.drain()
                return
            else:
                raise BadRequest("the request ends within its body")

    async def _read_within(self, seconds: float) -> bytes:
        async with asyncio.timeout(seconds):
            return await self._incoming.read()

    async def _answer(self, client: h11.Connection, server: h11.Connection, way: Way, asking: asyncio.Task[None]) -> None:
        """Pass the answer on. Raises Refused before its first byte went out; after that a fault cuts the connection."""
        begun = False
        try:
            while True:
                event = server.next_event()
                if event is h11.NEED_DATA:
                    server.receive_data(await self._of_server(way, asking))
                elif isinstance(event, h11.Response):
                    answer = h11.Response(status_code=event.status_code, headers=answer_headers(event), reason=event.reason)
                    begun = True
                    await self._write(client, answer)
                elif isinstance(event, h11.Data):
                    await self._write(client, h11.Data(data=bytes(event.data)))
                elif isinstance(event, h11.EndOfMessage):
                    await self._write(client, h11.EndOfMessage())
                    return
                elif not isinstance(event, h11.InformationalResponse):
                    raise h11.RemoteProtocolError("the server ended without an answer")
        except (h11.RemoteProtocolError, h11.LocalProtocolError, OSError, TimeoutError) as error:
            way.note(f"the answer broke off: {error or type(error).__name__}")
            if begun:
                await self._channel.close(error="the answer broke off")
                return
            late = isinstance(error, TimeoutError)
            raise Refused(504 if late else 502, f"{way.place} gave no answer: {error or 'it took too long'}") from None

    async def _of_server(self, way: Way, asking: asyncio.Task[None]) -> bytes:
        """The next bytes of the server. A fault in the request meanwhile is raised."""
        reading = asyncio.ensure_future(way.reader.read(_PIECE))
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
        way.received += len(data)
        return data

    async def _write(self, client: h11.Connection, event: h11.Event) -> None:
        data = client.send(event)
        if isinstance(event, h11.Response):
            self._answering = True
        if data:
            await self._channel.write(data)
        if isinstance(event, h11.EndOfMessage):
            self._answering = False

    # A tunnel.

    async def _tunnel(self, place: Place) -> None:
        way = await self._reach(place)
        try:
            await self._channel.write(_ESTABLISHED)
            if way.raw:
                await self._pump(way)
                return
            first = await self._first()
            self._incoming.put_back(first)
            if first.startswith(_HANDSHAKE):
                await self._tls(way)
            elif first and place.port != 443 and first[:1].isalpha():
                await self._requests(place, way)
            elif first:
                what = "this port is for TLS" if place.port == 443 else "a tunnel carries TLS or HTTP"
                await way.deny(f'{what}; other bytes need the rule "tcp://{place}"')
        finally:
            await way.close()

    async def _first(self) -> bytes:
        try:
            return await self._read_within(self._patience.head)
        except TimeoutError:
            return b""

    async def _tls(self, way: Way) -> None:
        """Let TLS pass whose hello asks for the host of the tunnel."""
        data = b""
        try:
            hello: ClientHello | None = None
            async with asyncio.timeout(self._patience.head):
                while hello is None:
                    more = await self._incoming.read()
                    if not more or len(data) > MAX_HELLO:
                        raise NotTls("the hello does not end")
                    data += more
                    hello = read_hello(data)
            reason = _mismatch(hello, way.place)
        except (NotTls, TimeoutError) as error:
            reason = f"the TLS hello cannot be read: {error or 'it took too long'}"
            hello = None
        if reason is not None:
            await way.deny(reason)
            with contextlib.suppress(Exception):
                await self._channel.write(DENIED_ALERT)
            return
        if hello is not None and hello.encrypted:
            way.note("a second hello in it is encrypted (ECH)")
        self._incoming.put_back(data)
        await self._pump(way)

    async def _pump(self, way: Way) -> None:
        """Carry bytes both ways until both have ended, one has broken, or nothing has passed for long."""
        loop = asyncio.get_running_loop()
        idle = self._patience.idle

        def passed() -> None:
            with contextlib.suppress(RuntimeError):  # it is over already
                watch.reschedule(loop.time() + idle)

        async def out() -> None:
            nonlocal idle
            while data := await self._incoming.read():
                passed()
                way.sent += len(data)
                way.writer.write(data)
                await way.writer.drain()
            way.writer.write_eof()
            idle = min(idle, self._patience.half)
            passed()

        async def back() -> None:
            nonlocal idle
            while data := await way.reader.read(_PIECE):
                passed()
                way.received += len(data)
                await self._channel.write(data)
            await self._channel.eof()
            idle = min(idle, self._patience.half)
            passed()

        watch = asyncio.timeout(idle)
        tasks: list[asyncio.Task[None]] = []
        try:
            async with watch:
                tasks = [asyncio.create_task(out()), asyncio.create_task(back())]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        except TimeoutError:
            way.note("cut, because nothing passed for long")
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, OSError | AegisError):  # those are how tunnels end
                raise end

    # The end.

    async def _refuse(self, refusal: Refused) -> None:
        """Answer with an error, unless an answer has begun; the text goes into the status line too, which is all that some show."""
        if self._answering:
            return
        text = f"{refusal}; {refusal.hint}" if refusal.hint else str(refusal)
        line = one_line(text, 400).encode("ascii", "replace")
        body = f"aegis: {text}\n".encode()
        head = b"HTTP/1.1 %d %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n" % (refusal.status, line, len(body))
        with contextlib.suppress(Exception):
            await self._channel.write(head + b"connection: close\r\nx-aegis-egress: refused\r\n\r\n" + body)


def _mismatch(hello: ClientHello, place: Place) -> str | None:
    """Why a hello does not belong into the tunnel to a place; None when it does."""
    if hello.server_name == place.host or (hello.server_name is None and place.address is not None):
        return None
    if hello.server_name is None:
        return f"the TLS hello names no server, so it cannot be told whether it is {place.host}"
    return f"the TLS hello asks for {hello.server_name}, the tunnel is for {place.host}"
