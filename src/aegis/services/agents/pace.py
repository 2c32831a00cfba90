"""How fast a program may fill the log: what it says faster waits, and with it the program.

A turn that says much is not cut for it; nobody but the program has to wait. What is bounded is how fast a program that floods its
host fills the disk and takes the daemon's time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aegis.core.clock import Clock

#: A fact costs one, and one more for each so many bytes.
_BYTES: Final = 32 * 1024
#: What may be said in a rush, and in a second in the long run.
RUSH: Final = 5_000.0
PER_SECOND: Final = 100.0
#: What a turn costs that a program begins by itself, and a request for leave: each leaves several rows.
TURN: Final = 100.0
REQUEST: Final = 5.0


class Pace:
    """The pace of one conversation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = RUSH
        self._at = clock.monotonic()

    async def spend(self, cost: float) -> None:
        """Return when there is room for something of this cost."""
        now = self._clock.monotonic()
        self._left = min(RUSH, self._left + (now - self._at) * PER_SECOND) - cost
        self._at = now
        if self._left < 0:
            await self._clock.sleep(-self._left / PER_SECOND)


def cost_of(size: int) -> float:
    """What a fact of so many bytes costs."""
    return 1.0 + size / _BYTES
