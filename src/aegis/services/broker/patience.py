"""How long a provider that fails is tried, whatever the program's own rules are.

Programs try a failed call again: some for seconds, some for ever, most without a word. So each failure is told to who watches, and
a session whose calls have failed for `PATIENCE` seconds, without one that worked in between, is told so in the way that every
program takes as final. After a long rest the next failure is the first again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from aegis.services.broker.refusals import NO_RETRY, Refusal

#: For how long failures are passed on as such, in seconds.
PATIENCE: Final = 120.0
#: Without a call for so long, in seconds, earlier failures are forgotten.
_REST: Final = 300.0
#: Sessions whose failures are remembered.
_MOST: Final = 1024


class _Streak(msgspec.Struct):
    """Failures without a call that worked. Times are monotonic."""

    since: float
    last: float
    count: int = 0


class GivenUp(NamedTuple):
    """The end of trying: what the program is answered, and why, for people."""

    answer: Refusal
    why: str


class Patience:
    """The failures of every session."""

    def __init__(self) -> None:
        self._streaks: OrderedDict[tuple[str, str | None], _Streak] = OrderedDict()

    def failed(self, key: tuple[str, str | None], now: float) -> int:
        """A call of this session failed at `now`; returns how many did so in a row."""
        streak = self._streaks.get(key)
        if streak is None or now - streak.last > _REST:
            streak = self._streaks[key] = _Streak(now, now)
        streak.last = now
        streak.count += 1
        self._streaks.move_to_end(key)
        if len(self._streaks) > _MOST:
            self._streaks.popitem(last=False)
        return streak.count

    def over(self, key: tuple[str, str | None], provider: str, said: str) -> GivenUp | None:
        """What ends the program's trying, once that has lasted too long. `said` is what went wrong last."""
        streak = self._streaks.get(key)
        if streak is None or streak.last - streak.since < PATIENCE:
            return None
        seconds = streak.last - streak.since
        why = f"model provider `{provider}` has failed {streak.count} times in {seconds:.0f} s, the last time so: {said}"
        # Gone: no program tries that again, unless it finds a number or a word of the cause in the text. So the cause is for people.
        refusal = Refusal(410, f"model provider `{provider}` fails again and again; nothing more is tried", headers=(NO_RETRY,))
        return GivenUp(refusal, why)

    def worked(self, key: tuple[str, str | None]) -> None:
        """A call of this session was answered."""
        self._streaks.pop(key, None)
