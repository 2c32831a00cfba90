"""Which budgets a call counts in, and whether they have room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.services.budgets.model import KINDS, Blocked, Budget, Lineage, command
from aegis.services.budgets.money import Used

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aegis.services.budgets.meters import Meter


#: More than any cap.
_MUCH: Final = 4 * 10**18
_NOTHING: Final = Used()


class Account(NamedTuple):
    """A budget in one of the places it applies to."""

    budget: Budget
    meter: Meter

    @property
    def key(self) -> tuple[str, str]:
        """Its name."""
        return self.budget.name, self.meter.subject


class Wallet(NamedTuple):
    """All that a call of one session of one instance counts in."""

    meters: list[Meter]
    accounts: list[Account]
    smallest: Used  # the smallest cap of each kind


def wallet(meters: list[Meter], accounts: list[Account]) -> Wallet:
    """A wallet of these."""
    caps = zip(*(account.budget.caps for account in accounts), strict=True)
    smallest = [min((cap for cap in kind if cap is not None), default=_MUCH) for kind in caps] or [_MUCH] * 3
    return Wallet(meters, accounts, Used(*smallest))


def places(lineage: Sequence[Lineage]) -> list[tuple[str, str]]:
    """Every place in which a call is counted, each once; the first of the lineage makes it."""
    found: dict[tuple[str, str], None] = {("home", ""): None}
    for each in lineage:
        if each.project is not None:
            found["project", each.project] = None
            found["agent", f"{each.agent} in {each.project}"] = None
        found["agent", each.agent] = None
        found["instance", each.instance] = None
        if each.session is not None:
            found["session", f"{each.instance} {each.session}"] = None
    return list(found)


def subjects(budget: Budget, lineage: Iterable[Lineage]) -> list[str]:
    """The places of its scope in which a budget counts a call of this lineage."""
    if budget.scope == "home":
        return [""]
    found: dict[str, None] = {}
    for each in lineage:
        if budget.instance is not None and each.instance != budget.instance:
            continue
        if budget.project is not None and each.project != budget.project:
            continue
        if budget.agent is not None and each.agent != budget.agent:
            continue
        if budget.scope == "project" and each.project is not None:
            found[each.project] = None
        elif budget.scope == "agent":
            found[each.agent if budget.project is None else f"{each.agent} in {each.project}"] = None
        elif budget.scope == "instance":
            found[each.instance] = None
        elif budget.scope == "session" and each.session is not None:
            found[f"{each.instance} {each.session}"] = None
    return list(found)


def room(accounts: Sequence[Account], now: float) -> tuple[Used, Used]:
    """What is left of every kind beside what is reserved, and beside what is spent alone; negative where a cap is passed."""
    left = [_MUCH] * 3
    bare = [_MUCH] * 3
    for budget, meter in accounts:
        spent = meter.spent(budget.window, now)
        held = (meter.held_usd, meter.held_tokens, meter.held_output)
        for kind, cap in enumerate((budget.usd, budget.tokens, budget.output_tokens)):
            if cap is not None:
                free = cap - spent[kind]
                if free < bare[kind]:
                    bare[kind] = free
                free -= held[kind]
                if free < left[kind]:
                    left[kind] = free
    return Used(*left), Used(*bare)


def blocking(
    accounts: Sequence[Account], now: float, worst: Used, name: Callable[[Account], str], running: Used = _NOTHING
) -> list[Blocked]:
    """Every budget that is used up, `running` counted too. `worst` is what is asked for; of what that has nothing of, no cap matters.

    A budget counts as free again when a tenth of it is left.
    """
    found = []
    for account in accounts:
        budget, meter = account
        spent = meter.spent(budget.window, now)
        for kind, cap in enumerate(budget.caps):
            if cap is None or spent[kind] + running[kind] < cap or not worst[kind]:
                continue
            enough = cap - max(1, cap // 10) - running[kind]
            frees = meter.frees(budget.window, now, kind, max(0, enough))
            found.append(_blocked(account, kind, cap, frees, now, name(account)))
    return found


def unpriced(accounts: Sequence[Account], now: float, name: Callable[[Account], str]) -> list[Blocked]:
    """The budgets in dollars that let nobody call a model of unknown price."""
    return [
        _blocked(account, 0, account.budget.usd, None, now, name(account), "unpriced")
        for account in accounts
        if account.budget.usd is not None and account.budget.unpriced == "refuse"
    ]


def too_large(accounts: Sequence[Account], now: float, least: Used, name: Callable[[Account], str]) -> list[Blocked]:
    """The budgets that are smaller than one call: waiting for them would only use them up again and again."""
    return [
        _blocked(account, kind, cap, None, now, name(account), "too large")
        for account in accounts
        for kind, cap in enumerate(account.budget.caps)
        if cap is not None and least[kind] > cap
    ]


def _blocked(account: Account, kind: int, cap: int, frees: float | None, now: float, subject: str, reason: str = "spent") -> Blocked:
    budget, meter = account
    return Blocked(
        name=budget.name,
        scope=budget.scope,
        subject=subject,
        kind=KINDS[kind],
        spent=meter.spent(budget.window, now)[kind],
        reserved=meter.held[kind],
        limit=cap,
        window=budget.window,
        unblock_at=frees,
        reason=reason,
        raise_with=command(budget, KINDS[kind], subject.partition(" ")[0] if budget.scope == "instance" else None),
    )
