"""A budget as a person sets it: a new one, or another value of one that there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.services.budgets.model import SCOPES, UNPRICED, Budget
from aegis.services.budgets.money import MICRO, MOST, dollars, micro
from aegis.services.budgets.reading import window
from aegis.services.config.bounds import LEAST_WINDOW, MAX_TOKENS
from aegis.services.config.kinds import NAME

_CAPS: Final = ("usd", "tokens", "output_tokens")
_Given = msgspec.UnsetType


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /v1/budgets/{name}: what is to be otherwise; null takes a value away. `window` is seconds, or such as `5h`."""

    scope: str | None = None
    agent: str | None = None
    project: str | None = None
    usd: float | str | msgspec.UnsetType | None = msgspec.UNSET
    tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    output_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    window: float | str | msgspec.UnsetType | None = msgspec.UNSET
    warn: float | None = None
    unpriced: str | None = None


def merged(name: str, known: Budget | None, wish: Wish) -> Budget:
    """The budget that a wish makes of a known one, or a new one. Raises USAGE that says what is wrong."""
    budget = known if known is not None else _new(name, wish)
    if known is not None and wish.scope not in (None, known.scope):
        raise _wrong(f"the budget `{name}` has the scope `{known.scope}`", f"remove it first: `aegis budget remove {name}`")
    changes: dict[str, Any] = {"set_by_hand": True}
    for key, value in (("agent", wish.agent), ("project", _directory(wish.project))):
        if value is not None:
            if known is not None and getattr(known, key) != value:
                raise _wrong(f"the budget `{name}` is about something else", f"remove it first: `aegis budget remove {name}`")
            changes[key] = value
    if not isinstance(wish.usd, _Given):
        changes["usd"] = _usd(wish.usd)
    for key, count in (("tokens", wish.tokens), ("output_tokens", wish.output_tokens)):
        if not isinstance(count, _Given):
            if count is not None and not 0 < count <= MAX_TOKENS:
                raise _wrong(f"{key}={count} is no bound", f"a whole number from 1 to {MAX_TOKENS}")
            changes[key] = count
    if not isinstance(wish.window, _Given):
        changes["window"] = _window(wish.window)
    if wish.warn is not None:
        if not 0 < wish.warn <= 1:
            raise _wrong(f"warn={wish.warn} is no part of a budget", "over 0, at most 1, such as 0.8")
        changes["warn"] = wish.warn
    if wish.unpriced is not None:
        if wish.unpriced not in UNPRICED:
            raise _wrong(f"{one_line(wish.unpriced, 40)!r} is not known", f"one of {', '.join(UNPRICED)}")
        changes["unpriced"] = wish.unpriced
    budget = msgspec.structs.replace(budget, **changes)
    if not any(cap is not None for cap in budget.caps):
        raise _wrong(f"the budget `{name}` bounds nothing", "give `usd`, `tokens` or `output_tokens`")
    return _checked(budget)


def _new(name: str, wish: Wish) -> Budget:
    if not NAME.fullmatch(name):
        raise _wrong(f"{one_line(name, 80)!r} cannot name a budget", "letters, digits, `_` and `-`, 63 at most; `@HANDLE` for an instance")
    scope = wish.scope or ("agent" if wish.agent else "project" if wish.project else "home")
    if scope not in SCOPES:
        raise _wrong(f"{one_line(scope, 40)!r} is not a scope", f"one of {', '.join(SCOPES)}")
    return Budget(name=name, scope=scope)  # type: ignore[arg-type]


def _checked(budget: Budget) -> Budget:
    if budget.agent is not None and budget.scope in ("home", "project"):
        raise _wrong(f"a budget of a whole {budget.scope} is of every agent in it", "with an agent, take scope agent, instance or session")
    if budget.project is not None and budget.scope == "home":
        raise _wrong("a budget of the whole home is of every project", "with a project, take another scope")
    return budget


def _directory(project: str | None) -> str | None:
    if project is None:
        return None
    path = Path(project)
    if not path.is_absolute() or "\x00" in project:
        raise _wrong(f"the project {one_line(project, 80)!r} is not an absolute path", "give the whole path")
    return str(path.resolve())


def _usd(value: float | str | None) -> int | None:
    if value is None:
        return None
    amount = dollars(value) if isinstance(value, str) else micro(value)
    if amount is None or not 0 < amount < MOST:
        raise _wrong(f"{one_line(str(value), 40)} is no amount of dollars", f"such as `1.50`, up to {MOST // MICRO:,}")
    return amount


def _window(value: float | str | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        return window(value)
    if not LEAST_WINDOW <= value <= 366 * 86_400:
        raise _wrong(f"{value} seconds are no window", "from 1 second to 366 days")
    return float(value)


def _wrong(message: str, hint: str) -> AegisError:
    return AegisError(ErrorKind.USAGE, message, hint)
