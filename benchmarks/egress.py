"""The way out of a sandbox: a tunnel that carries TLS as it is, and one whose requests are looked at, to the same server.

A program inside measures: a new tunnel with one request, one more request in it, and a long answer. The floor of each row is the same by
the plain tunnel; what is between them is TLS ended twice, the rules, the policies, and a record on disk before each request.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import tempfile
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis.client import launch
from aegis.client.api import Client
from aegis.services.egress.authority import Authority
from aegis.services.egress.places import Place
from benchmarks.harness import Row, end, percentile, row

if TYPE_CHECKING:
    import ssl

_HOST = "127.0.0.2"  # not among those that go past the proxy
_LONG = 16 * 1024 * 1024

_MEASURE = """
import json, os, socket, ssl, sys, time, urllib.parse
url = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
ports, n, host = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
contexts = [ssl.create_default_context(cafile="/workspace/roots.pem"), ssl.create_default_context()]
def tunnel(which):
    c = socket.create_connection((url.hostname, url.port))
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    place = f"{host}:{ports[which]}"
    c.sendall(f"CONNECT {place} HTTP/1.1\\r\\nHost: {place}\\r\\n\\r\\n".encode())
    assert c.recv(4096).startswith(b"HTTP/1.1 200")
    return contexts[which].wrap_socket(c, server_hostname=host)
def ask(t, which, path):
    t.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {host}:{ports[which]}\\r\\n\\r\\n".encode())
    data = t.recv(65536)
    while b"\\r\\n\\r\\n" not in data:
        data += t.recv(65536)
    head, _, body = data.partition(b"\\r\\n\\r\\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    left = int(head.lower().partition(b"content-length:")[2].split(b"\\r\\n")[0]) - len(body)
    while left:
        left -= len(t.recv(min(left, 262144)))
def anew(which):
    with tunnel(which) as t:
        ask(t, which, "/short")
def timed(do, n):
    do()
    found = []
    for _ in range(n):
        began = time.perf_counter()
        do()
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found)
found = []
for which in (0, 1):
    with tunnel(which) as t:
        short, long = timed(lambda: ask(t, which, "/short"), 4 * n), timed(lambda: ask(t, which, "/long"), max(2, n // 20))
    found.append([timed(lambda: anew(which), n), short, long])
print(json.dumps(found))
"""


class _Site:
    """A server in TLS on two ports."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.ports: list[int] = []
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        self._loop.run_until_complete(self._open())
        self._ready.set()
        self._loop.run_forever()

    async def _open(self) -> None:
        for _ in range(2):
            server = await asyncio.start_server(self._serve, _HOST, 0, ssl=self._context)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = _LONG if b" /long " in head else 200
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
                for at in range(0, size, 65536):
                    writer.write(bytes(min(65536, size - at)))
                    await writer.drain()
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def main(quick: bool) -> list[Row]:
    """All rows."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    work = folder / "work"
    work.mkdir()
    authority = Authority("the benchmark", time.time)
    (work / "roots.pem").write_text(authority.pem)
    site = _Site(authority.context(Place(_HOST, 443, ip_address(_HOST))))
    client = Client(launch.socket_path(folder / "home"))
    try:
        launch.ensure_daemon(folder / "home")
        plain, looked = (f"{_HOST}:{port}" for port in site.ports)
        rule: dict[str, Any] = {"host": looked, "inspect": True, "methods": ["GET"], "paths": ["/*"], "roots": str(work / "roots.pem")}
        client.instances.start(
            {"handle": "a", "permission": "full", "egress": [plain, rule], "workspace": str(work), "model": "scripted/echo"}
        )
        return _rows(_measured(client, site.ports, 5 if quick else 200))
    finally:
        with contextlib.suppress(Exception):
            end(client)
        site.close()
        shutil.rmtree(folder, ignore_errors=True)


def _rows(found: list[list[list[float]]]) -> list[Row]:
    plain, looked = found
    speeds = [_LONG / 2**20 / (percentile(times[2], 50) / 1000) for times in found]
    return [
        row("egress: plain tunnel, TLS and one request", plain[0]),
        row("egress: inspected tunnel and one request", looked[0], plain[0], "floor: the plain one"),
        row("egress: plain, one more request", plain[1]),
        row("egress: inspected, one more request", looked[1], plain[1], "judged and on disk before it is sent; floor: the plain one"),
        row("egress: inspected, 16 MiB", looked[2], plain[2], f"{speeds[1]:.0f} MiB/s; plain {speeds[0]:.0f} MiB/s"),
    ]


def _measured(client: Client, ports: list[int], n: int) -> list[list[list[float]]]:
    command = ["/bin/sh", "-c", 'exec "$AEGIS_PYTHON" -I -c "$@"', "sh", _MEASURE, json.dumps(ports), str(n), _HOST]
    out = {1: b"", 2: b""}
    with contextlib.closing(client.instances.exec("a", command)) as stream:
        for item in stream:
            if "s" in item:
                out[item["s"]] += base64.b64decode(item["d"])
            elif item.get("done"):
                break
    if not out[1]:
        raise AssertionError(out[2].decode("utf-8", "replace"))
    found: list[list[list[float]]] = json.loads(out[1])
    return found
