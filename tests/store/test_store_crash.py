"""A daemon killed in the middle of writing: what it acknowledged is there, and no number comes twice."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from aegis.core.clock import SystemClock
from aegis.core.events import Text
from aegis.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.conftest import Child

#: Twelve writers at once. A line goes out for each write once it is acknowledged, and for each event a subscriber was shown.
WRITERS = """
import asyncio, json, os, sys
from pathlib import Path
from aegis.core import faults
from aegis.core.clock import SystemClock
from aegis.core.events import Text, TextDelta
from aegis.store import Store

def say(**line):
    os.write(1, json.dumps(line).encode() + b"\\n")

async def main(path, life, count):
    store = await Store.open(Path(path), SystemClock())
    say(head=store.head)
    async def show():
        async for event in store.subscribe():
            say(shown=event.seq)
    async def work(name):
        for i in range(count):
            store.emit(TextDelta("d"), instance=name)
            def both(tx):
                tx.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (f"{life}/{name}/{i}", "x"))
                return tx.append(Text(f"{life}/{name}/{i}"), instance=name)
            say(acked=await store.write(both), text=f"{life}/{name}/{i}")
    task = asyncio.create_task(show())
    faults.arm_from_environment()
    await asyncio.gather(*(work(f"w{n}") for n in range(12)))
    await store.close()
    await task

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def test_nothing_acknowledged_is_lost_and_no_number_comes_twice(tmp_path: Path, child: Child) -> None:
    path = tmp_path / "aegis.db"
    acked: dict[int, str] = {}
    highest = 0
    for life in range(5):
        process = child(WRITERS, path, life, 1_000_000)
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(400 + 333 * life)]
        process.kill()
        # Whole lines that were on their way count as well; the last may be cut.
        lines += [json.loads(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        fresh = {line["acked"]: line["text"] for line in lines if "acked" in line}
        shown = [line["shown"] for line in lines if "shown" in line]
        assert fresh
        assert shown == sorted(set(shown))
        assert min(*fresh, *shown) > highest
        assert lines[0]["head"] >= highest
        highest = max(highest, *fresh, *shown)
        acked |= fresh
    with closing(sqlite3.connect(path)) as checker:
        assert checker.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = {seq: json.loads(data)["text"] for seq, data in checker.execute("SELECT seq, data FROM events")}
        tables = {row[0] for row in checker.execute("SELECT name FROM meta WHERE name LIKE '%/%'")}
    assert acked.items() <= rows.items()
    assert set(rows.values()) == tables  # log and tables are one transaction
    assert len(tables) == len(rows)
    for life in range(5):
        for worker in range(12):
            mine = [int(text.rsplit("/", 1)[1]) for _, text in sorted(rows.items()) if text.startswith(f"{life}/w{worker}/")]
            assert mine == list(range(len(mine)))


@pytest.mark.parametrize(("point", "kept"), [("store.commit.before", False), ("store.commit.after", True)])
@pytest.mark.parametrize("nth", [1, 3])
async def test_killed_at_a_fault_point(tmp_path: Path, child: Child, point: str, kept: bool, nth: int) -> None:
    path = tmp_path / "aegis.db"
    process = child(WRITERS, path, 0, 50, env={"AEGIS_FAULTS": f"{point}=kill:{nth}"})
    assert process.stdout is not None
    lines = [json.loads(line) for line in process.stdout]
    assert process.wait() == -9
    acked = {line["acked"] for line in lines if "acked" in line}
    store = await Store.open(path, SystemClock())
    there = {event.seq for event in store.events(0, limit=10_000).events}
    assert acked <= there
    if kept:
        assert there > acked  # the last batch was on disk, and nobody had been told
    elif nth == 1:
        assert there == set()  # later on, answers of the batch before may have been on their way
    assert await store.write(lambda tx: tx.append(Text("next"))) > max(there | {line.get("shown", 0) for line in lines})
    assert all(check.ok for check in await store.check() if check.name != "space")
    await store.close()
