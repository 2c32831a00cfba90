"""The tether: a guest's start, a round trip, a program, bytes through a program, and what an idle guest weighs.

Floors: the same interpreter doing nothing; one byte there and back over a socket pair between two threads' event loops, as
processes; starting `true` directly; `cat` on plain pipes.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aegis.core.ids import new_id
from aegis.sandboxes import SandboxSpec, bundle
from aegis.sandboxes.process import ProcessKind
from aegis.tether.mux import Data, Mux
from benchmarks.harness import Row, measure, row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.sandboxes.link import Link
    from aegis.sandboxes.process import ProcessSandbox

_ECHO = "import os, sys\nfd = int(sys.argv[1])\nwhile data := os.read(fd, 64): os.write(fd, data)"


def main(quick: bool) -> list[Row]:
    """All rows."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    try:
        return asyncio.run(_rows(folder, quick))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _rows(folder: Path, quick: bool) -> list[Row]:
    n = 10 if quick else 200
    size = (4 if quick else 100) * 1024 * 1024
    python = measure(lambda: subprocess.run([bundle.interpreter(), "-I", "-S", "-c", "pass"], check=True), 5 if quick else 50)
    true = measure(lambda: subprocess.run(["true"], check=True, capture_output=True), n)
    bundle.build(folder)
    rows = [_mux(size)]

    async def spawn() -> None:
        sandbox = _sandbox(folder)
        started = time.perf_counter()
        await sandbox.start()
        starts.append((time.perf_counter() - started) * 1000)
        await sandbox.stop(0.0)

    starts: list[float] = []
    for _ in range(5 if quick else 50):
        await spawn()
    rows.append(row("spawn `process` sandbox -> hello", sorted(starts), python, "floor: python -I -S -c pass"))

    sandbox = _sandbox(folder)
    link = await sandbox.start()
    try:
        stats = await sandbox.stats()
        rows.append(_weight("guest, idle since hello, PSS in MiB (not ms)", stats.pss_bytes or 0))
        rows.append(row("ping over the link", await _measure(lambda: link.call("ping"), n * 5), _round_trips(n * 5), "floor: socket pair"))
        rows.append(row("exec `true` over the link", await _measure(lambda: _run_true(link), n), true, "floor: subprocess.run"))
        floor = _cat_floor(size)
        through = await _cat(link, size)
        note = f"{size / through / 1e3:.0f} MB/s in and out; floor: cat on pipes, {size / floor / 1e3:.0f} MB/s"
        rows.append(row(f"{size >> 20} MiB through `cat`", [through], [floor], note))
        rows.append(await _pause(sandbox, link, n))
        stats = await sandbox.stats()
        rows.append(_weight("guest, idle after all this, PSS in MiB (not ms)", stats.pss_bytes or 0))
    finally:
        await sandbox.stop(0.0)
    return rows


def _sandbox(folder: Path) -> ProcessSandbox:
    ident = new_id("inst")
    return ProcessKind().create(SandboxSpec(id=ident, index=1, handle="bench", home=folder, state=folder / ident))


async def _measure(fn: Callable[[], Awaitable[object]], n: int) -> list[float]:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        await fn()
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)


async def _run_true(link: Link) -> None:
    program = await link.run(["true"], stdin=False)
    await program.wait()


def _round_trips(n: int) -> list[float]:
    """One byte to another process and back, without any event loop."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-I", "-S", "-c", _ECHO, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as echo:

            def once() -> None:
                ours.send(b"x")
                ours.recv(64)

            times = measure(once, n)
            echo.kill()
    return times


def _mux(size: int) -> Row:
    """Bytes through two ends of the mux in memory; the floor is copying them once."""
    block = bytes(1 << 20)
    started = time.perf_counter()
    for _ in range(size >> 20):
        bytearray(block)
    floor = (time.perf_counter() - started) * 1000
    sender, receiver = Mux("daemon"), Mux("guest")
    channel = sender.open({"kind": "bench"})
    sent = received = 0
    started = time.perf_counter()
    while received < size:
        sent += sender.send(channel, block[: size - sent])
        for event in receiver.feed(sender.outgoing()):
            if isinstance(event, Data):
                received += len(event.payload)
                receiver.consumed(channel, len(event.payload))
        sender.feed(receiver.outgoing())
    return row(f"{size >> 20} MiB through the mux, no I/O", [(time.perf_counter() - started) * 1000], [floor], "floor: one copy")


async def _cat(link: Link, size: int) -> float:
    program = await link.run(["cat"])
    block = bytes(1 << 20)

    async def feed() -> None:
        for _ in range(size >> 20):
            await program.write(block)
        await program.close_stdin()

    started = time.perf_counter()
    feeding = asyncio.create_task(feed())
    received = 0
    while (piece := await program.read()) is not None:
        received += len(piece[1])
    await feeding
    await program.wait()
    if received != size:
        raise AssertionError(f"{received} of {size} bytes came back")
    return (time.perf_counter() - started) * 1000


def _cat_floor(size: int) -> float:
    started = time.perf_counter()
    subprocess.run(["cat"], input=bytes(size), stdout=subprocess.PIPE, check=True)
    return (time.perf_counter() - started) * 1000


async def _pause(sandbox: ProcessSandbox, link: Link, n: int) -> Row:
    times = []
    for _ in range(n):
        await sandbox.pause()
        started = time.perf_counter()
        await sandbox.resume()
        await link.call("ping")
        times.append((time.perf_counter() - started) * 1000)
    return row("resume -> answer to a ping", sorted(times))


def _weight(name: str, pss: int) -> Row:
    """What the idle guest weighs, against an interpreter that only waits."""
    command = [bundle.interpreter(), "-I", "-S", "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bare:
        if bare.stdout is None or not bare.stdout.readline():
            raise AssertionError("the interpreter did not start")
        lines = Path(f"/proc/{bare.pid}/smaps_rollup").read_text().splitlines()
        floor = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        bare.kill()
    mib = [pss / 2**20]
    return row(name, mib, [floor / 2**20], "floor: bare interpreter")
