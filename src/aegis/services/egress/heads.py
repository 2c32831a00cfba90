"""The heads of requests to the proxy, read so that nobody behind it can read them differently.

Parsing is h11's; what h11 forgives is refused before it sees it: bare line feeds, folded lines, two lengths, two hosts.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple, Protocol

import h11

from aegis.services.egress.places import Malformed, Place, read_place

#: The longest head of a request or an answer, in bytes.
MAX_HEAD: Final = 64 * 1024
_END: Final = b"\r\n\r\n"
#: A line feed without its carriage return, a carriage return without its line feed, a line that goes on in the next, a NUL.
_FORGIVEN: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]|\x00")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)
_TARGET: Final = re.compile(r"[!-~]+")
_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
    }
)
#: What `Connection` cannot take out of a message: it says where the message ends or whom it is for.
_KEPT: Final = frozenset({b"content-length", b"transfer-encoding", b"host"})


class ByteChannel(Protocol):
    """What the gate needs of a tether channel."""

    info: dict[str, Any]

    async def read(self) -> bytes:
        """The next bytes; empty when the other end has ended or closed."""
        ...

    async def write(self, data: bytes) -> None:
        """Send, waiting for credit."""
        ...

    async def eof(self) -> None:
        """Say that nothing more will be written."""
        ...

    async def close(self, **info: Any) -> None:
        """End the channel for both."""
        ...


class BadRequest(Exception):
    """The request cannot be read, or not in one way only; the text says why."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Incoming:
    """What a client sends, with the possibility to put back what was read too much."""

    def __init__(self, channel: ByteChannel) -> None:
        self._channel = channel
        self._kept = b""

    async def read(self) -> bytes:
        """The next bytes, empty at the end."""
        if self._kept:
            data, self._kept = self._kept, b""
            return data
        return await self._channel.read()

    def put_back(self, data: bytes) -> None:
        """Have `data` read again first."""
        self._kept = data + self._kept

    async def head(self) -> bytes | None:
        """The next head to its empty line; None when the client has ended. Raises BadRequest."""
        data = bytearray()
        looked = 0
        while True:
            end = data.find(_END, max(0, looked - 3))
            # A carriage return at the very end is judged with what follows it.
            stop = end + 4 if end >= 0 else len(data) - data.endswith(b"\r")
            if _FORGIVEN.search(data, max(0, looked - 2), stop):
                raise BadRequest("a line of the request's head does not end as HTTP says, or goes on in the next")
            if max(end, looked) > MAX_HEAD:
                raise BadRequest(f"the head of the request is over {MAX_HEAD} bytes", 431)
            if end >= 0:
                self.put_back(bytes(data[end + 4 :]))
                return bytes(data[: end + 4])
            looked = len(data)
            more = await self.read()
            if not more:
                if data:
                    raise BadRequest("the request ends within its head")
                return None
            data += more if data else more.removeprefix(b"\r\n")  # some clients send one line too much after a body


class Head(NamedTuple):
    """A request that is allowed to be asked about: where to, and what to send there."""

    place: Place
    method: bytes
    target: bytes  # as the server gets it; empty for CONNECT
    headers: list[tuple[bytes, bytes]]  # without those that are between a client and its proxy


def read_head(event: h11.Request, within: Place | None, *, secure: bool = False) -> Head:
    """A request to the proxy, or, with `within`, one in the tunnel to that place; `secure`: within TLS. Raises BadRequest.

    In a tunnel of TLS the connection to the server is meant to be kept; else it is for one request.
    """
    default = 443 if secure else 80
    target = event.target.decode("latin-1")
    hosts = [value for name, value in event.headers if name == b"host"]
    lengths = sum(name == b"content-length" for name, _ in event.headers)
    coded = [value for name, value in event.headers if name == b"transfer-encoding"]
    if event.http_version not in (b"1.0", b"1.1"):
        raise BadRequest("this proxy speaks HTTP/1.1", 505)
    if (lengths and coded) or len(coded) > 1 or (coded and event.http_version < b"1.1"):
        raise BadRequest("the request says in two ways how long it is")
    if len(hosts) > 1:
        raise BadRequest("the request names two hosts")
    if not _TARGET.fullmatch(target):
        raise BadRequest("the target of the request is not printable ASCII")
    try:
        if event.method == b"CONNECT":
            if within is not None:
                raise BadRequest("a tunnel within a tunnel is not made")
            return _connect(target, hosts, lengths + len(coded))
        if within is None:
            place, rest = _absolute(target)
        elif target.startswith("/"):
            place, rest = within, target
        else:
            raise BadRequest("a request in a tunnel names a path, beginning with `/`")
        if not hosts and event.http_version >= b"1.1":
            raise BadRequest("the request has no `Host`")
        for host in hosts:
            _same(read_place(host.decode("latin-1"), default), place)
    except Malformed as error:
        raise BadRequest(str(error)) from None
    shown = place.authority if place.port == default else str(place)
    headers = [(b"host", shown.encode()), *_between(event, b"host")]
    if not secure:
        headers.append((b"connection", b"close"))
    return Head(place, event.method, rest.encode(), headers)


def answer_headers(event: h11.Response) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that are meant for the client."""
    return _between(event)


def _connect(target: str, hosts: list[bytes], bodies: int) -> Head:
    place = read_place(target)
    if bodies:
        raise BadRequest("a CONNECT has no body")
    for host in hosts:
        if (named := read_place(host.decode("latin-1"), place.port)) != place:
            raise BadRequest(f"the request is for {place}, its `Host` is {named}")
    return Head(place, b"CONNECT", b"", [])


def _absolute(target: str) -> tuple[Place, str]:
    scheme = _SCHEME.match(target)
    if scheme is None:
        raise BadRequest("this is a proxy: the target of a request is a whole URL, or a host and port to CONNECT to")
    if scheme[1].lower() != "http":
        raise BadRequest(f"`{scheme[1]}` does not go through here in the clear: CONNECT to the host, or use http")
    after = target[scheme.end() :]
    if "#" in after:
        raise BadRequest("a fragment (`#`) is not sent in a request")
    cut = min(index for index in (after.find("/"), after.find("?"), len(after)) if index >= 0)
    path = after[cut:]
    return read_place(after[:cut], 80), path if path.startswith("/") else f"/{path}"


def _same(named: Place, place: Place) -> None:
    if named != place:
        raise BadRequest(f"the request is for {place}, its `Host` is {named}")


def _between(event: h11.Request | h11.Response, *more: bytes) -> list[tuple[bytes, bytes]]:
    """Headers, as they were written, without those that concern one connection only."""
    listed = {token.strip().lower() for name, value in event.headers if name == b"connection" for token in value.split(b",")}
    dropped = (_HOP | listed - _KEPT).union(more, (b"expect",))
    return [(name, value) for name, value in event.headers.raw_items() if name.lower() not in dropped]
