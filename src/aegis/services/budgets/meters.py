"""What was used in one place: for its whole life, and in windows that roll.

A window is kept in sixty buckets, so that a look at it costs the same however much was used. What was used counts until its bucket
has left the window, a sixtieth longer than it must at most. A clock that is set back makes nothing free: the buckets are read anew,
and what lies in the future then counts as used now.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from aegis.services.budgets.money import Used

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: A sum stays below this whatever is added to it.
_TOP: Final = 4 * 10**18
_BUCKETS: Final = 60
#: The clock may go back by so many seconds without a word.
_SLACK: Final = 1.0


class Rolling:
    """What was used within the last `window` seconds. `past` reads it from the disk."""

    def __init__(self, window: float, past: Callable[[float, float], Iterable[tuple[float, Used]]], now: float) -> None:
        self.window = window
        self.width = max(1.0, window / _BUCKETS)
        self._past = past
        self._reload(now)

    def _reload(self, now: float) -> None:
        self._buckets: deque[list[int]] = deque()  # index, and an amount of each kind
        self.usd = self.tokens = self.output = 0
        self._seen = now
        self._leaves = math.inf  # when the oldest leaves
        self._moved = False  # something lay in the future; its own time may come yet
        for ts, used in sorted(self._past(now - self.window - self.width, self.window), key=lambda each: each[0]):
            self._moved |= ts > now
            self._put(min(ts, now), used)
        self._drop(now)

    def look(self, now: float) -> None:
        """Let go of what has left the window by now."""
        if now < self._seen - _SLACK or (self._moved and now >= self._leaves):
            self._reload(now)
        elif now >= self._leaves:
            self._drop(now)
        self._seen = max(self._seen, now)

    def add(self, now: float, used: Used) -> None:
        """Something was used now."""
        self.look(now)
        self._put(max(now, self._seen), used)

    def frees(self, now: float, kind: int, enough: int) -> float | None:
        """When no more than `enough` of a kind is counted any more, if nothing is used until then; None for less than nothing."""
        if enough < 0:
            return None
        self.look(now)
        left = (self.usd, self.tokens, self.output)[kind]
        moment = now
        for bucket in self._buckets:
            if left <= enough:
                break
            left -= bucket[kind + 1]
            moment = self._end(bucket[0])
        return moment

    def _end(self, index: int) -> float:
        return (index + 1) * self.width + self.window

    def _put(self, ts: float, used: Used) -> None:
        index = int(ts // self.width)
        if not self._buckets or self._buckets[-1][0] < index:
            self._buckets.append([index, 0, 0, 0])
            if len(self._buckets) == 1:
                self._leaves = self._end(index)
        bucket = self._buckets[-1]
        bucket[1] += used.usd
        bucket[2] += used.tokens
        bucket[3] += used.output
        self.usd += used.usd
        self.tokens += used.tokens
        self.output += used.output

    def _drop(self, now: float) -> None:
        buckets = self._buckets
        while buckets and self._end(buckets[0][0]) <= now:
            _, usd, tokens, output = buckets.popleft()
            self.usd -= usd
            self.tokens -= tokens
            self.output -= output
        self._leaves = self._end(buckets[0][0]) if buckets else math.inf


class Meter:
    """One place, such as an instance or the home: what was used in it and what is kept for calls under way."""

    __slots__ = (
        "_past",
        "held_output",
        "held_tokens",
        "held_usd",
        "output",
        "pending",
        "rolling",
        "scope",
        "short",
        "subject",
        "tokens",
        "usd",
    )

    def __init__(self, scope: str, subject: str, life: Used, past: Callable[[float, float], Iterable[tuple[float, Used]]]) -> None:
        self.scope = scope
        self.subject = subject
        self.usd, self.tokens, self.output = life
        self.held_usd = self.held_tokens = self.held_output = 0
        self.short = 0  # calls under way for which less is kept than they could use
        self.rolling: dict[float, Rolling] = {}
        self.pending: list[tuple[float, Used]] = []  # used, and perhaps not on disk yet
        self._past = past

    @property
    def place(self) -> tuple[str, str]:
        """Its name."""
        return self.scope, self.subject

    @property
    def held(self) -> Used:
        """What is kept for calls under way."""
        return Used(self.held_usd, self.held_tokens, self.held_output)

    def spent(self, window: float | None, now: float) -> Used:
        """What was used within a window, or ever."""
        if window is None:
            return Used(self.usd, self.tokens, self.output)
        rolling = self._rolling(window, now)
        rolling.look(now)
        return Used(rolling.usd, rolling.tokens, rolling.output)

    def frees(self, window: float | None, now: float, kind: int, enough: int) -> float | None:
        """When no more than `enough` is counted; None when that does not come by itself."""
        return None if window is None else self._rolling(window, now).frees(now, kind, enough)

    def reserve(self, amount: Used, *, short: bool = False) -> None:
        """Keep something; `short` when that is less than the call could use."""
        self.short += short
        self.held_usd += amount.usd
        self.held_tokens += amount.tokens
        self.held_output += amount.output

    def release(self, amount: Used, *, short: bool = False) -> None:
        """Give back what was kept."""
        self.short -= short
        self.held_usd -= amount.usd
        self.held_tokens -= amount.tokens
        self.held_output -= amount.output

    def charge(self, now: float, used: Used) -> None:
        """Something was used."""
        self.usd = min(_TOP, self.usd + used.usd)
        self.tokens = min(_TOP, self.tokens + used.tokens)
        self.output = min(_TOP, self.output + used.output)
        for rolling in self.rolling.values():
            rolling.add(now, used)
        self.pending.append((now, used))

    def written(self, ts: float, used: Used) -> None:
        """What was charged then is on disk."""
        if (ts, used) in self.pending:
            self.pending.remove((ts, used))

    def _rolling(self, window: float, now: float) -> Rolling:
        rolling = self.rolling.get(window)
        if rolling is None:
            rolling = self.rolling[window] = Rolling(window, self._known, now)
        return rolling

    def _known(self, since: float, window: float) -> list[tuple[float, Used]]:
        return [*self._past(since, window), *self.pending]
