"""The tools that find things: glob and grep.

`**` stands for any number of directories, none included. Directories that hold no sources (`SKIPPED`) are not searched unless
the pattern or the path names them.
"""

from __future__ import annotations

import fnmatch
import os
import re

from aegis.guest.agent.tools.files import is_binary, path_of
from aegis.guest.agent.tools.output import Output, ToolError, lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SKIPPED = frozenset({".git", "node_modules", "__pycache__", ".venv"})
_MAX_FILES = 1000
_MAX_MATCHES = 100
_MAX_LINE = 300
_MAX_SIZE = 32 * 1024 * 1024


def glob(arguments: dict[str, Any]) -> Output:
    """Files and directories whose path below `path` is like `pattern`; directories end with a slash."""
    root = path_of(arguments.get("path", ""))
    if not os.path.isdir(root):
        raise ToolError(f"`{root}` is not a directory")
    found: set[str] = set()
    for pattern in _braces(arguments["pattern"]):
        start = "/" if pattern.startswith("/") else root
        for path in _walk(start, _parts(pattern)):
            found.add(path)
            if len(found) > 10 * _MAX_FILES:
                break
    shown = sorted(os.path.normpath(p) + ("/" if os.path.isdir(p) else "") for p in found)
    return lines(shown, _MAX_FILES, len(shown) > _MAX_FILES, "(nothing matches)")


def grep(arguments: dict[str, Any]) -> Output:
    """Lines that match the regular expression `pattern`, as `path:line:text`."""
    try:
        pattern = re.compile(arguments["pattern"])
    except re.error as error:
        raise ToolError(f"the pattern is not a regular expression: {error}") from None
    root = path_of(arguments.get("path", ""))
    limit = max(1, arguments.get("max", _MAX_MATCHES))
    os.stat(root)  # a path that is not there is an error, not "nothing matches"
    includes = [_parts(include) for include in _braces(arguments["include"])] if arguments.get("include") else []
    found: list[str] = []
    for path in [root] if os.path.isfile(root) else _files(root, includes):
        found += _matches(path, pattern, limit + 1 - len(found))
        if len(found) > limit:
            break
    return lines(found[:limit], limit, len(found) > limit, "(nothing matches)")


def like(names: list[str], parts: list[str]) -> bool:
    """Whether a path, as its `names`, is like a pattern, as its `parts`."""
    if not parts:
        return not names
    if parts[0] == "**":
        return like(names, parts[1:]) or (bool(names) and like(names[1:], parts))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and like(names[1:], parts[1:])


def _parts(pattern: str) -> list[str]:
    parts: list[str] = []
    for part in pattern.split("/"):
        if part not in ("", ".") and not (part == "**" and parts[-1:] == ["**"]):
            parts.append(part)
    return parts


def _braces(pattern: str) -> list[str]:
    """`*.{ts,tsx}` as `*.ts` and `*.tsx`."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
    if not match:
        return [pattern]
    return [p for option in match[1].split(",") for p in _braces(pattern[: match.start()] + option + pattern[match.end() :])]


def _walk(directory: str, parts: list[str]) -> Iterator[str]:
    """The paths below `directory` that are like `parts`; may give one twice."""
    if not parts:
        yield directory
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _walk(directory, rest or ["*"])
        for entry in _scan(directory):
            if entry.is_dir(follow_symlinks=False) and entry.name not in SKIPPED:
                yield from _walk(entry.path, parts)
    elif any(c in part for c in "*?["):
        for entry in _scan(directory):
            if fnmatch.fnmatchcase(entry.name, part) and (not rest or entry.is_dir()):
                yield from _walk(entry.path, rest)
    elif os.path.lexists(path := os.path.join(directory, part)) and (not rest or os.path.isdir(path)):
        yield from _walk(path, rest)


def _scan(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []  # not readable, or gone meanwhile


def _files(root: str, includes: list[list[str]]) -> Iterator[str]:
    for directory, below, names in os.walk(root):
        below[:] = sorted(name for name in below if name not in SKIPPED)
        for name in sorted(names):
            path = os.path.normpath(os.path.join(directory, name))
            # An include without a slash is about the name alone.
            where = os.path.relpath(path, root).split("/")
            if not includes or any(like(where[-1:] if len(parts) == 1 else where, parts) for parts in includes):
                yield path


def _matches(path: str, pattern: re.Pattern[str], limit: int) -> list[str]:
    found: list[str] = []
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _MAX_SIZE:
            return []
        with open(path, "rb") as file:
            if is_binary(file.peek(8192)):
                return []
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if pattern.search(text):
                    found.append(f"{path}:{number}:{text[:_MAX_LINE]}{'...' if len(text) > _MAX_LINE else ''}")
                    if len(found) >= limit:
                        break
    except OSError:
        return found
    return found
