"""HTTP/1.1 over one tether channel, as a server: requests in, answers out, and news of a client that went away.

Guaranteed: memory of a request is bounded (`MAX_BODY`, and by `take` over all connections of an instance). Used by the broker, and by
the daemon for its own MCP server. Parsing is h11's.
Not done here: what requests mean.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import h11
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aegis.services.broker.model import ByteChannel

#: The largest body of a request, in bytes.
MAX_BODY: Final = 32 * 1024 * 1024
_MAX_HEAD: Final = 64 * 1024
#: What is read and thrown away of a request that was refused early, so that the client comes to read the answer.
_MAX_DRAIN: Final = 2 * MAX_BODY
_DRAIN_SECONDS: Final = 10.0


class Gone(Exception):
    """The client went away."""


class Refused(Exception):
    """The request cannot be read. The connection is not usable afterwards."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        #: Its head, where that could be read.
        self.request: Request | None = None


class Request(msgspec.Struct, frozen=True):
    """One request; header names are in lower case, a repeated one keeps its first value."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection. `take` is asked for room before so many bytes of a body, `most` at most, are kept; the caller gives it back."""

    def __init__(self, channel: ByteChannel, take: Callable[[int], bool], most: int = MAX_BODY) -> None:
        self._channel = channel
        self._take = take
        self._most = most
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._head: h11.Request | None = None  # of the newest request
        self._reading: asyncio.Task[bytes] | None = None
        self._early = bytearray()
        self._ended = False

    async def request(self) -> Request | None:
        """The next request, or None when the client has ended. Raises Refused."""
        self._head = None
        try:
            return await self._request()
        except Refused as refused:
            refused.request = _request(self._head, b"") if self._head is not None else None
            raise

    async def _request(self) -> Request | None:
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        if self._h11.our_state is not h11.IDLE:
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                if self._ended:
                    return None
                raise Refused(error.error_status_hint, f"not HTTP: {error}") from None
            if isinstance(event, h11.Request):
                self._head = event
                _check_head(event, self._most)
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > self._most:
                    raise Refused(413, f"the body is over {self._most} bytes")
                if not self._take(len(event.data)):
                    raise Refused(429, "too many large requests of this agent are under way")
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert self._head is not None  # h11's order of events
                return _request(self._head, b"".join(parts))
            elif event is h11.NEED_DATA:
                if self._h11.they_are_waiting_for_100_continue:
                    await self._write(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                self._receive(await self._read())
            else:  # closed or paused
                return None

    async def start(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Send the head of the answer. Raises Gone."""
        await self._write(_response(status, headers))

    async def send(self, data: bytes) -> None:
        """Send a piece of the body, now. Raises Gone."""
        await self._write(h11.Data(data=data))

    async def finish(self) -> None:
        """End the answer. Raises Gone."""
        await self._write(h11.EndOfMessage())

    async def respond(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """A whole answer at once; who asked with HEAD gets no body. Raises Gone."""
        head = _response(status, [*headers, ("content-length", str(len(body)))])
        silent = not body or (self._head is not None and self._head.method == b"HEAD")
        await self._write(head, *(() if silent else (h11.Data(data=body),)), h11.EndOfMessage())

    async def gone(self) -> None:
        """Return when the client has ended; used while an answer is under way. What it sends meanwhile is kept for later."""
        while not self._ended:
            data = await self._read()
            if not data:
                self._ended = True
            elif len(self._early) + len(data) > _MAX_HEAD:
                await asyncio.Event().wait()  # enough kept; the tether's credit holds it back
            else:
                self._early += data

    async def close(self) -> None:
        """End the connection. A client that is still sending what was refused gets the time to read why."""
        if self._h11.their_state is h11.SEND_BODY and not self._ended:
            await self._drain()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await _quietly(self._channel.close())

    async def _drain(self) -> None:
        await _quietly(self._channel.eof())
        drained = 0
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while drained < _MAX_DRAIN and (data := await self._read()):
                    drained += len(data)
        except TimeoutError:
            pass

    def _receive(self, data: bytes) -> None:
        if not data:
            self._ended = True
        self._h11.receive_data(data)

    async def _read(self) -> bytes:
        """The next bytes. A read under way is never cancelled with its waiter, so that none of its bytes are lost."""
        if self._early and self._h11.their_state is not h11.DONE:
            data = bytes(self._early)
            self._early.clear()
            return data
        if self._ended:
            return b""
        if self._reading is None:
            self._reading = asyncio.ensure_future(_read(self._channel))
        await asyncio.wait({self._reading})
        data = self._reading.result()
        self._reading = None
        return data

    async def _write(self, *events: h11.Event) -> None:
        data = b"".join([self._h11.send(event) or b"" for event in events])
        if data:
            try:
                await self._channel.write(data)
            except Exception:
                raise Gone from None


def _response(status: int, headers: Iterable[tuple[str, str]]) -> h11.Response:
    return h11.Response(status_code=status, headers=[(name.encode(), value.encode("latin-1", "replace")) for name, value in headers])


async def _read(channel: ByteChannel) -> bytes:
    """Like `read`; a broken channel has ended."""
    try:
        return await channel.read()
    except Exception:
        return b""


async def _quietly(work: object) -> None:
    """Await the last words to a channel that may be gone already."""
    try:
        await work  # type: ignore[misc]
    except Exception:
        return


def _check_head(head: h11.Request, most: int) -> None:
    """Refuse before the body is read what would be refused after it."""
    for name, value in head.headers:
        if name == b"content-length" and int(value) > most:
            raise Refused(413, f"the body is over {most} bytes")
        if name == b"content-encoding" and value.lower() != b"identity":
            raise Refused(415, "compressed bodies are not accepted; send the body as it is, without content-encoding")


def _request(head: h11.Request, body: bytes) -> Request:
    path, _, query = head.target.decode("latin-1").partition("?")
    headers: dict[str, str] = {}
    for name, value in head.headers:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return Request(head.method.decode("latin-1"), path, query, headers, body)
