"""The kinds of value a key may have: each reads one node strictly or says at which place what is wrong with it.

Sizes and durations always carry a unit; text is text (a number must be quoted); nothing is guessed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from aegis.core.text import one_line
from aegis.services.config.model import MountDefinition, SecretUse

if TYPE_CHECKING:
    from aegis.core.errors import AegisError
    from aegis.services.config.document import Node

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,126}")
PROVIDER: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
MODEL: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}/[!-~]{1,200}")

_SIZE: Final = re.compile(r"([0-9]{1,12})([KMGT])i?B?")
_SIZES: Final = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_DURATIONS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MAX_MEMORY: Final = 2**50


class Kind(Protocol):
    """What a value may be. `form` describes it in the key reference."""

    @property
    def form(self) -> str: ...

    def read(self, node: Node) -> Any:
        """The typed value; raises a usage error with the node's place."""
        ...


def wrong(node: Node, expected: str, hint: str = "") -> AegisError:
    """The error for a node that is not what its key wants."""
    match node.value:
        case None:
            found = "nothing"
        case bool():
            found = str(node.value).lower()
        case list():
            found = "a list"
        case dict():
            found = "a mapping"
        case _:
            found = f"`{one_line(str(node.value), 60)}`"
    return node.place.error(f"{found} is not {expected}", hint)


@dataclass(frozen=True, slots=True)
class Text:
    """Any text of at least one character; with `pattern`, a text of that shape."""

    form: str = "text"
    pattern: re.Pattern[str] | None = None
    limit: int = 4096

    def read(self, node: Node) -> str:
        if isinstance(node.value, (bool, int, float)):
            raise wrong(node, self.form, "put it in quotes if it is meant as text")
        if not isinstance(node.value, str) or not node.value.strip() or "\x00" in node.value:
            raise wrong(node, self.form)
        if len(node.value) > self.limit:
            raise node.place.error(f"longer than {self.limit:,} characters")
        if self.pattern is not None and not self.pattern.fullmatch(node.value):
            raise wrong(node, self.form)
        return node.value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a closed set of words."""

    words: tuple[str, ...]

    @property
    def form(self) -> str:
        return " or ".join(f"`{word}`" for word in self.words)

    def read(self, node: Node) -> str:
        if not isinstance(node.value, str) or node.value not in self.words:
            raise wrong(node, self.form)
        return node.value


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false`."""

    form: str = "`true` or `false`"

    def read(self, node: Node) -> bool:
        if not isinstance(node.value, bool):
            raise wrong(node, self.form)
        return node.value


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    least: int = 1
    most: int = 1_000_000_000

    @property
    def form(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def read(self, node: Node) -> int:
        if isinstance(node.value, bool) or not isinstance(node.value, int) or not self.least <= node.value <= self.most:
            raise wrong(node, self.form)
        return node.value


@dataclass(frozen=True, slots=True)
class Number:
    """A number over 0, `most` at the highest."""

    most: float = 4096.0

    @property
    def form(self) -> str:
        return f"a number over 0, at most {self.most:g}"

    def read(self, node: Node) -> float:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            raise wrong(node, self.form)
        if not math.isfinite(node.value) or not 0 < node.value <= self.most:
            raise wrong(node, self.form)
        return float(node.value)


@dataclass(frozen=True, slots=True)
class Size:
    """An amount of memory with a unit; the value is in bytes."""

    form: str = "a size with a unit, such as `512M` or `2G` (K, M, G and T are powers of 1024)"

    def read(self, node: Node) -> int:
        found = _SIZE.fullmatch(node.value) if isinstance(node.value, str) else None
        size = int(found[1]) * _SIZES[found[2]] if found else 0
        if not 0 < size <= MAX_MEMORY:
            raise wrong(node, self.form)
        return size


@dataclass(frozen=True, slots=True)
class Duration:
    """A time with a unit; the value is in seconds. Zero only where `zero`."""

    form: str = "a time with a unit, such as `500ms`, `60s`, `5m`, `1h` or `2d`"
    zero: bool = False

    def read(self, node: Node) -> float:
        found = _DURATION.fullmatch(node.value) if isinstance(node.value, str) else None
        if not found:
            raise wrong(node, self.form)
        seconds = float(found[1]) * _DURATIONS[found[2]]
        if seconds == 0 and not self.zero:
            raise wrong(node, "a time over zero")
        if seconds > 366 * 86400:
            raise wrong(node, "a time of at most 366 days")
        return seconds


@dataclass(frozen=True, slots=True)
class Mounts:
    """A list of paths, or of mappings `path`, `target`, `writable`."""

    form: str = "a list of paths or of mappings `{path, target, writable}`"

    def read(self, node: Node) -> list[MountDefinition]:
        return [self._one(item) for item in items(node, self.form)]

    def _one(self, node: Node) -> MountDefinition:
        text = Text("a path")
        if isinstance(node.value, str):
            return MountDefinition(text.read(node))
        if not isinstance(node.value, dict):
            raise wrong(node, "a path or a mapping `{path, target, writable}`")
        for key, place in node.keys.items():
            if key not in ("path", "target", "writable"):
                raise place.error(f"unknown key `{one_line(key)}` in a mount", "known: `path`, `target`, `writable`")
        if "path" not in node.value:
            raise node.place.error("a mount without `path`")
        target = node.value.get("target")
        inside = Text("an absolute path").read(target) if target else None
        if target and inside is not None and not inside.startswith("/"):
            raise wrong(target, "an absolute path")
        writable = node.value.get("writable")
        return MountDefinition(text.read(node.value["path"]), inside, Flag().read(writable) if writable else False)


@dataclass(frozen=True, slots=True)
class Secrets:
    """A list of `NAME` (for the brokers of the daemon alone) or `NAME:env` (shown to the agent as a variable)."""

    form: str = "a list of secret names, each `NAME` or `NAME:env`"

    def read(self, node: Node) -> list[SecretUse]:
        uses: list[SecretUse] = []
        for item in items(node, self.form):
            name, colon, how = item.value.partition(":") if isinstance(item.value, str) else ("", "", "")
            if not VARIABLE.fullmatch(name) or (colon and how != "env"):
                raise wrong(item, "`NAME` or `NAME:env`")
            if any(use.name == name for use in uses):
                raise item.place.error(f"the secret `{name}` is there twice")
            uses.append(SecretUse(name, exposed=how == "env"))
        return uses


def items(node: Node, expected: str) -> list[Node]:
    """The members of a list; what is none is refused."""
    if not isinstance(node.value, list):
        raise wrong(node, expected)
    return node.value
