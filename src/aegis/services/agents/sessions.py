"""The table `sessions`: how the program inside names a session, and what the session runs with.

A row is made when a session first has something worth keeping; one without a row runs with what its instance was launched with.
The program's own name is on disk before the first message is sent to it, so no crash can separate a conversation from its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from aegis.store import Store, Tx

_COLUMNS: Final = ("program_session", "fork_of", "model", "mode", "effort", "title", "context_used", "context_size")


class Row(msgspec.Struct, frozen=True):
    """What is kept of one session. None: as the instance was launched. `context_size` is 0 while nobody knows it."""

    program_session: str | None = None
    fork_of: str | None = None  # the session that this one is a copy of
    model: str | None = None
    mode: str | None = None
    effort: str | None = None
    title: str = ""
    context_used: int = 0
    context_size: int = 0


def row(store: Store, instance: str, session: str) -> Row:
    """What is known of a session; a blank row when nothing is."""
    found = store.read(
        lambda db: db.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM sessions WHERE instance = ? AND session = ?", (instance, session)
        ).fetchone()
    )
    return Row(*found) if found else Row()


def rows(store: Store, instance: str) -> dict[str, Row]:
    """Every session of an instance that has a row."""
    found = store.read(
        lambda db: db.execute(f"SELECT session, {', '.join(_COLUMNS)} FROM sessions WHERE instance = ?", (instance,)).fetchall()
    )
    return {key: Row(*rest) for key, *rest in found}


def models(store: Store, instance: str) -> tuple[str, ...]:
    """The full names of the models that sessions of an instance were switched to."""
    found = store.read(
        lambda db: db.execute("SELECT DISTINCT model FROM sessions WHERE instance = ? AND model IS NOT NULL", (instance,)).fetchall()
    )
    return tuple(name for (name,) in found)


def switched(store: Store) -> dict[str, list[str]]:
    """The models that sessions were switched to, by the ids of their instances."""
    found: dict[str, list[str]] = {}
    for ident, model in store.read(
        lambda db: db.execute("SELECT DISTINCT instance, model FROM sessions WHERE model IS NOT NULL").fetchall()
    ):
        found.setdefault(ident, []).append(model)
    return found


def change(tx: Tx, instance: str, session: str, now: float, **columns: Any) -> None:
    """Set columns of a session's row, making it if there is none."""
    assert set(columns) <= set(_COLUMNS)
    names = ", ".join(columns)
    updates = ", ".join(f"{name} = excluded.{name}" for name in columns)
    tx.execute(
        f"INSERT INTO sessions (instance, session, created_at, {names}) VALUES ({', '.join('?' * (len(columns) + 3))}) "
        f"ON CONFLICT (instance, session) DO UPDATE SET {updates}",
        (instance, session, now, *columns.values()),
    )


def known(tx: Any, instance: str, session: str) -> bool:
    """Whether anything ever happened in a session; `tx` may be a reading connection."""
    return any(
        tx.execute(f"SELECT 1 FROM {table} WHERE instance = ? AND session = ? LIMIT 1", (instance, session)).fetchone()
        for table in ("sessions", "turns", "envelopes")
    )
