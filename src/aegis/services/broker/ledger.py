"""The ledger of model calls: one row per call that left the machine or was refused, with its real usage and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis.core.events import Usage

if TYPE_CHECKING:
    from aegis.core.clock import Clock
    from aegis.services.broker.model import Call
    from aegis.store import Store, Tx


class Ledger:
    """Owner of the tables `model_calls` and `model_totals` and of the event `turn.usage`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def record(self, call: Call, turn: str | None) -> None:
        """Write one call down; with a turn, its subscribers learn of it."""
        usage = call.usage
        tokens = (usage.input, usage.output, usage.cached, usage.cache_written) if usage else (0, 0, 0, 0)
        cost = call.cost_usd if call.outcome != "refused" else 0.0

        def store(tx: Tx) -> None:
            tx.execute(
                "INSERT INTO model_calls (ts, instance, session, turn, model, status, input, output, cached, cache_written, cost_usd, ms) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._clock.now(), call.instance, call.session, turn, call.model, call.status, *tokens, cost, call.ms),
            )
            tx.execute(
                "INSERT INTO model_totals (instance, calls, input, output, cached, cost_usd, unpriced) VALUES (?, 1, ?, ?, ?, ?, ?) "
                "ON CONFLICT (instance) DO UPDATE SET calls = model_totals.calls + 1, input = model_totals.input + excluded.input, "
                "output = model_totals.output + excluded.output, cached = model_totals.cached + excluded.cached, "
                "cost_usd = model_totals.cost_usd + excluded.cost_usd, unpriced = model_totals.unpriced + excluded.unpriced",
                (call.instance, *tokens[:3], cost or 0.0, int(cost is None)),
            )
            if usage is not None:
                fact = Usage(call.model, usage.input, usage.output, usage.cached, usage.cache_written, cost, round(call.ms, 3))
                tx.append(fact, instance=call.instance, session=call.session, turn=turn)

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
