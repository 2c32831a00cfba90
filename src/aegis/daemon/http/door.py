"""Who is there: identity from the connection, before anything else happens.

On the unix socket the kernel names the peer (SO_PEERCRED); only the owner of the home and root are let in. On TCP a bearer token is
compared in constant time, and requests whose Host or Origin is not ours are refused, so that neither a page in a browser nor a
rebound DNS name can speak to the daemon.
"""

from __future__ import annotations

import functools
import hmac
import os
import pwd
import re
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.daemon.http.answers import error_response

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection

    from starlette.types import ASGIApp, Receive, Scope, Send

#: Where `Door` leaves the principal in the ASGI scope.
PRINCIPAL: Final = "aegis.principal"
#: The most of a request's head (the body may begin in the same read), in bytes, and how long a stranger may take for it, in seconds.
_MAX_HEAD: Final = 512 * 1024
_PATIENCE: Final = 5.0
#: How a page's WebSocket brings its token along: as this subprotocol, with the token behind it.
BEARER: Final = "aegis.bearer."
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:]+)(?::[0-9]{1,5})?")
_EVERYWHERE: Final = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - these are left out of the names, not listened on
_LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also asks the kernel who is at the other end of a unix socket.

    It bounds what anybody can hold before he is known: the size of a request's head, and over TCP the time it takes.
    """

    _asking: asyncio.TimerHandle | None = None
    _head = 0  # bytes of an incomplete head

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family == socket.AF_UNIX:
            _pid, uid, _gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            self.client = (f"uid:{uid}", 0)
        else:
            self._asking = self.loop.call_later(_PATIENCE, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._head >= 0:
            self._head += len(data)
            if self._head > _MAX_HEAD:
                self.transport.close()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = max(self._head, 0)
        if self._asking is None and not (self.client or ("",))[0].startswith("uid:"):
            self._asking = self.loop.call_later(_PATIENCE, self.transport.close)

    def on_headers_complete(self) -> None:
        self._head = -1
        self._patient()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patient()
        super().connection_lost(exc)

    def _patient(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None


class _NoBearer(AegisError):
    """Nobody said who he is, or not truly."""


class Door:
    """ASGI middleware that lets nobody in unproven, by HTTP or WebSocket."""

    def __init__(self, app: ASGIApp, token: str | None, listens: Collection[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = _LOCAL_NAMES | {listen.rpartition(":")[0] for listen in listens} - _EVERYWHERE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):  # there is no other way in
            raise RuntimeError(f"the door knows no {scope['type']!r}")
        try:
            scope[PRINCIPAL] = self._prove(scope)
        except _NoBearer as error:
            answer = error_response(error)
            answer.status_code = 401
            answer.headers["www-authenticate"] = 'Bearer realm="aegis"'
            await answer(scope, receive, send)
            return
        except AegisError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _prove(self, scope: Scope) -> Principal:
        client = (scope.get("client") or ("", 0))[0]
        if client.startswith("uid:"):
            uid = int(client[4:])
            if uid not in (os.geteuid(), 0):
                raise AegisError(ErrorKind.DENIED, f"uid {uid} is not the owner of this home", "run the command as the owner")
            return Principal(PrincipalKind.PERSON, _user_name(uid))
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if sum(name.lower() == b"host" for name, _ in scope["headers"]) > 1:
            raise AegisError(ErrorKind.DENIED, "more than one Host", "use the address it listens on")
        self._check_names(headers)
        given = _bearer(scope, headers).encode()
        if self._token is None or not hmac.compare_digest(given, self._token.encode()):
            raise _NoBearer(ErrorKind.DENIED, "a bearer token is needed over TCP", "send the content of the file `token` in the home")
        return Principal(PrincipalKind.PERSON, "token")

    def _check_names(self, headers: dict[str, Any]) -> None:
        host = headers.get("host", "")
        parts = _HOST.fullmatch(host)
        if parts is None or parts[1].lower() not in self._hosts:
            raise AegisError(ErrorKind.DENIED, f"Host {host[:80]!r} is not a name of this daemon", "use the address it listens on")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].rpartition(":")[0].lower() not in self._hosts:
            raise AegisError(
                ErrorKind.DENIED, f"Origin {origin[:80]!r} may not speak to this daemon", "call it from a program, not from a web page"
            )


def _bearer(scope: Scope, headers: dict[str, Any]) -> str:
    """The token that a request brings along: in its header, or, as no page can set that for a WebSocket, as a subprotocol."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return str(token.strip())
    if scope["type"] == "websocket":
        offered = [name.removeprefix(BEARER) for name in scope["subprotocols"] if name.startswith(BEARER)]
        if len(offered) == 1:
            return str(offered[0])
    return ""


@functools.lru_cache(maxsize=64)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
