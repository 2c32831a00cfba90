"""Changing one entry of a YAML text by its lines: all other lines, comments and blank ones included, stay as they are.

A document in block style is patched where the entry stands. One in flow style (`{...}`) is written anew, comments kept. Whether the
result says what it should is for the caller to check.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class Extent:
    """Where the value at a path stands. Lines count from 0; `start` and `end` of a scalar are offsets into the text."""

    key_line: int
    key_column: int
    flow: bool  # it, or what it lies in, is in flow style
    scalar: bool = False
    start: int = 0
    end: int = 0
    last: int = 0  # the last line that belongs to it
    column: int | None = None  # of the keys of a block mapping
    children: dict[str, Extent] = field(default_factory=dict)


def put(text: str, path: Sequence[str], value: Any) -> str:
    """The text with `value` at `path`; what is missing on the way is made."""
    root = _extents(text)
    at, depth = root, 0
    while depth < len(path) and path[depth] in at.children:
        at = at.children[path[depth]]
        depth += 1
    newline = "\r\n" if "\r\n" in text else "\n"
    rest = path[depth:]
    lines = text.splitlines(keepends=True)
    if at.flow:
        return _rewritten(text, path, value)
    if not rest:
        new = _rendered([path[-1]], value, at.key_column, newline)
        if at.scalar and len(new) == 1 and at.end > at.start and "\n" not in text[at.start : at.end]:
            written = new[0].strip().removeprefix(f"{_rendered([path[-1]], None, 0, newline)[0].strip()}").strip()
            return text[: at.start] + written + text[at.end :]
        return "".join([*lines[: at.key_line], *new, *lines[at.last + 1 :]])
    if at is root and not root.children:
        return text + ("" if not text or text.endswith("\n") else newline) + "".join(_rendered(rest, value, 0, newline))
    column = at.column if at.column is not None else at.key_column + 2
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += newline
    new = _rendered(rest, value, column, newline)
    if (at is root and isinstance(value, dict)) or (at is root and len(rest) > 1):
        new = [newline, *new]
    return "".join([*lines[: at.last + 1], *new, *lines[at.last + 1 :]])


def drop(text: str, path: Sequence[str]) -> str:
    """The text without what is at `path`, and without what it leaves empty above it; the same text when there is nothing."""
    root = _extents(text)
    chain = [root]
    for part in path:
        if part not in chain[-1].children:
            return text
        chain.append(chain[-1].children[part])
    # The document itself and the entry's own group may become empty; whoever drops one of two keeps the other.
    while len(chain) > 2 and len(chain[-2].children) == 1:
        chain.pop()
    if chain[-1].flow and chain[-2].flow:
        return _rewritten(text, path[: len(chain) - 1], None)
    lines = text.splitlines(keepends=True)
    return "".join([*lines[: chain[-1].key_line], *lines[chain[-1].last + 1 :]])


def _rendered(path: Sequence[str], value: Any, column: int, newline: str) -> list[str]:
    """The lines of `value` under the keys of `path`."""
    for part in reversed(path):
        value = {part: value}
    out = io.StringIO()
    yaml = _yaml()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", ""))
    yaml.dump(_literal(value), out)
    return [(" " * column + line if line else "") + newline for line in out.getvalue().splitlines()]


def _literal(value: Any) -> Any:
    """The same with texts of several lines as such."""
    from ruamel.yaml.scalarstring import LiteralScalarString

    if isinstance(value, dict):
        return {key: _literal(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_literal(child) for child in value]
    if isinstance(value, str) and "\n" in value and not any(mark in value for mark in "\r\x85\u2028\u2029\t"):
        return LiteralScalarString(value)
    return value


def _rewritten(text: str, path: Sequence[str], value: Any) -> str:
    """The text written anew with `value` at `path`, or, for None, without it."""
    yaml = _yaml()
    root = yaml.load(text)
    at = root
    *way, last = path
    for part in way:
        if at.get(part) is None:
            at[part] = {}
        at = at[part]
    if value is None:
        at.pop(last, None)
    else:
        at[last] = value
    out = io.StringIO()
    yaml.dump(root, out)
    return out.getvalue()


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 1_000_000
    return yaml


def _extents(text: str) -> Extent:
    """Where everything in the mappings of a document stands. The text has been read strictly before: it is one plain document."""
    from ruamel.yaml import YAML
    from ruamel.yaml import events as e

    root = Extent(0, 0, flow=False)
    lines = text.splitlines()
    #: Open collections: their extent, whether they are mappings, and the key whose value comes next.
    chain: list[tuple[Extent, bool]] = []
    key: tuple[str, Any] | None = None

    def child(mark: Any) -> Extent:
        nonlocal key
        if not chain:
            return root
        parent, mapping = chain[-1]
        assert not mapping or key is not None
        name, at = key if mapping and key is not None else (str(len(parent.children)), mark)
        key = None
        made = Extent(at.line, at.column, flow=parent.flow, last=at.line)
        if mapping:
            parent.children[name] = made
            parent.column = at.column
        return made

    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, (e.ScalarEvent, e.AliasEvent)):
            if chain and chain[-1][1] and key is None:
                key = (str(getattr(event, "value", "")), event.start_mark)
                continue
            made = child(event.start_mark)
            made.scalar = isinstance(event, e.ScalarEvent) and event.style not in ("|", ">")
            made.start, made.end = event.start_mark.index, event.end_mark.index
            made.last = max(made.last, _line(event, lines))
        elif isinstance(event, e.CollectionStartEvent):
            made = child(event.start_mark)
            made.flow = made.flow or bool(event.flow_style)
            chain.append((made, isinstance(event, e.MappingStartEvent)))
            key = None
            continue
        elif isinstance(event, e.CollectionEndEvent):
            made, _ = chain.pop()
            if made.flow:
                made.last = max(made.last, event.end_mark.line)
        else:
            continue
        for outer, _ in chain:
            outer.last = max(outer.last, made.last)
    return root


def _line(event: Any, lines: list[str]) -> int:
    """The last line of a scalar. That of a block scalar ends where the next thing begins; blank lines before that are not its own."""
    start, end = event.start_mark, event.end_mark
    last = int(end.line)
    if event.style in ("|", ">"):
        last -= end.column == 0 and last > start.line
        while last > start.line and last < len(lines) and not lines[last].strip():
            last -= 1
    return last
