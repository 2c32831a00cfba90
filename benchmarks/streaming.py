"""What Aegis adds to a streamed answer: from the bytes that a model server sends to the words that a subscriber sees.

The server is a thread on loopback that notes when it sends each piece; the pieces come 5 ms apart. The path is the whole one:
broker, tether, guest, the agent in its sandbox, back, the log of events, a stream over HTTP. Rows of the broker alone end where
its bytes enter the tether. Floor: the same pieces read by a plain socket.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from aegis.client import launch
from aegis.client.api import Client
from aegis.models.catalogue import Catalogue
from aegis.models.names import ProviderSpec
from aegis.services.broker import Broker, BrokerClient
from benchmarks.harness import Row, end, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aegis.services.broker import Call

_PIECES = 5
_PAUSE = 0.005
_MODEL = "bench/model"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def main(quick: bool) -> list[Row]:
    """All rows."""
    n = 5 if quick else 60
    server = Upstream()
    try:
        floor = sorted(_read_plainly(server, n))
        first, later = uvloop.run(_through_broker(server, n))
        rows = [
            row("broker alone: first byte added", first, floor),
            row("broker alone: each later piece", later, floor),
        ]
        folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
        try:
            return rows + _through_all(server, folder, n, floor)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        server.close()


class Upstream:
    """A model server of the OpenAI dialect; `sent` are the times at which it sent the pieces of the newest answer."""

    def __init__(self) -> None:
        self.asked = 0.0
        self.sent: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, connection.makefile("rb") as requests:
            while requests.readline():
                size = 0
                while (line := requests.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        size = int(line.partition(b":")[2])
                requests.read(size)
                self.asked = time.perf_counter()
                self._stream(connection)

    def _stream(self, connection: socket.socket) -> None:
        self.sent = []
        time.sleep(4 * _PAUSE)  # whatever was still at work for the request is done
        for number in range(_PIECES):
            event = {"choices": [{"index": 0, "delta": {"content": f"word{number} "}, "finish_reason": None}]}
            data = _chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.sent.append(time.perf_counter())
            connection.sendall(data if number else _HEAD + data)
            time.sleep(_PAUSE)
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        connection.sendall(_chunk(b"data: " + json.dumps(end).encode() + b"\n\ndata: [DONE]\n\n") + b"0\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _read_plainly(server: Upstream, n: int) -> list[float]:
    times = []
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        for _ in range(n):
            client.sendall(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
            client.recv(65536)
            times.append((time.perf_counter() - server.sent[0]) * 1000)
            while not client.recv(65536).endswith(b"0\r\n\r\n"):
                pass
    return times


class _Channel:
    """A channel that asks once per answer and notes when a piece of it arrives."""

    def __init__(self, server: Upstream, n: int, token: str) -> None:
        body = json.dumps({"model": _MODEL, "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()
        self._server = server
        self._request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._left = n
        self._ended = asyncio.Event()
        self._ended.set()
        self.first: list[float] = []
        self.later: list[float] = []

    async def read(self) -> bytes:
        await self._ended.wait()
        self._ended.clear()
        self._left -= 1
        return self._request if self._left >= 0 else b""

    async def write(self, data: bytes) -> None:
        now = time.perf_counter()
        if b"word" in data:
            number = int(data.partition(b"word")[2][:1])
            (self.later if number else self.first).append((now - self._server.sent[number]) * 1000)
        if data.endswith(b"0\r\n\r\n"):
            self._ended.set()

    async def eof(self) -> None: ...

    async def close(self, **info: Any) -> None: ...


async def _through_broker(server: Upstream, n: int) -> tuple[list[float], list[float]]:
    catalogue = Catalogue({"bench": ProviderSpec(name="bench", base_url=server.url, dialect="openai", free=True)})

    async def nothing(_: Call) -> None: ...

    async def no_secret(_: str) -> None: ...

    broker = Broker(provider=catalogue.provider, secret=no_secret, admit=nothing, record=nothing)
    channel = _Channel(server, n + 1, "token")
    await broker.serve(channel, BrokerClient(instance="inst_1", token="token", model=_MODEL))
    await catalogue.close()
    return sorted(channel.first[1:]), sorted(channel.later[_PIECES - 1 :])


def _through_all(server: Upstream, home: Path, n: int, floor: list[float]) -> list[Row]:
    home.chmod(0o700)
    (home / "config.yaml").write_text(
        f"version: 1\nproviders:\n  bench:\n    base_url: {server.url}\n    dialect: openai\nagents:\n  bench:\n    model: {_MODEL}\n"
    )
    launch.ensure_daemon(home)
    client = Client(launch.socket_path(home))
    rows = []
    try:
        for sandbox in [s["name"] for s in client.doctor()["sandboxes"] if s["ok"]]:
            client.instances.start({"handle": sandbox, "agent": "bench", "sandbox": sandbox})
            door, first, later = _turns(server, client, home, sandbox, n)
            rows += [
                row(f"{sandbox}: message to the model server's door", door, floor),
                row(f"{sandbox}: first byte added to a streamed turn", first, floor, "budget 1.5 ms"),
                row(f"{sandbox}: each later piece", later, floor),
            ]
            client.instances.delete(sandbox)
    finally:
        end(client)
    return rows


def _turns(server: Upstream, client: Client, home: Path, handle: str, n: int) -> tuple[list[float], list[float], list[float]]:
    door: list[float] = []
    first: list[float] = []
    later: list[float] = []
    with socket.socket(socket.AF_UNIX) as reader:
        reader.settimeout(30)
        reader.connect(str(launch.socket_path(home)))
        reader.sendall(f"GET /v1/instances/{handle}/tether/stream HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        lines = _frames(reader)
        for turn in range(n + 1):
            asked = time.perf_counter()
            client.mail.send(handle, "hello")
            for frame, at in lines:
                if frame["type"] == "assistant.delta" and turn:
                    number = int(frame["payload"]["text"][4])
                    (later if number else first).append((at - server.sent[number]) * 1000)
                elif frame["type"] == "assistant.done":
                    break
            if turn:
                door.append((server.asked - asked) * 1000)
            time.sleep(_PAUSE)
    return sorted(door), sorted(first), sorted(later)


def _frames(reader: socket.socket) -> Iterator[tuple[dict[str, Any], float]]:
    """The frames of a stream with the times at which they arrived."""
    pending = b""
    while data := reader.recv(65536):
        at = time.perf_counter()
        *whole, pending = (pending + data).split(b"\n")
        for line in whole:
            if line.startswith(b"{"):
                yield json.loads(line), at
