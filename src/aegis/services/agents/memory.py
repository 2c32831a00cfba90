"""The memory of conversations: every message a program has seen or said, in order, in the neutral form of `aegis.tether.frames`.

This is the authoritative copy. A program is started with it and adds to it record by record; nothing is ever changed or dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from aegis.store import Store, Tx


def append(tx: Tx, *, instance: str, session: str, turn: str, ts: float, message: dict[str, Any]) -> None:
    """Add one message at the end of a conversation, inside the transaction of the turn's events."""
    tx.execute(
        "INSERT INTO memory (instance, session, n, turn, ts, message) "
        "VALUES (?, ?, (SELECT coalesce(max(n), 0) + 1 FROM memory WHERE instance = ? AND session = ?), ?, ?, ?)",
        (instance, session, instance, session, turn, ts, msgspec.json.encode(message).decode()),
    )


def copy(tx: Tx, instance: str, session: str, to: str) -> None:
    """Give the conversation of a session to another one of the instance, which has none."""
    tx.execute(
        "INSERT INTO memory (instance, session, n, turn, ts, message) "
        "SELECT instance, ?, n, turn, ts, message FROM memory WHERE instance = ? AND session = ?",
        (to, instance, session),
    )


async def history(store: Store, instance: str, session: str) -> list[dict[str, Any]]:
    """The whole conversation, oldest first, as a program is started with it."""
    rows = await store.query(
        lambda db: db.execute("SELECT message FROM memory WHERE instance = ? AND session = ? ORDER BY n", (instance, session)).fetchall()
    )
    return [msgspec.json.decode(row[0]) for row in rows]


async def transcript(store: Store, instance: str, session: str, after: int = 0, limit: int = 500) -> list[dict[str, Any]]:
    """Messages with a number over `after`, each with `n`, `ts` and `turn`."""
    rows = await store.query(
        lambda db: db.execute(
            "SELECT n, ts, turn, message FROM memory WHERE instance = ? AND session = ? AND n > ? ORDER BY n LIMIT ?",
            (instance, session, after, limit),
        ).fetchall()
    )
    return [{"n": n, "ts": ts, "turn": turn} | msgspec.json.decode(message) for n, ts, turn, message in rows]
