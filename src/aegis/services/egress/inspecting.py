"""A tunnel of TLS whose requests are looked at: the daemon is the server that the program asked for, and asks the real one itself.

HTTP/1.1 alone is spoken, on both sides. Each request is judged and recorded before anything of it is sent; a connection to the server
is kept for the next one. An upgrade, to WebSocket or to HTTP/2, does not pass.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Protocol

from aegis.services.egress.exchanging import Exchange, Patience, Refused, Watch, Wire
from aegis.services.egress.heads import BadRequest, ByteChannel, Head, Incoming, read_head
from aegis.services.egress.securing import TlsChannel

if TYPE_CHECKING:
    import h11

    from aegis.services.egress.places import Place


class Admitted(Wire, Protocol):
    """A request that was allowed and recorded."""

    async def fill(self, head: Head) -> tuple[Head, Watch]:
        """The request as the server gets it, and who watches it. Raises Refused."""
        ...

    async def connect(self) -> None:
        """Reach the server. Raises Refused."""
        ...

    async def close(self, *, keep: bool) -> None:
        """Record what passed; `keep` the connection for the next request."""
        ...


class Tunnel(Protocol):
    """A connection that was allowed and recorded, by which requests come."""

    place: Place

    def server(self) -> ssl.SSLContext:
        """TLS as the host of the tunnel."""
        ...

    async def admit(self, method: str, target: str) -> Admitted:
        """Judge a request and record it. Raises Refused."""
        ...

    def note(self, text: str) -> None:
        """Add to what is recorded of the tunnel."""
        ...


async def inspect(channel: ByteChannel, incoming: Incoming, patience: Patience, tunnel: Tunnel) -> None:
    """Serve a tunnel to its end, from the client's first bytes of TLS on."""
    tls = TlsChannel(incoming, channel, tunnel.server())
    try:
        async with asyncio.timeout(patience.head):
            await tls.handshake()
    except (ssl.SSLError, TimeoutError) as error:
        tunnel.note(f"no TLS with the program: {getattr(error, 'reason', None) or error or 'it took too long'}")
        return
    inner = Incoming(tls)
    exchange = Exchange(tls, inner, patience)
    try:
        while await exchange.begun() and (got := await exchange.head()) is not None:
            if not await _one(exchange, patience, tunnel, *got):
                return
    except BadRequest as error:
        tunnel.note(f"a request was refused: {error}")
        await exchange.refuse(Refused(error.status, str(error)))
    except Refused as refusal:
        await exchange.refuse(refusal)
    except TimeoutError:
        await exchange.refuse(Refused(408, "the request took too long"))
    finally:
        await tls.eof()


async def _one(exchange: Exchange, patience: Patience, tunnel: Tunnel, client: h11.Connection, event: h11.Request) -> bool:
    """One request; whether another may follow."""
    head = read_head(event, tunnel.place, secure=True)
    if any(name == b"upgrade" and b"websocket" in value.lower() for name, value in event.headers):
        raise Refused(
            501,
            f"a WebSocket does not pass where requests are looked at, as they are for {tunnel.place}",
            "a rule without `inspect` carries it",
        )
    request = await tunnel.admit(head.method.decode("ascii"), head.target.decode("ascii"))
    keep = False
    try:
        head, watch = await request.fill(head)
        await request.connect()
        again, keep = await exchange.run(client, head, request, watch)
    finally:
        await request.close(keep=keep)
    return again
