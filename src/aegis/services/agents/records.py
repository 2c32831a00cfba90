"""What is written of a turn: its row, its first and its last event, what becomes of its envelopes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from aegis.core.events import Outcome, ToolCall, ToolResult, TurnFinished, TurnStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.core.events import Fact
    from aegis.drivers import Finished
    from aegis.services.agents.world import World
    from aegis.store import Store, Tx


class Cut(NamedTuple):
    """A turn that waits for its continuation. `outcome` is why: `interrupted`, or `limited` when its provider gave no more."""

    id: str
    attempts: int
    outcome: str


def cut_turn(store: Store, instance: str, session: str) -> Cut | None:
    """The turn of a session that was cut short and has envelopes that nobody has dealt with."""
    row = store.read(
        lambda db: db.execute(
            "SELECT t.id, t.attempts, t.outcome FROM envelopes e JOIN turns t ON t.id = e.turn WHERE e.instance = ? AND e.session = ? "
            "AND e.done_at IS NULL AND e.turn IS NOT NULL AND t.outcome IN ('interrupted', 'limited') LIMIT 1",
            (instance, session),
        ).fetchone()
    )
    return Cut(*row) if row else None


def continued(store: Store, turn: str) -> tuple[float, float] | None:
    """When the first of the turns that this one goes on with began, and when this one did; None when it goes on with none."""
    first, own, turns = store.read(
        lambda db: db.execute(
            "WITH RECURSIVE chain (continues, started_at) AS (SELECT continues, started_at FROM turns WHERE id = ? "
            "UNION ALL SELECT t.continues, t.started_at FROM turns t JOIN chain c ON t.id = c.continues) "
            "SELECT min(started_at), max(started_at), count(*) FROM chain",
            (turn,),
        ).fetchone()
    )
    return (first, own) if turns > 1 else None


def open_turn(world: World, tx: Tx, turn: str, ids: list[str], cut: Cut | None, attempts: int, *, instance: str, session: str) -> list[str]:
    """Begin a turn with those of the envelopes that did not expire meanwhile; without any there is none. Idempotent."""
    taken = world.mail.take(tx, ids, turn)
    if taken and not tx.execute("SELECT 1 FROM turns WHERE id = ?", (turn,)).fetchone():
        tx.execute(
            "INSERT INTO turns (id, instance, session, continues, attempts, started_at) VALUES (?, ?, ?, ?, ?, ?)",
            (turn, instance, session, cut.id if cut else None, attempts, world.clock.now()),
        )
        tx.append(TurnStarted(taken, cut.id if cut else None), instance=instance, session=session, turn=turn)
    return taken


def open_own(world: World, tx: Tx, turn: str, *, instance: str, session: str) -> None:
    """Begin a turn that the program began by itself. Idempotent."""
    if not tx.execute("SELECT 1 FROM turns WHERE id = ?", (turn,)).fetchone():
        tx.execute(
            "INSERT INTO turns (id, instance, session, started_at, origin) VALUES (?, ?, ?, ?, 'program')",
            (turn, instance, session, world.clock.now()),
        )
        tx.append(TurnStarted([], origin="program"), instance=instance, session=session, turn=turn)


def put(tx: Tx, fact: Fact, **place: Any) -> None:
    """A durable fact of a turn; calls of tools, and those that failed, are counted in its row."""
    tx.append(fact, **place)
    if isinstance(fact, ToolCall):
        tx.execute("UPDATE turns SET tools = tools + 1 WHERE id = ?", (place["turn"],))
    elif isinstance(fact, ToolResult) and not fact.ok:
        tx.execute("UPDATE turns SET tool_errors = tool_errors + 1 WHERE id = ?", (place["turn"],))


def joins(world: World, tx: Tx, turn: str, ids: Sequence[str], how: int) -> list[str]:
    """Give a turn that runs further envelopes that wait, if it runs still; returns those that it has now."""
    if tx.execute("SELECT 1 FROM turns WHERE id = ? AND finished_at IS NULL", (turn,)).fetchone() is None:
        return []
    return world.mail.join(tx, ids, turn, how)


def passed_on(tx: Tx, instance: str, session: str) -> int:
    """How often the mail that an instance works on was passed on from agent to agent, the most of it counting.

    That of the newest turn with mail in `session`, whoever began the turn that runs now, and that of every turn that runs in others.
    """
    (hops,) = tx.execute(
        "SELECT max(hops) FROM envelopes WHERE turn IN (SELECT id FROM turns WHERE instance = ? AND finished_at IS NULL UNION ALL "
        "SELECT id FROM (SELECT id FROM turns WHERE instance = ? AND session = ? AND origin = 'mail' ORDER BY rowid DESC LIMIT 1))",
        (instance, instance, session),
    ).fetchone()
    return int(hops or 0)


def close_turn(world: World, tx: Tx, turn: str, end: Finished, *, ms: float, instance: str, session: str) -> None:
    """The last rows of a turn: its outcome, its totals, its one terminal event, its envelopes done (unless it is to be continued).

    What joined it and never reached its program waits again; who wants a report of an envelope gets it. Idempotent: a turn that has ended
    stays as it is.
    """
    ended = "UPDATE turns SET finished_at = ?, outcome = ? WHERE id = ? AND finished_at IS NULL"
    if not tx.execute(ended, (world.clock.now(), end.outcome, turn)).rowcount:
        return
    if end.outcome is Outcome.COMPLETED:
        world.mail.settle_notes(tx, turn, instance=instance, session=session)
    world.mail.requeue(tx, turn, instance=instance, session=session)
    envelopes = world.mail.dealt_with(tx, turn)
    if will_continue(end) and not envelopes:
        end = msgspec.structs.replace(end, error={**(end.error or {}), "will_continue": False})
    if not will_continue(end):  # one that goes on may ask the same again, and find the answer that a person gave meanwhile
        world.approvals.end(tx, instance=instance, session=session, reason="the turn is over")
    used = world.models.totals(tx, turn=turn)
    if not used["calls"]:  # with a login of its own, only the program knows
        used = {"calls": 0, "input": end.input, "output": end.output, "cached": end.cached, "cost_usd": end.cost_usd}
    tx.append(
        TurnFinished(
            end.outcome,
            [e.id for e in envelopes],
            end.text,
            end.error,
            reply_to=[e.msg_id for e in envelopes if e.msg_id],
            input=used["input"],
            output=used["output"],
            cached=used["cached"],
            cost_usd=used["cost_usd"],
            rounds=end.rounds or used["calls"],
            ms=round(ms, 3),
            reason=end.reason,
        ),
        instance=instance,
        session=session,
        turn=turn,
    )
    if not will_continue(end):
        reason = str((end.error or {}).get("error") or end.outcome)
        world.mail.done(tx, turn, reason, instance=instance, session=session)
        for envelope in envelopes:
            world.mail.answer(tx, envelope, _report(end), ok=end.outcome is Outcome.COMPLETED)


def _report(end: Finished) -> str:
    """What somebody is told who waits for the end of a turn: all of its final text, and why it ended where it did not end well."""
    if end.outcome is Outcome.COMPLETED:
        return end.text
    why = f"[the turn was {end.outcome}: {(end.error or {}).get('error') or 'nobody knows why'}]"
    return f"{end.text}\n\n{why}" if end.text.strip() else why


def will_continue(end: Finished) -> bool:
    """Whether a turn that ended so is continued by another."""
    return bool(end.error and end.error.get("will_continue"))
