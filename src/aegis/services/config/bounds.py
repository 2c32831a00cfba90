"""Budgets as files declare them: the kinds of their keys, and what one layer says of each.

Each layer's budgets stand by themselves: one that a project declares under the name of one of the home's is another one, and both must
allow. So no project loosens what the home bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aegis.services.config.kinds import wrong
from aegis.services.config.model import BudgetDefinition

if TYPE_CHECKING:
    from aegis.services.config.document import Node, Place
    from aegis.services.config.reading import Values

_MICRO: Final = 1_000_000
SCOPES: Final = ("home", "project", "agent", "instance", "session")
#: The least of a window, in seconds.
LEAST_WINDOW: Final = 1.0
MAX_TOKENS: Final = 10**12


@dataclass(frozen=True, slots=True)
class Dollars:
    """An amount of US dollars, as such; `micro_dollars` makes a whole number of it."""

    form: str = "an amount of US dollars over 0, such as `1.50`"

    def read(self, node: Node) -> float:
        value = node.value
        if isinstance(value, str):
            value = _number(value.removeprefix("$"))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value <= 1_000_000_000:
            raise wrong(node, self.form)
        if not micro_dollars(value):
            raise wrong(node, self.form)
        return value


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole."""

    form: str = "a number over 0, at most 1, such as `0.8`"

    def read(self, node: Node) -> float:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value <= 1:
            raise wrong(node, self.form)
        return float(value)


def micro_dollars(usd: float) -> int:
    """Dollars as micro-dollars, rounded down."""
    return int((Decimal(repr(usd)) * _MICRO).to_integral_value(ROUND_FLOOR))


def budgets(values: Values, project: Path | None, base: Path | None) -> list[BudgetDefinition]:
    """What a layer declares; `project` is its directory where it is that of a project. Raises USAGE with the place of what is wrong."""
    found = []
    for name, place in values.names.items():
        head, _, entry = name.partition(".")
        if head == "budgets":
            prefix = f"budgets.{entry}."
            said = {key.removeprefix(prefix): value.value for key, value in values.leaves.items() if key.startswith(prefix)}
            found.append(_budget(entry, place, said, project, base))
    return found


def _budget(name: str, place: Place, said: dict[str, Any], project: Path | None, base: Path | None) -> BudgetDefinition:
    scope = said.setdefault("scope", "project" if project is not None else "home")
    if not {"usd", "tokens", "output_tokens"} & said.keys():
        raise place.error(f"the budget `{name}` bounds nothing", "write `usd`, `tokens` or `output_tokens`")
    if scope == "home" and project is not None:
        raise place.error(
            f"the budget `{name}` of a project cannot bound the whole home", "take another `scope`, or declare it in the home"
        )
    if "project" in said and project is not None:
        raise place.error(f"the budget `{name}` is of this project already", "leave out `project`")
    if "project" in said and scope == "home":
        raise place.error(f"the budget `{name}` bounds the whole home", "with `project`, take another `scope`")
    if "agent" in said and scope in ("home", "project"):
        raise place.error(f"the budget `{name}` bounds a whole {scope}", "with `agent`, take `scope: agent`, `instance` or `session`")
    if "usd" in said:
        said["usd"] = micro_dollars(said["usd"])
    if said.get("window") is not None and said["window"] < LEAST_WINDOW:
        raise place.error(f"the window of the budget `{name}` is too short", f"at least {LEAST_WINDOW:g}s")
    if project is not None:
        said["project"] = said["declared_in"] = str(project)
    elif said.get("project") is not None:
        where = _path(said["project"], base)
        if where is None:
            raise place.error(f"the project of the budget `{name}` is no directory that can be found", "write an absolute path")
        said["project"] = where
    return BudgetDefinition(name=name, source=str(place), **said)


def _path(text: str, base: Path | None) -> str | None:
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        return None
    if not path.is_absolute() and base is None:
        return None
    return str((base / path if base is not None else path).resolve())


def _number(text: str) -> float:
    try:
        return float(text) if text and text[0].isdigit() else math.nan
    except ValueError:
        return math.nan
