"""The whole path, through the real daemon: start, spawn, accept, turn, wake, idle, and a start on a long past.

Floors: a Python interpreter that does nothing for the start of the daemon and of a sandbox; one fdatasync of 256 bytes for what
must be on disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis.client import launch
from aegis.client.api import Client, pages
from aegis.core.clock import SystemClock
from aegis.core.events import InstanceState
from aegis.services.agents.model import Launch
from aegis.services.agents.registry import Registry
from aegis.store import Store
from benchmarks.harness import Row, end, measure, row

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.store import Tx


def main(quick: bool) -> list[Row]:
    """All rows."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    n = 5 if quick else 50
    try:
        python = measure(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True), n)
        sync = measure(_sync(folder / "floor"), n * 4)
        rows = [_starts(folder / "starts", 2 if quick else 10, python)]
        home = folder / "home"
        launch.ensure_daemon(home)
        client = Client(launch.socket_path(home))
        try:
            rows += _footprint(client, 5 if quick else 200)
            rows += _accepting(client, home, 20 if quick else 300, 400 if quick else 10_000, sync)
            for sandbox in _sandboxes(client):
                rows += _spawns(client, sandbox, 3 if quick else 20, python)
                rows += _turns(client, sandbox, n, sync)
        finally:
            end(client)
        rows += _asleep(folder / "asleep", 100 if quick else 1000, 2 if quick else 5, python)
        rows.append(_recovers(folder / "past", 10_000 if quick else 100_000, 2 if quick else 5, python))
        return rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> Callable[[], object]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append() -> None:
        os.write(descriptor, b"x" * 256)
        os.fdatasync(descriptor)

    return append


def _starts(home: Path, n: int, floor: list[float], name: str = "daemon: ready", note: str = "budget 400 ms") -> Row:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        launch.ensure_daemon(home)
        times.append((time.perf_counter() - started) * 1000)
        end(Client(launch.socket_path(home)))
    return row(name, sorted(times), floor, note)


def _recovers(home: Path, events: int, n: int, floor: list[float]) -> Row:
    """The start on a home whose log is long."""
    home.mkdir(mode=0o700)

    def append(tx: Tx) -> None:
        for _ in range(500):
            tx.append(InstanceState("running", "starting", "", ""), instance="inst_1")

    async def fill() -> None:
        store = await Store.open(home / "aegis.db", SystemClock())
        while store.head < events:
            await store.write(append)
        await store.close()

    asyncio.run(fill())
    return _starts(home, n, floor, f"daemon: ready on a home with {events:,} events", "budget 1 000 ms")


def _accepting(client: Client, home: Path, n: int, many: int, floor: list[float]) -> list[Row]:
    """Accepting messages while their session is busy, so that no turn of them runs meanwhile: alone, and on 64 connections at once."""
    client.instances.start({"handle": "busy", "agent": "agent", "sandbox": "process", "model": "scripted/directives"})
    client.mail.send("busy", "[[hang 600]]")
    body = json.dumps({"v": 1, "type": "user.message", "payload": {"text": "hello"}}).encode()
    request = b"POST /v1/instances/busy/tether HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    pid, path = client.status()["pid"], str(launch.socket_path(home))
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(path)

        def send() -> None:
            door.sendall(request)
            answer = b""
            while not answer.endswith(b"}"):
                answer += door.recv(65536)
            if b" 202 " not in answer:
                raise AssertionError(answer)

        alone = measure(send, n, warm=5)
    cpu = _cpu(pid)
    started = time.perf_counter()
    together = asyncio.run(_flood(path, request, 64, many // 64))
    seconds = time.perf_counter() - started
    cpu = (_cpu(pid) - cpu) / len(together) * 1e6
    client.instances.delete("busy")
    note = f"{len(together) / seconds:,.0f} per s, {cpu:,.0f} us of the daemon each; budget 10 000 per s"
    return [
        row("daemon: accept a message alone (HTTP, kept connection)", alone, floor, "budget 0.5 ms"),
        row("daemon: accept messages on 64 connections", together, floor, note),
    ]


async def _flood(path: str, request: bytes, connections: int, each: int) -> list[float]:
    times: list[float] = []

    async def one() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(each):
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 202 " not in head:
                raise AssertionError(head)
            size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            await reader.readexactly(size)
            times.append((time.perf_counter() - started) * 1000)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return sorted(times)


def _footprint(client: Client, count: int) -> list[Row]:
    """Memory and CPU of the daemon, alone and with idle instances."""
    pid = client.status()["pid"]
    alone = _rss(pid)
    for n in range(count):
        client.instances.start({"handle": f"idle-{n}", "agent": "agent", "sandbox": "process", "model": "scripted/echo"})
    time.sleep(0.5)
    before, rss = _cpu(pid), _rss(pid)
    time.sleep(2.0)
    used = (_cpu(pid) - before) / 2.0 * 100
    pss = [client.instances.stats(f"idle-{n}")["pss_bytes"] or 0 for n in range(count)]
    for n in range(count):
        client.instances.delete(f"idle-{n}")
    return [
        Row("daemon: idle RSS (MiB, not ms)", alone, alone, alone, note="budget 65 MiB"),
        Row(f"daemon: added by {count} idle instances (MiB)", rss - alone, rss - alone, rss - alone, note="budget 40 MiB per 1 000"),
        Row(f"daemon: CPU with {count} idle instances (%)", used, used, used, note="budget 1 % with 1 000"),
        row("instance: PSS of an idle guest (MiB)", sorted(value / 2**20 for value in pss), note="budget 6 MiB"),
    ]


def _asleep(home: Path, count: int, n: int, floor: list[float]) -> list[Row]:
    """A home with many instances that sleep: its start with the report of what came back, and what they cost then."""

    async def fill() -> None:
        clock = SystemClock()
        store = await Store.open(home / "aegis.db", clock)
        registry, launch_ = Registry(store, clock), Launch(agent="agent", sandbox="process", model="scripted/echo")
        await asyncio.gather(*(registry.create(f"asleep-{k}", launch_, lambda _tx: None) for k in range(count)))
        await store.write(lambda tx: tx.execute("UPDATE instances SET state = 'stopped', reason = 'idle'"))
        await store.close()

    launch.ensure_daemon(home)  # the same, but for the instances
    client = Client(launch.socket_path(home))
    client.status(restored=True)
    time.sleep(0.5)
    alone = _rss(client.status()["pid"])
    end(client)
    asyncio.run(fill())
    times = []
    for k in range(n):
        started = time.perf_counter()
        launch.ensure_daemon(home)
        assert len(client.status(restored=True)["restored"]) == count
        times.append((time.perf_counter() - started) * 1000)
        if k + 1 < n:
            end(client)
    pid = client.status()["pid"]
    time.sleep(0.5)
    before, added = _cpu(pid), _rss(pid) - alone
    time.sleep(5.0)
    used = (_cpu(pid) - before) / 5.0 * 100
    started = time.perf_counter()
    client.instances.all()
    listed = (time.perf_counter() - started) * 1000
    end(client)
    return [
        row(f"daemon: up with {count:,} instances asleep, and what came back", sorted(times), floor, "budget 1 000 ms"),
        Row(f"daemon: CPU with {count:,} instances asleep (%)", used, used, used, note="budget 1 % with 1 000"),
        Row(f"daemon: added by {count:,} instances asleep (MiB)", added, added, added, note="budget 40 MiB per 1 000"),
        Row(f"daemon: list of {count:,} instances", listed, listed, listed),
    ]


def _spawns(client: Client, sandbox: str, n: int, floor: list[float]) -> list[Row]:
    """From the request for a new instance until its first turn is accepted by the program inside."""
    ready, accepted = [], []
    for k in range(n):
        handle = f"spawn-{k}"
        started = time.perf_counter()
        client.instances.start({"handle": handle, "agent": "agent", "sandbox": sandbox, "model": "scripted/echo"})
        ready.append((time.perf_counter() - started) * 1000)
        receipt = client.mail.send(handle, "hello")
        client.mail.poll(handle, receipt["ingress_seq"], wait=20, types=("event.ack",))
        accepted.append((time.perf_counter() - started) * 1000)
        client.instances.delete(handle)
    budget = {"process": "40 ms", "bwrap": "60 ms"}.get(sandbox, "none")
    return [
        row(f"{sandbox}: spawn to running", sorted(ready), floor),
        row(f"{sandbox}: spawn to first turn accepted", sorted(accepted), floor, f"budget {budget}"),
    ]


def _turns(client: Client, sandbox: str, n: int, floor: list[float]) -> list[Row]:
    """Accepting a message, a whole turn with a model that answers at once, and waking a paused sandbox."""
    handle = f"turns-{sandbox}"
    client.instances.start({"handle": handle, "agent": "agent", "sandbox": sandbox, "model": "scripted/echo"})
    accept: list[float] = []
    turn: list[float] = []
    for k in range(n + 2):
        started = time.perf_counter()
        receipt = client.mail.send(handle, f"n{k}")
        accept.append((time.perf_counter() - started) * 1000)
        client.mail.poll(handle, receipt["ingress_seq"], wait=20, types=("assistant.done",))
        turn.append((time.perf_counter() - started) * 1000)
    wake = []
    for _ in range(max(3, n // 5)):
        client.instances.act(handle, "pause")
        head = client.status()["head"]
        receipt = client.mail.send(handle, "wake")
        client.mail.poll(handle, receipt["ingress_seq"], wait=20, types=("assistant.done",))
        times: dict[str, float] = {}
        for event in pages(client, head, handle):
            times.setdefault(_mark(event), event["ts"])
        wake.append((times["awake"] - times["accepted"]) * 1000)
    client.instances.delete(handle)
    return [
        row(f"{sandbox}: accept a message (HTTP, durable)", sorted(accept[2:]), floor, "budget 0.5 ms"),
        row(f"{sandbox}: whole turn, instant model", sorted(turn[2:]), floor),
        row(f"{sandbox}: wake a paused instance on a message", sorted(wake), floor, "budget 1 ms; with the record of it"),
    ]


def _mark(event: dict[str, Any]) -> str:
    if event["type"] == "mail.accepted":
        return "accepted"
    return "awake" if event["type"] == "instance.state" and event["data"]["state"] == "running" else "other"


def _sandboxes(client: Client) -> list[str]:
    return [s["name"] for s in client.doctor()["sandboxes"] if s["ok"]]


def _rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
