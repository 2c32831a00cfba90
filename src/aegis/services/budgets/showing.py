"""A budget as the API shows it: what it bounds, and in each place what was spent, what is reserved, whether it is in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aegis.services.budgets import keeping
from aegis.services.budgets.accounts import blocking, subjects
from aegis.services.budgets.money import KINDS, MICRO, Used

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.core.clock import Clock
    from aegis.services.budgets.accounts import Account
    from aegis.services.budgets.model import Budget, Lineage
    from aegis.services.budgets.service import Budgets
    from aegis.store import Store

#: The most places of one budget that are shown.
_MOST: Final = 200
_ANY: Final = Used(1, 1, 1)


class Showing:
    """Shows budgets."""

    def __init__(self, budgets: Budgets, store: Store, clock: Clock) -> None:
        self._budgets = budgets
        self._store = store
        self._clock = clock

    def show(self, budget: Budget, living: Iterable[tuple[Lineage, ...]]) -> dict[str, Any]:
        """All about a budget; `living` are the lineages of all instances."""
        places = [self.place(self._budgets.account(budget, subject)) for subject in self._subjects(budget, living)]
        states = [place["state"] for place in places]
        return {
            "name": budget.name,
            "scope": budget.scope,
            "agent": budget.agent,
            "project": budget.project,
            "instance": self._budgets.handle_of(budget.instance) if budget.instance is not None else None,
            **_amounts(budget.caps),
            "window": budget.window,
            "warn": budget.warn,
            "unpriced": budget.unpriced,
            "source": "set by a person" if budget.set_by_hand else budget.source,
            "by_hand": budget.set_by_hand,
            "state": next((word for word in ("blocked", "warned") if word in states), "ok"),
            "places": places,
        }

    def place(self, account: Account) -> dict[str, Any]:
        """A budget in one place. Dollars are dollars here; `unblock_at` is in wall seconds, None where it does not free by itself."""
        budget, meter = account
        now = self._clock.now()
        spent = meter.spent(budget.window, now)
        blocked = blocking([account], now, _ANY, self._budgets.subject)
        warned = any(cap is not None and spent[kind] >= cap * budget.warn for kind, cap in enumerate(budget.caps))
        moments = [each.unblock_at for each in blocked]
        return {
            "budget": budget.name,
            "subject": self._budgets.subject(account),
            "spent": _amounts(spent),
            "reserved": _amounts(meter.held),
            "limit": _amounts(budget.caps),
            "window": budget.window,
            "unpriced_calls": keeping.unpriced(self._store, *meter.place),
            "state": "blocked" if blocked else "warned" if warned else "ok",
            "unblock_at": None if not moments or None in moments else max(m for m in moments if m is not None),
            "blocked_by": [each.told() for each in blocked],
        }

    def _subjects(self, budget: Budget, living: Iterable[tuple[Lineage, ...]]) -> list[str]:
        """The places in which a budget counts anything now."""
        if budget.scope == "home":
            return [""]
        found: dict[str, None] = {}
        known = set(keeping.subjects(self._store, "session")) if budget.scope == "session" else set()
        for lineage in living:
            talks: list[str | None] = [s.partition(" ")[2] for s in known if s.startswith(f"{lineage[0].instance} ")]
            for session in talks or [None]:
                own = (lineage[0]._replace(session=session), *lineage[1:])
                found.update(dict.fromkeys(subjects(budget, own)))
        if budget.scope == "project" and budget.project is not None:
            found[budget.project] = None
        if budget.scope == "agent" and budget.agent is not None:
            found[budget.agent if budget.project is None else f"{budget.agent} in {budget.project}"] = None
        return list(found)[:_MOST]


def _amounts(of: Iterable[int | None]) -> dict[str, float | int | None]:
    """Amounts by their names, dollars as such."""
    amounts: dict[str, float | int | None] = dict(zip(KINDS, of, strict=True))
    usd = amounts["usd"]
    return amounts | {"usd": usd / MICRO if usd is not None else None}
