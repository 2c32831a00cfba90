"""Patterns of paths, such as `src/**/*.{py,toml}`, and looking for lines in files. Imports `re`: load it when it is needed."""

from __future__ import annotations

import fnmatch
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

#: Directories that hold no sources: not searched unless they are named.
SKIPPED = frozenset({".git", "node_modules", "__pycache__", ".venv"})
#: The longest line that is shown of a match, in characters; larger files are not searched, in bytes.
MAX_LINE = 300
MAX_SIZE = 32 * 1024 * 1024


def like(names: list[str], parts: list[str]) -> bool:
    """Whether a path, as its `names`, is like a pattern, as its `parts`."""
    if not parts:
        return not names
    if parts[0] == "**":
        return like(names, parts[1:]) or (bool(names) and like(names[1:], parts))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and like(names[1:], parts[1:])


def parts_of(pattern: str) -> list[str]:
    """The parts of a pattern between its slashes, the empty ones and a `**` after another left out."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if part not in ("", ".") and not (part == "**" and parts[-1:] == ["**"]):
            parts.append(part)
    return parts


def braces(pattern: str) -> list[str]:
    """`*.{ts,tsx}` as `*.ts` and `*.tsx`."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
    if not match:
        return [pattern]
    return [p for option in match[1].split(",") for p in braces(pattern[: match.start()] + option + pattern[match.end() :])]


def included(names: list[str], includes: list[list[str]]) -> bool:
    """Whether a path is like one of `includes`, or there are none. One without a slash is about the name alone."""
    return not includes or any(like(names[-1:] if len(parts) == 1 else names, parts) for parts in includes)


def lines_like(file: BinaryIO, name: str, pattern: re.Pattern[str], limit: int) -> list[str]:
    """At most `limit` lines of an open file that match, as `name:line:text`."""
    found: list[str] = []
    for number, line in enumerate(file, 1):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if pattern.search(text):
            found.append(f"{name}:{number}:{text[:MAX_LINE]}{'...' if len(text) > MAX_LINE else ''}")
            if len(found) >= limit:
                break
    return found
