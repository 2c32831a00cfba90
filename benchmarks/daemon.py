"""The whole path, through the real daemon: start, spawn, accept, turn, wake, idle.

Floors: a Python interpreter that does nothing for the start of the daemon and of a sandbox; one fdatasync of 256 bytes for what
must be on disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis.client import launch
from aegis.client.api import Client, pages
from benchmarks.harness import Row, measure, row

if TYPE_CHECKING:
    from collections.abc import Callable


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
            rows += _footprint(client, 5 if quick else 100)
            for sandbox in _sandboxes(client):
                rows += _spawns(client, sandbox, 3 if quick else 20, python)
                rows += _turns(client, sandbox, n, sync)
        finally:
            client.shutdown()
            while launch.answers(launch.socket_path(home)):
                time.sleep(0.01)
        return rows
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> Callable[[], object]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append() -> None:
        os.write(descriptor, b"x" * 256)
        os.fdatasync(descriptor)

    return append


def _starts(home: Path, n: int, floor: list[float]) -> Row:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        launch.ensure_daemon(home)
        times.append((time.perf_counter() - started) * 1000)
        Client(launch.socket_path(home)).shutdown()
        while launch.answers(launch.socket_path(home)):
            time.sleep(0.005)
        time.sleep(0.05)
    return row("daemon: ready", sorted(times), floor, "budget 400 ms")


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
