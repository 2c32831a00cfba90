"""How `http` providers reach their servers: httpx on top, httpcore's pool below, and sockets on the transports of the event loop.

The sockets that httpcore brings are anyio's: each piece of a streamed answer costs them a cancel scope, looking up which event loop
this is, and stopping and starting to read, which is more than all else that the daemon does with a streamed word. What is here does
the same with one future per piece. Addresses of a host are tried as RFC 8305 says, the next one when the last is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from asyncio.staggered import staggered_race
from collections import deque
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final, cast

import httpcore
import httpx

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterable, Iterator

#: Bytes that may wait to be read before the server is not read any further.
_MOST_UNREAD: Final = 512 * 1024
#: After so many seconds the next address of a host is tried beside the last.
_STAGGER: Final = 0.25


class Transport(httpx.AsyncBaseTransport):
    """httpx over connections that are kept for the next call. No proxy of the machine applies."""

    def __init__(self, *, keepalive: int, expiry: float, context: ssl.SSLContext | None = None) -> None:
        """Keep so many connections at rest, for `expiry` seconds. Without a `context` the usual authorities are trusted."""
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context or httpx.create_ssl_context(trust_env=False),
            max_connections=None,
            max_keepalive_connections=keepalive,
            keepalive_expiry=expiry,
            network_backend=_Backend(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Make one request; see httpx."""
        url = httpcore.URL(scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path)
        with _as_httpx():
            response = await self._pool.handle_async_request(
                httpcore.Request(request.method, url, headers=request.headers.raw, content=request.stream, extensions=request.extensions)
            )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of an answer as it arrives."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for piece in self._response.aiter_stream():
                yield piece

    async def aclose(self) -> None:
        with _as_httpx():
            await self._response.aclose()


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise what httpcore raises as the exception of the same name that httpx has."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise kind(str(error)) from error


class _Backend(httpcore.AsyncNetworkBackend):
    """Sockets for httpcore."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that answers. A local address and options of sockets are not used here."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                sock = await _connected(host, port)
                _, stream = await loop.create_connection(lambda: _Stream(loop), sock=sock)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"no connection to {host} within {timeout:g} s") from None
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return stream

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts of httpcore's own, of which there are none here."""
        await asyncio.sleep(seconds)


async def _connected(host: str, port: int) -> socket.socket:
    """A connected socket. Raises OSError: what became of the first address."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    first = [each for each in found if each[0] == found[0][0]]
    others = [each for each in found if each[0] != found[0][0]]
    mixed = [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]
    if len(mixed) == 1:
        return await _try(mixed[0])
    result = await staggered_race([partial(_try, each) for each in mixed], _STAGGER)
    winner: socket.socket | None = result[0]
    if winner is None:
        errors = result[2]
        raise next((error for error in errors if isinstance(error, OSError)), OSError(f"no address of {host} answers"))
    return winner


async def _try(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


class _Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection. One task reads and one writes at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._full = False  # the transport takes no more for now
        self._held = False  # it was told not to read
        self._deadline = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of classes of their own

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > _MOST_UNREAD and not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._ended = True
        _wake(self._reader)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._ended, self._error = True, error
        self._silence()
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _wake(self._writer)

    # What httpcore asks for.

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has arrived, b"" at the end. `max_bytes` does not cut it: whoever reads here takes any size."""
        while not self._pieces:
            if self._error is not None:
                raise httpcore.ReadError(str(self._error)) from self._error
            if self._ended:
                return b""
            self._reader = self._loop.create_future()
            if timeout is not None:
                self._mind(timeout)
            try:
                await self._reader
            except TimeoutError:
                raise httpcore.ReadTimeout(f"nothing within {timeout:g} s") from None
            finally:
                self._reader = None
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._held and self._transport is not None:
            self._held = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of `buffer`, waiting while the server does not read."""
        if not buffer:
            return
        if self._transport is None or self._transport.is_closing():
            raise httpcore.WriteError("the connection is closed") from self._error
        self._transport.write(buffer)
        if self._full and not self._ended:
            self._writer = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._writer
            except TimeoutError:
                raise httpcore.WriteTimeout(f"not taken within {timeout:g} s") from None
            finally:
                self._writer = None
        if self._error is not None:
            raise httpcore.WriteError(str(self._error)) from self._error

    async def aclose(self) -> None:
        """End the connection."""
        self._silence()
        if self._transport is not None:
            self._transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Go on encrypted."""
        assert self._transport is not None
        try:
            async with asyncio.timeout(timeout):
                secured = await self._loop.start_tls(self._transport, self, ssl_context, server_hostname=server_hostname)
        except TimeoutError:
            await self.aclose()
            raise httpcore.ConnectTimeout(f"no agreement on encryption within {timeout:g} s") from None
        except OSError as error:  # with it, every error of ssl
            await self.aclose()
            raise httpcore.ConnectError(str(error)) from error
        assert secured is not None
        self._transport = secured
        return self

    def get_extra_info(self, info: str) -> Any:
        """`is_readable` is what tells httpcore that a connection at rest has ended."""
        if info == "is_readable":
            return bool(self._pieces) or self._ended or self._transport is None or self._transport.is_closing()
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names.get(info, info)) if self._transport is not None else None

    # The time that a read may take: one timer that looks when it is due, instead of one for each piece.

    def _mind(self, timeout: float) -> None:
        self._deadline = self._loop.time() + timeout
        if self._alarm is None or self._alarm.when() > self._deadline:
            self._silence()
            self._alarm = self._loop.call_later(timeout, self._due)

    def _due(self) -> None:
        self._alarm = None
        if self._reader is None or self._reader.done():
            return
        left = self._deadline - self._loop.time()
        if left > 0:
            self._alarm = self._loop.call_later(left, self._due)
        else:
            self._reader.set_exception(TimeoutError())

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
