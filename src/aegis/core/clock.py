"""Time behind one small protocol, so that everything that waits can be tested without waiting.

`now` is wall time for people and records; it may jump. `monotonic` never goes back and is what deadlines use.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Wall time, seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class ManualClock:
    """A clock that moves only when told to. For tests."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._wall = now
        self._mono = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._mono

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._mono + seconds, next(self._order), future))
        await future

    def jump(self, seconds: float) -> None:
        """Move the wall clock alone, as an administrator or NTP would; may be negative."""
        self._wall += seconds

    def due(self, seconds: float) -> bool:
        """Whether somebody sleeps who is to wake in `seconds`: a test that lets them pass waits for that first."""
        return any(at == self._mono + seconds and not future.done() for at, _, future in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, waking sleepers in the order of their deadlines."""
        end = self._mono + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._wall += due - self._mono
            self._mono = due
            if not future.done():
                future.set_result(None)
            for _ in range(5):
                await asyncio.sleep(0)
        self._wall += end - self._mono
        self._mono = end
        for _ in range(5):
            await asyncio.sleep(0)
