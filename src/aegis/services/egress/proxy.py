"""One connection of a program to its proxy: requests one after the other, or a tunnel.

Each request is decided anew and gets a connection of its own to the server. A tunnel carries TLS to the host it was opened for, on
other ports than 443 also HTTP to that host, and anything only where the rule says `tcp://`. Where a rule looks at requests, `inspecting`
takes the tunnel over.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Protocol, overload

from aegis.core.errors import AegisError
from aegis.services.egress.exchanging import Exchange, Patience, Refused, Wire
from aegis.services.egress.heads import BadRequest, ByteChannel, Incoming, read_head
from aegis.services.egress.inspecting import inspect
from aegis.services.egress.tls import DENIED_ALERT, MAX_HELLO, ClientHello, NotTls, read_hello
from aegis.services.egress.ways import Inspected

if TYPE_CHECKING:
    from aegis.services.egress.credentials import Passing
    from aegis.services.egress.places import Place

_PIECE: Final = 64 * 1024
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_HANDSHAKE: Final = b"\x16"


class Way(Wire, Protocol):
    """A connection to the outside that was allowed, recorded, and made."""

    raw: bool  # any bytes may pass
    holding: contextlib.AsyncExitStack  # what is given back at its end

    def watch(self) -> Passing:
        """Who looks at a request that goes there in the clear."""
        ...

    async def deny(self, reason: str) -> None:
        """Record that what came after all was not allowed."""
        ...

    async def close(self) -> None:
        """End it and record what passed. Idempotent."""
        ...


class Reach(Protocol):
    """Decides, records and connects. Raises Refused."""

    @overload
    async def __call__(self, place: Place) -> Way | Inspected: ...

    @overload
    async def __call__(self, place: Place, *, request: tuple[str, str], made: Way | None = None) -> Way: ...

    async def __call__(self, place: Place, *, request: tuple[str, str] | None = None, made: Way | None = None) -> Way | Inspected:
        """A way to a place; with `request`, its method and target, for HTTP without TLS, by the connection that was `made` if any."""
        ...


class Proxy:
    """Serves one connection."""

    def __init__(self, channel: ByteChannel, reach: Reach, patience: Patience) -> None:
        self._channel = channel
        self._incoming = Incoming(channel)
        self._reach = reach
        self._patience = patience
        self._exchange = Exchange(channel, self._incoming, patience)

    async def serve(self) -> None:
        """Until either side has ended. What the tether raises when it ends goes through.

        A channel that is closed while the client still talks does not cost it the answer: the guest goes on reading for a moment.
        """
        try:
            await self._requests(None, None)
        except BadRequest as error:
            await self._exchange.refuse(Refused(error.status, str(error)))
        except Refused as refusal:
            await self._exchange.refuse(refusal)
        except TimeoutError:
            await self._exchange.refuse(Refused(408, "the request took too long"))
        finally:
            await self._channel.close()

    async def carry(self, place: Place) -> None:
        """Carry bytes of any kind to and from one place."""
        try:
            way = await self._reach(place)
            try:
                if isinstance(way, Inspected):
                    await self._inspect(way)
                else:
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
            if first is None and not await self._exchange.begun():
                return
            got = await self._exchange.head()
            if got is None:
                return
            client, event = got
            head = read_head(event, within)
            if head.method == b"CONNECT":
                await self._tunnel(head.place)
                return
            asked = (head.method.decode("ascii"), head.target.decode("ascii"))
            # The first in a tunnel comes by the connection that the tunnel was made with; what it asks for is judged all the same.
            way, first = await self._reach(head.place, request=asked, made=first), None
            try:
                watch = way.watch()
                await watch.fill(head.target, head.headers)  # nothing is put in where everybody could read it
                kept, _ = await self._exchange.run(client, head, way, watch)
            finally:
                await way.close()
            if not kept:
                return

    # A tunnel.

    async def _tunnel(self, place: Place) -> None:
        way = await self._reach(place)
        try:
            await self._channel.write(_ESTABLISHED)
            if isinstance(way, Inspected):
                await self._inspect(way)
                return
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

    async def _inspect(self, way: Inspected) -> None:
        """A tunnel whose requests are looked at."""
        first = await self._first()
        self._incoming.put_back(first)
        if first.startswith(_HANDSHAKE):
            if await self._named(way):
                await inspect(self._channel, self._incoming, self._patience, way)
        elif first:
            reason = f"requests to {way.place} are looked at, and go there in TLS alone"
            await way.deny(reason)
            if first[:1].isalpha():
                await self._exchange.refuse(Refused(403, reason, "use https"))

    async def _first(self) -> bytes:
        try:
            async with asyncio.timeout(self._patience.head):
                return await self._incoming.read()
        except TimeoutError:
            return b""

    async def _tls(self, way: Way) -> None:
        """Let TLS pass whose hello asks for the host of the tunnel."""
        if await self._named(way):
            await self._pump(way)

    async def _named(self, way: Way | Inspected) -> bool:
        """Whether the hello asks for the host of the tunnel; if so it is to be read again, else the client is told."""
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
            return False
        if hello is not None and hello.encrypted:
            way.note("a second hello in it is encrypted (ECH)")
        self._incoming.put_back(data)
        return True

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


def _mismatch(hello: ClientHello, place: Place) -> str | None:
    """Why a hello does not belong into the tunnel to a place; None when it does."""
    if hello.server_name == place.host or (hello.server_name is None and place.address is not None):
        return None
    if hello.server_name is None:
        return f"the TLS hello names no server, so it cannot be told whether it is {place.host}"
    return f"the TLS hello asks for {hello.server_name}, the tunnel is for {place.host}"
