"""Aegis's own MCP server as a program in a sandbox has it: a call on one connection, what it costs durably, and through the bridge.

The way is the whole one: loopback, guest, tether, daemon, and back. Floors: the same bytes there and back over a loopback connection to
a process that only echoes; for the bridge the call without it.
"""

from __future__ import annotations

import base64
import contextlib
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
from urllib.parse import urlsplit

from aegis.client import launch
from aegis.client.api import Client
from benchmarks.harness import Row, end, measure, percentile, row

if TYPE_CHECKING:
    from collections.abc import Callable

_ECHO = """
import socket, sys
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
sock, _ = listening.accept()
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while data := sock.recv(65536):
    sock.sendall(data)
"""


class _Caller:
    """One connection to the MCP server of an instance."""

    def __init__(self, url: str, token: str) -> None:
        place = urlsplit(url)
        self._sock = socket.create_connection((place.hostname or "", place.port or 0))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = (
            f"POST {place.path} HTTP/1.1\r\nhost: {place.netloc}\r\nauthorization: Bearer {token}\r\n"
            "content-type: application/json\r\naccept: application/json, text/event-stream\r\ncontent-length: "
        )

    def request(self, method: str, params: dict[str, Any]) -> bytes:
        """A request as it goes out."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, separators=(",", ":")).encode()
        return f"{self._head}{len(body)}\r\n\r\n".encode() + body

    def send(self, request: bytes) -> bytes:
        """Send one and return the body of its answer."""
        self._sock.sendall(request)
        data = self._sock.recv(65536)
        while b"\r\n\r\n" not in data:
            data += self._sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < size:
            body += self._sock.recv(65536)
        if not head.startswith(b"HTTP/1.1 200") or b'"isError":true' in body or b'"error"' in body:
            raise AssertionError(f"{head!r} {body!r}")
        return body

    def close(self) -> None:
        self._sock.close()


def main(quick: bool) -> list[Row]:
    """All rows."""
    home = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    client = Client(launch.socket_path(home))
    try:
        launch.ensure_daemon(home)
        for handle in ("a", "b"):
            client.instances.start({"handle": handle, "sandbox": "process", "model": "scripted/echo"})
        return _rows(client, 50 if quick else 3000)
    finally:
        with contextlib.suppress(Exception):
            end(client)
        shutil.rmtree(home, ignore_errors=True)


def _rows(client: Client, n: int) -> list[Row]:
    env = _environment(client, "a")
    url, token = env["AEGIS_MCP_URL"], env["AEGIS_MCP_TOKEN"]
    caller = _Caller(url, token)
    rows: list[Row] = []
    try:
        listing = caller.request("tools/call", {"name": "aegis_list_sessions", "arguments": {}})
        answer = len(caller.send(listing))
        floor = _echo(listing, n)
        called = measure(lambda: caller.send(listing), n, 50)
        rate = 1000 * len(called) / sum(called)
        rows.append(
            row("aegis_list_sessions, one connection", called, floor, f"{rate:.0f} calls/s, {answer} bytes; floor: echo on loopback")
        )
        listed = caller.request("tools/list", {})
        size = len(caller.send(listed))
        rows.append(row("tools/list", measure(lambda: caller.send(listed), n // 3), floor, f"{size} bytes"))
        sent = caller.request("tools/call", {"name": "aegis_handoff", "arguments": {"target_handle": "b", "context": "x"}})
        rows.append(
            row("aegis_handoff, on disk when it returns", measure(lambda: caller.send(sent), min(n // 10, 200)), called, "floor: a call")
        )
        rows.append(_together(lambda: _Caller(url, token), listing, n))
        rows.append(_bridge(env, n // 3, called))
    finally:
        caller.close()
    return rows


def _environment(client: Client, handle: str) -> dict[str, str]:
    out = b""
    with contextlib.closing(client.instances.exec(handle, ["/usr/bin/env"])) as stream:
        for item in stream:
            if item.get("s") == 1:
                out += base64.b64decode(item["d"])
            elif item.get("done"):
                break
    return dict(line.split("=", 1) for line in out.decode().splitlines() if "=" in line)


def _echo(request: bytes, n: int) -> list[float]:
    with subprocess.Popen([sys.executable, "-I", "-c", _ECHO], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        sock = socket.create_connection(("127.0.0.1", int(process.stdout.readline())))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def there_and_back() -> None:
            sock.sendall(request)
            left = len(request)
            while left:
                left -= len(sock.recv(left))

        times = measure(there_and_back, n, 50)
        sock.close()
    return times


def _together(connect: Callable[[], _Caller], request: bytes, n: int, connections: int = 8) -> Row:
    """Several programs of one sandbox at once; the row is of one call, the note of all together."""
    callers = [connect() for _ in range(connections)]
    times: list[float] = []

    def work(caller: _Caller) -> None:
        mine = measure(lambda: caller.send(request), n // connections)
        times.extend(mine)

    threads = [threading.Thread(target=work, args=(caller,)) for caller in callers]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - started
    for caller in callers:
        caller.close()
    times.sort()
    return row(f"the same, {connections} connections", times, None, f"{len(times) / spent:.0f} calls/s together")


def _bridge(env: dict[str, str], n: int, floor: list[float]) -> Row:
    command = [env["AEGIS_PYTHON"], "-m", "aegis.guest.mcp"]
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "aegis_list_sessions"}}).encode() + b"\n"
    with subprocess.Popen(
        command, env={**env, "PYTHONPATH": env["AEGIS_LIB"]}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        source, sink = process.stdout, process.stdin
        assert source is not None
        assert sink is not None

        def call() -> None:
            sink.write(line)
            data = source.read(65536) or b""
            while not data.endswith(b"\n"):
                data += source.read(65536) or b""

        times = measure(call, n, 10)
        sink.close()
    return row("aegis_list_sessions over the stdio bridge", times, floor, f"p50 {percentile(times, 50):.2f} ms; floor: without the bridge")
