"""Reading YAML that nobody has vouched for yet into plain nodes, each with its place.

One pass over the parser's events, without recursion and without constructing anything: no tags, no second document, no merge keys, no
duplicate keys, bounded size, depth, nodes and aliases (an alias counts for all it stands for). Scalars follow the YAML 1.2 core schema,
so `no` and `on` are text. It knows nothing about keys; `reading` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 24
MAX_NODES: Final = 10_000
MAX_ALIASES: Final = 100

Scalar = str | int | float | bool | None

_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]{1,18}|[0-9]{1,18}(?:\.[0-9]{0,18})?)(?:[eE][-+]?[0-9]{1,3})?")
_WORDS: Final[dict[str, Scalar]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


class Place(NamedTuple):
    """Where something stands: a file with a line and a column counted from 1, or, with line 0, another source such as a variable."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def error(self, message: str, hint: str = "", **data: Any) -> AegisError:
        """The usage error for something wrong here."""
        return AegisError(ErrorKind.USAGE, f"{self}: {message}", hint, place=str(self), **data)


@dataclass(slots=True)
class Node:
    """A scalar, a list or a mapping. `size` counts the nodes in it, `keys` says where each key of a mapping stands."""

    place: Place
    value: Scalar | list[Node] | dict[str, Node]
    size: int = 1
    keys: dict[str, Place] = field(default_factory=dict)


def parse(content: bytes, file: str) -> Node | None:
    """The root node of one YAML document; None when it is empty. Raises a usage error that names `file:line:column`."""
    if len(content) > MAX_BYTES:
        raise AegisError(ErrorKind.TOO_LARGE, f"{file} is larger than {MAX_BYTES:,} bytes", "make it smaller", place=file)
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return _Builder(file).build(content.decode())
    except UnicodeDecodeError as error:
        raise Place(file).error(f"not UTF-8 at byte {error.start}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        raise place.error(f"not YAML: {one_line(error.problem or 'cannot be read')}") from error
    except YAMLError as error:
        raise Place(file).error(f"not YAML: {one_line(str(error))}") from error


def parse_text(text: str, source: str) -> Node:
    """A scalar that did not come from a file: `true`, `3` and `1.5` have their types, everything else is text."""
    return Node(Place(source), _scalar(text, plain=True))


class _Builder:
    """Builds the tree from the events; `_open` holds the unfinished lists and mappings, outermost first."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._open: list[_Unfinished] = []
        self._anchors: dict[str, Node] = {}
        self._aliases = 0
        self._root: Node | None = None
        self._documents = 0

    def build(self, text: str) -> Node | None:
        from ruamel.yaml import YAML
        from ruamel.yaml import events as e

        stream: Iterator[Any] = YAML(typ="safe", pure=True).parse(text)
        for event in stream:
            mark = event.start_mark
            place = Place(self._file, mark.line + 1, mark.column + 1) if mark else Place(self._file)
            if isinstance(event, e.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise place.error("a second document", "one file holds one document: remove the line `---`")
                if event.version or event.tags:
                    raise place.error("a YAML directive", "remove the line that begins with `%`")
            elif isinstance(event, e.AliasEvent):
                self._add(self._alias(event.anchor, place), place)
            elif isinstance(event, (e.ScalarEvent, e.CollectionStartEvent)):
                if event.tag is not None:
                    raise place.error(f"the tag `{one_line(str(event.tag))}`", "tags are not supported: remove it")
                if isinstance(event, e.ScalarEvent):
                    plain = event.style in (None, "")
                    node = Node(place, _scalar(event.value, plain=plain))
                    self._name(event.anchor, node, place)
                    self._add(node, place)
                else:
                    self._begin(Node(place, {} if isinstance(event, e.MappingStartEvent) else []), event.anchor)
            elif isinstance(event, e.CollectionEndEvent):
                done = self._open.pop()
                self._name(done.anchor, done.node, done.node.place)
                self._add(done.node, done.node.place)
        return self._root if self._root is not None and self._root.value is not None else None

    def _begin(self, node: Node, anchor: str | None) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise node.place.error(f"nested more than {MAX_DEPTH} deep")
        self._open.append(_Unfinished(node, anchor))

    def _name(self, anchor: str | None, node: Node, place: Place) -> None:
        if anchor is None:
            return
        if anchor in self._anchors:
            raise place.error(f"the anchor `{one_line(anchor)}` is there twice")
        self._anchors[anchor] = node  # only when complete, so nothing can contain itself

    def _alias(self, anchor: str, place: Place) -> Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise place.error(f"more than {MAX_ALIASES} aliases")
        if anchor not in self._anchors:
            raise place.error(f"no anchor `{one_line(anchor)}` before this alias")
        return self._anchors[anchor]

    def _add(self, node: Node, place: Place) -> None:
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        parent.node.size += node.size
        # All that is open will contain this, so the innermost sums cannot hide behind one another.
        if sum(unfinished.node.size for unfinished in self._open) > MAX_NODES:
            raise place.error(f"more than {MAX_NODES:,} values", "make it smaller")
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
        elif isinstance(parent.node.value, dict):
            if parent.key is None:
                parent.key = (self._key(parent.node, node, place), place)
            else:
                key, at = parent.key
                parent.node.value[key] = node
                parent.node.keys[key] = at
                parent.key = None

    def _key(self, mapping: Node, node: Node, place: Place) -> str:
        key = node.value
        if not isinstance(key, str):
            raise place.error("a key that is not text", "put it in quotes")
        if key == "<<":
            raise place.error("merge keys are not supported", "write the values out, or put them under `defaults`")
        if key in mapping.keys:
            raise place.error(f"the key `{one_line(key)}` is there twice", f"the first one is at {mapping.keys[key]}")
        return key


@dataclass(slots=True)
class _Unfinished:
    node: Node
    anchor: str | None
    key: tuple[str, Place] | None = None


def _scalar(text: str, *, plain: bool) -> Scalar:
    if not plain:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
