"""Whether a program that has a turn is still heard of.

Nobody outside can tell a program that hangs from one that thinks. What is told is only what is known: a program that has said nothing for
long, runs no tool, asks no model and waits for no person may be doing anything, so what it does is `unknown`. One that stays silent, or
whose calls go round in circles (see `stuck`), is on record as stuck, once for each cause and turn. It is not ended for that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aegis.core.events import ToolCall, ToolResult, TurnStuck
from aegis.drivers import Happened, Record
from aegis.services.agents.stuck import Circles, told

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.drivers import DriverEvent
    from aegis.services.agents.life import Life

#: So long, in seconds, a program with a turn may say nothing; longer, where its model calls cannot be seen.
SILENCE: Final = 60.0
LOGIN_SILENCE: Final = 300.0
#: A silence so many times as long is told as being stuck.
STUCK: Final = 5


class Hearing:
    """What is heard of one program. `waits` tells whether it waits for a person."""

    def __init__(self, life: Life, session: str, waits: Callable[[], bool]) -> None:
        #: It has a turn, and nothing tells that it works on it.
        self.silent = False
        #: Why it looks stuck, in a few words for people; empty while it does not.
        self.note = ""
        self._life = life
        self._session = session
        self._waits = waits
        self._clock = life.world.clock
        self._at = 0.0
        self._tools: set[str] = set()
        self._turn = ""
        self._circles = Circles()
        self._sound = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self, turn: str) -> None:
        """It has a turn from here on."""
        self.end()
        if turn != self._turn:
            self._turn = turn
            self._circles.begin()
        self._at = self._clock.monotonic()
        self._task = asyncio.create_task(self._listen(), name=f"listening to {self._session} of {self._life.instance.handle}")

    def end(self) -> None:
        """It has none any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._tools.clear()
        self._say(False, "")

    def heard(self, event: DriverEvent) -> None:
        """It said something."""
        self._at = self._clock.monotonic()
        for fact in event.facts if isinstance(event, Record) else [event.fact] if isinstance(event, Happened) else []:
            if isinstance(fact, ToolCall):
                self._tools.add(fact.call_id)
            elif isinstance(fact, ToolResult):
                self._tools.discard(fact.call_id)
            if (stuck := self._circles.heard(fact)) is not None:
                self._record(stuck)
        self._say(False, told(self._circles.found) if self._circles.found is not None else "")
        self._sound.set()

    async def _listen(self) -> None:
        instance = self._life.instance
        seconds = LOGIN_SILENCE if instance.launch.auth == "login" else SILENCE
        while True:
            left = self._at + seconds - self._clock.monotonic()
            if left > 0:
                await self._clock.sleep(left)
            elif self._tools or self._waits() or self._life.world.models.busy(instance.id, self._session):
                self._at = self._clock.monotonic()
            else:
                self._sound.clear()
                self._say(True, self.note)
                await self._silence(seconds)

    async def _silence(self, seconds: float) -> None:
        """Return when it says something; tell when it does not for very long, and still has nothing that it could wait for."""
        sound = asyncio.ensure_future(self._sound.wait())
        try:
            patience = asyncio.ensure_future(self._clock.sleep(self._at + STUCK * seconds - self._clock.monotonic()))
            try:
                await asyncio.wait((sound, patience), return_when=asyncio.FIRST_COMPLETED)
            finally:
                patience.cancel()
            if not sound.done():
                stuck = TurnStuck("no sign of life", seconds=STUCK * seconds)
                if self._circles.first(stuck):
                    self._record(stuck)
                self._say(True, told(stuck))
                await sound
        finally:
            sound.cancel()

    def _record(self, stuck: TurnStuck) -> None:
        """Put it on record, behind everything that was said before it."""
        place = {"instance": self._life.instance.id, "session": self._session, "turn": self._turn}
        self._life.world.store.put(lambda tx: tx.append(stuck, **place)).add_done_callback(_missed)

    def _say(self, silent: bool, note: str) -> None:
        if (silent, note) != (self.silent, self.note):
            self.silent, self.note = silent, note
            self._life.on_change()


def _missed(written: asyncio.Future[int]) -> None:
    """A full disk keeps it from being on record; what follows it meets the same."""
    if not written.cancelled():
        written.exception()
