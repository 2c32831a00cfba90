"""The broker itself: from a request to a recorded call."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any, Final

from aegis.core.clock import Clock, SystemClock
from aegis.core.errors import AegisError
from aegis.core.ids import new_id
from aegis.core.text import one_line
from aegis.models import Dialect, ModelRequest, ModelResponse, Provider, Usage
from aegis.models.errors import error_body, error_event, resets_at
from aegis.models.prices import cost
from aegis.models.usage import observe
from aegis.services.broker.asking import asked_for, check_token, chosen, guess, models
from aegis.services.broker.body import Asked, with_model
from aegis.services.broker.connection import MAX_BODY, Connection, Gone, Refused, Request
from aegis.services.broker.model import BrokerClient, ByteChannel, Call
from aegis.services.broker.refusals import NO_RETRY, Refusal, from_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_log = logging.getLogger(__name__)

#: Path of a request -> its dialect and the path at the provider.
_ROUTES: Final[dict[str, tuple[Dialect, str]]] = {
    "/v1/messages": ("anthropic", "/v1/messages"),
    "/v1/messages/count_tokens": ("anthropic", "/v1/messages/count_tokens"),
    "/v1/chat/completions": ("openai", "/chat/completions"),
    "/chat/completions": ("openai", "/chat/completions"),
}
_JSON: Final = ("content-type", "application/json")
_FORWARDED: Final = frozenset(
    {"content-type", "content-length", "cache-control", "request-id", "x-request-id", "retry-after", "retry-after-ms", "x-should-retry"}
)
_FORWARDED_PREFIXES: Final = ("anthropic-ratelimit-", "x-ratelimit-")
#: The most bytes of requests that are kept for one instance at a time.
_MAX_HELD: Final = 2 * MAX_BODY


class Broker:
    """Serves model channels.

    Args:
        provider: a provider by its name; raises AegisError(NOT_FOUND). `Catalogue.provider` fits.
        secret: a secret's value by its name, or None. `Secrets.reveal_for_broker` fits.
        admit: asked before anything leaves the machine; raises AegisError to refuse. Returns when its record is on disk.
        record: told exactly once how each call ended, refused ones included; awaited before the answer ends.
    """

    def __init__(
        self,
        *,
        provider: Callable[[str], Provider],
        secret: Callable[[str], Awaitable[str | None]],
        admit: Callable[[Call], Awaitable[None]],
        record: Callable[[Call], Awaitable[None]],
        clock: Clock | None = None,
    ) -> None:
        self._provider = provider
        self._secret = secret
        self._admit = admit
        self._record = record
        self._clock = clock or SystemClock()
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
            await self._refuse_unread(connection, refused)
        except Gone:
            pass
        except Exception as error:
            _log.error("model channel of %s failed: %s", client.instance, _trace(error))
        finally:
            give_back()
            await connection.close()

    async def close(self) -> None:
        """Wait for records that are still being written."""
        while self._recording:
            await asyncio.gather(*self._recording, return_exceptions=True)

    # -- one request --

    async def _answer(self, connection: Connection, request: Request, client: BrokerClient) -> None:
        dialect, path = _ROUTES.get(request.path) or (guess(request), "")
        try:
            if request.path == "/" and request.method in ("GET", "HEAD"):
                await connection.respond(200, [_JSON], b"" if request.method == "HEAD" else b"{}")
                return
            check_token(request, client)
            if request.path in ("/v1/models", "/models") and request.method == "GET":
                await connection.respond(200, [_JSON], models(client))
                return
            if not path or request.method != "POST":
                raise Refusal(404, f"there is no {request.method} {one_line(request.path, 100)} here")
            asked = asked_for(request.body)
        except Refusal as refusal:
            await _refuse(connection, dialect, refusal)
            return
        call = self._call(client, request, dialect, path, asked)
        started = self._clock.monotonic()
        try:
            await _unless_gone(connection, self._carry(connection, client, request, asked, call))
        finally:
            if call.outcome == "running":
                call.outcome = "cancelled"
            await self._settle(call, started)

    def _call(self, client: BrokerClient, request: Request, dialect: Dialect, path: str, asked: Asked) -> Call:
        return Call(
            id=new_id("call"),
            instance=client.instance,
            session=client.session_of(request.headers.get("x-aegis-session")),
            model=chosen(client, asked.model) or asked.model,
            dialect=dialect,
            path=path,
            stream=asked.stream,
            input_estimate=max(1, len(request.body) // 4),
            max_tokens=asked.max_tokens,
            started_at=self._clock.now(),
        )

    async def _carry(self, connection: Connection, client: BrokerClient, request: Request, asked: Asked, call: Call) -> None:
        """Make the call and send its answer, or an error."""
        started = self._clock.monotonic()
        try:
            response = await self._ask(client, request, asked, call)
        except Refusal as refusal:
            call.outcome = "refused"
            await self._decline(connection, call, started, refusal)
            return
        except AegisError as error:
            call.outcome = "failed"
            if error.data.get("sent") is False:
                call.usage = Usage()  # nothing reached the provider
            await self._decline(connection, call, started, from_error(error))
            return
        except Exception as error:
            _log.error("model call %s of %s failed: %s", call.id, call.instance, _trace(error))
            call.outcome = "failed"
            await self._decline(connection, call, started, Refusal(500, "a defect of Aegis; the daemon's log says where"))
            return
        try:
            await self._forward(connection, response, call, started)
        finally:
            await response.aclose()

    async def _decline(self, connection: Connection, call: Call, started: float, refusal: Refusal) -> None:
        call.status, call.error = refusal.status, refusal.message
        await self._settle(call, started)
        await _refuse(connection, call.dialect, refusal)

    async def _ask(self, client: BrokerClient, request: Request, asked: Asked, call: Call) -> ModelResponse:
        """The provider's answer. Raises Refusal where Aegis says no, AegisError where the provider gave no answer."""
        if chosen(client, asked.model) is None:
            names = ", ".join(f"`{name}`" for name in (client.model, *client.models))
            raise Refusal(403, f"the model `{one_line(asked.model, 100)}` is not this agent's; allowed: {names}")
        provider_name, _, model = call.model.partition("/")
        try:
            provider = self._provider(provider_name)
            if call.dialect not in provider.dialects:
                spoken = ", ".join(sorted(provider.dialects))
                raise Refusal(400, f"model provider `{provider_name}` speaks the dialect {spoken}, and this request is in {call.dialect}")
            await self._admit(call)
            call.admitted = True
            credential = await self._credential(provider)
        except AegisError as error:
            raise from_error(error) from None
        query = "?beta=true" if call.dialect == "anthropic" and request.query == "beta=true" else ""
        return await provider.stream(
            ModelRequest(
                dialect=call.dialect,
                path=call.path + query,
                headers=tuple((name, value) for name, value in request.headers.items() if name not in ("authorization", "x-api-key")),
                body=with_model(request.body, asked, model),
                model=model,
            ),
            credential,
        )

    async def _credential(self, provider: Provider) -> str | None:
        if provider.secret is None:
            return None
        value = await self._secret(provider.secret)
        if not value:
            message = (
                f"there is no key for model provider `{provider.name}`: store one on the host with `aegis secret set {provider.secret}`; "
                "`aegis doctor` shows which models are ready"
            )
            raise Refusal(401, message, headers=(NO_RETRY,))
        return value

    async def _forward(self, connection: Connection, response: ModelResponse, call: Call, started: float) -> None:
        """Send the answer as it arrives. An answer that breaks off ends with an error that the program can read."""
        kind = response.header("content-type")
        observer = observe(call.dialect, kind)
        streamed = (kind or "").startswith("text/event-stream")
        call.status = response.status
        tail = b"\n\n"
        await connection.start(response.status, self._head(response))
        try:
            async for data in response.body:
                if call.first_byte_ms is None:
                    call.first_byte_ms = (self._clock.monotonic() - started) * 1000
                observer.feed(data)
                tail = (tail + data[-4:])[-4:]
                await connection.send(data)
            call.outcome = "completed" if response.status < 400 else "failed"
        except AegisError as error:
            call.outcome, call.error = "failed", error.message
            if not streamed or not tail.endswith((b"\n\n", b"\r\n\r\n")):
                raise Gone from None  # half an answer or half an event must not look whole: the connection breaks off too
            await connection.send(error_event(call.dialect, error.message))
        finally:
            unbilled = response.status >= 400 or call.path.endswith("/count_tokens")
            call.usage = Usage() if unbilled else observer.usage()
        await self._settle(call, started)
        await connection.finish()

    def _head(self, response: ModelResponse) -> list[tuple[str, str]]:
        encoded = response.header("content-encoding") not in (None, "identity")
        headers = [
            (name, value)
            for name, value in response.headers
            if (name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES)) and not (encoded and name == "content-length")
        ]
        if response.status == 429:
            headers.append(("x-aegis-limit", "provider"))
            moment = resets_at(response.headers, self._clock.now())
            if moment is not None:
                headers.append(("x-aegis-resets-at", str(int(moment))))
        return headers

    # -- the end of a call --

    async def _settle(self, call: Call, started: float) -> None:
        """Fill in what the call used and have it recorded, once, also when the caller is cancelled meanwhile."""
        if call.ms:
            return
        call.ms = max(0.001, (self._clock.monotonic() - started) * 1000)
        if call.usage is not None:
            call.cost_usd = cost(call.model, call.usage, free=self._is_free(call.model))
        task = asyncio.ensure_future(self._recorded(call))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)
        await asyncio.shield(task)

    async def _recorded(self, call: Call) -> None:
        try:
            await self._record(call)
        except Exception as error:
            _log.error("model call %s of %s could not be recorded: %s", call.id, call.instance, _trace(error))

    def _is_free(self, model: str) -> bool:
        try:
            return self._provider(model.partition("/")[0]).free
        except AegisError:
            return False

    async def _refuse_unread(self, connection: Connection, refused: Refused) -> None:
        """Answer a request that could not be read; its dialect is not known."""
        try:
            body = error_body("anthropic", refused.message, status=refused.status)
            await connection.respond(refused.status, [_JSON, ("connection", "close")], body)
        except Exception:
            return


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


def _trace(error: BaseException) -> str:
    """Where an error came from, without its text, which might quote what must not be logged."""
    frames = "; ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__))
    return f"{type(error).__name__} at {frames}"
