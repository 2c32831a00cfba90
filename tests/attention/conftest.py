"""A house whose attention runs, on a clock that the test moves, with channels that write down what they were given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.agents.conftest import OWNER, Bench, bench, open_bench, program

from aegis.core.errors import AegisError
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.config import NotifyDefinition
from aegis.services.config.telling import NOTICES
from aegis.services.mail import Draft

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from aegis.core.envelopes import Receipt
    from aegis.services.agents import Instance
    from aegis.services.attention import Notice

__all__ = ["OWNER", "Bench", "bench", "open_bench", "program"]


class Told:
    """Channels that only remember."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.notices: list[list[Notice]] = []
        self.error: AegisError | None = None
        self.gate: asyncio.Event | None = None  # what they wait for

    async def desktop(self, text: str, notices: Sequence[Notice]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.texts.append(text)
        self.notices.append(list(notices))

    async def command(self, argv: Sequence[str], text: str, notices: Sequence[Notice]) -> None:
        await self.desktop(text, notices)


class Watch:
    """A house whose attention runs, and what it told."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.told = Told()
        self.settings = NotifyDefinition(on=list(NOTICES), desktop=True)
        attention = bench.house.attention
        attention._channels = self.told  # type: ignore[assignment]
        attention._settings = lambda: self.settings
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self.bench.house.attention.run())

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, condition: Callable[[], bool], step: float = 0.25) -> None:
        """Let time pass until something is so."""
        async with asyncio.timeout(30):
            while not condition():
                await self.bench.clock.advance(step)
                await asyncio.sleep(0.003)

    async def passes(self, seconds: float) -> None:
        """Let time pass, in steps, so that everybody who waits has his turn."""
        for _ in range(int(seconds / 0.5)):
            await self.bench.clock.advance(0.5)
            await asyncio.sleep(0.003)

    async def from_agent(self, sender: Instance, to: Instance, text: str) -> Receipt:
        """A message from one instance to another."""
        draft = Draft(instance=to.id, session="host:default", text=text)
        return await self.bench.house.mail.accept(Principal(PrincipalKind.INSTANCE, sender.id), draft)


@pytest.fixture
async def watch(bench: Bench) -> AsyncIterator[Watch]:
    """Attention at work."""
    watching = Watch(bench)
    watching.begin()
    yield watching
    await watching.end()
