"""The tools that find things: glob and grep.

`**` stands for any number of directories, none included. Directories that hold no sources (`SKIPPED`) are not searched unless
the pattern or the path names them.
"""

from __future__ import annotations

import fnmatch
import os
import re

from aegis.guest.agent.tools.files import path_of
from aegis.guest.agent.tools.output import Output, ToolError, lines
from aegis.guest.passages import is_binary
from aegis.guest.patterns import MAX_SIZE, SKIPPED, braces, included, lines_like, parts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_MAX_FILES = 1000
_MAX_MATCHES = 100


def glob(arguments: dict[str, Any]) -> Output:
    """Files and directories whose path below `path` is like `pattern`; directories end with a slash."""
    root = path_of(arguments.get("path", ""))
    if not os.path.isdir(root):
        raise ToolError(f"`{root}` is not a directory")
    found: set[str] = set()
    for pattern in braces(arguments["pattern"]):
        start = "/" if pattern.startswith("/") else root
        for path in _walk(start, parts_of(pattern)):
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
    includes = [parts_of(include) for include in braces(arguments["include"])] if arguments.get("include") else []
    found: list[str] = []
    for path in [root] if os.path.isfile(root) else _files(root, includes):
        found += _matches(path, pattern, limit + 1 - len(found))
        if len(found) > limit:
            break
    return lines(found[:limit], limit, len(found) > limit, "(nothing matches)")


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
            if included(os.path.relpath(path, root).split("/"), includes):
                yield path


def _matches(path: str, pattern: re.Pattern[str], limit: int) -> list[str]:
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > MAX_SIZE:
            return []
        with open(path, "rb") as file:
            if is_binary(file.peek(8192)):
                return []
            return lines_like(file, path, pattern, limit)
    except OSError:
        return []
