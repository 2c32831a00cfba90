"""TLS on both sides of requests that are looked at: the daemon as the server that a program asked for, and as a client of the real one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from typing import TYPE_CHECKING, Any, Final

from aegis.services.egress.authority import PROTOCOLS

if TYPE_CHECKING:
    from aegis.services.egress.heads import ByteChannel, Incoming

_PIECE: Final = 64 * 1024
#: How long the system's certificates are used without looking at them again, in seconds.
_FRESH: Final = 3600.0


class TlsChannel:
    """The server's end of TLS over a channel of bytes; a `ByteChannel` itself. `source` is where the channel's bytes are read from."""

    def __init__(self, source: Incoming, channel: ByteChannel, context: ssl.SSLContext) -> None:
        self.info: dict[str, Any] = channel.info
        self._source = source
        self._channel = channel
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._lock = asyncio.Lock()

    async def handshake(self) -> None:
        """Raises ssl.SSLError when the client does not want it, after it was told."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLError:
                await self._flush()
                raise
        await self._flush()

    async def read(self) -> bytes:
        """What the client sends; empty at its end, whether it said so or not."""
        while True:
            try:
                return self._tls.read(_PIECE)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLError:  # an alert, or the connection ended without one
                return b""

    async def write(self, data: bytes) -> None:
        """Send, waiting for credit."""
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left[:_PIECE]) :]
            await self._flush()

    async def eof(self) -> None:
        """Say that nothing more will be written."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    async def close(self, **info: Any) -> None:
        """End TLS, and the channel."""
        if not info:
            await self.eof()
        await self._channel.close(**info)

    async def _feed(self) -> None:
        data = await self._source.read()
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def _flush(self) -> None:
        """Send what TLS has made, in the order in which it made it."""
        async with self._lock:
            while data := self._out.read():
                await self._channel.write(data)


class Trust:
    """Whom the daemon believes that a server is who it says: the system's certificates, or those of a rule besides them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, float], tuple[float, ssl.SSLContext]] = {}

    async def context(self, roots: str | None) -> ssl.SSLContext:
        """A client of TLS. Raises OSError (ssl.SSLError is one) when `roots` cannot be read."""
        loop = asyncio.get_running_loop()
        changed = os.stat(roots).st_mtime if roots is not None else 0.0
        at, context = self._known.get((roots, changed), (0.0, None))
        if context is None or loop.time() - at > _FRESH:
            context = await loop.run_in_executor(None, _client, roots)
            self._known = {key: value for key, value in self._known.items() if key[0] != roots}
            self._known[(roots, changed)] = (loop.time(), context)
        return context


def _client(roots: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(PROTOCOLS)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as all other programs: private authorities leave out what it wants
    if roots is not None:
        context.load_verify_locations(cafile=roots)
    return context
