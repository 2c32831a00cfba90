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
_EVERYWHERE: Final = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - these are left out of the names, not listened on
_LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also asks the kernel who is at the other end of a unix socket."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer is not None and peer.family == socket.AF_UNIX:
            _pid, uid, _gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            self.client = (f"uid:{uid}", 0)


class Door:
    """ASGI middleware that lets nobody in unproven."""

    def __init__(self, app: ASGIApp, token: str | None, listens: Collection[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = _LOCAL_NAMES | {listen.rpartition(":")[0] for listen in listens} - _EVERYWHERE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope[PRINCIPAL] = self._prove(scope)
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
        self._check_names(headers)
        given = headers.get("authorization", "").removeprefix("Bearer ").encode()
        if self._token is None or not hmac.compare_digest(given, self._token.encode()):
            raise AegisError(ErrorKind.DENIED, "a bearer token is needed over TCP", "send the content of the file `token` in the home")
        return Principal(PrincipalKind.PERSON, "token")

    def _check_names(self, headers: dict[str, Any]) -> None:
        host = headers.get("host", "")
        name = host[: host.rindex("]") + 1] if "]" in host else host.partition(":")[0]
        if name.lower() not in self._hosts:
            raise AegisError(ErrorKind.DENIED, f"Host {host[:80]!r} is not a name of this daemon", "use the address it listens on")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].rpartition(":")[0].lower() not in self._hosts:
            raise AegisError(
                ErrorKind.DENIED, f"Origin {origin[:80]!r} may not speak to this daemon", "call it from a program, not from a web page"
            )


@functools.lru_cache(maxsize=64)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
