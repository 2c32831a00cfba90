"""Subscribers: nothing missed, nothing twice, nobody woken for another's event, slow ones from the disk."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from aegis.core.clock import SystemClock
from aegis.core.events import Text, TextDelta
from aegis.store import Page, Store, Subscription
from aegis.store.log import Log
from aegis.store.ring import MOST


async def follow(subscription: Subscription) -> list[int]:
    return [event.seq async for event in subscription]


async def test_no_wake_up_is_lost(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "aegis.db", SystemClock())
    rng = random.Random(11)
    instances = [f"i{n}" for n in range(8)]
    written: Counter[str] = Counter()

    async def until_sum(instance: str, total: int) -> int:
        """Ends only when each event has arrived, with nothing after the last to help a lost wake-up along."""
        seen = 0
        async for _ in store.subscribe(after=0, instance=instance):
            seen += 1
            if seen == total:
                break
            if rng.random() < 0.1:
                await asyncio.sleep(0)
        return seen

    async def write(instance: str) -> None:
        for i in range(150):
            if rng.random() < 0.5:
                store.emit(TextDelta(str(i)), instance=instance)
            else:
                await store.write(lambda tx: tx.append(Text("x"), instance=instance))
            written[instance] += 1
            for _ in range(rng.randint(0, 3)):
                await asyncio.sleep(0)

    readers = [asyncio.create_task(until_sum(instance, 150)) for instance in instances for _ in range(5)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(write(instance) for instance in instances))
        assert await asyncio.gather(*readers) == [150] * len(readers)
    await store.close()


async def test_each_event_once_and_in_order_for_all_filters(store: Store) -> None:
    everything = asyncio.create_task(follow(store.subscribe(after=0)))
    one = asyncio.create_task(follow(store.subscribe(after=0, instance="a")))
    session = asyncio.create_task(follow(store.subscribe(after=0, instance="a", session="host:1")))
    seqs = []
    for i in range(300):
        seqs.append(await store.write(lambda tx, i=i: tx.append(Text("x"), instance="ab"[i % 2], session=f"host:{i % 3}")))  # type: ignore[misc]
    late = asyncio.create_task(follow(store.subscribe(after=seqs[99])))
    while store._log._waiting.get(None) is None or len(store._log._waiting[None]) < 2:
        await asyncio.sleep(0)
    await store.close()
    assert await everything == seqs
    assert await one == seqs[::2]
    assert await session == [s for i, s in enumerate(seqs) if i % 2 == 0 and i % 3 == 1]
    assert await late == seqs[100:]


async def test_from_now_on(store: Store) -> None:
    await store.write(lambda tx: tx.append(Text("before")))
    subscription = store.subscribe()
    seq = await store.write(lambda tx: tx.append(Text("after")))
    assert (await anext(subscription)).seq == seq
    assert subscription.cursor == seq


async def test_an_event_wakes_only_its_own_instance(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: Counter[str] = Counter()
    page = Log.page

    def counted(self: Log, after: int, instance: str, *rest: object) -> Page:
        looks[instance] += 1
        return page(self, after, instance, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Log, "page", counted)
    tasks = [asyncio.create_task(follow(store.subscribe(after=0, instance=f"idle{i}"))) for i in range(1000)]
    busy = store.subscribe(after=0, instance="busy")
    for _ in range(50):
        await store.write(lambda tx: tx.append(Text("x"), instance="busy"))
        await anext(busy)
    assert looks.pop("busy") <= 100
    assert set(looks.values()) == {1}
    await store.close()
    assert await asyncio.gather(*tasks) == [[]] * 1000


async def test_a_slow_reader_goes_on_from_the_disk(store: Store) -> None:
    subscription = store.subscribe(after=0, instance="i")
    store.emit(TextDelta("early"), instance="i")
    first = await anext(subscription)
    durable = [await store.write(lambda tx: tx.append(Text("kept"), instance="i")) for _ in range(20)]
    for _ in range(MOST + 50):
        store.emit(TextDelta("x"), instance="i")
    end = await store.write(lambda tx: tx.append(Text("end"), instance="i"))
    assert len(subscription._fetched) == 0  # nothing was kept for it
    seen = [first.seq]
    while seen[-1] < end:
        seen.append((await anext(subscription)).seq)
    assert seen[1:21] == durable
    assert seen == sorted(set(seen))
    assert subscription.evicted > durable[-1]
    assert seen[21] == subscription.evicted + 1


async def test_a_cancelled_reader_leaves_nothing(store: Store) -> None:
    task = asyncio.create_task(follow(store.subscribe(after=0, instance="i")))
    await asyncio.sleep(0)
    assert store._log._waiting
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not store._log._waiting


async def test_a_cancelled_read_misses_nothing(store: Store) -> None:
    subscription = store.subscribe(after=0, instance="i")
    seen = []
    for i in range(100):
        reading = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        if i % 2:
            reading.cancel()
        seq = await store.write(lambda tx: tx.append(Text("x"), instance="i"))
        seen += [event.seq for event in await asyncio.gather(reading, return_exceptions=True) if not isinstance(event, BaseException)]
    while seen[-1] < seq:
        seen.append((await anext(subscription)).seq)
    assert seen == list(range(1, 101))
