"""Ways to the outside that were allowed: a connection as it is, and a tunnel whose requests are judged one by one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.errors import AegisError
from aegis.services.egress.credentials import Adding
from aegis.services.egress.dialling import Unreachable, connect
from aegis.services.egress.exchanging import Refused, Watch

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aegis.services.egress.heads import Head
    from aegis.services.egress.rules import Rule
    from aegis.services.egress.service import Egress, Placed
    from aegis.services.egress.verdicts import Verdict

PIECE: Final = 64 * 1024
#: A kept connection that was idle for longer is not used again: servers end theirs after some seconds, without a word.
_IDLE: Final = 3.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Admission(NamedTuple):
    """Something that was allowed and recorded: the number of its row, and what to give back at its end."""

    verdict: Verdict
    row: int
    holding: contextlib.AsyncExitStack


class _Recorded:
    """One that was allowed: what is on record of it, and its end."""

    def __init__(self, egress: Egress, instance: Placed, admission: Admission, address: str) -> None:
        self.place = admission.verdict.place
        self.holding = admission.holding
        self.address = address
        self.sent = 0
        self.received = 0
        self._egress = egress
        self._instance = instance
        self._reason = admission.verdict.reason
        self._row = admission.row
        self._began = egress.clock.monotonic()
        self._closed = False

    async def deny(self, reason: str) -> None:
        """Record that what came after all was not allowed."""
        self._reason = reason
        await self._egress.recant(self._instance, self.place, self._row, reason)

    def note(self, text: str) -> None:
        """Add to what is recorded of it."""
        self._reason = f"{self._reason}; {text}"

    async def close(self) -> None:
        """End it and record what passed. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self.holding.aclose()
        await self._end()
        ms = (self._egress.clock.monotonic() - self._began) * 1000
        values = {"address": self.address, "sent": self.sent, "received": self.received, "ms": ms, "reason": self._reason}
        await asyncio.shield(self._egress.finish(self._row, **values))

    async def _end(self) -> None:
        """End its connections."""
        raise NotImplementedError


class Plain(_Recorded):
    """One recorded connection that carries what it carries: `Way`."""

    inspects = False

    def __init__(self, egress: Egress, instance: Placed, admission: Admission, address: str, streams: Streams) -> None:
        super().__init__(egress, instance, admission, address)
        self.raw = admission.verdict.raw
        self._most = admission.verdict.bounds.max_result
        self.reader, self.writer = streams

    def watch(self) -> Watch:
        """Who looks at a request that goes here in the clear."""
        watch = self._egress.passing(self._instance, (), self.place, self.note)
        watch.most = self._most
        return watch

    async def _end(self) -> None:
        await end(self.writer)


class Inspected(_Recorded):
    """One recorded tunnel whose requests are judged one by one: `Way` and `Tunnel`. The server is reached when the first is allowed."""

    inspects = True
    raw = False

    def __init__(self, egress: Egress, instance: Placed, admission: Admission) -> None:
        super().__init__(egress, instance, admission, "")
        self.verdict = admission.verdict
        self._kept: tuple[Streams, float] | None = None
        self._writing: set[asyncio.Task[None]] = set()

    def server(self) -> ssl.SSLContext:
        """TLS as the host of the tunnel."""
        return self._egress.authority(self._instance).context(self.place)

    async def admit(self, method: str, target: str) -> Request:
        """Judge a request and record it. Raises Refused."""
        verdict = await self._egress.judge_request(self._instance, self.place, method, target)
        return Request(self._egress, self._instance, self, await self._egress.admit(self._instance, verdict, tunnel=self._row))

    async def streams(self, roots: str | None) -> Streams:
        """A connection to the server in TLS: the one that was kept, or another. Raises Refused."""
        kept, self._kept = self._kept, None
        if kept is not None:
            if time.monotonic() - kept[1] < _IDLE and not kept[0][0].at_eof() and not kept[0][1].is_closing():
                return kept[0]
            await end(kept[0][1])
        patience = self._egress.patience
        try:
            if self.verdict.problem:
                raise Unreachable(self.verdict.problem)
            context = await self._egress.trust.context(roots)
            sock = await connect(self.verdict.addresses, self.place.port, patience.connect)
            self.address = str(sock.getpeername()[0])
            try:
                return await asyncio.open_connection(
                    sock=sock, limit=PIECE, ssl=context, server_hostname=self.place.host, ssl_handshake_timeout=patience.connect
                )
            except BaseException:
                sock.close()
                raise
        except Unreachable as error:
            raise Refused(502, f"{self.place} is allowed, but was not reached: {error}") from None
        except ssl.SSLCertVerificationError as error:
            text = f"{self.place} does not prove who it is: {error.verify_message}"
            raise Refused(502, text, "for a host of your own network name its authority in the rule: `roots`") from None
        except (OSError, TimeoutError) as error:
            raise Refused(502, f"no TLS with {self.place}: {getattr(error, 'reason', None) or error or 'it took too long'}") from None

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something before the tunnel is over; the next request does not wait for it."""
        task = asyncio.create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def give_back(self, streams: Streams, *, keep: bool) -> None:
        """Keep the connection for the next request, or end it."""
        if keep and not self._closed and not streams[0].at_eof():
            self._kept = (streams, time.monotonic())
        else:
            await end(streams[1])

    async def _end(self) -> None:
        if self._kept is not None:
            await end(self._kept[0][1])
        if self._writing:
            await asyncio.shield(asyncio.wait(set(self._writing)))


class Request:
    """One request that was allowed and recorded: `Admitted`."""

    def __init__(self, egress: Egress, instance: Placed, tunnel: Inspected, admission: Admission) -> None:
        verdict = admission.verdict
        assert verdict.by is not None
        self.place = tunnel.place
        self.sent = 0
        self.received = 0
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._egress = egress
        self._instance = instance
        self._tunnel = tunnel
        self._rule: Rule = verdict.by
        self._reason = verdict.reason
        self._row = admission.row
        self._most = verdict.bounds.max_result
        self._holding = admission.holding
        self._began = egress.clock.monotonic()
        self._streams: Streams | None = None
        self._status: int | None = None

    async def fill(self, head: Head) -> tuple[Head, Watch]:
        """The request as the server gets it. Raises Refused where a secret cannot be used."""
        looks = self._rule.inspect
        assert looks is not None
        bound = self._egress.bound(self._instance, self.place)
        watch = self._egress.passing(self._instance, bound, self.place, self.note)
        watch.on_status, watch.most = self._answered, self._most
        adding = [Adding(*looks.header, looks.secret)] if looks.header is not None and looks.secret is not None else []
        adding += [more for more in self._egress.headers_of(bound) if not adding or more.name.lower() != adding[0].name.lower()]
        try:
            headers = await watch.fill(head.target, head.headers, adding)
        except AegisError as error:
            self.note(error.message)
            raise Refused(403 if error.kind.value == "denied" else 502, error.message, error.hint, rule=self._rule.text) from None
        if watch.used:
            self.note(f"with the secret {', '.join(sorted(watch.used))}")
        return head._replace(headers=headers), watch

    async def connect(self) -> None:
        """Reach the server. Raises Refused."""
        looks = self._rule.inspect
        try:
            self._streams = await self._tunnel.streams(looks.roots if looks is not None else None)
        except Refused as refusal:
            self.note(str(refusal))
            raise
        self.reader, self.writer = self._streams

    def _answered(self, status: int) -> None:
        self._status = status

    def note(self, text: str) -> None:
        """Add to what is recorded of it."""
        self._reason = f"{self._reason}; {text}"

    async def close(self, *, keep: bool) -> None:
        """Record what passed; `keep` the connection for the next request."""
        if self._streams is not None:
            await self._tunnel.give_back(self._streams, keep=keep)
        await self._holding.aclose()
        self._tunnel.sent += self.sent
        self._tunnel.received += self.received
        values: dict[str, Any] = {
            "address": self._tunnel.address,
            "sent": self.sent,
            "received": self.received,
            "ms": (self._egress.clock.monotonic() - self._began) * 1000,
            "reason": self._reason,
            "status": self._status,
        }
        self._tunnel.later(self._egress.finish(self._row, **values))


async def end(writer: asyncio.StreamWriter) -> None:
    """Close a connection, soon."""
    # The end of TLS would be waited for; whoever is at the other end has said all that was wanted of him.
    cut = writer.transport.get_write_buffer_size() or writer.get_extra_info("ssl_object") is not None
    writer.transport.abort() if cut else writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
