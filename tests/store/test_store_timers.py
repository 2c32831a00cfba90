"""Timers: exact, kept over restarts, right when the clock is set, at least once and at most one commit apart."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aegis.core.clock import ManualClock
from aegis.core.events import Text
from aegis.store import Store, Timer, Timers, Tx
from aegis.store.timers import AT_ONCE, RETRY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Bench:
    """A store, a clock that stands still, and a handler that notes what fires."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.timers = Timers(store, clock)
        self.fired: asyncio.Queue[Timer] = asyncio.Queue()
        self.timers.on("test", self.fired.put)

    async def set(self, key: str, after: float, data: dict[str, Any] | None = None, kind: str = "test") -> None:
        due = self.clock.now() + after
        await self.store.write(lambda tx: self.timers.set(tx, kind, key, due, data))
        await self.settle()

    async def settle(self) -> None:
        """Let the runner react, and the rows of fired timers go."""
        for _ in range(4):
            await self.store.write(lambda tx: None)
            for _ in range(8):
                await asyncio.sleep(0)

    async def advance(self, seconds: float) -> list[str]:
        """The keys of what fires within `seconds`."""
        await self.clock.advance(seconds)
        await self.settle()
        keys = []
        while not self.fired.empty():
            keys.append(self.fired.get_nowait().key)
        return keys

    def rows(self) -> int:
        return int(self.store.read(lambda c: c.execute("SELECT count(*) FROM timers").fetchone()[0]))

    def sleepers(self) -> int:
        return sum(not future.done() for _, _, future in self.clock._sleepers)


@asynccontextmanager
async def opened(path: Path, clock: ManualClock) -> AsyncIterator[Bench]:
    store = await Store.open(path, clock)
    bench = Bench(store, clock)
    runner = asyncio.create_task(bench.timers.run())
    await bench.settle()
    try:
        yield bench
    finally:
        runner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await runner
        await store.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path / "aegis.db", ManualClock()) as bench:
        yield bench


async def test_it_fires_when_due_and_not_before(bench: Bench) -> None:
    await bench.set("a", 10, {"x": [1, "é"]})
    assert await bench.advance(9.9) == []
    await bench.clock.advance(0.1)
    timer = await bench.fired.get()
    assert (timer.kind, timer.key, timer.data) == ("test", "a", {"x": [1, "é"]})
    await bench.settle()
    assert bench.rows() == 0


async def test_an_earlier_one_wakes_the_runner(bench: Bench) -> None:
    await bench.set("late", 50)
    await bench.set("early", 5)
    assert await bench.advance(5) == ["early"]
    assert await bench.advance(45) == ["late"]


async def test_set_again_replaces_and_cancel_removes(bench: Bench) -> None:
    await bench.set("a", 5)
    await bench.set("a", 20)
    await bench.set("b", 5)
    assert await bench.store.write(lambda tx: bench.timers.cancel(tx, "test", "b")) is True
    assert await bench.store.write(lambda tx: bench.timers.cancel(tx, "test", "b")) is False
    assert await bench.advance(19) == []
    assert await bench.advance(1) == ["a"]


async def test_a_write_that_fails_sets_nothing(bench: Bench) -> None:
    def run(tx: Tx) -> None:
        bench.timers.set(tx, "test", "a", 0.0)
        raise LookupError

    with pytest.raises(LookupError):
        await bench.store.write(run)
    assert bench.rows() == 0
    assert await bench.advance(100) == []


async def test_without_timers_nothing_sleeps(bench: Bench) -> None:
    assert bench.sleepers() == 0
    await bench.set("nobody's", 5, kind="unknown")
    assert bench.sleepers() == 0
    await bench.set("a", 5)
    assert bench.sleepers() == 1
    assert await bench.advance(5) == ["a"]
    assert bench.sleepers() == 0
    assert bench.rows() == 1


async def test_a_handler_that_comes_later_gets_what_waits(bench: Bench) -> None:
    await bench.set("a", 5, kind="other")
    assert await bench.advance(10) == []
    bench.timers.on("other", bench.fired.put)
    assert await bench.advance(0) == ["a"]


async def test_a_restart_keeps_them_and_late_ones_fire_at_once(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path / "aegis.db", clock) as bench:
        await bench.set("late", 10)
        await bench.set("future", 1000)
    await clock.advance(500)
    async with opened(tmp_path / "aegis.db", clock) as bench:
        assert await bench.advance(0) == ["late"]
        assert await bench.advance(499) == []
        assert await bench.advance(1) == ["future"]


async def test_the_clock_is_set_forward(bench: Bench) -> None:
    await bench.set("a", 3600)
    bench.clock.jump(3600)
    assert await bench.advance(60) == ["a"]


async def test_the_clock_is_set_back(bench: Bench) -> None:
    await bench.set("a", 30)
    bench.clock.jump(-3600)
    assert await bench.advance(30) == []
    for _ in range(60):
        assert await bench.advance(59.9) == []
        if bench.clock.now() > 1_800_000_000 - 30:
            break
    assert await bench.advance(120) == ["a"]


async def test_work_and_end_are_one_commit(bench: Bench) -> None:
    async def handle(timer: Timer) -> None:
        def run(tx: Tx) -> None:
            tx.append(Text(timer.key))
            timer.done(tx)

        await bench.store.write(run)
        assert bench.rows() == 0
        await bench.fired.put(timer)

    bench.timers.on("test", handle)
    await bench.set("a", 1)
    await bench.clock.advance(1)
    await bench.fired.get()
    assert [event.fact for event in bench.store.events(0).events] == [Text("a")]


async def test_set_again_by_its_own_handler_stays(bench: Bench) -> None:
    async def handle(timer: Timer) -> None:
        await bench.store.write(lambda tx: bench.timers.set(tx, "test", timer.key, timer.due + 10))
        await bench.fired.put(timer)

    bench.timers.on("test", handle)
    await bench.set("beat", 10)
    for _ in range(5):
        assert await bench.advance(9) == []
        assert await bench.advance(1) == ["beat"]
    assert bench.rows() == 1


async def test_a_failing_handler_is_tried_again_later_and_hurts_nobody(bench: Bench) -> None:
    tries = []

    async def fail(timer: Timer) -> None:
        tries.append(timer.key)
        if len(tries) < 3:
            raise RuntimeError("no")

    bench.timers.on("bad", fail)
    await bench.set("x", 1, kind="bad")
    await bench.set("y", 2)
    assert await bench.advance(2) == ["y"]
    assert tries == ["x"]
    await bench.advance(RETRY)
    await bench.advance(RETRY)
    assert tries == ["x", "x", "x"]
    assert bench.rows() == 0


async def test_a_full_disk_does_not_make_it_spin(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    full = False

    def disk(name: str) -> None:
        if full and name == "store.commit.before":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def handle(timer: Timer) -> None:
        nonlocal calls, full
        calls += 1
        full = calls == 1
        await bench.store.write(timer.done)

    monkeypatch.setattr("aegis.store.writer.point", disk)
    bench.timers.on("test", handle)
    await bench.set("a", 1)
    await bench.clock.advance(1)
    while not bench.sleepers():
        await asyncio.sleep(0)
    full = False
    await bench.settle()
    assert (calls, bench.rows()) == (1, 1)
    await bench.advance(RETRY)
    assert (calls, bench.rows()) == (2, 0)


async def test_many_at_once(bench: Bench) -> None:
    running = most = 0
    done = []
    gate = asyncio.Event()

    async def handle(timer: Timer) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        done.append(timer.key)

    bench.timers.on("test", handle)
    due = bench.clock.now() + 1

    def set_all(tx: Tx) -> None:
        for i in range(500):
            bench.timers.set(tx, "test", str(i), due)

    await bench.store.write(set_all)
    await bench.settle()
    await bench.advance(1)
    assert running == AT_ONCE
    gate.set()
    while bench.rows():
        await bench.settle()
    assert sorted(map(int, done)) == list(range(500))
    assert most == AT_ONCE


async def test_cancelled_while_handling_it_fires_again(tmp_path: Path) -> None:
    clock = ManualClock()
    began = asyncio.Event()

    async def hang(timer: Timer) -> None:
        began.set()
        await asyncio.Event().wait()

    async with opened(tmp_path / "aegis.db", clock) as bench:
        bench.timers.on("test", hang)
        await bench.set("a", 1)
        await clock.advance(1)
        await began.wait()
    async with opened(tmp_path / "aegis.db", clock) as bench:
        assert await bench.advance(0) == ["a"]
