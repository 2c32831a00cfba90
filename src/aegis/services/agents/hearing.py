"""Whether a program that has a turn is still heard of.

Nobody outside can tell a program that hangs from one that thinks. What is told is only what is known: a program that has said nothing for
long, runs no tool, asks no model and waits for no person may be doing anything, so what it does is `unknown`. It is not ended for that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aegis.core.events import ToolCall, ToolResult
from aegis.drivers import Happened, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.drivers import DriverEvent
    from aegis.services.agents.life import Life

#: So long, in seconds, a program with a turn may say nothing; longer, where its model calls cannot be seen.
SILENCE: Final = 60.0
LOGIN_SILENCE: Final = 300.0


class Hearing:
    """What is heard of one program. `waits` tells whether it waits for a person."""

    def __init__(self, life: Life, session: str, waits: Callable[[], bool]) -> None:
        #: It has a turn, and nothing tells that it works on it.
        self.silent = False
        self._life = life
        self._session = session
        self._waits = waits
        self._clock = life.world.clock
        self._at = 0.0
        self._tools: set[str] = set()
        self._sound = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """It has a turn from here on."""
        self.end()
        self._at = self._clock.monotonic()
        self._task = asyncio.create_task(self._listen(), name=f"listening to {self._session} of {self._life.instance.handle}")

    def end(self) -> None:
        """It has none any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._tools.clear()
        self._say(False)

    def heard(self, event: DriverEvent) -> None:
        """It said something."""
        self._at = self._clock.monotonic()
        for fact in event.facts if isinstance(event, Record) else [event.fact] if isinstance(event, Happened) else []:
            if isinstance(fact, ToolCall):
                self._tools.add(fact.call_id)
            elif isinstance(fact, ToolResult):
                self._tools.discard(fact.call_id)
        self._say(False)
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
                self._say(True)
                await self._sound.wait()

    def _say(self, silent: bool) -> None:
        if silent != self.silent:
            self.silent = silent
            self._life.on_change()
