"""The ledger of model calls: one row per call that left the machine or was refused, with its real usage and cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.events import Usage
from aegis.models import Usage as Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.core.clock import Clock
    from aegis.services.broker.model import Call
    from aegis.store import Store, Tx


#: No row says more than this of tokens, or of dollars.
_MOST: Final = 10**15
#: The `source` of a row that stands for a count of tokens, which is no call of a model.
COUNT: Final = "count"


class _Entry(NamedTuple):
    """One row. `adds`: it counts in the totals; `told`: subscribers learn of it."""

    instance: str
    session: str | None
    turn: str | None
    model: str
    status: int
    tokens: tuple[int, int, int, int]  # input, output, cached, written to the cache
    cost: float | None
    ms: float
    first_byte_ms: float | None
    source: str
    adds: bool
    told: bool
    audit: int | None = None  # the row of the audit record that let the call pass


class Ledger:
    """Owner of the tables `model_calls` and `model_totals` and of the event `turn.usage`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def record(self, call: Call, turn: str | None, also: Callable[[Tx], None] | None = None) -> None:
        """Write one call down; with a turn, its subscribers learn of it. A count of tokens is written down and adds to nothing.

        `also` is run in the same transaction.
        """
        usage = call.usage or Tokens()
        entry = _Entry(
            instance=call.instance,
            session=call.session,
            turn=None if call.counts_only else turn,
            model=call.model,
            status=call.status,
            tokens=(usage.input, usage.output, usage.cached, usage.cache_written),
            cost=call.cost_usd if call.outcome != "refused" else 0.0,
            ms=call.ms,
            first_byte_ms=call.first_byte_ms,
            source=COUNT if call.counts_only else call.source,
            adds=not call.counts_only,
            told=call.usage is not None and not call.counts_only,
            audit=call.audit,
        )
        await self._write(entry, also)

    async def tell(self, instance: str, session: str, turn: str | None, usage: Usage, also: Callable[[Tx], None] | None = None) -> None:
        """Write down what a program tells of a call that nobody else saw."""
        entry = _Entry(
            instance=instance,
            session=session,
            turn=turn,
            model=usage.model,
            status=200,
            tokens=(usage.input, usage.output, usage.cached, usage.cache_written),
            cost=usage.cost_usd,
            ms=usage.ms,
            first_byte_ms=None,
            source="program",
            adds=True,
            told=True,
        )
        await self._write(entry, also)

    async def _write(self, entry: _Entry, also: Callable[[Tx], None] | None) -> None:
        given, written, cached, fresh = (min(_MOST, max(0, count)) for count in entry.tokens)  # a program or a server may say anything
        tokens = (given, written, cached, fresh)
        cost = entry.cost if entry.cost is not None and 0 <= entry.cost < math.inf else None

        def store(tx: Tx) -> None:
            if also is not None:
                also(tx)
            tx.execute(
                "INSERT INTO model_calls (ts, instance, session, turn, model, status, input, output, cached, cache_written, cost_usd, ms, "
                "source, first_byte_ms, audit) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._clock.now(),
                    entry.instance,
                    entry.session,
                    entry.turn,
                    entry.model,
                    entry.status,
                    *tokens,
                    cost,
                    entry.ms,
                    entry.source,
                    entry.first_byte_ms,
                    entry.audit,
                ),
            )
            if entry.adds:
                tx.execute(
                    "INSERT INTO model_totals (instance, calls, input, output, cached, cost_usd, unpriced) VALUES (?, 1, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (instance) DO UPDATE SET calls = model_totals.calls + 1, input = model_totals.input + excluded.input, "
                    "output = model_totals.output + excluded.output, cached = model_totals.cached + excluded.cached, "
                    "cost_usd = model_totals.cost_usd + excluded.cost_usd, unpriced = model_totals.unpriced + excluded.unpriced",
                    (entry.instance, *tokens[:3], cost or 0.0, int(cost is None)),
                )
            if entry.told:
                fact = Usage(entry.model, *tokens, cost, round(entry.ms, 3), entry.source)
                tx.append(fact, instance=entry.instance, session=entry.session, turn=entry.turn)

        await self._store.write(store)

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove the calls of a deleted instance."""
        for table in ("model_calls", "model_totals"):
            tx.execute(f"DELETE FROM {table} WHERE instance = ?", (instance,))

    def totals(self, tx: Any, *, turn: str | None = None, instance: str | None = None) -> dict[str, Any]:
        """Calls, tokens and cost of a turn or an instance; the cost is None when that of any is unknown. `tx` may be a reader."""
        if turn is not None:
            rows = tx.execute(
                "SELECT count(*), coalesce(sum(input), 0), coalesce(sum(output), 0), coalesce(sum(cached), 0), "
                "coalesce(sum(cost_usd), 0), count(*) - count(cost_usd) FROM model_calls WHERE turn = ?",
                (turn,),
            )
        else:
            rows = tx.execute("SELECT calls, input, output, cached, cost_usd, unpriced FROM model_totals WHERE instance = ?", (instance,))
        calls, input_, output, cached, cost, unpriced = rows.fetchone() or (0, 0, 0, 0, 0.0, 0)
        return {"calls": calls, "input": input_, "output": output, "cached": cached, "cost_usd": None if unpriced else cost}
