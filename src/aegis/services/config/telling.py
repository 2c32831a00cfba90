"""The kinds of the `notify` keys: a command of the person's own, kinds of notices, hours in which nobody is to be told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.services.config.kinds import items, wrong

if TYPE_CHECKING:
    from aegis.services.config.document import Node

#: What a person can be told, the most pressing first.
NOTICES: Final = ("needs-you", "stuck", "failed", "limited", "done")
_RANGE: Final = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_MOST: Final = 64


class Range(NamedTuple):
    """A part of each day, in minutes after midnight; when `end` is not after `begin` it lies on the next day."""

    begin: int
    end: int


def range_of(text: str) -> Range | None:
    """A range such as `22:00-07:00`; None for what is none. `24:00` is midnight, and no range is empty."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    hours = [int(part) for part in found.groups()]
    begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if hours[1] > 59 or hours[3] > 59 or begin >= 1440 or end > 1440 or begin == end % 1440:
        return None
    return Range(begin, end % 1440)


@dataclass(frozen=True, slots=True)
class Argv:
    """A program and its arguments; none means that there is none."""

    form: str = "a list of texts: a program and its arguments"

    def read(self, node: Node) -> list[str]:
        found: list[str] = []
        for item in items(node, self.form):
            if not isinstance(item.value, str) or "\x00" in item.value or len(item.value) > 4096:
                raise wrong(item, "a text", "put it in quotes if it is meant as text")
            found.append(item.value)
        if len(found) > _MOST:
            raise node.place.error(f"more than {_MOST} arguments")
        if found and not found[0].strip():
            raise node.place.error("the program has no name")
        return found


@dataclass(frozen=True, slots=True)
class Notices:
    """A list of kinds of notices."""

    form: str = f"a list of {', '.join(f'`{word}`' for word in NOTICES)}"

    def read(self, node: Node) -> list[str]:
        found: dict[str, None] = {}
        for item in items(node, self.form):
            if not isinstance(item.value, str) or item.value not in NOTICES:
                raise wrong(item, " or ".join(f"`{word}`" for word in NOTICES))
            found[item.value] = None
        return list(found)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """One range of local time, or a list of them; they may go across midnight."""

    form: str = "a time of day such as `22:00-07:00`, or a list of such"

    def read(self, node: Node) -> list[str]:
        found: list[str] = []
        for item in node.value if isinstance(node.value, list) else [node]:
            if not isinstance(item.value, str) or range_of(item.value) is None:
                raise wrong(item, self.form, "write `HH:MM-HH:MM`; the end may lie on the next day")
            found.append(item.value)
        if len(found) > _MOST:
            raise node.place.error(f"more than {_MOST} ranges")
        return found
