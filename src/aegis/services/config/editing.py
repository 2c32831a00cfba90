"""Changing a file of declarations for somebody: what he wrote stays as it is, comments included; only the entry changes.

The new text is checked before it is used: read strictly, it must say what the old one said and what was asked for, and nothing
else. A file is replaced in one step, so that whoever reads it sees the old one or the new one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.services.config import patching
from aegis.services.config.document import Node, Place, parse
from aegis.services.config.keys import Key, find
from aegis.services.config.kinds import Choice, Duration, Size, Text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aegis.services.config.document import Scalar

_Leaves = dict[tuple[str, ...], Any]
_TEXTS: Final = (Text, Choice, Size, Duration)


def checked(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of keys of an agent in the form that the file holds; None takes a key away.

    Text for a key that holds something else is read as YAML, such as `[a.example:443]` or `true`. Raises USAGE for a wrong value,
    NOT_FOUND with the nearest for a key that does not exist.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        known = find(f"agents.{name}.{key}")
        if known is None:
            raise unknown_name("key of an agent", key, _agent_keys())
        found[key] = None if value is None else _checked(known, key, value)
    return found


def _checked(known: Key, key: str, value: Any) -> Any:
    place = Place(f"`{key}`")
    if isinstance(value, str) and not isinstance(known.kind, _TEXTS):
        node = parse(value.encode(), str(place)) or Node(place, None)
        known.kind.read(node)
        return _plain(node)
    node = _node(value, place)
    known.kind.read(node)
    return value


def changed(text: bytes, file: str, path: tuple[str, ...], values: Mapping[str, Any] | None) -> bytes:
    """A document with the entry at `path` (empty: the whole document) changed; `values` None takes the entry away.

    Raises USAGE for a document that cannot be read, CONFLICT for one that could not be changed without changing more.
    """
    from ruamel.yaml.error import YAMLError

    before = _leaves(text, file)
    new = text.decode()
    try:
        if values is None:
            new = patching.drop(new, path)
        elif not values:
            new = patching.put(new, path, {}) if path else new
        for key, value in (values or {}).items():
            parts = (*path, *key.split("."))
            new = patching.drop(new, parts) if value is None else patching.put(new, parts, value)
        after = _leaves(new.encode(), file)
    except (AegisError, YAMLError, AttributeError, TypeError, UnicodeError) as error:
        raise _by_hand(file) from error
    if not _as_asked(before, after, path, values):
        raise _by_hand(file)
    return new.encode()


def _by_hand(file: str) -> AegisError:
    text = f"{file} is written in a way in which this could not be changed without changing more of it"
    return AegisError(ErrorKind.CONFLICT, text, "change it with an editor", place=file)


def _leaves(text: bytes, file: str) -> _Leaves:
    """Every scalar and list of a document by its path."""
    found: _Leaves = {}

    def visit(node: Node, path: tuple[str, ...]) -> None:
        if isinstance(node.value, dict):
            for key, child in node.value.items():
                visit(child, (*path, key))
        else:
            found[path] = _plain(node)

    root = parse(text, file)
    if root is not None:
        visit(root, ())
    return found


def _as_asked(before: _Leaves, after: _Leaves, entry: tuple[str, ...], values: Mapping[str, Any] | None) -> bool:
    """Whether the change did what it was asked to and no more. The values themselves are in the words of the file."""
    wanted = {(*entry, *key.split(".")): value for key, value in values.items()} if values is not None else {entry: None}

    def rest(leaves: _Leaves) -> _Leaves:
        return {path: v for path, v in leaves.items() if v is not None and not any(path[: len(w)] == w for w in wanted)}

    return rest(before) == rest(after) and all(_under(after, path) == value for path, value in wanted.items())


def _under(leaves: _Leaves, path: tuple[str, ...]) -> Any:
    """The value at a path, put together from its leaves; None where there is none."""
    if path in leaves:
        return leaves[path]
    found: dict[str, Any] = {}
    for leaf, value in leaves.items():
        if leaf[: len(path)] == path:
            at = found
            *way, last = leaf[len(path) :]
            for part in way:
                at = at.setdefault(part, {})
            at[last] = value
    return found or None


def _node(value: Any, place: Place) -> Node:
    """A JSON value as a node."""
    if isinstance(value, dict):
        children = {str(key): _node(child, place) for key, child in value.items()}
        return Node(place, children, 1 + sum(child.size for child in children.values()), dict.fromkeys(children, place))
    if isinstance(value, list):
        items = [_node(child, place) for child in value]
        return Node(place, items, 1 + sum(item.size for item in items))
    scalar: Scalar = value
    return Node(place, scalar)


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    return [_plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def _agent_keys() -> list[str]:
    from aegis.services.config.keys import KEYS

    return [key.name.removeprefix("agents.NAME.") for key in KEYS if key.name.startswith("agents.NAME.")]


def replace(path: Path, content: bytes | None) -> None:
    """Put `content` at `path` in one step, with the owner and the mode of what was there; None removes the file.

    A symbolic link at `path` is itself replaced, never what it leads to. Raises UNAVAILABLE when it cannot be written.
    """
    temporary = f".{path.name}.{secrets.token_hex(6)}"
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if content is None:
                os.unlink(path.name, dir_fd=folder)
            else:
                _write(folder, path.name, temporary, content)
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise AegisError(ErrorKind.UNAVAILABLE, f"{path} cannot be written: {error.strerror}", "check who may write there") from error


def _write(folder: int, name: str, temporary: str, content: bytes) -> None:
    try:
        before = os.stat(name, dir_fd=folder, follow_symlinks=False)
        owner, mode = before, before.st_mode & 0o777
    except FileNotFoundError:
        owner, mode = os.fstat(folder), 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(content)
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
