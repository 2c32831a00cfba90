"""Providers on bad days, behind the real HTTP provider: each call ends once, recorded, with an error that says what happened."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aegis.core.clock import SystemClock
from aegis.models.http import HttpProvider, Retries
from aegis.models.names import ProviderSpec
from aegis.services.broker.patience import PATIENCE

BODY = b'{"model":"m","stream":true,"messages":[]}'
DIALECTS = {
    "anthropic": ("/v1/messages", BODY),
    "openai": ("/v1/chat/completions", BODY),
    "responses": ("/v1/responses", BODY),
    "gemini": ("/v1beta/models/m:streamGenerateContent?alt=sse", b"{}"),
}
Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """A server that behaves as told, once per request."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = silent
        self.requests = 0
        self.gone = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(size)
                self.requests += 1
                await self.behaviour(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never answers; returns when the client has gone."""
    await reader.read()
    raise ConnectionError


def saying(status: int, body: bytes, *headers: str, kind: str = "application/json") -> Behaviour:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = [f"HTTP/1.1 {status} x", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    return answer


def breaking_off(after: bytes) -> Behaviour:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n" % (len(after), after))
        await writer.drain()
        raise ConnectionError

    return answer


@pytest.fixture
async def upstream(served: Any) -> AsyncIterator[Upstream]:
    it = Upstream()
    server = await asyncio.start_server(it.accept, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    served.providers = {}
    served.broker._provider = served.broker._upstream._provider = served.providers.__getitem__
    served.client.model, served.client.models = "bad/m", tuple
    retries = Retries(times=1, first=0.0, bound=0.0)
    for dialect in DIALECTS:
        spec = ProviderSpec(name="bad", base_url=url, dialect="openai" if dialect == "responses" else dialect, free=True)  # type: ignore[arg-type]
        served.providers[dialect] = HttpProvider(spec, clock=SystemClock(), retries=retries, read_timeout=0.3)
    yield it
    server.close()
    for task in it.tasks:
        task.cancel()
    await asyncio.gather(*it.tasks, return_exceptions=True)
    for provider in served.providers.values():
        await provider.close()


@pytest.fixture(params=DIALECTS)
async def ask(request: pytest.FixtureRequest, served: Any, upstream: Upstream) -> Callable[[], Awaitable[tuple[Any, dict[str, Any]]]]:
    """Asks in one dialect; gives the answer and the error in it."""
    served.providers["bad"] = served.providers[request.param]
    path, body = DIALECTS[request.param]

    async def once() -> tuple[Any, dict[str, Any]]:
        reply = await served.post(path, body)
        await served.ended()
        return reply, json.loads(reply.body)["error"] if reply.headers["content-type"].startswith("application/json") else {}

    return once


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (401, 1), (404, 1), (429, 2), (500, 2), (529, 2)])
async def test_an_error_is_passed_on(served: Any, upstream: Upstream, ask: Any, status: int, tries: int) -> None:
    upstream.behaviour = saying(status, b'{"error":{"message":"that is wrong","type":"x"}}')
    reply, error = await ask()
    assert (reply.status, error["message"]) == (status, "that is wrong")
    (call,) = served.recorded
    assert (call.outcome, call.status, call.cost_usd) == ("failed", status, 0.0)
    assert "that is wrong" in call.error
    assert upstream.requests == tries
    assert reply.headers.get("x-should-retry") == ("false" if status == 401 else None)


async def test_ten_errors_are_ten_calls(served: Any, upstream: Upstream, ask: Any) -> None:
    upstream.behaviour = saying(500, b'{"error":{"message":"broken"}}')
    for _ in range(10):
        assert (await ask())[0].status == 500
    assert [call.outcome for call in served.recorded] == ["failed"] * 10


async def test_a_limit_with_its_end(served: Any, upstream: Upstream, ask: Any) -> None:
    upstream.behaviour = saying(429, b'{"error":{"message":"spent"}}', "retry-after: 7200")
    reply, error = await ask()
    assert reply.status == 402
    assert "the usage limit of model provider `bad` is reached" in error["message"]
    assert len(served.limits) == len(served.recorded) == upstream.requests == 1


async def test_a_page_instead_of_an_answer(served: Any, upstream: Upstream, ask: Any) -> None:
    upstream.behaviour = saying(200, b"<html>Log in to the hotel's network", kind="text/html; charset=utf-8")
    reply, error = await ask()
    assert (reply.status, reply.headers["x-should-retry"]) == (410, "false")
    assert "model provider `bad` answered with text/html" in error["message"]
    upstream.behaviour = saying(302, b"", "location: http://elsewhere/")
    reply, error = await ask()
    assert (reply.status, "a redirection (302)" in error["message"]) == (410, True)
    assert [call.outcome for call in served.recorded] == ["failed", "failed"]


async def test_nobody_listens(served: Any, upstream: Upstream, ask: Any) -> None:
    provider = served.providers["bad"]
    provider._base = "http://127.0.0.1:1"
    reply, error = await ask()
    assert reply.status == 502
    assert "no answer from model provider `bad` at http://127.0.0.1:1" in error["message"]
    (call,) = served.recorded
    assert (call.outcome, call.cost_usd) == ("failed", 0.0)


async def test_a_provider_that_never_answers(served: Any, upstream: Upstream, ask: Any) -> None:
    reply, error = await ask()
    assert (reply.status, "no answer" in error["message"]) == (502, True)
    (call,) = served.recorded
    assert (call.outcome, call.usage) == ("failed", None)  # nobody knows what it used


async def test_half_a_stream_ends_with_an_error_that_can_be_read(served: Any, upstream: Upstream, ask: Any) -> None:
    upstream.behaviour = breaking_off(b'data: {"a":1}\n\n')
    reply, _ = await ask()
    assert reply.status == 200
    assert reply.body.startswith(b'data: {"a":1}\n\n')
    assert b"broke off its answer" in reply.body
    (call,) = served.recorded
    assert call.outcome == "failed"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_program_that_goes_away_ends_the_call_upstream(served: Any, upstream: Upstream, dialect: str) -> None:
    served.providers["bad"] = served.providers[dialect]
    served.providers["bad"]._timeout = 60.0
    path, body = DIALECTS[dialect]

    async def streaming(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n8\r\ndata: x\n\r\n")
        await silent(reader, writer)

    upstream.behaviour = streaming
    reader, writer = await served.connect()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.client.token}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    async with asyncio.timeout(20):
        await reader.readuntil(b"data: x\n")
        writer.close()
        await upstream.gone.wait()
    await served.ended()
    assert [call.outcome for call in served.recorded] == ["cancelled"]


async def test_a_dead_provider_is_not_tried_for_ever(served: Any, upstream: Upstream, ask: Any) -> None:
    upstream.behaviour = saying(500, b'{"error":{"message":"broken"}}')
    assert (await ask())[0].status == 500
    await served.clock.advance(PATIENCE - 1)
    assert (await ask())[0].status == 500
    await served.clock.advance(2)
    reply, error = await ask()
    assert (reply.status, reply.headers["x-should-retry"]) == (410, "false")
    assert "fails again and again" in error["message"]
    assert re.search("\\d{3}|broken", error["message"]) is None  # some programs would try again for these
    why = served.recorded[-1].given_up
    assert ("has failed 3 times in 121 s" in why, "broken" in why) == (True, True)
    assert served.failures == [1, 2]


async def test_an_answer_makes_patience_new(served: Any, upstream: Upstream, ask: Any) -> None:
    for _ in range(3):
        upstream.behaviour = saying(500, b'{"error":{}}')
        assert (await ask())[0].status == 500
        await served.clock.advance(PATIENCE - 1)
        upstream.behaviour = saying(200, b'{"error":{}}')
        assert (await ask())[0].status == 200
    assert served.failures == [1, 1, 1]


async def test_a_failure_after_a_long_rest_is_the_first(served: Any, upstream: Upstream, ask: Any) -> None:
    upstream.behaviour = saying(500, b'{"error":{}}')
    for _ in range(3):
        assert (await ask())[0].status == 500
        await served.clock.advance(301)
    assert served.failures == [1, 1, 1]
