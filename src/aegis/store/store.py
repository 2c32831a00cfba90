"""The store as the rest of Aegis sees it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.store.lock import Lock
from aegis.store.log import Log, Page
from aegis.store.migrate import migrate
from aegis.store.readers import Readers
from aegis.store.ring import Ring
from aegis.store.sqlite import connect, make_durable, reported, snapshot
from aegis.store.subscriptions import Subscription
from aegis.store.upkeep import Check, copy, inspect
from aegis.store.writer import Batch, Note, Tx, Write, Writer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection
    from pathlib import Path

    from aegis.core.clock import Clock
    from aegis.core.events import Fact
    from aegis.store.cleaning import Cleaner

T = TypeVar("T")
log = logging.getLogger(__name__)


class Store:
    """One home's database and log. Belongs to the event loop that opened it; every method is called in that loop's thread."""

    def __init__(self, path: Path, clock: Clock, lock: Lock, connection: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        """For `open` only."""
        self.path = path
        self._clock = clock
        self._lock = lock
        self._reader = reader
        self._readers = Readers(path)
        self._writer = Writer(connection, path, clock, asyncio.get_running_loop(), self._deliver)
        self._log = Log(reader, path, Ring(self._writer.first))
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> Store:
        """Open the database at `path`, which is made or brought up to date as needed, as its only writer.

        Raises `AegisError`: conflict when another process holds it; unavailable when it cannot be written, is damaged, or
        comes from a newer version (then it is not touched).
        """
        lock = Lock(path)
        connection = reader = None
        try:
            connection = connect(path, writable=True)
            with reported(path):
                migrate(connection, path, clock.now())
                make_durable(connection)
            reader = connect(path, writable=False)
            with reported(path):
                return cls(path, clock, lock, connection, reader)
        except BaseException:
            for opened in (connection, reader):
                if opened is not None:
                    opened.close()
            lock.release()
            raise

    @property
    def cleaner(self) -> Cleaner:
        """What takes out of events that which may not be kept; nothing is, until somebody sets another."""
        return self._writer.cleaner

    @cleaner.setter
    def cleaner(self, cleaner: Cleaner) -> None:
        self._writer.cleaner = cleaner

    @property
    def head(self) -> int:
        """The highest number that readers can see. Everything up to it can be read now."""
        return self._log.head

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a transaction in the writer's thread and return its result once it is on disk and visible.

        `fn` is short, touches nothing but its `Tx`, and does not await. What it raises undoes its own work only and is
        raised here. Raises `AegisError` (unavailable) when the disk refuses; then nothing of it is stored, unless the
        machine failed in the very act. A caller that is cancelled does not stop it: it happens as a whole or not at all.
        """
        return await self.put(fn)

    def put(self, fn: Callable[[Tx], T]) -> asyncio.Future[T]:
        """As `write`, for who does not wait: it is asked for when this returns, before everything that is asked for later."""
        self._check_open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.put(Write(fn, future))
        return future

    def emit(self, fact: Fact, *, instance: str | None = None, session: str | None = None, turn: str | None = None) -> None:
        """Make an ephemeral event, after everything already asked for. Never waits; after the end of the store it does nothing."""
        if not fact.ephemeral:
            raise ValueError(f"{fact.type} is durable: append it in a write")
        if self._closing is None:
            self._writer.note(Note(fact.type, self._writer.cleaner.clean(msgspec.json.encode(fact)), instance, session, turn))

    def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Read at once, in the loop's thread: for reads well under a millisecond. All `fn` reads is one committed state.

        `fn` fetches what it needs; a cursor it returns is dead.
        """
        self._check_open()
        with reported(self.path), snapshot(self._reader) as connection:
            return fn(connection)

    async def query(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Like `read`, in a thread of its own: for reads that take longer."""
        self._check_open()
        return await self._readers.run(fn)

    def events(
        self,
        after: int = 0,
        *,
        instance: str | None = None,
        session: str | None = None,
        types: Collection[str] | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> Page:
        """The oldest `limit` events above `after`, or with `before` the newest `limit` between the two; always in ascending order."""
        self._check_open()
        return self._log.page(after, instance, session, types, max(1, limit), before)

    def subscribe(self, *, after: int | None = None, instance: str | None = None, session: str | None = None) -> Subscription:
        """Follow the events above `after` (None: from now on). Ends when the store is closed."""
        return Subscription(self._log, self.head if after is None else after, instance, session)

    async def wait(self, after: int, *, instance: str | None = None, timeout: float) -> bool:
        """Whether an event of `instance` (None: any) above `after` is visible now or becomes so within `timeout` seconds."""
        deadline: asyncio.Task[None] | None = None
        try:
            while not self._log.closed:
                if self.events(after, instance=instance, limit=1).events:
                    return True
                if deadline is None:
                    deadline = asyncio.create_task(self._clock.sleep(timeout))
                change = asyncio.ensure_future(self._log.changed(instance))
                try:
                    await asyncio.wait((change, deadline), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()
                if deadline.done():
                    return bool(not self._log.closed and self.events(after, instance=instance, limit=1).events)
            return False
        finally:
            if deadline is not None:
                deadline.cancel()

    async def backup(self, target: Path) -> None:
        """Copy the database as it is now to the new file `target`, while it stays in use."""
        await self.query(lambda connection: copy(connection, target))

    async def check(self) -> list[Check]:
        """Look at the health of the database: integrity, references, counter, journal, space."""
        head = self.head
        return await self.query(lambda connection: inspect(connection, self.path, head))

    async def close(self) -> None:
        """Finish what was asked for, end all subscriptions, release the lock. May be called again."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._end())
        await asyncio.shield(self._closing)

    async def _end(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._writer.stop)
        self._log.close()
        await loop.run_in_executor(None, self._readers.close)
        self._reader.close()
        self._lock.release()

    def _deliver(self, batch: Batch) -> None:
        """Show a batch: events first, then what waits for the commit, then the answers."""
        self._log.publish(batch.events, batch.lost)
        for callback in batch.callbacks:
            try:
                callback()
            except Exception:  # one service's defect must not leave the other callers of the batch waiting for ever
                log.exception("what was to follow a write failed")
        for future, result, error in batch.answers:
            if future.done():  # its caller was cancelled
                continue
            if error is None:
                future.set_result(result)
            elif isinstance(error, StopIteration):  # a future cannot carry it
                future.set_exception(RuntimeError("a write raised StopIteration"))
            else:
                future.set_exception(error)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise AegisError(ErrorKind.UNAVAILABLE, f"the store {self.path} is closed", "start the daemon again")
