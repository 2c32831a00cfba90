"""A call of a tool of an MCP server, as a program in a sandbox makes it: judged by the gate and on record before it is done.

The way is the whole one: loopback, guest, tether, the gate, the audit log on disk, the server in a sandbox of its own, and back. The
floor is the disk: what a call waits for in any case.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aegis.client import launch
from aegis.client.api import Client
from benchmarks.harness import Row, end, measure, row
from benchmarks.mcp import _Caller, _environment

if TYPE_CHECKING:
    from collections.abc import Mapping

_SERVER = """
import json, sys
for line in sys.stdin.buffer:
    message = json.loads(line)
    if "id" not in message:
        continue
    method = message["method"]
    if method == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [{"name": "echo", "description": "Echoes.", "inputSchema": {"type": "object"}}]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": "x"}]}
    else:
        result = None
    answer = {"result": result} if result is not None else {"error": {"code": -32601, "message": "no"}}
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}) + "\\n")
    sys.stdout.flush()
"""
#: As many calls as may come as one list.
_TOGETHER = 64


def main(quick: bool) -> list[Row]:
    """All rows."""
    home = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    client = Client(launch.socket_path(home))
    script = home.with_suffix(".py")
    script.write_text(_SERVER)
    config = {
        "tool_servers": {"bench": {"command": [sys.executable, "-I", "-S", str(script)], "sandbox": "process"}},
        "defaults": {"tool_servers": ["bench"]},
    }
    (home / "config.yaml").write_text(json.dumps(config))
    try:
        launch.ensure_daemon(home)
        client.instances.start({"handle": "a", "sandbox": "process", "model": "scripted/echo"})
        return _rows(client, script, 200 if quick else 3000)
    finally:
        with contextlib.suppress(Exception):
            end(client)
        shutil.rmtree(home, ignore_errors=True)
        script.unlink()


def _rows(client: Client, script: Path, n: int) -> list[Row]:
    env = _environment(client, "a")
    caller = _Caller(env["AEGIS_MCP_URL"], env["AEGIS_MCP_TOKEN"])
    try:
        listed = caller.request("tools/list", {})
        caller.send(listed)
        params = {"name": "bench__echo", "arguments": {"text": "x" * 32}}
        called = caller.request("tools/call", params)
        server, disk = _direct(script, params, n), _disk(script, n)
        times = measure(lambda: caller.send(called), n, 50)
        rate = 1000 * len(times) / sum(times)
        rows = [row("a tool of a server, judged and on record", times, disk, f"{rate:.0f} calls/s; floor: 4 KB flushed to the disk")]
        rows.append(row("the server alone, by its pipes", server))
        rows.append(_batched(caller, params, n))
        rows.append(row("tools/list with a server", measure(lambda: caller.send(listed), n // 3, 5), times, "floor: a call"))
        return rows
    finally:
        caller.close()


def _disk(script: Path, n: int) -> list[float]:
    """What it takes until a page is on the disk, which is waited for before each call."""
    path = script.with_suffix(".disk")
    try:
        with path.open("wb", buffering=0) as file:

            def flush() -> None:
                file.write(b"x" * 4096)
                os.fdatasync(file.fileno())

            return measure(flush, min(n, 500), 5)
    finally:
        path.unlink()


def _direct(script: Path, params: Mapping[str, object], n: int) -> list[float]:
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode() + b"\n"
    command = [sys.executable, "-I", "-S", str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        source, sink = process.stdout, process.stdin
        assert source is not None
        assert sink is not None

        def call() -> None:
            sink.write(line)
            while not (source.read(65536) or b"\n").endswith(b"\n"):
                pass

        times = measure(call, n, 20)
        sink.close()
    return times


def _batched(caller: _Caller, params: Mapping[str, object], n: int) -> Row:
    """Many calls on the one connection at once, as a list; the row is of one of them."""
    messages = [{"jsonrpc": "2.0", "id": k, "method": "tools/call", "params": params} for k in range(_TOGETHER)]
    body = json.dumps(messages, separators=(",", ":")).encode()
    request = f"{caller._head}{len(body)}\r\n\r\n".encode() + body
    times: list[float] = []
    started = time.perf_counter()
    for _ in range(max(3, n // _TOGETHER)):
        times.append(measure(lambda: caller.send(request), 1, 0)[0] / _TOGETHER)
    spent = time.perf_counter() - started
    return row(f"the same, {_TOGETHER} at once", sorted(times), None, f"{len(times) * _TOGETHER / spent:.0f} calls/s on one connection")
