"""Budgets over a real store, with a clock that a test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aegis.core.clock import ManualClock
from aegis.models import Usage
from aegis.services.broker.model import Call
from aegis.services.budgets import Budget, Budgets, Lineage
from aegis.store import Store

#: A model whose price is known: 4 dollars per million tokens in (5 written to the cache, 8 for an hour), 20 out.
MODEL = "anthropic/claude-opus-5-5"


@dataclass
class Purse:
    """Budgets and what the tests see of them."""

    store: Store
    clock: ManualClock
    declared: list[Budget] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)
    freed: list[str] = field(default_factory=list)
    calls: int = 0

    def __post_init__(self) -> None:
        self.budgets = self.new()

    def new(self) -> Budgets:
        """Budgets as a daemon that has just started has them."""
        budgets = Budgets(self.store, self.clock)
        budgets.declared = lambda: list(self.declared)
        budgets.lineage = self.lineage
        budgets.on_free = self.freed.extend
        return budgets

    def lineage(self, instance: str, session: str | None) -> list[Lineage]:
        found = [Lineage(instance, "coder", "/p", session)]
        while (parent := self.parents.get(found[-1].instance)) is not None:
            found.append(Lineage(parent, "lead", "/p", "host:default"))
        return found

    def declare(self, *budgets: Budget) -> None:
        """Put budgets into force."""
        self.declared = list(budgets)
        self.budgets.look()

    def call(self, instance: str = "i1", session: str | None = "host:default", **fields: Any) -> Call:
        """A call that wants to be made."""
        self.calls += 1
        given = {"model": MODEL, "input_estimate": 10, "max_tokens": 1000, "stream": True} | fields
        return Call(
            id=f"call_{self.calls}", instance=instance, session=session, dialect="anthropic", path="/v1/messages",
            started_at=self.clock.now(), **given,
        )  # fmt: skip

    async def admit(self, call: Call, *, free: bool = False) -> Any:
        """Have a call admitted, and that put on disk."""
        held = await self.budgets.admit(call, session=call.session, free=free)
        if held is not None:
            await self.store.write(lambda tx: self.budgets.opened(tx, held))
        return held

    async def settle(self, call: Call, usage: Usage | None, *, outcome: Any = "completed", cost: float | None = None) -> None:
        """The end of a call, on disk."""
        call.usage, call.outcome, call.cost_usd = usage, outcome, cost
        call.status = 200
        self.budgets.settle(call)
        settlement = self.budgets.settlement(call.instance, call.session, None)
        await self.store.write(settlement.write)

    async def use(self, tokens: int = 0, output: int = 0, *, instance: str = "i1", **fields: Any) -> None:
        """A whole call that used so much."""
        call = self.call(instance, **({"input_estimate": 0} | fields))
        await self.admit(call)
        await self.settle(call, Usage(input=tokens, output=output))

    def spent(self, scope: str, subject: str = "", window: float | None = None) -> Any:
        return self.budgets.account(Budget(name="x", scope=scope, tokens=1), subject).meter.spent(window, self.clock.now())  # type: ignore[arg-type]


@pytest.fixture
async def purse(tmp_path: Path) -> AsyncIterator[Purse]:
    clock = ManualClock()
    store = await Store.open(tmp_path / "aegis.db", clock)
    try:
        found = Purse(store, clock)
        await found.budgets.open()
        yield found
        await found.budgets.close()
    finally:
        await store.close()
