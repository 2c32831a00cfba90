"""Mail through the real daemon: many messages in one request, and the way of one into an idle agent.

The floor is one fdatasync of 256 bytes, which every accepted message has to wait for: once for a batch.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aegis.client import launch
from aegis.client.api import Client
from benchmarks.daemon import _cpu, _sync
from benchmarks.harness import Row, end, measure, row

if TYPE_CHECKING:
    from collections.abc import Callable

#: Messages of one request.
_EACH = 1000


def main(quick: bool) -> list[Row]:
    """All rows."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    try:
        sync = measure(_sync(folder / "floor"), 50 if quick else 200)
        home = folder / "home"
        launch.ensure_daemon(home)
        client = Client(launch.socket_path(home))
        try:
            rows = [*_batches(client, home, 2 if quick else 15, sync), *_injected(client, 5 if quick else 200, sync)]
        finally:
            end(client)
        return rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _batches(client: Client, home: Path, n: int, floor: list[float]) -> list[Row]:
    """Batches to a sleeping agent, and to ten of them; with an id of their own or without."""
    rows = []
    for name, agents, named in (("to a disabled agent", 1, False), ("to 10 of them, with msg_ids", 10, True)):
        handles = [f"sleeper-{agents}-{k}" for k in range(agents)]
        for handle in handles:
            client.instances.start({"handle": handle, "agent": "agent", "sandbox": "process", "model": "scripted/echo"})
            client.instances.act(handle, "disable")
        send = _sender(home, handles, named)
        pid = client.status()["pid"]
        send(0)
        cpu, times = _cpu(pid), []
        for k in range(1, n + 1):
            started = time.perf_counter()
            send(k)
            times.append((time.perf_counter() - started) * 1000)
        cpu = (_cpu(pid) - cpu) / (n * _EACH) * 1e6
        seconds = sum(times) / 1000
        for handle in handles:
            client.instances.delete(handle)
        note = f"{n * _EACH / seconds:,.0f} per s, {cpu:,.0f} us of the daemon each; budget 10 000 per s"
        rows.append(row(f"mail: accept {_EACH:,} {name}", sorted(times), floor, note))
    return rows


def _sender(home: Path, handles: list[str], named: bool) -> Callable[[int], None]:
    """Sends one batch on a kept connection, and sees that all of it was accepted."""
    door = socket.socket(socket.AF_UNIX)
    door.connect(str(launch.socket_path(home)))

    def send(k: int) -> None:
        letters = [
            {"to": handles[n % len(handles)], "text": f"message {n}", "hold": True, **({"msg_id": f"{k}-{n}"} if named else {})}
            for n in range(_EACH)
        ]
        body = json.dumps(letters).encode()
        door.sendall(b"POST /v1/mail/batch HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        head, answer = b"", b""
        while b"\r\n\r\n" not in head:
            head += door.recv(65536)
        head, _, answer = head.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(answer) < size:
            answer += door.recv(65536)
        if len([item for item in json.loads(answer) if "ingress_seq" in item]) != _EACH:
            raise AssertionError(answer[:500])

    return send


def _injected(client: Client, n: int, floor: list[float]) -> list[Row]:
    """From the acceptance of a message until an idle agent of Aegis's own has it, both on disk: the times of the log."""
    client.instances.start({"handle": "idle", "agent": "agent", "sandbox": "process", "model": "scripted/echo"})
    times = []
    for k in range(n + 3):
        receipt = client.mail.send("idle", f"n{k}")
        client.mail.poll("idle", receipt["ingress_seq"], wait=20, types=("assistant.done",))
        told = client.mail.get(receipt["id"])
        accepted, injected = told["accepted_at"], told.get("injected_at")
        if not isinstance(accepted, float) or not isinstance(injected, float):
            raise AssertionError(told)
        times.append((injected - accepted) * 1000)
    client.instances.delete("idle")
    return [row("mail: accepted to injected, idle native agent", sorted(times[3:]), floor, "budget 3 ms; 4 commits on the way")]
