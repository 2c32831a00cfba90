"""One page, fetched through an instance's own way out.

The daemon speaks to the egress gate as a program in the sandbox does: to its proxy, over a pair of sockets. So each connection is
judged, recorded, and dialled to the address that was looked at; each request too, where the gate looks at those. Here is decided what is
taken of an answer: a size, a time, and no more bytes than that out of what is compressed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import h11

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.services.agents.model import Instance
    from aegis.services.egress.heads import ByteChannel
    from aegis.services.tools.builtin.urls import Address

    #: Serves one connection of an instance to its proxy.
    Serve = Callable[[ByteChannel, Instance], Awaitable[None]]
    #: The certificate that the sandbox of an instance trusts besides those of the machine; empty when it has none.
    Trusted = Callable[[Instance], str]

#: The most of an answer that is taken, in bytes: as it comes, and unpacked.
MAX_RAW: Final = 8 * 1024 * 1024
MAX_BODY: Final = 4 * 1024 * 1024
_MAX_HEAD: Final = 64 * 1024
_PIECE: Final = 64 * 1024
_CHARSET: Final = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.IGNORECASE)
_META: Final = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.IGNORECASE)


class Page(NamedTuple):
    """An answer. `cut`: there was more of it."""

    address: Address
    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool

    @property
    def kind(self) -> str:
        """Its media type, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def text(self) -> str:
        """The body as text."""
        found = _CHARSET.search(self.headers.get("content-type", ""))
        name = found[1] if found else ""
        if not name and (meta := _META.search(self.body[:2048])):
            name = meta[1].decode("ascii")
        try:
            return self.body.decode(name or "utf-8", "replace")
        except (LookupError, ValueError):
            return self.body.decode("utf-8", "replace")


class Way:
    """The way out of instances."""

    def __init__(self, serve: Serve, trusted: Trusted) -> None:
        self._serve = serve
        self._trusted = trusted

    async def get(self, instance: Instance, address: Address) -> Page:
        """Ask once, follow nothing. Raises AegisError: DENIED with what the gate said, UNREACHABLE, FAILED."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        serving = asyncio.create_task(self._serving(theirs, instance))
        try:
            if address.scheme == "https":
                await _tunnel(ours, address)
                reader, writer = await asyncio.open_connection(sock=ours, ssl=self._context(instance), server_hostname=address.place.host)
            else:
                reader, writer = await asyncio.open_connection(sock=ours)
            try:
                return await _exchange(reader, writer, address)
            finally:
                writer.transport.abort()
        except ssl.SSLError as error:
            reason = one_line(getattr(error, "verify_message", None) or error.reason or str(error), 200)
            raise AegisError(ErrorKind.FAILED, f"no TLS with {address.place}: {reason}") from None
        except (OSError, EOFError) as error:
            raise AegisError(ErrorKind.UNREACHABLE, f"{address.place} broke off: {one_line(str(error), 200)}") from None
        finally:
            ours.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _serving(self, sock: socket.socket, instance: Instance) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            await self._serve(_Pipe(reader, writer), instance)
        finally:
            writer.close()

    def _context(self, instance: Instance) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if pem := self._trusted(instance):
            context.load_verify_locations(cadata=pem)
        return context


class _Pipe:
    """The gate's end of a pair of sockets, as it has a channel of the tether."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.info: dict[str, Any] = {"kind": "egress"}
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        try:
            return await self._reader.read(_PIECE)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            raise AegisError(ErrorKind.INTERRUPTED, "who asked has gone") from None

    async def eof(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def close(self, **info: Any) -> None:
        self._writer.close()


async def _tunnel(sock: socket.socket, address: Address) -> None:
    """Have the gate connect. Raises DENIED or UNREACHABLE with what it says."""
    loop = asyncio.get_running_loop()
    place = str(address.place)
    await loop.sock_sendall(sock, f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode("ascii"))
    said = b""
    while b"\r\n\r\n" not in said:
        piece = await loop.sock_recv(sock, 4096)
        if not piece or len(said) > _MAX_HEAD:
            raise AegisError(ErrorKind.UNREACHABLE, f"{place} was not reached")
        said += piece
    if said.split(b" ", 2)[1:2] == [b"200"]:
        return
    while len(said) < _MAX_HEAD and (piece := await loop.sock_recv(sock, 4096)):
        said += piece
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "gate")]))
    client.send(h11.EndOfMessage())
    client.receive_data(said)
    client.receive_data(b"")
    status, body = 502, b""
    with contextlib.suppress(h11.RemoteProtocolError):
        while isinstance(event := client.next_event(), h11.Response | h11.Data):
            if isinstance(event, h11.Response):
                status = event.status_code
            else:
                body += bytes(event.data)
    raise _refused(address, status, body)


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address) -> Page:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    target = address.target if address.scheme == "https" else str(address)
    headers = [
        ("host", address.host),
        ("user-agent", f"aegis/{__version__}"),
        ("accept", "text/html, text/markdown, text/plain, application/json;q=0.9, */*;q=0.5"),
        ("accept-encoding", "gzip, deflate"),
        ("connection", "close"),
    ]
    try:
        writer.write(
            (client.send(h11.Request(method="GET", target=target, headers=headers)) or b"") + (client.send(h11.EndOfMessage()) or b"")
        )
        await writer.drain()
        response: h11.Response | None = None
        unpack: _Unpacked | None = None
        raw = 0
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(_PIECE)
                raw += len(data)
                client.receive_data(data)
            elif isinstance(event, h11.Response):
                response = event
                unpack = _Unpacked(_header(event, b"content-encoding"))
            elif isinstance(event, h11.Data) and unpack is not None:
                unpack.add(bytes(event.data))
                if unpack.cut or raw > MAX_RAW:
                    unpack.cut = True
                    break
            elif not isinstance(event, h11.InformationalResponse):
                break
    except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
        raise AegisError(ErrorKind.FAILED, f"{address.place} does not answer as a web server does: {one_line(str(error), 200)}") from None
    except zlib.error:
        raise AegisError(ErrorKind.FAILED, f"what {address.place} packed cannot be unpacked") from None
    if response is None or unpack is None:
        raise AegisError(ErrorKind.UNREACHABLE, f"{address.place} gave no answer")
    if _header(response, b"x-aegis-egress"):
        raise _refused(address, response.status_code, bytes(unpack.data))
    found = {name.decode("ascii", "replace").lower(): value.decode("latin-1") for name, value in response.headers}
    return Page(address, response.status_code, found, bytes(unpack.data), unpack.cut)


def _header(response: h11.Response, name: bytes) -> str:
    return b", ".join(value for key, value in response.headers if key.lower() == name).decode("latin-1")


class _Unpacked:
    """A body as it is unpacked, never more than `MAX_BODY` of it. Raises AegisError(FAILED) for a packing that was not asked for."""

    def __init__(self, encoding: str) -> None:
        self.data = bytearray()
        self.cut = False
        packed = [word for part in encoding.lower().split(",") if (word := part.strip()) not in ("", "identity")]
        if packed and (len(packed) > 1 or packed[0] not in ("gzip", "x-gzip", "deflate")):
            raise AegisError(ErrorKind.FAILED, f"the answer is packed in a way that was not asked for: {one_line(encoding, 80)}")
        self._unpack = zlib.decompressobj(zlib.MAX_WBITS | 32) if packed else None

    def add(self, data: bytes) -> None:
        """More of it, as it came."""
        room = MAX_BODY + 1 - len(self.data)
        self.data += self._unpack.decompress(data, room) if self._unpack is not None else data[:room]
        if len(self.data) > MAX_BODY:
            del self.data[MAX_BODY:]
            self.cut = True


def _refused(address: Address, status: int, body: bytes) -> AegisError:
    """What the gate's own answer means."""
    import msgspec

    text, hint = body.decode("utf-8", "replace").strip(), ""
    with contextlib.suppress(msgspec.DecodeError):
        told = msgspec.json.decode(body)
        if isinstance(told, dict):
            error = told.get("error")
            inner = error if isinstance(error, dict) else told
            text = str(inner.get("message") or inner.get("reason") or error or text)
            hint = str(inner.get("hint") or "")
    text = one_line(text.removeprefix("aegis: "), 600) or f"{address.place} is not reached"
    kind = ErrorKind.DENIED if status == 403 else ErrorKind.UNREACHABLE if status in (502, 504) else ErrorKind.FAILED
    return AegisError(kind, text, hint)
