"""A real broker behind a real loopback port, with a provider that a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from aegis.core.clock import ManualClock
from aegis.models import Dialect, ModelRequest, ModelResponse, Provider
from aegis.models.scripted import ScriptedProvider
from aegis.services.broker import Broker, BrokerClient, Call, LimitHit

TOKEN = "token-of-the-sandbox"


class TcpChannel:
    """A channel of the tether, played by a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self) -> bytes:
        return await self.reader.read(65536)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def eof(self) -> None:
        if self.writer.can_write_eof():
            self.writer.write_eof()

    async def close(self, **info: Any) -> None:
        self.writer.close()


@dataclass
class Fake:
    """A provider whose answer is a function of the request."""

    answer: Callable[[ModelRequest], Awaitable[ModelResponse]]
    name: str = "anthropic"
    dialects: frozenset[Dialect] = frozenset({"anthropic"})
    secret: str | None = "ANTHROPIC_API_KEY"
    free: bool = False
    description: str = "for tests"
    seen: list[ModelRequest] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    async def stream(self, request: ModelRequest, credential: str | None) -> ModelResponse:
        self.seen.append(request)
        self.keys.append(credential)
        return await self.answer(request)

    async def close(self) -> None: ...


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Served:
    """The broker and what its neighbours see."""

    def __init__(self) -> None:
        self.providers: dict[str, Provider] = {"scripted": ScriptedProvider()}
        self.secrets: dict[str, str] = {"ANTHROPIC_API_KEY": "sk-secret-key"}
        self.admitted: list[Call] = []
        self.recorded: list[Call] = []
        self.refusal: Exception | None = None
        self.client = BrokerClient(instance="inst_1", token=TOKEN, model="scripted/echo", models=lambda: ("anthropic/claude-x",))
        self.clock = ManualClock()
        self.holds: dict[str, float] = {}
        self.limits: list[tuple[Call, LimitHit]] = []
        self.failures: list[int] = []  # for each that the program may try again: how many in a row
        self.broker = Broker(
            provider=self.providers.__getitem__,
            secret=self.secret,
            admit=self.admit,
            record=self.record,
            held=self.holds.get,
            limited=self.limited,
            failing=lambda call, times: self.failures.append(times),
            clock=self.clock,
        )
        self.url = ""
        self.port = 0
        self.connections: list[asyncio.Task[None]] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def secret(self, name: str) -> str | None:
        return self.secrets.get(name)

    async def admit(self, call: Call) -> None:
        self.admitted.append(call)
        if self.refusal:
            raise self.refusal

    async def record(self, call: Call) -> None:
        self.recorded.append(call)

    async def limited(self, call: Call, hit: LimitHit) -> None:
        self.limits.append((call, hit))

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self.broker.serve(TcpChannel(reader, writer), self.client))
        self.connections.append(task)
        self.writers.append(writer)

    async def ended(self) -> None:
        """Return when every connection so far is over."""
        async with asyncio.timeout(20):
            await asyncio.gather(*self.connections, return_exceptions=True)
            await self.broker.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, data: bytes) -> Reply:
        """One request on a connection of its own, answered and read to its end."""
        reader, writer = await self.connect()
        writer.write(data)
        reply = await self.read(reader)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return reply

    async def get(self, path: str, *headers: str) -> Reply:
        head = [f"GET {path} HTTP/1.1", "host: x", f"authorization: Bearer {TOKEN}", *headers]
        return await self.raw("\r\n".join(head).encode() + b"\r\n\r\n")

    async def post(self, path: str, body: bytes, *headers: str, token: str = TOKEN) -> Reply:
        head = [f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {token}", f"content-length: {len(body)}", *headers]
        return await self.raw("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    async def read(self, reader: asyncio.StreamReader, *, body: bool = True) -> Reply:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        data = b""
        if body and "content-length" in headers:
            data = await reader.readexactly(int(headers["content-length"]))
        elif body and headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                data += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        return Reply(int(head[0].split()[1]), headers, data)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    it = Served()
    server = await asyncio.start_server(it.accept, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    it.url = f"http://127.0.0.1:{it.port}"
    yield it
    server.close()
    for task in it.connections:
        task.cancel()
    await asyncio.gather(*it.connections, return_exceptions=True)
    for writer in it.writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
def fake(served: Served) -> Fake:
    """A fake provider in the place of anthropic; answers an empty message unless told otherwise."""

    async def answer(request: ModelRequest) -> ModelResponse:
        return whole(b'{"type":"message","usage":{"input_tokens":100,"output_tokens":10}}')

    it = Fake(answer)
    served.providers["anthropic"] = it
    served.client.model = "anthropic/claude-x"
    return it


def whole(body: bytes, status: int = 200, *headers: tuple[str, str]) -> ModelResponse:
    async def one() -> AsyncIterator[bytes]:
        yield body

    return ModelResponse(status, (("content-type", "application/json"), ("content-length", str(len(body))), *headers), one())


def streamed(body: AsyncIterator[bytes], close: Callable[[], Awaitable[None]] | None = None) -> ModelResponse:
    return ModelResponse(200, (("content-type", "text/event-stream"),), body, close)


@pytest.fixture
def answers() -> Any:
    """The two makers of responses, for tests."""

    class Makers:
        whole = staticmethod(whole)
        streamed = staticmethod(streamed)

    return Makers
