"""The store: one durable write alone, many together, a streamed token, waking a subscriber, opening after a crash.

The floor is an append of 256 bytes and its fdatasync, on the same file system in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

from aegis.core.clock import SystemClock
from aegis.core.events import Text, TextDelta
from aegis.store import Store, Tx
from benchmarks.harness import Row, measure, row, show

TEXT = Text("x" * 200)
WRITERS = 200


def append(tx: Tx) -> int:
    """One event of about 256 bytes."""
    return tx.append(TEXT, instance="inst_a", session="host:default", turn="turn_a")


def floor(place: Path, n: int) -> list[float]:
    """What the disk itself takes to keep 256 bytes."""
    fd = os.open(place / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def keep() -> None:
        os.write(fd, b"x" * 256)
        os.fdatasync(fd)

    try:
        return measure(keep, n)
    finally:
        os.close(fd)


async def alone(store: Store, n: int) -> list[float]:
    """Writes that wait for each other, from asking to being told; milliseconds, sorted."""
    times = []
    for _ in range(n):
        started = time.perf_counter()
        await store.write(append)
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)


async def together(store: Store, n: int) -> tuple[list[float], float]:
    """Writes of many tasks at a time: the latency of each, and how many there were in a second."""
    times: list[float] = []

    async def work() -> None:
        for _ in range(n // WRITERS):
            started = time.perf_counter()
            await store.write(append)
            times.append((time.perf_counter() - started) * 1000)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WRITERS)))
    return sorted(times), len(times) / (time.perf_counter() - started)


async def streamed(store: Store, n: int, idle: int) -> list[float]:
    """From an ephemeral event to its subscriber, with `idle` other subscribers waiting; milliseconds, sorted."""
    others = [asyncio.ensure_future(anext(store.subscribe(instance=f"inst_{i}"))) for i in range(idle)]
    subscription = store.subscribe(instance="inst_s")
    times = []
    for _ in range(n):
        reading = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        started = time.perf_counter()
        store.emit(TextDelta("word "), instance="inst_s", session="host:default", turn="turn_a")
        await reading
        times.append((time.perf_counter() - started) * 1000)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return sorted(times)


async def reopened(place: Path, store: Store, events: int, n: int) -> list[float]:
    """Opening what a killed daemon left, log of writes included, and reading the first and the last page."""
    while store.head < events:
        await store.write(lambda tx: [append(tx) for _ in range(500)])
    times = []
    for i in range(n):
        copy = place / f"crashed{i}"
        copy.mkdir()
        for name in ("store.db", "store.db-wal"):
            shutil.copy(place / name, copy / name)
        started = time.perf_counter()
        again = await Store.open(copy / "store.db", SystemClock())
        again.events(0)
        again.events(0, before=again.head)
        times.append((time.perf_counter() - started) * 1000)
        await again.close()
        shutil.rmtree(copy)
    return sorted(times)


async def run(place: Path, quick: bool) -> list[Row]:
    """All of it, in one directory."""
    n = 200 if quick else 3000
    events = 10_000 if quick else 100_000
    disk = floor(place, n)
    store = await Store.open(place / "store.db", SystemClock())
    await store.write(append)
    single = row("store: durable write, alone", await alone(store, n), disk)
    times, rate = await together(store, n * 10)
    batched = row(f"store: durable write, {WRITERS} at a time", times, disk, f"{rate:,.0f} writes/s")
    quiet = row("store: ephemeral event to its subscriber", await streamed(store, n, 0))
    crowd = row("store: the same beside 1 000 idle subscribers", await streamed(store, n, 1000))
    opened = row(f"store: open after a kill, {events:,} events", await reopened(place, store, events, 3 if quick else 10))
    await store.close()
    return [row("floor: append 256 B and fdatasync", disk), single, batched, quiet, crowd, opened]


def main(quick: bool) -> list[Row]:
    """Measure in a temporary directory, by default where temporary files are (set TMPDIR to measure another disk)."""
    with tempfile.TemporaryDirectory() as place:
        return asyncio.run(run(Path(place), quick))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks.store")
    parser.add_argument("--quick", action="store_true")
    print(show(main(parser.parse_args().quick)))
