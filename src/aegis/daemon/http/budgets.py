"""Routes of budgets: what is bounded, what is left of it, and setting it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.daemon.http.answers import json_response, read_json
from aegis.daemon.http.instances import house, principal
from aegis.services.budgets.model import Budget
from aegis.services.budgets.setting import Wish, merged
from aegis.services.budgets.showing import Showing

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from aegis.daemon.wiring import House
    from aegis.services.budgets.model import Lineage

BudgetState = Literal["ok", "warned", "blocked"]
BudgetScope = Literal["home", "project", "agent", "instance", "session"]


class Amounts(TypedDict):
    """US dollars, tokens of prompts and answers, tokens of answers; None where nothing is bounded."""

    usd: float | None
    tokens: int | None
    output_tokens: int | None


class BlockedBy(TypedDict):
    """What stands in the way. Amounts are micro-dollars or tokens; `unblock_at` is None where it does not free by itself."""

    name: str
    scope: BudgetScope
    subject: str
    kind: Literal["usd", "tokens", "output_tokens"]
    spent: int
    reserved: int
    limit: int
    window: float | None
    unblock_at: float | None
    reason: str
    raise_with: str


class BudgetPlace(TypedDict):
    """A budget in one place it applies to. `subject` is a handle, a directory or the name of an agent; times are epoch seconds."""

    budget: str
    subject: str
    spent: Amounts
    reserved: Amounts
    limit: Amounts
    window: float | None
    unpriced_calls: int
    state: BudgetState
    unblock_at: float | None
    blocked_by: list[BlockedBy]


class BudgetInfo(TypedDict):
    """A budget, where it is declared, and all the places it applies to now. `window` is in seconds, None for the whole life."""

    name: str
    scope: BudgetScope
    agent: str | None
    project: str | None
    instance: str | None
    usd: float | None
    tokens: int | None
    output_tokens: int | None
    window: float | None
    warn: float
    unpriced: Literal["dearest", "refuse"]
    source: str
    by_hand: bool
    state: BudgetState
    places: list[BudgetPlace]


async def index(request: Request) -> Response:
    """GET /v1/budgets?instance: all, or those that an instance's calls count in."""
    parts = house(request)
    parts.budgets.look()
    name = request.query_params.get("instance")
    if name:
        instance = parts.registry.get(name)
        mine = {account.budget.name for account in parts.budgets.accounts(instance.id, "host:default")}
        lineages = [tuple(parts.budgets.lineage(instance.id, "host:default"))]
        return json_response([_showing(parts).show(budget, lineages) for budget in parts.budgets.all() if budget.name in mine])
    return json_response([shown(parts, budget) for budget in parts.budgets.all()])


async def show(request: Request) -> Response:
    """GET /v1/budgets/{name}"""
    parts = house(request)
    parts.budgets.look()
    return json_response(shown(parts, _get(parts, request.path_params["name"])))


async def put(request: Request) -> Response:
    """PUT /v1/budgets/{name}: a new one, or another value of one that there is, whatever declares it."""
    wish = await read_json(request, Wish)
    parts = house(request)
    parts.budgets.look()
    name = _full(parts, request.path_params["name"])
    known = next((budget for budget in parts.budgets.all() if budget.name == name), None)
    if known is None and name.startswith("@"):
        instance = parts.registry.get(name[1:])
        known = Budget(name=f"@{instance.handle}", scope="instance", instance=instance.id)
    budget = merged(name, known, wish)
    decision = await parts.gate.check(principal(request), "budget.set", budget.name, budget=_brief(budget))
    await parts.budgets.put(budget, lambda tx: parts.gate.write(tx, decision))
    return json_response(shown(parts, budget))


async def remove(request: Request) -> Response:
    """DELETE /v1/budgets/{name}: what was set by hand goes; what a file declares under that name is in force again."""
    parts = house(request)
    parts.budgets.look()
    budget = _get(parts, request.path_params["name"])
    declared = parts.budgets.in_file(budget.name)
    if parts.budgets.by_hand(budget.name) is None:
        raise AegisError(
            ErrorKind.CONFLICT,
            f"the budget `{budget.name}` comes from {budget.source}, and is not set by hand",
            f"change it there; `aegis budget set {budget.name}` puts another value over it",
        )
    decision = await parts.gate.check(principal(request), "budget.remove", budget.name)
    await parts.budgets.remove(budget.name, lambda tx: parts.gate.write(tx, decision))
    return json_response({"name": budget.name, "status": "deleted", "declared": declared.source if declared is not None else None})


class Removed(TypedDict):
    """What was removed; `declared` says where a file declares the same name, which counts again."""

    name: str
    status: Literal["deleted"]
    declared: str | None


def shown(parts: House, budget: Budget) -> dict[str, Any]:
    """A budget for the API."""
    return _showing(parts).show(budget, _lineages(parts))


def _showing(parts: House) -> Showing:
    return Showing(parts.budgets, parts.store, parts.clock)


def _lineages(parts: House) -> list[tuple[Lineage, ...]]:
    return [tuple(parts.budgets.lineage(instance.id, None)) for instance in parts.registry.all() if instance.launch.driver is not None]


def _get(parts: House, name: str) -> Budget:
    name = _full(parts, name)
    found = {budget.name: budget for budget in parts.budgets.all()}
    if name not in found:
        raise unknown_name("budget", name, found, "see `aegis budget list`")
    return found[name]


def _full(parts: House, name: str) -> str:
    """The whole name that a person means: one of a project without its directory, where there is one such."""
    names = [budget.name for budget in parts.budgets.all()]
    if name in names:
        return name
    near = [each for each in names if each.startswith(f"{name}@")]
    return near[0] if len(near) == 1 else name


def _brief(budget: Budget) -> dict[str, Any]:
    return {
        "scope": budget.scope, "usd_micro": budget.usd, "tokens": budget.tokens, "output_tokens": budget.output_tokens,
        "window": budget.window, "agent": budget.agent, "project": budget.project,
    }  # fmt: skip
