"""The one thread that writes, and the one counter of all events.

Everything that gets a number passes through one queue, so the order of numbers, of commits and of visibility is the same.
The thread takes whatever waits as one batch: each write runs in its own savepoint, one commit puts them all on disk, one
call into the event loop shows them all and answers everybody. A write that raises undoes itself alone. When the commit
fails, the whole batch fails, and the thread goes on with the next.

Numbers are reserved on disk in blocks, ahead of use: a crash or a failed commit leaves a gap, never a number used twice.
A batch of ephemeral events alone touches the disk only when a block is used up. An idle writer sleeps in the kernel.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Event, Fact
from aegis.core.faults import point
from aegis.store.cleaning import Cleaner, Nothing
from aegis.store.sqlite import is_storage_error, storage_error

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from aegis.core.clock import Clock

#: How many numbers one reservation covers.
BLOCK: Final = 4096
#: How many queued writes one commit takes at most, so that the first of them does not wait for ever.
BATCH: Final = 1024

log = logging.getLogger(__name__)


class Tx:
    """What a write may do. Valid only while its function runs, in the writer's thread."""

    def __init__(self, writer: Writer) -> None:
        self._writer: Writer | None = writer
        self.events: list[Event] = []
        self.callbacks: list[Callable[[], object]] = []

    def execute(self, sql: str, params: Iterable[Any] = ()) -> sqlite3.Cursor:
        """Run one statement with `?` placeholders."""
        return self._open().execute(sql, tuple(params))

    def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> sqlite3.Cursor:
        """Run one statement for each of `rows`."""
        return self._open().executemany(sql, (tuple(row) for row in rows))

    def append(self, fact: Fact, *, instance: str | None = None, session: str | None = None, turn: str | None = None) -> int:
        """Add an event to the log and return its number. It is visible once the write is committed."""
        connection = self._open()
        assert self._writer is not None
        event = self._writer.number(fact.type, self._writer.cleaner.clean(msgspec.json.encode(fact)), instance, session, turn)
        if not fact.ephemeral:
            connection.execute(
                "INSERT INTO events (seq, ts, type, instance, session, turn, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (event.seq, event.ts, event.type, instance, session, turn, bytes(event.data).decode()),
            )
        self.events.append(event)
        return event.seq

    def clean(self, data: bytes) -> bytes:
        """`data`, a text or JSON in UTF-8, without what may not be kept. Events are cleaned by `append`."""
        return data if self._writer is None else self._writer.cleaner.clean(data)

    def on_commit(self, callback: Callable[[], object]) -> None:
        """Call `callback` in the event loop once the write is on disk and its events are visible, before its caller goes on."""
        self._open()
        self.callbacks.append(callback)

    def end(self) -> None:
        """Make further use an error."""
        self._writer = None

    def _open(self) -> sqlite3.Connection:
        if self._writer is None:
            raise AegisError(ErrorKind.INTERNAL, "a transaction was used after its write had ended")
        if not self._writer.connection.in_transaction:  # SQLite gave up the whole transaction, and the function went on
            raise AegisError(ErrorKind.UNAVAILABLE, "the transaction was rolled back by an earlier error")
        return self._writer.connection


class Write(NamedTuple):
    """A function waiting for its transaction, and who waits for it."""

    run: Callable[[Tx], Any]
    future: asyncio.Future[Any]


class Note(NamedTuple):
    """An ephemeral event waiting for its number."""

    type: str
    data: bytes
    instance: str | None
    session: str | None
    turn: str | None


class Answer(NamedTuple):
    """What became of one write."""

    future: asyncio.Future[Any]
    result: Any
    error: BaseException | None


class Batch(NamedTuple):
    """What one round of the writer brings: events in order, answers, and ephemeral events that could not be shown."""

    events: list[Event]
    callbacks: list[Callable[[], object]]
    answers: list[Answer]
    lost: list[Event]


class Writer:
    """The writing thread over one connection. `deliver` is called in `loop`, once per batch, in order."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, clock: Clock, loop: asyncio.AbstractEventLoop, deliver: Callable[[Batch], None]
    ) -> None:
        self.connection = connection
        self._path = path
        self._clock = clock
        self._loop = loop
        self._deliver = deliver
        self.cleaner: Cleaner = Nothing()
        top = int(connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])
        reserved = int(connection.execute("SELECT value FROM meta WHERE name = 'reserved'").fetchone()[0])
        self._last = self._reserved = self.first = max(top, reserved)
        self._queue: SimpleQueue[Write | Note | None] = SimpleQueue()
        self._pending = 0  # queued and not yet delivered; touched in the loop's thread only
        self._thread = threading.Thread(target=self._work, name="aegis-store", daemon=True)
        self._thread.start()

    def put(self, item: Write | Note) -> None:
        """Queue a write or an ephemeral event. In the loop's thread."""
        self._pending += 1
        self._queue.put(item)

    def note(self, note: Note) -> None:
        """Make an ephemeral event: at once when nothing is ahead of it, else in its turn. In the loop's thread.

        With nothing pending the writing thread sleeps in its queue, so the counter may be used here; this spares a streamed
        token two switches of threads. A number that is not yet reserved on disk is not given out here.
        """
        if self._pending == 0 and self._last < self._reserved:
            self._deliver(Batch([self.number(*note)], [], [], []))
        else:
            self.put(note)

    def stop(self) -> None:
        """Finish what is queued, give back the unused numbers and end the thread. Blocks until it has ended."""
        self._queue.put(None)
        self._thread.join()

    def number(self, kind: str, data: bytes, instance: str | None, session: str | None, turn: str | None) -> Event:
        """Make the next event. In the writer's thread, but see `note`."""
        self._last += 1
        return Event(self._last, self._clock.now(), kind, msgspec.Raw(data), instance, session, turn)

    def _work(self) -> None:
        going = True
        while going:
            items: list[Write | Note] = []
            item = self._queue.get()
            while item is not None:
                items.append(item)
                if len(items) >= BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
            going = item is not None
            if items:
                batch = self._run(items)
                with suppress(RuntimeError):  # the loop was closed before the store: nobody is left to be told
                    self._loop.call_soon_threadsafe(self._arrived, batch, len(items))
        self._give_back()
        self.connection.close()

    def _arrived(self, batch: Batch, count: int) -> None:
        self._pending -= count
        self._deliver(batch)

    def _run(self, items: list[Write | Note]) -> Batch:
        """Do one batch; never raises."""
        batch = Batch([], [], [], [])
        notes: list[Event] = []
        try:
            self._fill(items, batch, notes)
            self._commit()
        except Exception as error:
            with suppress(sqlite3.Error):
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
            return self._failed(items, notes, error)
        try:
            point("store.commit.after")
        except Exception as error:
            return batch._replace(answers=[Answer(w.future, None, self._told(error)) for w in items if isinstance(w, Write)])
        return batch

    def _fill(self, items: list[Write | Note], batch: Batch, notes: list[Event]) -> None:
        for item in items:
            if isinstance(item, Note):
                event = self.number(*item)
                notes.append(event)
                batch.events.append(event)
            else:
                self._write(item, batch)

    def _write(self, write: Write, batch: Batch) -> None:
        execute = self.connection.execute
        if not self.connection.in_transaction:
            execute("BEGIN IMMEDIATE")
        execute("SAVEPOINT one")
        tx = Tx(self)
        try:
            result = write.run(tx)
        except BaseException as error:
            if not self.connection.in_transaction:
                raise  # SQLite has thrown away the work of the whole batch
            execute("ROLLBACK TO one")
            execute("RELEASE one")
            batch.answers.append(Answer(write.future, None, storage_error(error, self._path) if is_storage_error(error) else error))
        else:
            execute("RELEASE one")
            batch.answers.append(Answer(write.future, result, None))
            batch.events.extend(tx.events)
            batch.callbacks.extend(tx.callbacks)
        finally:
            tx.end()

    def _commit(self) -> None:
        reserve = self._reserved
        if self._last > self._reserved:
            reserve = self._last + BLOCK
            if not self.connection.in_transaction:
                self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute("UPDATE meta SET value = ? WHERE name = 'reserved'", (str(reserve),))
        if self.connection.in_transaction:
            point("store.commit.before")
            self.connection.execute("COMMIT")
        self._reserved = reserve

    def _failed(self, items: list[Write | Note], notes: list[Event], error: Exception) -> Batch:
        log.warning("a batch of %d writes failed: %s", len(items), error)
        shown = [event for event in notes if event.seq <= self._reserved]
        lost = [event for event in notes if event.seq > self._reserved]
        return Batch(shown, [], [Answer(w.future, None, self._told(error)) for w in items if isinstance(w, Write)], lost)

    def _told(self, error: Exception) -> AegisError:
        """A fresh error for each caller: one exception raised in many tasks would collect all their tracebacks."""
        told = storage_error(error, self._path)
        told.__cause__ = error
        return told

    def _give_back(self) -> None:
        """After a clean end there is no gap. If this fails there is one, and no harm."""
        with suppress(sqlite3.Error):
            self.connection.execute("UPDATE meta SET value = ? WHERE name = 'reserved'", (str(self._last),))
