"""What a server says of its tools, as a model takes it.

One definition that a provider refuses would cost the session every model call. So of a schema only what every dialect takes is kept:
known words with values of their kind, objects at the top, a bounded size. What is left out only makes it looser: the server checks
the arguments itself.
"""

from __future__ import annotations

from aegis.guest.agent.mcp import one_line
from aegis.tether.jsontext import dumps_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    Schema = dict[str, Any]

#: The longest name of a tool, and the most characters of a description of a tool and of an argument.
NAME, ABOUT, _NOTE = 64, 4000, 1000
_DEPTH, _NODES, _BYTES = 12, 1000, 24 * 1024
_TYPES = frozenset({"string", "integer", "number", "boolean", "object", "array", "null"})
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_DEFS = ("$defs", "definitions")


def clean(name: str) -> str:
    """A name with nothing but what a name of a tool may hold."""
    return "".join(c if c in _LETTERS else "_" for c in name)


def named(server: str, tool: str, taken: Collection[str], *, own: bool = False) -> str | None:
    """What the model calls a tool: `SERVER__TOOL`, or as much of it as fits, with a number that tells it from those that are like it.

    Only tools of Aegis's `own` server keep a name of theirs that begins with `aegis_`, and only they have names like that. None when
    the name is taken.
    """
    if own and tool.startswith("aegis_") and clean(tool) == tool and len(tool) <= NAME:
        return None if tool in taken else tool
    prefix = clean(server)
    prefix = f"mcp_{prefix}" if not own and prefix.lower().startswith("aegis") else prefix
    name = f"{prefix}__{clean(tool)}"
    if len(name) > NAME or name in taken:
        import binascii  # 0.3 ms, for such names only

        number = binascii.crc32(f"{server}\0{tool}".encode("utf-8", "replace"))
        name = f"{name[: NAME - 9]}_{number:08x}"
    return None if name in taken else name


def about(tool: dict[str, Any]) -> str:
    """What the model is told that a tool does."""
    told = tool.get("description") or tool.get("title") or ""
    told = told.strip() if isinstance(told, str) else ""
    return (told if len(told) <= ABOUT else told[:ABOUT] + " [...]") or f"The tool {one_line(str(tool['name']), 100)}."


def parameters(given: Any) -> Schema:
    """The schema of a tool's arguments."""
    empty: Schema = {"type": "object", "properties": {}}
    if not isinstance(given, dict):
        return empty
    made = _Maker(given).top()
    try:
        return (
            made if len(dumps_text(made)) <= _BYTES else {**empty, "description": "The schema of the arguments is too large to be shown."}
        )
    except (ValueError, TypeError, RecursionError):
        return empty


class _Maker:
    """One schema in the making."""

    def __init__(self, given: Schema) -> None:
        self._given = given
        self._nodes = 0
        self._known = {f"#/{place}/{name}" for place in _DEFS if isinstance(given.get(place), dict) for name in given[place]}

    def top(self) -> Schema:
        """The whole: an object, with nothing but its properties at the top."""
        made = self.node(self._given, 0)
        for word in ("$ref", "anyOf", "oneOf", "allOf", "enum", "const", "items", "format"):
            made.pop(word, None)
        made["type"] = "object"
        made.setdefault("properties", {})
        for place in _DEFS:
            if isinstance(self._given.get(place), dict):
                made[place] = {str(name): self.node(one, 1) for name, one in self._given[place].items()}
        return made

    def node(self, given: Any, depth: int) -> Schema:
        """A schema with the known words of it."""
        self._nodes += 1
        if not isinstance(given, dict) or depth > _DEPTH or self._nodes > _NODES:
            return {}
        if (ref := given.get("$ref")) is not None:
            return {"$ref": ref} if isinstance(ref, str) and ref in self._known else {}
        made: Schema = {word: value for word, value in given.items() if word in _PLAIN and _PLAIN[word](value)}
        for word in ("title", "description"):
            if word in made:
                made[word] = made[word][:_NOTE]
        self._parts(given, made, depth)
        return made

    def _parts(self, given: Schema, made: Schema, depth: int) -> None:
        """The words whose values are schemas themselves."""
        if isinstance(given.get("properties"), dict):
            properties = {n: one for n, one in given["properties"].items() if n and len(n) <= NAME and _LETTERS.union(".").issuperset(n)}
            made["properties"] = {name: self.node(one, depth + 1) for name, one in properties.items()}
        if "required" in made:
            there = made.get("properties", {})
            made["required"] = list(dict.fromkeys(name for name in made["required"] if name in there))
            if not made["required"]:
                del made["required"]
        if isinstance(given.get("items"), dict):
            made["items"] = self.node(given["items"], depth + 1)
        elif made.get("type") == "array":
            made["items"] = {}  # some providers insist on it
        extra = given.get("additionalProperties")
        if isinstance(extra, bool):
            made["additionalProperties"] = extra
        elif isinstance(extra, dict):
            made["additionalProperties"] = self.node(extra, depth + 1)
        for word in ("anyOf", "oneOf", "allOf"):
            if isinstance(given.get(word), list) and given[word] and all(isinstance(one, dict) for one in given[word]):
                made[word] = [self.node(one, depth + 1) for one in given[word]]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _type(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and len(set(map(str, value))) == len(value) and all(isinstance(one, str) and one in _TYPES for one in value)
    return isinstance(value, str) and value in _TYPES


def _values(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 500 and all(one is None or isinstance(one, str | int | float) for one in value)


#: The words whose values stand as they are, and what these must be.
_PLAIN: dict[str, Callable[[Any], bool]] = {
    "type": _type,
    "title": _text,
    "description": _text,
    "enum": _values,
    "const": lambda value: value is None or isinstance(value, str | int | float),
    "required": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "format": _text,
    "pattern": lambda value: isinstance(value, str) and len(value) <= 500,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    "multipleOf": lambda value: _number(value) and value > 0,
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _count),
    "uniqueItems": lambda value: isinstance(value, bool),
    "default": lambda value: value is None or isinstance(value, str | int | float),
}  # fmt: skip
