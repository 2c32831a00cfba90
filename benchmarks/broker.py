"""What the broker adds to model calls: to the first byte, and per megabyte in both directions.

The model server is a thread on loopback. In the rows of the broker alone the channel is one in memory; those through a sandbox
end at a program beside the guest. Floor: the same bytes read from the server by a plain socket.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from aegis.core.ids import new_id
from aegis.models.catalogue import Catalogue
from aegis.models.names import ProviderSpec
from aegis.sandboxes import SandboxSpec, bundle
from aegis.sandboxes.process import ProcessKind
from aegis.services.broker import Broker, BrokerClient
from benchmarks.harness import Row, row

if TYPE_CHECKING:
    from aegis.services.broker import Call

_MODEL = "bench/model"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"word " * 10 + b'"},"finish_reason":null}]}\n\n'
_MB = 1_000_000
_PAUSE = 0.001
_PACED = f"""
import socket, sys, threading, time
count, pause = int(sys.argv[1]), float(sys.argv[2])
piece = b"%x\\r\\n%s\\r\\n" % ({len(_DELTA)}, {_DELTA!r})

def answer(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    requests = connection.makefile("rb")
    while requests.readline():
        size = 0
        while (line := requests.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        requests.read(size)
        connection.sendall({_HEAD!r})
        for _ in range(count):
            connection.sendall(piece)
            time.sleep(pause)
        connection.sendall(b"0\\r\\n\\r\\n")

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
"""


def main(quick: bool) -> list[Row]:
    """All rows."""
    size = 4 * _MB if quick else 64 * _MB
    rounds = 3 if quick else 7
    rows = []
    big = b"data: " + b"x" * 65_000 + b"\n\n"
    for name, event, part in (
        ("events of 65 kB", big, size),
        (f"events of {len(_DELTA)} B, many in a piece", _DELTA * (16_000 // len(_DELTA)), size),
        (f"events of {len(_DELTA)} B, one in a piece", _DELTA, size // 16),
    ):
        server = Upstream(_chunked(event, part))
        try:
            floor = sorted(server.plain() for _ in range(rounds))
            alone = uvloop.run(_down(server, rounds))
            tethered = uvloop.run(_through_guest(server, rounds))
        finally:
            server.close()
        for where, times in (("", alone), (" into a sandbox", tethered)):
            note = f"{part / times[len(times) // 2] / 1000:.0f} MB/s" + (", budget 100" if part == size else "")
            rows.append(row(f"{part // _MB} MB down{where}, {name}", times, floor, note))
    server = Upstream(_chunked(_DELTA, len(_DELTA)))
    try:
        floor = sorted(server.plain() for _ in range(20 if quick else 300))
        times = uvloop.run(_down(server, 20 if quick else 300))
        rows.append(row("a call of one event, whole", times, floor, "budget 1.5 ms more than the floor"))
        times = uvloop.run(_up(server, 20 * _MB, rounds))
        rows.append(row("20 MB up", times, None, f"{20 * _MB / times[len(times) // 2] / 1000:.0f} MB/s"))
    finally:
        server.close()
    return [*rows, _paced(200 if quick else 2000, rounds)]


def _paced(count: int, rounds: int) -> Row:
    """The CPU of the broker for each piece of a stream that comes as a model writes. The server is a process of its own."""
    with subprocess.Popen([sys.executable, "-c", _PACED, str(count), str(_PAUSE)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        floor, used = [], []
        for _ in range(rounds):
            floor.append(uvloop.run(_read_all(url)) / count * 1000)
            used.append(uvloop.run(_cpu_of_call(url)) / count * 1000)
        process.kill()
    note = f"{sorted(used)[0] * 1000:.0f} us at best; floor: reading them with asyncio"
    return row("CPU for each piece of a paced stream", sorted(used), sorted(floor), note)


async def _read_all(url: str) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
    started = time.process_time()
    while not (await reader.read(65536)).endswith(b"0\r\n\r\n"):
        pass
    used = time.process_time() - started
    writer.close()
    return used


async def _cpu_of_call(url: str) -> float:
    catalogue, broker, client = _broker(url)
    await broker.serve(_Channel(_request("hello"), 1), client)  # loads what the first call loads
    started = time.process_time()
    await broker.serve(_Channel(_request("hello"), 1), client)
    used = time.process_time() - started
    await catalogue.close()
    return used


def _chunked(event: bytes, size: int) -> bytes:
    count = max(1, size // len(event))
    return (b"%x\r\n%s\r\n" % (len(event), event)) * count + b"0\r\n\r\n"


class Upstream:
    """A model server that answers everything with the same body."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def plain(self) -> float:
        """Milliseconds for one answer read by a plain socket."""
        with socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2]))) as client:
            started = time.perf_counter()
            client.sendall(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
            while not client.recv(65536).endswith(b"0\r\n\r\n"):
                pass
            return (time.perf_counter() - started) * 1000

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
                while size:
                    size -= len(requests.read(min(size, 1 << 20)))
                connection.sendall(_HEAD + self._body)


class _Channel:
    """A channel that asks once per answer and takes the time of each."""

    def __init__(self, request: bytes, n: int) -> None:
        self._request = request
        self._at = len(request)
        self._left = n
        self._started = 0.0
        self._ended = asyncio.Event()
        self._ended.set()
        self.times: list[float] = []

    async def read(self) -> bytes:
        if self._at >= len(self._request):
            await self._ended.wait()
            self._ended.clear()
            self._left -= 1
            if self._left < 0:
                return b""
            self._at = 0
            self._started = time.perf_counter()
        piece = self._request[self._at : self._at + 32_768]
        self._at += len(piece)
        return piece

    async def write(self, data: bytes) -> None:
        if data.endswith(b"0\r\n\r\n"):
            self.times.append((time.perf_counter() - self._started) * 1000)
            self._ended.set()

    async def eof(self) -> None: ...

    async def close(self, **info: Any) -> None: ...


_CLIENT = """
import socket, sys, time
port, request, rounds = int(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
buffer = bytearray(1 << 20)
for _ in range(rounds):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        started = time.perf_counter()
        sock.sendall(request)
        tail = b""
        while not tail.endswith(b"0\\r\\n\\r\\n"):
            count = sock.recv_into(buffer)
            tail = (tail + bytes(buffer[max(0, count - 5):count]))[-5:]
            assert count
        print((time.perf_counter() - started) * 1000)
"""


async def _through_guest(server: Upstream, rounds: int) -> list[float]:
    """The same, asked for by a program beside the guest of a `process` sandbox."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    catalogue, broker, client = _broker(server.url)
    try:
        bundle.build(folder)
        ident = new_id("inst")
        sandbox = ProcessKind().create(SandboxSpec(id=ident, index=1, handle="bench", home=folder, state=folder / ident))
        link = await sandbox.start()
        tasks: set[asyncio.Task[None]] = set()
        link.on_channel = lambda channel: tasks.add(asyncio.ensure_future(broker.serve(channel, client)))
        try:
            port = link.endpoint.rpartition(":")[2]
            argv = [sys.executable, "-c", _CLIENT, port, _request("hello").decode(), str(rounds + 1)]
            program = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
            output, _ = await program.communicate()
            return sorted(float(line) for line in output.split()[1:])
        finally:
            await sandbox.stop(0.0)
            await asyncio.gather(*tasks)
    finally:
        await catalogue.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _down(server: Upstream, rounds: int) -> list[float]:
    return await _through(server, rounds, "hello")


async def _up(server: Upstream, size: int, rounds: int) -> list[float]:
    return await _through(server, rounds, "y" * size)


async def _through(server: Upstream, rounds: int, text: str) -> list[float]:
    catalogue, broker, client = _broker(server.url)
    channel = _Channel(_request(text), rounds + 1)
    await broker.serve(channel, client)
    await catalogue.close()
    return sorted(channel.times[1:])


def _request(text: str) -> bytes:
    body = json.dumps({"model": _MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer token\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _broker(url: str) -> tuple[Catalogue, Broker, BrokerClient]:
    catalogue = Catalogue({"bench": ProviderSpec(name="bench", base_url=url, dialect="openai", free=True)})

    async def nothing(_: Call) -> None: ...

    async def no_secret(_: str) -> None: ...

    broker = Broker(provider=catalogue.provider, secret=no_secret, admit=nothing, record=nothing)
    return catalogue, broker, BrokerClient(instance="inst_1", token="token", model=_MODEL)
