"""Care of the file: a copy while it is in use, and a look at its health."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind
from aegis.store.sqlite import reported

if TYPE_CHECKING:
    from pathlib import Path

#: Less free space than this, in bytes, is reported as a fault.
SPACE_WANTED: Final = 64 * 1024 * 1024


class Check(NamedTuple):
    """One thing looked at."""

    name: str
    ok: bool
    detail: str


def copy(source: sqlite3.Connection, target: Path, *, replace: bool = False) -> None:
    """Write a copy of one consistent state of `source` to `target`, whole or not at all, readable by its owner alone.

    Raises `AegisError`: conflict when `target` exists and is not to be replaced, unavailable when there is no room for it.
    """
    if not replace and target.exists():
        hint = "name a file that does not exist, or remove it first"
        raise AegisError(ErrorKind.CONFLICT, f"{target} exists already", hint, place=str(target))
    part = target.with_name(target.name + ".part")
    try:
        with reported(target):
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(part)) as out:
                source.backup(out)
            _sync(part)
            part.replace(target)
            _sync(target.parent)
    finally:
        part.unlink(missing_ok=True)


def inspect(connection: sqlite3.Connection, path: Path, head: int) -> list[Check]:
    """Look at the database through `connection`; `head` is the highest number that readers have been shown."""
    found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(10)")]
    orphans = len(connection.execute("PRAGMA foreign_key_check").fetchall())
    top = int(connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])
    reserved = int(connection.execute("SELECT value FROM meta WHERE name = 'reserved'").fetchone()[0])
    mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    used = int(connection.execute("PRAGMA page_count").fetchone()[0]) * int(connection.execute("PRAGMA page_size").fetchone()[0])
    free = shutil.disk_usage(path.parent).free
    return [
        Check("integrity", found == ["ok"], "; ".join(found)),
        Check("references", orphans == 0, f"{orphans} rows refer to nothing" if orphans else "every reference holds"),
        Check("counter", max(top, head) <= reserved, f"last event {top}, shown up to {head}, reserved up to {reserved}"),
        Check("journal", mode == "wal", f"mode {mode}"),
        Check("space", free >= SPACE_WANTED, f"{free >> 20} MiB free, {used / 2**20:.1f} MiB used"),
    ]


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
