"""From nodes to values: checks a document against the table of keys and gives a flat map from dotted names to typed values.

Every unknown key and every wrong value is a usage error with its place and, where there is one, the nearest valid name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from aegis.core.errors import AegisError, unknown_name
from aegis.core.text import one_line
from aegis.services.config.document import Node, Place, parse_text
from aegis.services.config.keys import ENTRIES, KEYS, PLACEHOLDERS, TREE, Key, Tree
from aegis.services.config.kinds import wrong

if TYPE_CHECKING:
    from collections.abc import Mapping


class Value(NamedTuple):
    """A typed value and where it stands."""

    value: Any
    place: Place


class Values(NamedTuple):
    """What one layer says. `leaves` by dotted name; `names` has every entry (`agents.x`), an empty one too."""

    leaves: dict[str, Value]
    names: dict[str, Place]


def read(root: Node | None, into: Values, at: tuple[str, ...] = ()) -> None:
    """Add what the document `root` says to `into`; `at` is the entry whose body it is, such as `("agents", "reviewer")`."""
    if root is None:
        return
    branch: Tree | Key = TREE
    for depth, part in enumerate(at, start=1):
        assert isinstance(branch, dict)
        branch = _step(branch, part, at[: depth - 1], root.place)
    if at:
        _claim(at, root.place, into)
    _read(root, branch, at, into)


def read_environment(environment: Mapping[str, str]) -> Values:
    """What variables of the daemon's environment say."""
    values = Values({}, {})
    for key in KEYS:
        if key.variable is not None and key.variable in environment:
            node = parse_text(environment[key.variable], f"environment variable {key.variable}")
            values.leaves[key.name] = Value(key.kind.read(node), node.place)
    return values


def _read(node: Node, branch: Tree | Key, at: tuple[str, ...], into: Values) -> None:
    if isinstance(branch, Key):
        into.leaves[".".join(at)] = Value(branch.kind.read(node), node.place)
        return
    if node.value is None:  # `agents:` or `reviewer:` with nothing after it
        return
    if not isinstance(node.value, dict):
        raise wrong(node, f"a mapping, as `{'.'.join(at)}` needs" if at else "a mapping of keys to values")
    for part, child in node.value.items():
        deeper = _step(branch, part, at, node.keys[part])
        here = (*at, part)
        if not branch.keys().isdisjoint(ENTRIES):
            _claim(here, node.keys[part], into)
        _read(child, deeper, here, into)


def _claim(at: tuple[str, ...], place: Place, into: Values) -> None:
    name = ".".join(at)
    if name in into.names:
        raise place.error(f"`{name}` is declared twice", f"the other declaration is at {into.names[name]}: keep one")
    into.names[name] = place


def _step(branch: Tree, part: str, at: tuple[str, ...], place: Place) -> Tree | Key:
    if part in branch and part not in PLACEHOLDERS:
        return branch[part]
    for placeholder, pattern in PLACEHOLDERS.items():
        if placeholder in branch:
            if not pattern.fullmatch(part):
                raise place.error(f"`{one_line(part, 80)}` cannot be a name in `{'.'.join(at)}`", f"a name looks like `{pattern.pattern}`")
            return branch[placeholder]
    raise unknown_key(place, part, at, branch)


def unknown_key(place: Place, part: str, at: tuple[str, ...], branch: Tree) -> AegisError:
    """The error for a key that does not exist, with the nearest one that does."""
    near = unknown_name("key", part, branch)
    inside = f" in `{'.'.join(at)}`" if at else ""
    return place.error(f"unknown key `{one_line(part, 80)}`{inside}", near.hint, nearest=near.data["nearest"])
