"""Reading by cursor: the same answer from ring and disk, honest eviction, and the prefix promise."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.clock import ManualClock, SystemClock
from aegis.core.events import Event, Text, TextDelta
from aegis.store import Store
from aegis.store.log import Log
from aegis.store.migrate import migrate
from aegis.store.ring import MOST, Ring


class Step(NamedTuple):
    gap: int
    instance: str | None
    session: str | None
    ephemeral: bool


some = st.builds(Step, st.integers(1, 3), st.sampled_from(["a", "b", None]), st.sampled_from(["s", "t", None]), st.booleans())
places = st.integers(0, 90)


@given(
    steps=st.lists(some, max_size=40),
    ring=st.integers(1, 12),
    after=places,
    before=st.none() | places,
    limit=st.integers(1, 8),
    instance=st.sampled_from(["a", "b", None]),
    session=st.sampled_from(["s", None]),
    types=st.sampled_from([None, ("turn.text",), ("turn.text.delta",)]),
)
def test_ring_and_disk_read_as_one(
    steps: list[Step],
    ring: int,
    after: int,
    before: int | None,
    limit: int,
    instance: str | None,
    session: str | None,
    types: tuple[str] | None,
) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, Path("memory"), 0.0)
    log = Log(connection, Path("memory"), Ring(0, most=ring))
    every: list[Event] = []
    seq = 0
    for step in steps:
        seq += step.gap
        fact = TextDelta("x") if step.ephemeral else Text("x")
        data = msgspec.json.encode(fact)
        event = Event(seq, 1.0, fact.type, msgspec.Raw(data), step.instance, step.session)
        if not step.ephemeral:
            row = (seq, 1.0, event.type, step.instance, step.session, None, data.decode())
            connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        log.publish([event], [])
        every.append(event)
    in_ring = {event.seq for event in every[-ring:]}
    mine = [e for e in every if instance in (None, e.instance)]
    there = [e.seq for e in mine if e.seq in in_ring or e.type == "turn.text"]
    gone = max((e.seq for e in mine if e.type != "turn.text" and e.seq not in in_ring), default=0)
    fits = {e.seq for e in mine if session in (None, e.session) and (types is None or e.type in types)}
    found = [s for s in there if s in fits and s > after and (before is None or s < before)]

    page = log.page(after, instance, session, types, limit, before)

    got = [event.seq for event in page.events]
    assert got == (found[:limit] if before is None else found[-limit:])
    assert page.evicted == (gone if gone > after and types != ("turn.text",) else 0)
    if before is None:
        assert page.next_seq == (found[limit - 1] if len(found) > limit else max(after, seq))
    else:
        assert page.next_seq == (got[0] if got else before)
    connection.close()


async def test_readers_see_a_prefix_while_many_write(store: Store) -> None:
    rng = random.Random(7)
    going = True

    async def read(instance: str | None) -> list[int]:
        seen: list[int] = []
        cursor = 0
        while True:
            last = not going
            page = store.events(cursor, instance=instance, limit=rng.randint(1, 50))
            seen += [event.seq for event in page.events]
            cursor = page.next_seq
            if last and not page.events:
                return seen
            await asyncio.sleep(0)

    async def work(name: int) -> None:
        for i in range(60):
            kind = rng.random()
            instance = rng.choice("ab")
            if kind < 0.4:
                store.emit(TextDelta("d"), instance=instance)
            elif kind < 0.5:
                with pytest.raises(ZeroDivisionError):
                    await store.write(lambda tx: (tx.append(Text("never"), instance="a"), 1 / 0))
            else:
                await store.write(lambda tx: [tx.append(Text(f"{name} {i}"), instance=instance) for _ in range(rng.randint(1, 3))])  # noqa: B023 - awaited
            if kind > 0.9:
                await asyncio.sleep(0)

    readers = [asyncio.create_task(read(instance)) for instance in (None, "a", "b", None)]
    await asyncio.gather(*(work(n) for n in range(20)))
    going = False
    for task, instance in zip(readers, (None, "a", "b", None), strict=True):
        assert await task == [event.seq for event in store.events(0, instance=instance, limit=100_000).events]
    disk = store.read(lambda c: [row[0] for row in c.execute("SELECT seq FROM events ORDER BY seq")])
    assert [e.seq for e in store.events(0, types=["turn.text"], limit=100_000).events] == disk


async def test_eviction_is_told_to_whom_it_concerns(store: Store) -> None:
    await store.write(lambda tx: tx.append(Text("first"), instance="quiet"))
    for i in range(MOST + 100):
        store.emit(TextDelta(str(i)), instance="loud")
    last = await store.write(lambda tx: tx.append(Text("last"), instance="loud"))
    page = store.events(0, instance="loud", limit=10)
    assert page.evicted == 102  # the first is 1, the 20 001 latest but one are there
    assert page.events[0].seq == 103
    assert store.events(102, instance="loud").evicted == 0
    assert store.events(101, instance="loud").evicted == 102
    assert store.events(0, instance="quiet").evicted == 0
    assert [e.seq for e in store.events(0, instance="quiet").events] == [1]
    assert store.events(0).evicted == 102
    assert store.events(0, instance="loud", types=["turn.text"]) == ([store.events(last - 1).events[0]], last, 0)


async def test_large_events_go_to_the_disk_soon_and_pages_stay_small(store: Store) -> None:
    text = "x" * 1024 * 1024
    for _ in range(24):
        await store.write(lambda tx: tx.append(Text(text), instance="i"))
    cursor, pages, seen = 0, 0, []
    while cursor < store.head:
        page = store.events(cursor, instance="i", limit=1000)
        seen += [event.seq for event in page.events]
        assert sum(len(bytes(event.data)) for event in page.events) < 5 * 1024 * 1024
        cursor = page.next_seq
        pages += 1
    assert seen == list(range(1, 25))
    assert pages >= 6


async def test_what_a_restart_loses_is_told_and_only_to_those_who_were_there(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "aegis.db", ManualClock())
    await store.write(lambda tx: tx.append(Text("x"), instance="old"))
    store.emit(TextDelta("y"), instance="old")
    await store.close()
    store = await Store.open(tmp_path / "aegis.db", ManualClock())
    head = store.head
    new = await store.write(lambda tx: tx.append(Text("z"), instance="new"))
    assert store.events(0, instance="old").evicted == head
    assert store.events(head, instance="old").evicted == 0
    assert store.events(0, instance="new") == (store.events(new - 1).events, new, 0)
    assert store.events(0).evicted == head
    await store.close()


async def test_wait(tmp_path: Path) -> None:
    clock = ManualClock()
    store = await Store.open(tmp_path / "aegis.db", clock)
    try:
        waiting = asyncio.create_task(store.wait(0, instance="a", timeout=10))
        await store.write(lambda tx: tx.append(Text("x"), instance="b"))
        await clock.advance(9)
        assert not waiting.done()
        await clock.advance(1)
        assert await waiting is False
        waiting = asyncio.create_task(store.wait(0, instance="a", timeout=10))
        await asyncio.sleep(0)
        await store.write(lambda tx: tx.append(Text("x"), instance="a"))
        assert await waiting is True
        assert await store.wait(0, instance="a", timeout=0) is True
        assert await store.wait(store.head, timeout=0) is False
    finally:
        await store.close()


async def test_events_written_by_a_newer_version_are_passed_on(store: Store) -> None:
    await store.write(lambda tx: tx.execute("INSERT INTO events (seq, ts, type, data) VALUES (1, 0, 'new.thing', '{\"é\":1}')").rowcount)
    path, clock = store.path, SystemClock()
    await store.close()
    again = await Store.open(path, clock)
    (event,) = again.events(0).events
    assert (event.type, bytes(event.data)) == ("new.thing", '{"é":1}'.encode())
    assert again.head >= 1
    await again.close()
