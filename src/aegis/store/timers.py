"""Timers that survive a restart.

A timer is a row: when it is due, its kind and a key unique within the kind. It is set and cancelled inside the write of
whoever needs it. The runner sleeps until the earliest is due and hands it to the handler of its kind; it does nothing at all
while there is none. Late timers fire at the start. A timer fires at least once: its row goes with `Timer.done` in the
handler's own write, so that work and end are one commit, or after the handler has returned.

The due time is wall time. Clocks are set; while timers exist the runner looks at the clock at least every `RECHECK` seconds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError
from aegis.core.ids import new_id

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable

    from aegis.core.clock import Clock
    from aegis.store.store import Store
    from aegis.store.writer import Tx

#: How long the runner sleeps at most while a timer exists, in seconds.
RECHECK: Final = 60.0
#: After how many seconds a timer whose handler failed is tried again.
RETRY: Final = 60.0
#: How many handlers run at the same time.
AT_ONCE: Final = 64

log = logging.getLogger(__name__)


class Timer(msgspec.Struct, frozen=True):
    """One timer that fires. `due` is wall time in seconds; `data` is what `Timers.set` was given."""

    id: str
    due: float
    kind: str
    key: str
    data: dict[str, Any]

    def done(self, tx: Tx) -> None:
        """Remove the timer as part of the handler's own write. One set again in the meantime stays."""
        tx.execute("DELETE FROM timers WHERE id = ?", (self.id,))


class Timers:
    """The timers of a home and their runner."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._handlers: dict[str, Callable[[Timer], Awaitable[None]]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def on(self, kind: str, handler: Callable[[Timer], Awaitable[None]]) -> None:
        """Let `handler` have the timers of `kind`. Timers of a kind without handler stay where they are."""
        self._handlers[kind] = handler
        self._changed.set()

    def set(self, tx: Tx, kind: str, key: str, due: float, data: dict[str, Any] | None = None) -> None:
        """Set the timer `key` of `kind`, in place of the one it may have."""
        self._remove(tx, kind, key)
        tx.execute(
            "INSERT INTO timers (id, due, kind, key, data) VALUES (?, ?, ?, ?, ?)",
            (new_id("timer"), due, kind, key, msgspec.json.encode(data or {}).decode()),
        )
        tx.on_commit(self._changed.set)

    def cancel(self, tx: Tx, kind: str, key: str) -> bool:
        """Remove a timer; says whether there was one. A handler that has begun is not stopped."""
        return self._remove(tx, kind, key)

    async def run(self) -> None:
        """Fire timers until cancelled; handlers that run are cancelled with it and fire again at the next start."""
        try:
            while True:
                self._changed.clear()
                for timer in self._store.read(self._due):
                    self._running[timer.id] = asyncio.create_task(self._fire(timer), name=f"timer {timer.kind} {timer.key}")
                await self._rest()
        finally:
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _fire(self, timer: Timer) -> None:
        try:
            await self._handlers[timer.kind](timer)
            await self._store.write(timer.done)
        except Exception:
            log.exception("the timer %s of %s failed and is tried again in %d s", timer.key, timer.kind, RETRY)
            await self._postpone(timer)
        finally:
            del self._running[timer.id]
            self._changed.set()

    async def _postpone(self, timer: Timer) -> None:
        due = self._clock.now() + RETRY
        try:
            await self._store.write(lambda tx: tx.execute("UPDATE timers SET due = ? WHERE id = ?", (due, timer.id)).rowcount)
        except AegisError:  # a full disk must not turn a timer into a busy loop
            await self._clock.sleep(RETRY)

    async def _rest(self) -> None:
        """Sleep until the next timer is due, the clock is to be looked at, or something changed."""
        first = self._store.read(self._first)
        if first is None or len(self._running) >= AT_ONCE:
            await self._changed.wait()
            return
        sleep = asyncio.ensure_future(self._clock.sleep(min(max(0.0, first - self._clock.now()), RECHECK)))
        change = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((sleep, change), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            change.cancel()

    def _waiting(self, connection: sqlite3.Connection, count: int) -> list[Timer]:
        """The `count` earliest timers that have a handler and do not run."""
        if not self._handlers:
            return []
        marks = ", ".join("?" * len(self._handlers))
        rows = connection.execute(
            f"SELECT id, due, kind, key, data FROM timers WHERE kind IN ({marks}) ORDER BY due LIMIT ?",
            (*self._handlers, count + len(self._running)),
        )
        timers = [Timer(i, due, kind, key, msgspec.json.decode(data)) for i, due, kind, key, data in rows if i not in self._running]
        return timers[:count]

    def _due(self, connection: sqlite3.Connection) -> list[Timer]:
        now = self._clock.now()
        return [timer for timer in self._waiting(connection, AT_ONCE - len(self._running)) if timer.due <= now]

    def _first(self, connection: sqlite3.Connection) -> float | None:
        return next((timer.due for timer in self._waiting(connection, 1)), None)

    @staticmethod
    def _remove(tx: Tx, kind: str, key: str) -> bool:
        return tx.execute("DELETE FROM timers WHERE kind = ? AND key = ?", (kind, key)).rowcount > 0
