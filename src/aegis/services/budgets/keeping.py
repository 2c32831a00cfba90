"""The tables of budgets: what was used, what is under way, what was set by hand, of what a person was told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.services.budgets.model import Budget
from aegis.services.budgets.money import Used

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.services.budgets.model import Charge, Reservation
    from aegis.store import Store, Tx

#: The widths of buckets on disk in seconds. 0 is the whole life; windows up to a day are read from the first, longer ones from the second.
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400.0
#: How long buckets are kept, in seconds after the newest.
_KEPT: Final = {_MINUTE: 2 * _DAY, _HOUR: 400 * _DAY}
_TOP: Final = 4 * 10**18
_ADD: Final = (
    "INSERT INTO budget_totals (scope, subject, width, bucket, usd, tokens, output, unpriced) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (scope, subject, width, bucket) DO UPDATE SET "
    f"usd = min(budget_totals.usd, {_TOP}) + excluded.usd, tokens = min(budget_totals.tokens, {_TOP}) + excluded.tokens, "
    f"output = min(budget_totals.output, {_TOP}) + excluded.output, unpriced = budget_totals.unpriced + excluded.unpriced"
)


def life(store: Store, scope: str, subject: str) -> Used:
    """All that was ever used in a place."""
    row = store.read(
        lambda db: db.execute(
            "SELECT usd, tokens, output FROM budget_totals WHERE scope = ? AND subject = ? AND width = 0 AND bucket = 0", (scope, subject)
        ).fetchone()
    )
    return Used(*row) if row else Used()


def past(store: Store, scope: str, subject: str, since: float, window: float) -> list[tuple[float, Used]]:
    """What was used in a place since a moment, each bucket at its end, so that nothing leaves a window too early."""
    width = _MINUTE if window <= _DAY else _HOUR
    rows = store.read(
        lambda db: db.execute(
            "SELECT bucket, usd, tokens, output FROM budget_totals WHERE scope = ? AND subject = ? AND width = ? AND bucket >= ?",
            (scope, subject, width, int(since // width)),
        ).fetchall()
    )
    return [((bucket + 1) * width - 0.001, Used(*rest)) for bucket, *rest in rows]


def unpriced(store: Store, scope: str, subject: str) -> int:
    """How many calls in a place had a price that nobody knew."""
    row = store.read(
        lambda db: db.execute(
            "SELECT unpriced FROM budget_totals WHERE scope = ? AND subject = ? AND width = 0 AND bucket = 0", (scope, subject)
        ).fetchone()
    )
    return int(row[0]) if row else 0


def subjects(store: Store, scope: str) -> list[str]:
    """Every place of a scope in which anything was used."""
    found = store.read(lambda db: db.execute("SELECT subject FROM budget_totals WHERE scope = ? AND width = 0", (scope,)).fetchall())
    return [row[0] for row in found]


def add(tx: Tx, charge: Charge) -> None:
    """Write down what a call used, in all its places, and that it is not under way any more. Once, however often it is tried."""
    if charge.opened and not tx.execute("DELETE FROM budget_open WHERE call = ?", (charge.call,)).rowcount:
        return
    used, flag, ts = charge.used, int(charge.unpriced), charge.ts
    if any(used) or flag:
        times = ((0, 0), (_MINUTE, int(ts // _MINUTE)), (_HOUR, int(ts // _HOUR)))
        tx.executemany(_ADD, [(*place, *time, *used, flag) for place in charge.places for time in times])


def opened(tx: Tx, held: Reservation) -> None:
    """Write down that a call is under way, and what it may use."""
    places = msgspec.json.encode([meter.place for meter in held.meters]).decode()
    tx.execute(
        "INSERT OR REPLACE INTO budget_open (call, ts, places, usd, tokens, output) VALUES (?, ?, ?, ?, ?, ?)",
        (held.call, held.ts, places, *held.taken),
    )


def left_open(db: Any) -> list[tuple[str, list[tuple[str, str]], Used]]:
    """The calls that were under way when a daemon died: id, places, and what they may have used."""
    rows = db.execute("SELECT call, places, usd, tokens, output FROM budget_open").fetchall()
    return [(call, msgspec.json.decode(places, type=list[tuple[str, str]]), Used(*rest)) for call, places, *rest in rows]


def prune(tx: Tx, now: float) -> None:
    """Forget buckets that no window reaches. Counted from the newest of the home, so that a clock gone wrong forgets nothing."""
    (newest,) = tx.execute("SELECT max(bucket) FROM budget_totals WHERE scope = 'home' AND subject = '' AND width = 60").fetchone()
    if newest is None:
        return
    end = min(now, (newest + 1) * _MINUTE)
    for width, kept in _KEPT.items():
        tx.execute("DELETE FROM budget_totals WHERE width = ? AND bucket < ?", (width, int((end - kept) // width)))


def forget(tx: Tx, instance: str) -> None:
    """Remove what is kept of a deleted instance. What it used stays counted in its project, its agent, its parents and the home."""
    tx.execute("DELETE FROM budget_totals WHERE scope = 'instance' AND subject = ?", (instance,))
    tx.execute("DELETE FROM budget_totals WHERE scope = 'session' AND subject >= ? AND subject < ?", (f"{instance} ", f"{instance}!"))
    tx.execute("DELETE FROM budgets WHERE instance = ?", (instance,))
    tx.execute("DELETE FROM budget_warnings WHERE subject = ?", (instance,))


def by_hand(store: Store) -> list[Budget]:
    """The budgets that a person set by a verb."""
    rows = store.read(lambda db: db.execute("SELECT spec FROM budgets ORDER BY name").fetchall())
    return [msgspec.json.decode(row[0], type=Budget) for row in rows]


def put(tx: Tx, budget: Budget, now: float) -> None:
    """Keep a budget that a person set."""
    tx.execute(
        "INSERT INTO budgets (name, instance, spec, set_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET instance = excluded.instance, spec = excluded.spec, set_at = excluded.set_at",
        (budget.name, budget.instance, msgspec.json.encode(budget).decode(), now),
    )


def take(tx: Tx, name: str) -> bool:
    """Forget one; says whether it was there."""
    return bool(tx.execute("DELETE FROM budgets WHERE name = ?", (name,)).rowcount)


def warnings(store: Store) -> set[tuple[str, str, str]]:
    """The crossings of which a person was told: budget, subject, kind."""
    return {tuple(row) for row in store.read(lambda db: db.execute("SELECT name, subject, kind FROM budget_warnings").fetchall())}


def note_warnings(tx: Tx, new: Iterable[tuple[str, str, str]], over: Iterable[tuple[str, str, str]]) -> None:
    """Write down which crossings are new, and which are over."""
    tx.executemany("INSERT OR IGNORE INTO budget_warnings (name, subject, kind) VALUES (?, ?, ?)", list(new))
    tx.executemany("DELETE FROM budget_warnings WHERE name = ? AND subject = ? AND kind = ?", list(over))
