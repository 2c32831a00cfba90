"""Bringing a database to the shape this version knows, by numbered SQL files.

`migrations/NNNN_name.sql` are applied in order, each in one transaction together with the record of it, so a crash leaves
either all of a file or none of it. A file that was ever released is never edited; a later one mends it. A database that
holds a migration this version does not have is refused and not touched. Before a database with content is changed, a copy
is put beside it.
"""

from __future__ import annotations

import re
import sqlite3
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.version import __version__
from aegis.store.sqlite import reported
from aegis.store.upkeep import copy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_FILE: Final = re.compile(r"\d{4}_[a-z0-9_]+\.sql")

_RECORD: Final = "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at REAL NOT NULL)"


class Migration(NamedTuple):
    """One step from one shape to the next."""

    number: int
    name: str
    sql: str


def known() -> list[Migration]:
    """The migrations this version brings, in order."""
    files = resources.files("aegis.store").joinpath("migrations").iterdir()
    found = sorted(Migration(int(file.name[:4]), file.name[:-4], file.read_text("utf-8")) for file in files if _FILE.fullmatch(file.name))
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise RuntimeError(f"migrations are not numbered without gaps: {[m.name for m in found]}")
    return found


def migrate(connection: sqlite3.Connection, path: Path, now: float, migrations: Iterable[Migration] | None = None) -> list[str]:
    """Apply what is missing and return the names of what was applied.

    Raises `AegisError`: unavailable for a database from the future or a disk that refuses, internal for a step that fails.
    The steps before it stay.
    """
    todo = sorted(known() if migrations is None else migrations)
    done = _applied(connection)
    newer = [name for number, name in done.items() if number > len(todo)]
    if newer:
        raise AegisError(
            ErrorKind.UNAVAILABLE,
            f"the store {path} was written by a newer Aegis than {__version__} (it has `{newer[-1]}`)",
            "install the newer version, or set AEGIS_HOME to another directory",
            place=str(path),
        )
    todo = [m for m in todo if m.number not in done]
    if todo and done:
        copy(connection, path.with_name(f"{path.name}.before-{todo[0].number:04}"), replace=True)
    for migration in todo:
        try:
            with reported(path):
                _apply(connection, migration, now)
        except sqlite3.Error as error:
            message = f"the migration {migration.name} of {path} failed: {error}"
            raise AegisError(ErrorKind.INTERNAL, message, "report this; the steps before it stand, nothing of it does") from error
    return [m.name for m in todo]


def _applied(connection: sqlite3.Connection) -> dict[int, str]:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migrations'").fetchone():
        return {}
    return dict(connection.execute("SELECT number, name FROM migrations ORDER BY number").fetchall())


def _apply(connection: sqlite3.Connection, migration: Migration, now: float) -> None:
    # A table that others refer to can only be rebuilt with the checks off, and they cannot be switched inside a transaction.
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_RECORD)
        for statement in statements(migration.sql):
            connection.execute(statement)
        if broken := connection.execute("PRAGMA foreign_key_check").fetchone():
            raise sqlite3.IntegrityError(f"{migration.name} leaves a row of `{broken[0]}` without the row of `{broken[2]}` it refers to")
        connection.execute("INSERT INTO migrations (number, name, applied_at) VALUES (?, ?, ?)", (migration.number, migration.name, now))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute("PRAGMA foreign_keys = ON")


def statements(sql: str) -> Iterator[str]:
    """The single statements of a script; a trigger's body stays in one piece."""
    pending = ""
    *pieces, rest = sql.split(";")
    for piece in pieces:
        pending += piece + ";"
        if sqlite3.complete_statement(pending):
            yield pending.strip()
            pending = ""
    rest = pending + rest
    if any(line.strip() and not line.strip().startswith("--") for line in rest.splitlines()):
        raise ValueError(f"the script ends within a statement: {rest.strip()[:80]!r}")
