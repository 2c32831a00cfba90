"""The broker itself: from a request to a recorded call."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from aegis.core.clock import Clock, SystemClock
from aegis.core.errors import AegisError
from aegis.core.ids import new_id
from aegis.models import Dialect, Usage
from aegis.models.errors import error_body
from aegis.models.prices import cost
from aegis.services.broker.asking import asked_for, check_token, chosen, models
from aegis.services.broker.connection import MAX_BODY, Connection, Gone, Refused, Request
from aegis.services.broker.forwarding import LimitMet, forward, never
from aegis.services.broker.job import Job, trace
from aegis.services.broker.model import BrokerClient, ByteChannel, Call, LimitHit
from aegis.services.broker.patience import Patience
from aegis.services.broker.refusals import Refusal, from_error, from_limit
from aegis.services.broker.routes import Route, guess, route
from aegis.services.broker.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from aegis.models import Provider
    from aegis.services.broker.body import Asked

_log = logging.getLogger(__name__)

_JSON: Final = ("content-type", "application/json")
#: The most bytes of requests that are kept for one instance at a time.
_MAX_HELD: Final = 2 * MAX_BODY


async def _nobody(call: Call, hit: LimitHit) -> None:
    """Told of a limit when nobody else is."""


def _unseen(call: Call, times: int) -> None:
    """Told of a failure when nobody watches."""


class Broker:
    """Serves model channels.

    Args:
        provider: a provider by its name; raises AegisError(NOT_FOUND). `Catalogue.provider` fits.
        secret: a secret's value by its name, or None. `Secrets.reveal_for_broker` fits.
        admit: asked before anything leaves the machine; raises AegisError to refuse. Returns when its record is on disk.
        record: told exactly once how each call ended, refused ones included; awaited before the answer ends.
        held: until when (wall seconds) a provider is not to be asked, None when it may be.
        limited: told of a provider's limit that lasts, before the program is.
        passes: why a streamed answer is cut now that uses more than it may, None while it may go on.
        failing: told of a call that failed and that the program may try again, with how many did so in a row.
    """

    def __init__(
        self,
        *,
        provider: Callable[[str], Provider],
        secret: Callable[[str], Awaitable[str | None]],
        admit: Callable[[Call], Awaitable[None]],
        record: Callable[[Call], Awaitable[None]],
        held: Callable[[str], float | None] = lambda provider: None,
        limited: Callable[[Call, LimitHit], Awaitable[None]] = _nobody,
        failing: Callable[[Call, int], None] = _unseen,
        passes: Callable[[Call], str | None] = never,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._provider = provider
        self._upstream = Upstream(provider=provider, secret=secret, admit=admit, held=held)
        self._record = record
        self._limited = limited
        self._failing = failing
        self._passes = passes
        self._patience = Patience()
        self._held: dict[str, int] = {}
        self._recording: set[asyncio.Task[None]] = set()

    async def serve(self, channel: ByteChannel, client: BrokerClient) -> None:
        """Answer the requests of one connection until either side ends it, then close the channel. Raises only CancelledError."""
        held = 0

        def take(size: int) -> bool:
            nonlocal held
            if self._held.get(client.instance, 0) + size > _MAX_HELD:
                return False
            held += size
            self._held[client.instance] = self._held.get(client.instance, 0) + size
            return True

        def give_back() -> None:
            nonlocal held
            left = self._held.get(client.instance, 0) - held
            held = 0
            if left > 0:
                self._held[client.instance] = left
            else:
                self._held.pop(client.instance, None)

        connection = Connection(channel, take)
        try:
            while (request := await connection.request()) is not None:
                await self._answer(connection, request, client)
                give_back()
        except Refused as refused:
            await _refuse_unread(connection, refused)
        except Gone:
            pass
        except Exception as error:
            _log.error("model channel of %s failed: %s", client.instance, trace(error))
        finally:
            give_back()
            await connection.close()

    async def close(self) -> None:
        """Wait for records that are still being written."""
        while self._recording:
            await asyncio.gather(*self._recording, return_exceptions=True)

    # -- one request --

    async def _answer(self, connection: Connection, request: Request, client: BrokerClient) -> None:
        found: Route | None = None
        try:
            found = _found(request, client)
            if found.kind == "alive":
                await connection.respond(200, [_JSON], b"" if request.method == "HEAD" else b"{}")
                return
            if found.kind == "models":
                await connection.respond(200, [_JSON], models(client, found))
                return
            asked = asked_for(found, request.body)
        except Refusal as refusal:
            await _refuse(connection, found.dialect if found else guess(request), refusal)
            return
        call = self._call(client, request, found, asked)
        job = Job(client=client, route=found, request=request, asked=asked, call=call, started=self._clock.monotonic())
        try:
            await _unless_gone(connection, self._carry(connection, job))
        finally:
            if call.outcome == "running":
                call.outcome = "cancelled"
            await self._settle(job)

    def _call(self, client: BrokerClient, request: Request, found: Route, asked: Asked) -> Call:
        return Call(
            id=new_id("call"),
            instance=client.instance,
            session=client.session_of(found.session),
            model=chosen(client, asked.model) or asked.model,
            dialect=found.dialect,
            path=found.path,
            stream=asked.stream,
            counts_only=found.kind == "count",
            source="broker" if client.replay is None else "replayed",
            input_estimate=max(1, len(request.body) // 4),
            max_tokens=asked.max_tokens,
            started_at=self._clock.now(),
        )

    async def _carry(self, connection: Connection, job: Job) -> None:
        """Make the call and send its answer, or an error."""
        call = job.call
        try:
            response = await self._upstream.ask(job)
        except Refusal as refusal:
            call.outcome = "refused"
            await self._decline(connection, job, refusal)
            return
        except AegisError as error:
            call.outcome = "failed"
            if error.data.get("sent") is False:
                call.usage = Usage()  # nothing reached the provider
            answer = from_error(error)
            call.status, call.error = answer.status, answer.message
            over = self._failed(job, answer.message) if answer.status >= 500 else None
            await self._decline(connection, job, over or answer)
            return
        except Exception as error:
            await self._defect(connection, job, error)
            return
        try:
            await forward(connection, response, job, self._clock, self._settle, self._failed, self._passes)
        except LimitMet as met:
            call.outcome, call.limit = "failed", met.hit
            await self._tell_of_limit(call, met.hit)
            await self._decline(connection, job, from_limit(met.hit))  # without the words of the provider, which make some try again
        except Refusal as refusal:
            call.outcome = "failed"
            await self._decline(connection, job, refusal)
        finally:
            await response.aclose()

    async def _decline(self, connection: Connection, job: Job, refusal: Refusal) -> None:
        job.call.status, job.call.error = refusal.status, refusal.message
        await self._settle(job)
        await _refuse(connection, job.call.dialect, refusal)

    def _failed(self, job: Job, said: str) -> Refusal | None:
        """A call failed in a way that may pass. Returns what ends the program's trying, when that has lasted too long."""
        call, key = job.call, (job.call.instance, job.call.session)
        times = self._patience.failed(key, self._clock.monotonic())
        over = self._patience.over(key, job.provider, said)
        if over is None:
            self._failing(call, times)
            return None
        call.given_up = over.why
        return over.answer

    async def _defect(self, connection: Connection, job: Job, error: Exception) -> None:
        _log.error("model call %s of %s failed: %s", job.call.id, job.call.instance, trace(error))
        job.call.outcome = "failed"
        await self._decline(connection, job, Refusal(500, "a defect of Aegis; the daemon's log says where"))

    async def _tell_of_limit(self, call: Call, hit: LimitHit) -> None:
        """Let every agent of the provider be held. A limit that is only replayed holds nobody."""
        if call.source != "broker":
            return
        try:
            await self._limited(call, hit)
        except Exception as error:
            _log.error("the limit that model call %s of %s met could not be kept: %s", call.id, call.instance, trace(error))

    # -- the end of a call --

    async def _settle(self, job: Job) -> None:
        """Fill in what the call used and have it recorded, once, also when the caller is cancelled meanwhile."""
        call = job.call
        if call.ms:
            return
        if call.outcome == "completed" and not call.counts_only:
            self._patience.worked((call.instance, call.session))
        call.ms = max(0.001, (self._clock.monotonic() - job.started) * 1000)
        if call.usage is not None:
            call.cost_usd = cost(call.model, call.usage, free=call.source == "replayed" or self._is_free(call.model))
        task = asyncio.ensure_future(self._recorded(job))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)
        await asyncio.shield(task)

    async def _recorded(self, job: Job) -> None:
        call = job.call
        try:
            if job.take is not None:
                await job.take.end()
        except Exception as error:
            _log.error("model call %s of %s is missing in its recording: %s", call.id, call.instance, trace(error))
        try:
            await self._record(call)
        except Exception as error:
            _log.error("model call %s of %s could not be recorded: %s", call.id, call.instance, trace(error))

    def _is_free(self, model: str) -> bool:
        try:
            return self._provider(model.partition("/")[0]).free
        except AegisError:
            return False


def _found(request: Request, client: BrokerClient) -> Route:
    """What a request asks for. Raises Refusal; without the token that says nothing about what there is."""
    try:
        found = route(request)
    except Refusal:
        check_token(request, client)
        raise
    if found.kind != "alive":
        check_token(request, client)
    return found


async def _unless_gone(connection: Connection, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; cancel it when the client goes away. Raises what it raises, Gone when it was cancelled for that."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(connection.gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
    if task.cancelled():
        raise Gone
    task.result()


async def _refuse(connection: Connection, dialect: Dialect, refusal: Refusal) -> None:
    await connection.respond(refusal.status, [_JSON, *refusal.headers], refusal.body(dialect))


async def _refuse_unread(connection: Connection, refused: Refused) -> None:
    """Answer a request that could not be read, in the dialect that its head speaks of."""
    dialect: Dialect = guess(refused.request) if refused.request is not None else "anthropic"
    try:
        body = error_body(dialect, refused.message, status=refused.status)
        await connection.respond(refused.status, [_JSON, ("connection", "close")], body)
    except Exception:
        return
