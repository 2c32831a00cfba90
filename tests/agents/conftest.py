"""A whole daemon inside the test's own process, without its HTTP face, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aegis.core.clock import ManualClock
from aegis.core.principals import Principal, PrincipalKind
from aegis.daemon.wiring import House, build
from aegis.services.agents.launching import StartRequest
from aegis.services.mail import Draft

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from aegis.core.envelopes import Receipt
    from aegis.core.events import TurnFinished
    from aegis.services.agents import Instance

OWNER = Principal(PrincipalKind.PERSON, "tester")


class Bench:
    """The parts and the few verbs that the tests here need."""

    def __init__(self, house: House, clock: ManualClock) -> None:
        self.house = house
        self.clock = clock

    async def start(self, handle: str = "a", **request: object) -> Instance:
        """Start an instance, by default the native agent on the scripted model without a boundary."""
        wanted = StartRequest(**({"handle": handle, "sandbox": "process", "model": "scripted/directives"} | request))  # type: ignore[arg-type]
        return await self.house.agents.create(OWNER, wanted.handle, await self.house.launching.resolve(wanted))

    async def send(self, instance: Instance, text: str, session: str = "host:default", **draft: object) -> Receipt:
        """Put a message into a mailbox."""
        return await self.house.mail.accept(OWNER, Draft(instance=instance.id, session=session, text=text, **draft))  # type: ignore[arg-type]

    async def answer(self, receipt: Receipt, skip_cut: bool = True) -> TurnFinished:
        """The end of the turn that deals with a message; real time passes, the clock of the house does not."""
        async with asyncio.timeout(30):
            async for event in self.house.store.subscribe(after=receipt.seq - 1):
                if event.type == "turn.finished":
                    fact: TurnFinished = event.fact  # type: ignore[assignment]
                    if receipt.id in fact.in_reply_to and not (skip_cut and (fact.error or {}).get("will_continue")):
                        return fact
        raise AssertionError("the log ended")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait in real time until something is so."""
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def open_bench(short_home: Path) -> AsyncIterator[Callable[[], Awaitable[Bench]]]:
    """Open the home, again and again if a test wants to see a new daemon on it."""
    opened: list[House] = []

    async def open_() -> Bench:
        short_home.mkdir(mode=0o700, exist_ok=True)
        clock = ManualClock()
        house = await build(short_home, clock)
        opened.append(house)
        await house.agents.open()
        return Bench(house, clock)

    yield open_
    for house in opened:
        await house.close()


@pytest.fixture
async def bench(open_bench: Callable[[], Awaitable[Bench]]) -> Bench:
    """An open home."""
    return await open_bench()
