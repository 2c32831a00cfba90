"""Long reads, beside the event loop: a few threads with a read-only connection each, made when first needed."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from aegis.store.sqlite import connect, reported, snapshot

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
#: How many long reads run at the same time.
THREADS: Final = 2


class Readers:
    """A pool of reading threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(THREADS, "aegis-store-read")

    async def run(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` in a thread; everything it reads is one state of the database."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, fn)

    def close(self) -> None:
        """Wait for the reads that run and close the connections."""
        self._pool.shutdown(cancel_futures=True)
        for connection in self._open:
            connection.close()

    def _call(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self._path, writable=False)
            self._open.append(connection)
        with reported(self._path), snapshot(connection):
            return fn(connection)
