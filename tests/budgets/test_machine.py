"""Any order of admissions, ends, crashes and clocks that are set: no cap is exceeded at an admission, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.budgets.conftest import Purse

from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError
from aegis.models import Usage
from aegis.services.budgets import Budget
from aegis.store import Store

LIFE = Budget(name="life", scope="home", tokens=20_000, usd=150_000)
HOUR = Budget(name="hour", scope="agent", tokens=5000, window=3600.0)
ROOT = Budget(name="@i1", scope="instance", instance="i1", output_tokens=3000)


class Money(RuleBasedStateMachine):
    """One home; `used` is what the test knows of it."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aegis-"))
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.store = self.run(Store.open(self.folder / "aegis.db", self.clock))
        self.purse = Purse(self.store, self.clock, [LIFE, HOUR, ROOT], {"i2": "i1"})
        self.run(self.purse.budgets.open())
        self.flying: list[Any] = []
        self.tokens = 0
        self.log: list[tuple[float, int]] = []

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @rule(instance=st.sampled_from(["i1", "i2", "i3"]), size=st.integers(0, 3000), answer=st.integers(1, 3000), count=st.integers(1, 4))
    def admit(self, instance: str, size: int, answer: int, count: int) -> None:
        calls = [self.purse.call(instance, input_estimate=size, max_tokens=answer) for _ in range(count)]

        async def together() -> list[Any]:
            tasks = [asyncio.ensure_future(self.purse.admit(call)) for call in calls]
            for _ in range(4):
                await asyncio.sleep(0)
            for task, call in zip(tasks, calls, strict=True):
                if call.id not in self.purse.budgets._held:
                    task.cancel()  # it waits for others, or was refused
            return await asyncio.gather(*tasks, return_exceptions=True)

        before = len(self.flying)
        for call, result in zip(calls, self.run(together()), strict=True):
            if not isinstance(result, BaseException):
                self.flying.append(call)
            else:
                assert isinstance(result, AegisError | asyncio.CancelledError), result
        if len(self.flying) == before:
            return  # nothing was admitted; a clock that was set back may show more than there was at an admission
        for budget, subject in ((LIFE, ""), (HOUR, "coder"), (ROOT, "i1")):
            meter = self.purse.budgets.account(budget, subject).meter
            spent = meter.spent(budget.window, self.clock.now())
            for cap, used, held in zip(budget.caps, spent, meter.held, strict=True):
                assert cap is None or not held or used + held <= cap

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), cost=st.sampled_from([None, float("nan"), -1.0, 0.001]))
    def end(self, data: st.DataObject, cost: float | None) -> None:
        call = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        held = self.purse.budgets._held[call.id]
        given = data.draw(st.integers(0, max(0, held.taken.tokens - held.taken.output)))
        written = data.draw(st.integers(0, held.taken.output))
        self.run(self.purse.settle(call, Usage(input=given, output=written), cost=cost))
        self._count(given + written)

    @rule()
    def crash(self) -> None:
        for call in self.flying:
            self._count(self.purse.budgets._held[call.id].taken.tokens)
        self.flying.clear()
        self.run(self.purse.budgets.close())
        self.run(self.store.close())
        self.store = self.purse.store = self.run(Store.open(self.folder / "aegis.db", self.clock))
        self.purse.budgets = self.purse.new()
        self.run(self.purse.budgets.open())

    @rule(seconds=st.integers(-5000, 5000))
    def set_clock(self, seconds: int) -> None:
        self.clock.jump(seconds)

    def _count(self, tokens: int) -> None:
        self.tokens += tokens
        self.log.append((self.clock.now(), tokens))

    @invariant()
    def nothing_is_forgotten(self) -> None:
        if not hasattr(self, "purse"):
            return
        now = self.clock.now()
        budgets = self.purse.budgets
        assert budgets.account(LIFE, "").meter.spent(None, now).tokens == self.tokens
        assert budgets.account(LIFE, "").meter.held.tokens == sum(budgets._held[call.id].taken.tokens for call in self.flying)
        # What was used within the last hour, or seems to be yet to come, is counted; a little more may be.
        rolling = budgets.account(HOUR, "coder").meter.spent(HOUR.window, now).tokens
        assert sum(tokens for ts, tokens in self.log if ts > now - 3600) <= rolling <= self.tokens

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.purse.budgets.close())
            self.run(self.store.close())
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=8, stateful_step_count=20, deadline=None)
