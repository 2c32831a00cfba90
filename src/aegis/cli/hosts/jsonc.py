"""JSON with comments as text: one member is put in or taken out, every other character stays.

A document is a JSON object; an empty one counts as `{}`. What the program that owns the file would not read is refused with its place.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final, NamedTuple

_SCALAR: Final = re.compile(r"(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.+-])")
_DEEPEST: Final = 200
_UNIT: Final = "  "


class Dialect(NamedTuple):
    """What a program reads besides plain JSON."""

    comments: bool = False
    trailing_commas: bool = False


class Fault(Exception):
    """The text is not what it has to be. Lines and columns count from 1."""

    def __init__(self, text: str, position: int, message: str) -> None:
        self.line = text.count("\n", 0, position) + 1
        self.column = position - (text.rfind("\n", 0, position) + 1) + 1
        super().__init__(f"line {self.line}, column {self.column}: {message}")


class _Node(NamedTuple):
    """A value and where it stands; `members` are those of an object, `None` for anything else."""

    start: int
    end: int
    value: Any
    members: list[_Member] | None = None


class _Member(NamedTuple):
    """One member of an object. `comma` is the place behind the comma that follows it, None where there is none."""

    key: str
    start: int
    node: _Node
    comma: int | None


def load(text: str, dialect: Dialect) -> dict[str, Any]:
    """The document. Raises Fault."""
    found: dict[str, Any] = _document(text, dialect).value
    return found


def put(text: str, path: tuple[str, ...], value: Any, dialect: Dialect) -> str:
    """`text` with `value` at `path`; objects on the way are made. Raises Fault where something else than an object is in the way."""
    newline = "\r\n" if "\r\n" in text else "\n"
    if not _blank(text):
        changed = _put(text, _document(text, dialect), path, value)
        return changed.replace("\r\n", "\n").replace("\n", newline) if newline == "\r\n" else changed
    for key in reversed(path):
        value = {key: value}
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    made = json.dumps(value, indent=_UNIT, ensure_ascii=False) + "\n"
    return mark + made


def drop(text: str, path: tuple[str, ...], dialect: Dialect) -> str:
    """`text` without what is at `path`, and without the object around it when nothing is left in it; unchanged if nothing is there."""
    *around, last = path
    node = _document(text, dialect)
    for key in around:
        member = _member(node, key)
        if member is None:
            return text
        node = member.node
    if node.members is None or _member(node, last) is None:
        return text
    text = _dropped(text, node, last)
    if around:
        outer = _document(text, dialect)
        for key in around[:-1]:
            outer = _held(outer, key).node
        inner = _held(outer, around[-1]).node
        if text[inner.start + 1 : inner.end - 1].strip() == "":
            text = _dropped(text, outer, around[-1])
    return text


def _put(text: str, node: _Node, path: tuple[str, ...], value: Any) -> str:
    key, *rest = path
    if node.members is None:
        raise Fault(text, node.start, f"there has to be an object, for `{key}`")
    member = _member(node, key)
    if member is None:
        for inner in reversed(rest):
            value = {inner: value}
        return _inserted(text, node, key, value)
    if rest:
        return _put(text, member.node, tuple(rest), value)
    indent = _indent(text, member.start)
    return text[: member.node.start] + _rendered(text, value, indent) + text[member.node.end :]


def _inserted(text: str, node: _Node, key: str, value: Any) -> str:
    assert node.members is not None
    inner = text[node.start + 1 : node.end - 1]
    if node.members and "\n" not in inner:  # all on one line
        member = f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
        last = node.members[-1]
        if last.comma is not None:
            return f"{text[: last.comma]} {member},{text[last.comma :]}"
        return f"{text[: last.node.end]}, {member}{text[last.node.end :]}"
    base = _indent(text, node.start)
    indent = _indent(text, node.members[0].start) if node.members else base + _unit(text)
    member = f"\n{indent}{json.dumps(key, ensure_ascii=False)}: {_rendered(text, value, indent)}"
    if node.members:
        last = node.members[-1]
        place = _end_of_line(text, last.comma or last.node.end)
        if last.comma is not None:
            return f"{text[:place]}{member},{text[place:]}"
        return f"{text[: last.node.end]},{text[last.node.end : place]}{member}{text[place:]}"
    if inner.strip() == "":
        return f"{text[: node.start + 1]}{member}\n{base}{text[node.end - 1 :]}"
    place = node.start + 1 + len(inner.rstrip())  # behind the comments
    rest = text[place : node.end - 1]
    return f"{text[:place]}{member}{rest if chr(10) in rest else chr(10) + base}{text[node.end - 1 :]}"


def _dropped(text: str, node: _Node, key: str) -> str:
    assert node.members is not None
    index = max(i for i, member in enumerate(node.members) if member.key == key)
    member = node.members[index]
    start = len(text[: member.start].rstrip())
    end = member.comma or member.node.end
    if len(node.members) == 1:
        rest = text[end : node.end - 1]
        if start == node.start + 1 and rest.strip() == "":
            return text[: node.start + 1] + text[node.end - 1 :]
    elif member.comma is None:
        before = node.members[index - 1]
        assert before.comma is not None
        comma = before.comma - 1
        return text[:comma] + text[comma + 1 : max(start, comma + 1)] + text[end:]
    return text[:start] + text[end:]


def _member(node: _Node, key: str) -> _Member | None:
    """The member that counts: of several with one name the last."""
    return next((member for member in reversed(node.members or []) if member.key == key), None)


def _held(node: _Node, key: str) -> _Member:
    member = _member(node, key)
    assert member is not None
    return member


def _rendered(text: str, value: Any, indent: str) -> str:
    return json.dumps(value, indent=_unit(text), ensure_ascii=False).replace("\n", f"\n{indent}")


def _unit(text: str) -> str:
    """What one level is indented by in this text."""
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return found[1] if found and len(found[1]) <= 8 else _UNIT


def _indent(text: str, position: int) -> str:
    """The white space at the beginning of the line of `position`."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _end_of_line(text: str, position: int) -> int:
    """Behind the comments that follow on the same line."""
    end = position
    while found := re.compile(r"[ \t]*(?:/\*(?:(?!\*/)[^\n])*\*/|//[^\r\n]*)").match(text, end):
        end = found.end()
    return end


def _blank(text: str) -> bool:
    """Whether there is nothing in it, not even a comment."""
    return text.removeprefix("\ufeff").strip() == ""


def _document(text: str, dialect: Dialect) -> _Node:
    reader = _Reader(text, dialect)
    if _blank(text):
        return _Node(0, 0, {}, [])
    reader.skip()
    node = reader.value(0)
    reader.skip()
    if reader.at < len(text):
        raise Fault(text, reader.at, "nothing may follow the object")
    if node.members is None:
        raise Fault(text, node.start, "the file has to hold an object")
    return node


class _Reader:
    """Reads a text from its beginning."""

    def __init__(self, text: str, dialect: Dialect) -> None:
        self.text = text
        self.at = 1 if text.startswith("\ufeff") else 0
        self._dialect = dialect
        self._ended_by_comma = False

    def skip(self) -> None:
        """Go behind white space and comments."""
        text = self.text
        while self.at < len(text):
            if text[self.at] in " \t\r\n":
                self.at += 1
            elif text.startswith("//", self.at) and self._dialect.comments:
                end = text.find("\n", self.at)
                self.at = len(text) if end < 0 else end
            elif text.startswith("/*", self.at) and self._dialect.comments:
                end = text.find("*/", self.at + 2)
                if end < 0:
                    raise Fault(text, self.at, "this comment has no end")
                self.at = end + 2
            else:
                return

    def value(self, depth: int) -> _Node:
        """The value here."""
        if depth > _DEEPEST:
            raise Fault(self.text, self.at, "it is nested too deeply")
        char = self.text[self.at : self.at + 1]
        if char == "{":
            return self._object(depth)
        if char == "[":
            return self._array(depth)
        start = self.at
        if char == '"':
            return self._word(start, self._string())
        found = _SCALAR.match(self.text, self.at)
        if found is None:
            told = "a comment, which its program does not read" if self.text.startswith(("//", "/*"), self.at) else "this is no value"
            raise Fault(self.text, self.at, told if char else "the text ends in the middle")
        self.at = found.end()
        return self._word(start, json.loads(found[1]))

    def _word(self, start: int, value: Any) -> _Node:
        return _Node(start, self.at, value)

    def _string(self) -> str:
        try:
            value, self.at = scanstring(self.text, self.at + 1, True)
        except json.JSONDecodeError as error:
            raise Fault(self.text, min(error.pos, len(self.text)), error.msg) from None
        return str(value)

    def _object(self, depth: int) -> _Node:
        start = self.at
        members: list[_Member] = []
        self.at += 1
        while True:
            self.skip()
            if self._closes("}", bool(members)):
                return _Node(start, self.at, {member.key: member.node.value for member in members}, members)
            if self.text[self.at : self.at + 1] != '"':
                raise Fault(self.text, self.at, "a name in double quotes belongs here")
            place = self.at
            key = self._string()
            self.skip()
            if self.text[self.at : self.at + 1] != ":":
                raise Fault(self.text, self.at, "a colon belongs here")
            self.at += 1
            self.skip()
            node = self.value(depth + 1)
            members.append(_Member(key, place, node, self._comma("}")))

    def _array(self, depth: int) -> _Node:
        start = self.at
        values: list[Any] = []
        self.at += 1
        while True:
            self.skip()
            if self._closes("]", bool(values)):
                return _Node(start, self.at, values)
            values.append(self.value(depth + 1).value)
            self._comma("]")

    def _closes(self, bracket: str, after_comma: bool) -> bool:
        if self.text[self.at : self.at + 1] != bracket:
            return False
        if after_comma and self._ended_by_comma and not self._dialect.trailing_commas:
            raise Fault(self.text, self.at, "the comma before this does not belong there")
        self.at += 1
        return True

    def _comma(self, bracket: str) -> int | None:
        """The place behind the comma here; None at the end of the list."""
        self.skip()
        char = self.text[self.at : self.at + 1]
        if char == ",":
            self.at += 1
            self._ended_by_comma = True
            return self.at
        if char != bracket:
            raise Fault(self.text, self.at, f"a comma or `{bracket}` belongs here" if char else "the text ends in the middle")
        self._ended_by_comma = False
        return None
