"""All that is particular to SQLite: opening a connection, its settings, the meaning of its errors.

The services write portable SQL with `?` placeholders; a second database would replace this file, not theirs.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: How long SQLite waits for a lock that another process holds, in milliseconds. Only `sqlite3` the shell ever does.
BUSY_MS: Final = 10_000
#: A write-ahead log that grew under a long read is cut back to this size, in bytes.
WAL_KEEP: Final = 64 * 1024 * 1024


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open the database at `path`; a writable connection makes the file, readable by its owner alone, when it is absent.

    Transactions are begun by hand. A connection belongs to one thread at a time; SQLite itself is built to be handed over.
    Raises `AegisError` (unavailable) when the file cannot be opened or is no database.
    """
    with reported(path):
        if writable:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            connection.execute("PRAGMA foreign_keys = ON")
            if not writable:
                connection.execute("PRAGMA query_only = ON")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except BaseException:
            connection.close()
            raise
    return connection


def make_durable(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log that is synced at each commit: readers never wait, and what is committed stays."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_KEEP}")


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Let everything read within the block see one state of the database. May be nested."""
    if connection.in_transaction:
        yield connection
        return
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        connection.execute("ROLLBACK")


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn what the file system or SQLite says about the file at `path` into an `AegisError`."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        if isinstance(error, sqlite3.DatabaseError) and not is_storage_error(error):
            raise
        raise storage_error(error, path) from error


def is_storage_error(error: BaseException) -> bool:
    """Whether `error` speaks of the disk or the file rather than of a wrong statement or a violated constraint."""
    if isinstance(error, OSError):
        return True
    return isinstance(error, sqlite3.DatabaseError) and (_code(error) & 0xFF) in _HINTS


def storage_error(error: BaseException, path: Path) -> AegisError:
    """The error for a caller whose read or write the disk did not allow."""
    if isinstance(error, sqlite3.Error):
        said, hint = str(error), _HINTS.get(_code(error) & 0xFF, "")
    else:
        said, hint = str(getattr(error, "strerror", None) or error), ""
    hint = hint or f"look at the free space and the permissions of {path.parent}"
    return AegisError(ErrorKind.UNAVAILABLE, f"the store {path} cannot be used: {said}", hint, place=str(path))


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0)


_FREE: Final = "free some disk space (`df -h` shows where it is short) and try again"
_HINTS: Final = {
    sqlite3.SQLITE_FULL: _FREE,
    sqlite3.SQLITE_IOERR: "the disk reports an error or is full; look at `df -h` and `dmesg`, then try again",
    sqlite3.SQLITE_READONLY: "make the home directory and the file writable for this user",
    sqlite3.SQLITE_CANTOPEN: "make the home directory readable and writable for this user",
    sqlite3.SQLITE_PERM: "make the home directory and the file writable for this user",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; put a backup in its place",
    sqlite3.SQLITE_NOTADB: "the file is no Aegis store; move it away or put a backup in its place",
    sqlite3.SQLITE_BUSY: "another program holds the file open for writing; close it and try again",
    sqlite3.SQLITE_LOCKED: "another program holds the file open for writing; close it and try again",
    sqlite3.SQLITE_NOMEM: "the machine is out of memory",
    sqlite3.SQLITE_INTERRUPT: "try again",
}
