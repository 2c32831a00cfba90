"""A whole daemon inside the test's own process, without its HTTP face, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.agents.programs import Program

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


async def _nothing(*_: object) -> None:
    """The program of the test needs no login."""


class Bench:
    """The parts and the few verbs that the tests here need."""

    def __init__(self, house: House, clock: ManualClock) -> None:
        self.house = house
        self.clock = clock

    async def start(self, handle: str = "a", **request: object) -> Instance:
        """Start an instance, by default the native agent on the scripted model without a boundary."""
        wanted = StartRequest(**({"handle": handle, "sandbox": "process", "model": "scripted/directives"} | request))  # type: ignore[arg-type]
        return await self.house.agents.create(OWNER, wanted.handle, await self.house.launching.resolve(wanted))

    async def launch(self, handle: str = "a", **changes: object) -> Instance:
        """Start an instance whose agent is the program of the test."""
        wanted = StartRequest(handle=handle, sandbox="process", model="scripted/directives")
        if changes.get("auth") == "login":
            self.house.agents._world.logins.enter = _nothing  # type: ignore[method-assign]
        launch = msgspec.structs.replace(await self.house.launching.resolve(wanted), **({"driver": "fake"} | changes))
        return await self.house.agents.create(OWNER, handle, launch)

    def facts(self, *types: str) -> list[Any]:
        """The durable facts of these types, oldest first."""
        return [event.fact for event in self.house.store.events(0, types=types, limit=1000).events]

    async def send(self, instance: Instance, text: str, session: str = "host:default", **draft: object) -> Receipt:
        """Put a message into a mailbox."""
        return await self.house.mail.accept(OWNER, Draft(instance=instance.id, session=session, text=text, **({"hold": True} | draft)))  # type: ignore[arg-type]

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
def program() -> Program:
    """The program that instances started by `Bench.launch` run. It outlives every daemon."""
    return Program()


@pytest.fixture
async def open_bench(short_home: Path, request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], Awaitable[Bench]]]:
    """Open the home, again and again if a test wants to see a new daemon on it."""
    opened: list[House] = []

    async def open_() -> Bench:
        short_home.mkdir(mode=0o700, exist_ok=True)
        clock = ManualClock()
        house = await build(short_home, clock)
        if "program" in request.fixturenames:
            house.agents._world.drivers["fake"] = request.getfixturevalue("program")  # type: ignore[index]
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
