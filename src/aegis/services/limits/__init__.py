"""Limits: model providers that give no more for now.

When a provider says that a plan is used up, every agent that uses it would only run into the same wall. So the provider is held, by
name, for the whole home: until the time it told, or, when it told none, for a minute, and twice as long each time it still refuses.
A hold is a row and a timer, so it outlives the daemon. Who waits and goes on afterwards is the business of the agents service,
which is told by `on_free`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.events import InstanceLimited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aegis.core.clock import Clock
    from aegis.store import Store, Timer, Timers, Tx

__all__ = ["FIRST_HOLD", "LAST_HOLD", "LONGEST", "ProviderLimits"]

#: How long a provider is held that named no time, in seconds: at first, and at most.
FIRST_HOLD: Final = 60.0
LAST_HOLD: Final = 3600.0
#: A time further away than this, in seconds, counts as none that was told: no limit lasts longer, and a server or a program that names
#: one must not end the work of everybody else.
LONGEST: Final = 40 * 86_400.0
_TIMER: Final = "limits.provider"


class _Hold(msgspec.Struct, frozen=True):
    """A row of `provider_limits`. `since` is when it was hit, as far as this daemon knows; times are wall seconds."""

    until: float
    told: bool
    hits: int
    since: float


class ProviderLimits:
    """Owner of the table `provider_limits` and of the event `instance.limited`."""

    def __init__(self, store: Store, clock: Clock, timers: Timers) -> None:
        self._store = store
        self._clock = clock
        self._timers = timers
        self._lock = asyncio.Lock()
        self._holds: dict[str, _Hold] = {}
        #: The ids of the instances that use a provider, which are told when it is held; set by the wiring.
        self.users: Callable[[str], Iterable[str]] = lambda _provider: ()
        #: Called in the event loop when a provider is held or held longer.
        self.on_held: Callable[[str], None] = lambda _provider: None
        #: Called in the event loop when a provider may be asked again.
        self.on_free: Callable[[str], None] = lambda _provider: None
        timers.on(_TIMER, self._over)

    def load(self) -> None:
        """Read the rows; called once at start."""
        rows = self._store.read(lambda db: db.execute("SELECT provider, until, told, hits FROM provider_limits").fetchall())
        self._holds = {provider: _Hold(until, bool(told), hits, self._clock.now()) for provider, until, told, hits in rows}

    def held(self, provider: str) -> float | None:
        """Until when a provider is held, in wall seconds; None when it may be asked."""
        hold = self._holds.get(provider)
        return hold.until if hold is not None and hold.until > self._clock.now() else None

    def waited(self, provider: str) -> float:
        """How long the last hold of a provider lasts or lasted, in seconds; 0 for one that never was held."""
        hold = self._holds.get(provider)
        return max(0.0, hold.until - hold.since) if hold is not None else 0.0

    async def hit(self, provider: str, *, until: float | None, reason: str) -> float:
        """A provider refused to give more: hold it, until the time it told where it told one that is to come. Returns until when.

        One that is held already is not held longer because others ran into the same limit, only when it names another time.
        """
        async with self._lock:
            now, hold = self._clock.now(), self._holds.get(provider)
            told = until is not None and now < until <= now + LONGEST
            held = hold is not None and hold.until > now
            if hold is not None and held and (not told or until == hold.until or (hold.told and (until or 0.0) < hold.until)):
                return hold.until
            hits = (hold.hits if hold is not None else 0) + (0 if held else 1)
            end = until if told and until is not None else now + min(FIRST_HOLD * 2 ** (min(hits, 16) - 1), LAST_HOLD)
            fact, users = InstanceLimited(provider, end, reason, told), list(self.users(provider))

            def store(tx: Tx) -> None:
                tx.execute(
                    "INSERT INTO provider_limits (provider, until, reason, told, hits) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (provider) DO UPDATE SET until = excluded.until, reason = excluded.reason, "
                    "told = excluded.told, hits = excluded.hits",
                    (provider, end, reason, int(told), hits),
                )
                self._timers.set(tx, _TIMER, provider, end)
                for instance in users:
                    tx.append(fact, instance=instance)

            await self._store.write(store)
            self._holds[provider] = _Hold(end, told, hits, now)
        self.on_held(provider)
        return end

    async def worked(self, provider: str, began: float) -> None:
        """A turn that began at `began` was completed with this provider: if that was after it was hit, its limit is over."""
        hold = self._holds.get(provider)
        if hold is None or began < hold.since:
            return
        async with self._lock:
            if self._holds.get(provider) is not hold:
                return
            await self._store.write(lambda tx: self._forget(tx, provider))
            del self._holds[provider]
        if hold.until > self._clock.now():
            self.on_free(provider)

    async def lift(self, provider: str) -> bool:
        """Let a provider be asked before its time, because a person wants to try. False when it is not held."""
        if self.held(provider) is None:
            return False
        async with self._lock:
            hold, now = self._holds[provider], self._clock.now()

            def store(tx: Tx) -> None:
                tx.execute("UPDATE provider_limits SET until = ? WHERE provider = ?", (now, provider))
                self._timers.cancel(tx, _TIMER, provider)

            await self._store.write(store)
            self._holds[provider] = _Hold(now, hold.told, hold.hits, hold.since)
        self.on_free(provider)
        return True

    def _forget(self, tx: Tx, provider: str) -> None:
        tx.execute("DELETE FROM provider_limits WHERE provider = ?", (provider,))
        self._timers.cancel(tx, _TIMER, provider)

    async def _over(self, timer: Timer) -> None:
        """The time is over. The row stays, so that a provider that still refuses is held longer."""
        hold = self._holds.get(timer.key)
        if hold is None or hold.until <= self._clock.now():
            self.on_free(timer.key)
