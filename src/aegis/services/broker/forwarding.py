"""Sending an answer on as it arrives, and reading from it what it used.

Errors are read whole before they are sent: a limit that lasts gets another status, under which no program tries again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError
from aegis.core.text import one_line
from aegis.models import Usage
from aegis.models.errors import error_event, resets_at
from aegis.models.usage import observe
from aegis.services.broker.connection import Gone
from aegis.services.broker.limits import lasting
from aegis.services.broker.model import LimitHit
from aegis.services.broker.refusals import NO_RETRY, Refusal, from_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.core.clock import Clock
    from aegis.models import ModelResponse
    from aegis.services.broker.connection import Connection
    from aegis.services.broker.job import Job
    from aegis.services.broker.model import Call

#: The most of an error answer that is passed on, in bytes.
_MAX_ERROR: Final = 1024 * 1024
_FORWARDED: Final = frozenset(
    {"content-type", "content-length", "cache-control", "request-id", "x-request-id", "retry-after", "retry-after-ms", "x-should-retry"}
)
_FORWARDED_PREFIXES: Final = ("anthropic-ratelimit-", "x-ratelimit-")
#: Bytes that may wait to be sent before the provider is not read any further.
_MAX_WAITING: Final = 256 * 1024
#: Statuses below 500 that a later attempt may not meet.
_PASSING: Final = frozenset({408, 409, 429})
_ENDS: Final = (b"\n\n", b"\r\n\r\n")
#: An answer that is to be cut is cut at the end of an event, unless none comes for so many bytes.
_MOST_OVER: Final = 256 * 1024


def never(call: Call) -> str | None:
    """No answer is too long."""
    return None


class LimitMet(Exception):
    """The provider's answer is a limit that lasts. `said` is its own text."""

    def __init__(self, hit: LimitHit, said: str) -> None:
        super().__init__(hit.message)
        self.hit = hit
        self.said = said


async def forward(
    connection: Connection,
    response: ModelResponse,
    job: Job,
    clock: Clock,
    settle: Callable[[Job], Awaitable[None]],
    failing: Callable[[Job, str], Refusal | None],
    passes: Callable[[Call], str | None] = never,
) -> None:
    """Send the answer; `settle` is awaited before its end. An answer that breaks off ends with an error that the program can read.

    `passes` says why a streamed answer is to be cut that uses more than it may. `failing` is told what went wrong when a later attempt
    may meet it no more, and gives the refusal that is to be sent in its place.

    Raises LimitMet and Refusal where another answer is to be given instead; nothing has been sent then. Raises Gone.
    """
    headers = _head(response)
    if job.take is not None:
        job.take.answered(response, headers)
    if response.status >= 400:
        await _error(connection, response, headers, job, clock, settle, failing)
        return
    _check(response, job)
    await _stream(connection, response, headers, job, clock, failing, passes)
    await settle(job)
    await connection.finish()


async def _stream(
    connection: Connection,
    response: ModelResponse,
    headers: list[tuple[str, str]],
    job: Job,
    clock: Clock,
    failing: Callable[[Job, str], Refusal | None],
    passes: Callable[[Call], str | None],
) -> None:
    call, take, started = job.call, job.take, job.started
    kind = response.header("content-type")
    observer = observe(call.dialect, kind)
    streamed = (kind or "").lower().startswith("text/event-stream")
    call.status = response.status
    tail, over = b"\n\n", 0
    await connection.start(response.status, headers)
    outlet = _Outlet(connection)
    try:
        async for data in response.body:
            if call.first_byte_ms is None:
                call.first_byte_ms = (clock.monotonic() - started) * 1000
            observer.feed(data)
            call.received += len(data)
            if take is not None:
                take.piece(data)
            tail = data[-4:] if len(data) >= 4 else (tail + data)[-4:]
            await outlet.put(data)
            if streamed:
                call.pieces += data.count(_ENDS[0]) + data.count(_ENDS[1])
                if (why := passes(call)) is not None:
                    whole, over = tail.endswith(_ENDS), over + len(data)
                    if whole or over > _MOST_OVER:
                        call.outcome, call.error = "failed", why
                        await outlet.empty()
                        if not whole:
                            raise Gone
                        await connection.send(error_event(call.dialect, why))
                        return
        await outlet.empty()
        call.outcome = "completed"
    except AegisError as error:
        call.outcome, call.error = "failed", error.message
        failing(job, error.message)
        await outlet.empty()
        if not streamed or not tail.endswith(_ENDS):
            raise Gone from None  # half an answer or half an event must not look whole: the connection breaks off too
        await connection.send(error_event(call.dialect, error.message))
    finally:
        outlet.close()
        call.usage = Usage() if call.counts_only else observer.usage()


class _Outlet:
    """Sends what comes: the first piece at once, and what came together with it as one, when nothing more is there to be read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._alone = True  # no other piece was sent in this round of the loop
        self._pieces: list[bytes] = []
        self._size = 0
        self._sending: asyncio.Task[None] | None = None

    async def put(self, data: bytes) -> None:
        """Take the next bytes. Raises Gone."""
        if self._sending is not None and self._sending.done():
            self._sending.result()
            self._sending = None
        if self._alone and self._sending is None:
            self._alone = False
            self._loop.call_soon(self._next_round)
            await self._connection.send(data)
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())
        if self._size > _MAX_WAITING:
            await self._sending

    def _next_round(self) -> None:
        self._alone = True

    async def empty(self) -> None:
        """Return when all is sent. Raises Gone."""
        if self._sending is not None:
            await self._sending

    def close(self) -> None:
        """Send nothing more."""
        if self._sending is not None:
            self._sending.cancel()
            if self._sending.done() and not self._sending.cancelled():
                self._sending.exception()  # whoever had to know was told by `put` or `empty`, or is gone

    async def _send(self) -> None:
        while self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._size = 0
            await self._connection.send(data)


async def _error(
    connection: Connection,
    response: ModelResponse,
    headers: list[tuple[str, str]],
    job: Job,
    clock: Clock,
    settle: Callable[[Job], Awaitable[None]],
    failing: Callable[[Job, str], Refusal | None],
) -> None:
    """Pass an error on, or raise LimitMet or Refusal."""
    call = job.call
    call.usage = Usage()
    body = bytearray()
    try:
        async for data in response.body:
            body += data
            if job.take is not None:
                job.take.piece(data)
            if len(body) > _MAX_ERROR:
                break
    except AegisError:
        pass  # what has come of it must do
    now = clock.now()
    call.first_byte_ms = (clock.monotonic() - job.started) * 1000
    call.error = f"the model provider answered {response.status}: {one_line(body[:300].decode('utf-8', 'replace'))}"
    limit = lasting(response.status, response.headers, bytes(body), now)
    if limit is not None:
        message = from_limit(LimitHit(job.provider, limit.resets_at, ""), limit.said).message
        raise LimitMet(LimitHit(job.provider, limit.resets_at, message), limit.said)
    call.outcome, call.status = "failed", response.status
    if response.status >= 500 or response.status in _PASSING:
        refusal = failing(job, call.error)
        if refusal is not None:
            raise refusal
    headers = [pair for pair in headers if pair[0] != "content-length"]
    if response.status == 429:
        headers.append(("x-aegis-limit", "provider"))
        moment = resets_at(response.headers, now)
        if moment is not None:
            headers.append(("x-aegis-resets-at", str(int(moment))))
    elif response.status in (401, 403) and response.header("x-should-retry") is None:
        headers.append(NO_RETRY)
    await settle(job)
    await connection.respond(response.status, headers, bytes(body[:_MAX_ERROR]))


def _check(response: ModelResponse, job: Job) -> None:
    """Raise Refusal for what no model answers: the page of a proxy, a redirection."""
    kind = (response.header("content-type") or "").partition(";")[0].strip().lower()
    if 300 <= response.status < 400:
        said = f"a redirection ({response.status})"
    elif kind.startswith(("text/html", "text/xml", "application/xml", "image/")):
        said = f"{one_line(kind, 60)}, not with JSON"
    else:
        return
    message = f"model provider `{job.provider}` answered with {said}: is its `base_url` right, and does no proxy stand before it?"
    raise Refusal(410, message, headers=(NO_RETRY,))


def _head(response: ModelResponse) -> list[tuple[str, str]]:
    encoded = response.header("content-encoding") not in (None, "identity")
    return [
        (name, value)
        for name, value in response.headers
        if (name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES)) and not (encoded and name == "content-length")
    ]
