"""What takes minutes, on a clock that runs faster: a dead model, and a limit that ends while nobody looks. With each real program."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.agents.conftest import Bench
from tests.kit.clis import cli
from tests.programs.conftest import DIALECTS, each

from aegis.daemon.wiring import build
from aegis.services.broker.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.kit.model_server import ModelServer

    from aegis.core.envelopes import Receipt
    from aegis.core.events import TurnFinished
    from aegis.services.agents import Instance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: How much faster the clock of the house is than that of the programs.
RATE = 5.0


class Quick:
    """A clock that runs faster, and over whole spans when told to."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._wall = time.time()
        self._more = 0.0
        self._skipped = asyncio.Event()

    def now(self) -> float:
        return self._wall + self.monotonic()

    def monotonic(self) -> float:
        return (time.monotonic() - self._began) * RATE + self._more

    async def sleep(self, seconds: float) -> None:
        end = self.monotonic() + seconds
        while (left := end - self.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left / RATE):
                    await self._skipped.wait()

    def skip(self, seconds: float) -> None:
        """So many seconds pass at once."""
        self._more += seconds
        self._skipped.set()
        self._skipped = asyncio.Event()


class Bed:
    """A house of this process with a real program in it."""

    def __init__(self, bench: Bench, clock: Quick, program: str, server: ModelServer, workspace: Path) -> None:
        self.bench = bench
        self.clock = clock
        self.program = program
        self.server = server
        self._workspace = workspace

    async def start(self, handle: str = "a", model: str = "loop/directives") -> Instance:
        wanted = {"sandbox": "bwrap", "provider": self.program, "model": model, "workspace": str(self._workspace)}
        return await self.bench.start(handle, **wanted)


@pytest.fixture(params=[each(name, name in ("claude-code", "gemini")) for name in DIALECTS])
async def bed(request: pytest.FixtureRequest, short_home: Path, server: ModelServer, workspace: Path) -> AsyncIterator[Bed]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    program = request.param
    dialect, below = DIALECTS[program]
    path = cli(program)
    short_home.mkdir(mode=0o700)
    (short_home / "config.yaml").write_text(
        f"providers:\n  loop: {{base_url: '{server.url}{below}', dialect: {dialect}}}\n"
        f"  dead: {{base_url: 'http://127.0.0.1:1{below}', dialect: {dialect}}}\n"
        f"programs:\n  {program}: {{path: '{path}'}}\n"
    )
    clock = Quick()
    house = await build(short_home, clock)
    await house.agents.open()
    timers = asyncio.create_task(house.timers.run())
    yield Bed(Bench(house, clock), clock, program, server, workspace)  # type: ignore[arg-type]
    timers.cancel()
    await asyncio.gather(timers, return_exceptions=True)
    await house.close()


async def ended(bed: Bed, receipt: Receipt, skip_cut: bool = True) -> TurnFinished:
    """The end of the turn that deals with a message, by way of its continuations if `skip_cut`."""
    async with asyncio.timeout(100):
        async for event in bed.bench.house.store.subscribe(after=receipt.seq - 1):
            fact: Any = event.fact
            if (
                event.type == "turn.finished"
                and receipt.id in fact.in_reply_to
                and not (skip_cut and (fact.error or {}).get("will_continue"))
            ):
                return fact  # type: ignore[no-any-return]
    raise AssertionError("the log ended")


async def told(bed: Bed, kind: str) -> Any:
    """The first ephemeral fact of a kind that comes."""
    async for event in bed.bench.house.store.subscribe(after=0):
        if event.type == kind:
            return event.fact
    raise AssertionError("the log ended")


@pytest.mark.parametrize(("bed", "how"), [("claude-code", "500"), ("opencode", "500"), ("gemini", "refused")], indirect=["bed"])
async def test_a_dead_model_ends_the_turn(bed: Bed, how: str) -> None:
    """No turn hangs for as long as its program likes: after two minutes without an answer it ends, and says why."""
    a = await bed.start(model="loop/directives" if how == "500" else "dead/directives")
    bed.server.fault(times=10_000, status=500)
    receipt = await bed.bench.send(a, "[[say hello]]")
    async with asyncio.timeout(60):
        assert (await told(bed, "turn.retrying")).attempt
    bed.clock.skip(PATIENCE)
    end = await ended(bed, receipt)
    assert end.outcome == "failed"
    assert end.error is not None
    assert "has failed" in end.error["error"], end
    assert ("fault 500" if how == "500" else "no answer from model provider `dead`") in end.error["error"], end
    await bed.bench.until(lambda: bed.bench.house.agents.activity(a).word == "idle")
    if how == "500":
        bed.server.mend()
        fine = await ended(bed, await bed.bench.send(a, "[[say fine]]"))
        assert (fine.outcome, fine.text.strip()) == ("completed", "fine")


async def test_it_goes_on_by_itself_when_a_limit_ends(bed: Bed) -> None:
    a, b = await bed.start("a"), await bed.start("b")
    bed.server.fault(times=10_000, status=429, headers={"retry-after": "36000"})
    first = await bed.bench.send(a, "[[say at last]]")
    cut = await ended(bed, first, skip_cut=False)
    assert cut.outcome == "limited"
    second = await bed.bench.send(b, "[[say me too]]")
    assert bed.bench.house.agents.activity(a).word == bed.bench.house.agents.activity(b).word == "limited"
    bed.server.mend()
    bed.clock.skip(36_100)
    ends = [await ended(bed, receipt) for receipt in (first, second)]
    assert [end.outcome for end in ends] == ["completed", "completed"]
    assert [end.text.strip() for end in ends] == ["at last", "me too"]
