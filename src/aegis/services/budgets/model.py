"""The nouns: a budget, what is reserved for a call, what stands in a call's way."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypedDict

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.budgets.money import KINDS, Used, shown

Scope = Literal["home", "project", "agent", "instance", "session"]
SCOPES: Final = ("home", "project", "agent", "instance", "session")

#: What a model whose price nobody knows counts as where dollars are capped: the dearest there is, or not called at all.
UNPRICED: Final = ("dearest", "refuse")


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A bound on what is used in a scope. Money is in micro-dollars, `window` in seconds, None for the whole life.

    `agent` and `project` say where it applies, everywhere without; `instance` is the id of the one that it is about. `name` is unique:
    `@HANDLE` for that of an instance, `NAME@DIRECTORY` for one that a project declares.
    """

    name: str
    scope: Scope
    usd: int | None = None
    tokens: int | None = None
    output_tokens: int | None = None
    window: float | None = None
    warn: float = 0.8
    unpriced: str = "dearest"
    agent: str | None = None
    project: str | None = None
    instance: str | None = None
    source: str = ""  # where it is declared, for people
    set_by_hand: bool = False  # by a verb, not by a file

    @property
    def caps(self) -> tuple[int | None, int | None, int | None]:
        """The caps in the order of `Used`."""
        return self.usd, self.tokens, self.output_tokens


class Lineage(NamedTuple):
    """One instance of a call: its own, and those that spawned it. `session` is the conversation that it belongs to, if any."""

    instance: str
    agent: str
    project: str | None
    session: str | None


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """One budget that stands in the way. `kind` is among `KINDS`; amounts are micro-dollars or tokens; times wall seconds."""

    name: str
    scope: str
    subject: str
    kind: str
    spent: int
    reserved: int
    limit: int
    window: float | None
    unblock_at: float | None
    reason: str = "spent"  # or "unpriced", "too large"
    raise_with: str = ""

    def text(self) -> str:
        """One line for people."""
        within = f" in {span(self.window)}" if self.window is not None else ""
        of = f"{self.scope} {self.subject}".strip()
        if self.reason == "unpriced":
            return f"budget `{self.name}` ({of}) is in dollars, and nobody knows the price of this model"
        if self.reason == "too large":
            return f"one call uses more than all of budget `{self.name}` ({of}), which is {shown(self.kind, self.limit)}{within}"
        held = f" ({shown(self.kind, self.reserved)} more are reserved by calls under way)" if self.reserved else ""
        return f"budget `{self.name}` ({of}) is used up: {shown(self.kind, self.spent)} of {shown(self.kind, self.limit)}{within}{held}"

    def told(self) -> dict[str, Any]:
        """For programs."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


class Reservation(msgspec.Struct):
    """What is kept for a call until it is settled. `worst` is what it could use, `taken` what was kept: all that was left, if less."""

    call: str
    ts: float
    model: str
    free: bool
    worst: Used
    taken: Used
    meters: list[Any]
    instance: str
    session: str | None


class Charge(msgspec.Struct, frozen=True):
    """What a call used, to be written down. `unpriced`: its price was not known; `opened`: it was on disk as under way."""

    call: str
    ts: float
    used: Used
    unpriced: bool
    places: tuple[tuple[str, str], ...]
    opened: bool = False


class BudgetBrief(TypedDict):
    """One bound of a budget that an instance's calls count in. Amounts are dollars or tokens; `window` is in seconds.

    `acts` says when it stops: at each `call`, or between `turns` where the program has its own login and tells itself what it used.
    """

    name: str
    scope: str
    subject: str
    kind: str
    spent: float
    limit: float
    window: float | None
    state: str
    unblock_at: float | None
    acts: str


def refusal(blocked: list[Blocked]) -> AegisError:
    """The error that names every budget in the way. `resets_at` is when the last of them frees, None when one never does."""
    moments = [each.unblock_at for each in blocked]
    frees = None if None in moments else max(m for m in moments if m is not None)
    hints = dict.fromkeys(each.raise_with for each in blocked if each.raise_with)
    return AegisError(
        ErrorKind.LIMIT,
        "; ".join(each.text() for each in blocked),
        f"a person can raise it: {' and '.join(f'`{hint}`' for hint in hints)}" if hints else "see `aegis budget list`",
        limit="budget",
        resets_at=frees,
        unblock_at=frees,
        budgets=[each.told() for each in blocked],
    )


def span(seconds: float | None) -> str:
    """A window for people: `5h`, `7d`, `90s`; `life` for none."""
    if seconds is None:
        return "life"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def command(budget: Budget, kind: str, handle: str | None = None) -> str:
    """The command by which a person raises a cap."""
    option = {"usd": "--usd AMOUNT", "tokens": "--tokens N", "output_tokens": "--output-tokens N"}[kind]
    if budget.instance is not None:
        return f"aegis budget set --instance {handle or budget.name.removeprefix('@')} {option}"
    return f"aegis budget set {budget.name} {option}"


__all__ = ["KINDS", "SCOPES", "UNPRICED", "Blocked", "Budget", "Charge", "Lineage", "Reservation", "Scope", "command", "refusal", "span"]
