"""What budgets add to a model call: the check with its reservation, at no history and at 100 000 records, and the end of it.

Floor: a dictionary's look-up and two additions, the least that any check must do.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from aegis.core.clock import SystemClock
from aegis.models import Usage
from aegis.services.broker.model import Call
from aegis.services.budgets import Budget, Budgets, Lineage
from aegis.store import Store
from benchmarks.harness import Row, measure, row

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from aegis.store import Tx

_MODEL = "anthropic/claude-opus-5-5"
_BOUNDS = [
    Budget(name="day", scope="home", usd=10**12, window=86_400.0),
    Budget(name="week", scope="project", usd=10**12, tokens=10**12, window=604_800.0),
    Budget(name="coders", scope="agent", tokens=10**12, window=18_000.0),
    Budget(name="@a", scope="instance", usd=10**12),
    Budget(name="talk", scope="session", output_tokens=10**12),
]


def main(quick: bool) -> list[Row]:
    """All rows."""
    return uvloop.run(_rows(quick))


async def _rows(quick: bool) -> list[Row]:
    count = 2000 if quick else 20_000
    floor = measure(_floor, count)
    rows = []
    for records in (0, 100_000):
        folder = Path(tempfile.mkdtemp(prefix="aegis-"))
        clock = SystemClock()
        store = await Store.open(folder / "aegis.db", clock)
        try:
            await store.write(partial(_fill, records=records, now=clock.now()))
            budgets = Budgets(store, clock)
            budgets.declared = lambda: list(_BOUNDS)
            budgets.lineage = lambda instance, session: [Lineage(instance, "coder", "/p", session)]
            await budgets.open()
            calls = iter([_call(n, clock.now()) for n in range(count + 10)])

            def check(budgets: Budgets = budgets, calls: Iterator[Call] = calls) -> None:
                call = next(calls)
                _now(budgets.admit(call, session=call.session, free=False))
                budgets.drop(call.id)

            note = "budget 20 us" + (", 5 budgets" if not records else "")
            rows.append(row(f"admit a call, {records:,} records".replace(",", " "), measure(check, count), floor, note))
            if records:
                rows.append(row("settle it, in memory", await _settled(budgets, store, 200 if quick else 2000), floor))
        finally:
            await budgets.close()
            await store.close()
            shutil.rmtree(folder, ignore_errors=True)
    return rows


async def _settled(budgets: Budgets, store: Store, count: int) -> list[float]:
    calls = [_call(10**6 + n, 0.0) for n in range(count + 1)]
    for call in calls:
        await budgets.admit(call, session=call.session, free=False)
        call.usage, call.outcome, call.status = Usage(input=1000, output=100), "completed", 200
    waiting = iter(calls)
    times = measure(lambda: budgets.settle(next(waiting)), count)
    await store.write(budgets.settlement("a", "host:default", None).write)
    return times


def _call(number: int, now: float) -> Call:
    return Call(
        id=f"c{number}", instance="a", session="host:default", model=_MODEL, dialect="anthropic", path="/", stream=True,
        input_estimate=1000, max_tokens=1000, started_at=now,
    )  # fmt: skip


def _fill(tx: Tx, *, records: int, now: float) -> None:
    """So many buckets of the last week, in the places of the call."""
    places = [("home", ""), ("project", "/p"), ("agent", "coder"), ("instance", "a"), ("session", "a host:default")]
    each = records // len(places)
    rows = [
        (scope, subject, width, int(now // width) - n, 1000, 1100, 100, 0)
        for scope, subject in places
        for n in range(each // 2)
        for width in (60, 3600)
    ]
    tx.executemany("INSERT INTO budget_totals VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _now(work: Coroutine[None, None, object]) -> object:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


_TOTALS = {"a": [0, 0]}


def _floor() -> None:
    total = _TOTALS["a"]
    total[0] += 1
    total[1] += 1
