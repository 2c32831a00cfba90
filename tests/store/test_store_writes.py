"""Writes: grouped commits, isolation, what a failed commit does, and the promise of one counter."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from aegis.core import faults
from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Text, TextDelta
from aegis.store import Store, Tx


async def put(store: Store, name: str) -> None:
    await store.write(lambda tx: tx.execute("INSERT INTO meta (name, value) VALUES (?, 'x')", (name,)).rowcount)


def names(store: Store) -> set[str]:
    return {row[0] for row in store.read(lambda c: c.execute("SELECT name FROM meta WHERE name <> 'reserved'").fetchall())}


async def test_a_write_is_on_disk_when_it_returns(store: Store) -> None:
    seq = await store.write(lambda tx: tx.append(Text("hello"), instance="i", session="host:default", turn="t"))
    with closing(sqlite3.connect(store.path)) as other:
        assert other.execute("SELECT seq, type, instance, session, turn, data FROM events").fetchall() == [
            (seq, "turn.text", "i", "host:default", "t", '{"text":"hello"}')
        ]
    assert store.head == seq
    assert store.events(0).events[0].fact == Text("hello")


async def test_an_exception_undoes_one_write_of_the_group_only(store: Store) -> None:
    async def fail(name: str) -> None:
        def run(tx: Tx) -> None:
            tx.execute("INSERT INTO meta (name, value) VALUES (?, 'x')", (name,))
            tx.append(Text(name))
            tx.on_commit(lambda: pytest.fail("was not committed"))
            raise LookupError(name)

        with pytest.raises(LookupError, match=name):
            await store.write(run)

    await asyncio.gather(*(fail(f"bad{i}") if i % 3 == 0 else put(store, f"good{i}") for i in range(300)))
    assert names(store) == {f"good{i}" for i in range(300) if i % 3}
    assert store.events(0).events == []


async def test_a_constraint_is_raised_as_it_is(store: Store) -> None:
    await put(store, "a")
    with pytest.raises(sqlite3.IntegrityError):
        await put(store, "a")


async def test_many_writes_share_commits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = 0

    def count(name: str) -> None:
        nonlocal commits
        commits += name == "store.commit.before"

    monkeypatch.setattr("aegis.store.writer.point", count)
    await asyncio.gather(*(put(store, str(i)) for i in range(2000)))
    assert len(names(store)) == 2000
    assert commits < 500


async def test_callbacks_come_after_the_commit_and_before_the_caller(store: Store) -> None:
    seen: list[str] = []

    def run(tx: Tx) -> None:
        tx.append(Text("x"))
        tx.on_commit(lambda: seen.append(f"callback at {store.head}"))

    await store.write(run)
    seen.append("caller")
    assert seen == ["callback at 1", "caller"]


async def test_a_failing_callback_hurts_nobody(store: Store) -> None:
    await store.write(lambda tx: tx.on_commit(lambda: 1 / 0))
    await put(store, "a")


async def test_a_cancelled_caller_does_not_undo_its_write(store: Store) -> None:
    task = asyncio.create_task(put(store, "a"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await put(store, "b")
    assert names(store) == {"a", "b"}


async def test_a_transaction_is_dead_after_its_write(store: Store) -> None:
    kept: list[Tx] = []
    await store.write(kept.append)
    with pytest.raises(AegisError) as caught:
        kept[0].execute("SELECT 1")
    assert caught.value.kind is ErrorKind.INTERNAL


async def test_a_write_that_raises_stop_iteration_does_not_hang(store: Store) -> None:
    with pytest.raises(RuntimeError):
        await store.write(lambda tx: next(tx.execute("SELECT 1 WHERE 0")))


@pytest.mark.parametrize("action", ["raise", "enospc", "eio"])
async def test_a_failed_commit_fails_its_batch_and_the_store_goes_on(store: Store, action: str) -> None:
    first = await store.write(lambda tx: tx.append(Text("1")))
    faults.arm("store.commit.before", action)
    results = await asyncio.gather(*(store.write(lambda tx: tx.append(Text("lost"))) for _ in range(5)), return_exceptions=True)
    failed = [r for r in results if isinstance(r, AegisError)]
    assert failed
    assert all(e.kind is ErrorKind.UNAVAILABLE and e.hint for e in failed)
    assert len({id(e) for e in failed}) == len(failed)
    last = await store.write(lambda tx: tx.append(Text("2")))
    assert last > first + len(failed)  # the numbers of the failed batch are a gap
    kept = [r for r in results if isinstance(r, int)]
    assert [e.seq for e in store.events(0).events] == [first, *kept, last]


@pytest.mark.parametrize("action", ["raise", "enospc", "eio"])
async def test_a_fault_after_the_commit_loses_the_answer_but_not_the_write(store: Store, action: str) -> None:
    faults.arm("store.commit.after", action)
    with pytest.raises(AegisError):
        await store.write(lambda tx: tx.append(Text("kept")))
    assert [e.fact for e in store.events(0).events] == [Text("kept")]
    assert [e.fact async for e in _first(store, 1)] == [Text("kept")]


async def _first(store: Store, count: int):  # type: ignore[no-untyped-def]
    subscription = store.subscribe(after=0)
    for _ in range(count):
        yield await anext(subscription)


async def test_ephemeral_events_of_a_failed_batch_are_shown_or_counted(store: Store) -> None:
    faults.arm("store.commit.before", "enospc")  # met by the reservation of the first block
    store.emit(TextDelta("a"), instance="i")
    with suppress(AegisError):  # it may or may not be in the same batch
        await put(store, "x")
    seq = await store.write(lambda tx: tx.append(Text("b"), instance="i"))
    page = store.events(0, instance="i")
    assert [e.seq for e in page.events] == [seq]
    assert page.evicted == 1


async def test_emitted_and_written_events_keep_the_order_they_were_asked_for(store: Store) -> None:
    writes = []
    for i in range(200):
        store.emit(TextDelta(f"{i}a"), instance="i")
        writes.append(asyncio.ensure_future(store.write(lambda tx, i=i: tx.append(Text(f"{i}b"), instance="i"))))  # type: ignore[misc]
        await asyncio.sleep(0)
        if i % 7 == 0:
            await writes[-1]
    await asyncio.gather(*writes)
    texts = [e.fact.text for e in store.events(0, instance="i", limit=1000).events]  # type: ignore[attr-defined]
    assert texts == [f"{i}{x}" for i in range(200) for x in "ab"]


async def test_durable_facts_are_not_emitted(store: Store) -> None:
    with pytest.raises(ValueError, match="durable"):
        store.emit(Text("x"))


async def test_an_ephemeral_fact_in_a_write_is_shown_with_it_and_not_stored(store: Store) -> None:
    await store.write(lambda tx: (tx.append(TextDelta("a"), instance="i"), tx.append(Text("b"), instance="i")))
    assert [e.fact for e in store.events(0).events] == [TextDelta("a"), Text("b")]
    assert store.read(lambda c: c.execute("SELECT count(*) FROM events").fetchone()) == (1,)


async def test_numbers_go_on_after_a_clean_end(tmp_path: Path) -> None:
    for life in range(3):
        store = await Store.open(tmp_path / "aegis.db", SystemClock())
        assert store.head == life * 2
        assert await store.write(lambda tx: tx.append(Text("x"))) == life * 2 + 1
        store.emit(TextDelta("y"))
        await store.close()


async def test_a_closed_store_refuses(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "aegis.db", SystemClock())
    pending = [asyncio.ensure_future(put(store, str(i))) for i in range(50)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await asyncio.gather(*pending)  # what was asked for before the end is done
    with pytest.raises(AegisError) as caught:
        await put(store, "late")
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    with pytest.raises(AegisError):
        store.events(0)
    store.emit(TextDelta("ignored"))


async def test_reads_see_one_state_and_cannot_write(store: Store) -> None:
    await put(store, "a")
    assert await store.query(lambda c: c.execute("SELECT count(*) FROM meta WHERE name = 'a'").fetchone()) == (1,)
    with pytest.raises(AegisError) as caught:
        store.read(lambda c: c.execute("DELETE FROM meta"))
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    with pytest.raises(AegisError):
        await store.query(lambda c: c.execute("DELETE FROM meta"))


async def test_backup_and_check(store: Store, tmp_path: Path) -> None:
    seq = await store.write(lambda tx: tx.append(Text("x")))
    target = tmp_path / "copy.db"
    await store.backup(target)
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AegisError) as caught:
        await store.backup(target)
    assert caught.value.kind is ErrorKind.CONFLICT
    copy = await Store.open(target, SystemClock())
    assert [e.seq for e in copy.events(0).events] == [seq]
    await copy.close()
    with pytest.raises(AegisError) as caught:
        await store.backup(tmp_path / "absent" / "copy.db")
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    checks = {check.name: check for check in await store.check()}
    assert set(checks) == {"integrity", "references", "counter", "journal", "space"}
    assert all(checks[name].ok for name in ("integrity", "references", "counter", "journal")), checks


async def test_check_sees_a_counter_that_would_repeat(store: Store) -> None:
    await store.write(lambda tx: tx.append(Text("x")))
    await store.write(lambda tx: tx.execute("UPDATE meta SET value = '0' WHERE name = 'reserved'").rowcount)
    assert [check.name for check in await store.check() if not check.ok and check.name != "space"] == ["counter"]
