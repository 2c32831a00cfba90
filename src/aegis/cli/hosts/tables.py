"""A table of a TOML file as text: it is put at the end, changed line by line, or taken out; everything else stays.

Every result is read again, and all but the table must be as it was; what cannot be done so is refused.
"""

from __future__ import annotations

import json
import re
import tomllib
from copy import deepcopy
from typing import Any

from aegis.core.errors import AegisError, ErrorKind

_HEADER = re.compile(r"[ \t]*\[")


def load(text: str) -> dict[str, Any]:
    """The document. Raises `tomllib.TOMLDecodeError`, which names the place."""
    return tomllib.loads(text.removeprefix("\ufeff"))


def put(text: str, path: tuple[str, str], value: dict[str, Any]) -> str:
    """`text` with the keys of `value` in the table at `path`; those that it has besides stay.

    Raises USAGE when the table stands in the file in a form that is left to its owner.
    """
    before = load(text)
    outer, name = path
    there = before.get(outer, {}).get(name) if isinstance(before.get(outer, {}), dict) else None
    wanted = deepcopy(before)
    if isinstance(there, dict):
        changed = {key: inner for key, inner in value.items() if there.get(key) != inner}
        text = _changed(text, path, changed)
        wanted[outer][name] |= changed
    else:
        lines = [f"[{outer}.{name}]", *(f"{key} = {_rendered(inner)}" for key, inner in value.items())]
        newline = "\r\n" if "\r\n" in text else "\n"
        gap = "" if not text.strip() else newline if text.endswith("\n") else newline * 2
        text = text + gap + newline.join(lines) + newline
        wanted.setdefault(outer, {})
        if isinstance(wanted[outer], dict):
            wanted[outer][name] = value
    return _checked(text, wanted, path)


def drop(text: str, path: tuple[str, str]) -> str:
    """`text` without the table at `path` and the tables in it; unchanged if it is not there. Raises USAGE as `put` does."""
    before = load(text)
    outer, name = path
    if not isinstance(before.get(outer), dict) or name not in before[outer]:
        return text
    wanted = deepcopy(before)
    del wanted[outer][name]
    if not wanted[outer]:
        del wanted[outer]
    lines = text.splitlines(keepends=True)
    for start, end in reversed(_blocks(lines, path)):
        if start and not lines[start - 1].strip():  # the line that set it apart
            start -= 1
        del lines[start:end]
    return _checked("".join(lines), wanted, path)


def _changed(text: str, path: tuple[str, str], values: dict[str, Any]) -> str:
    """`text` with other values for these keys of the table, each on a line of its own."""
    lines = text.splitlines(keepends=True)
    blocks = _blocks(lines, path, inner=False)
    if not blocks:
        return text
    start, end = blocks[0]
    for key, value in values.items():
        made = f"{key} = {_rendered(value)}"
        for number in range(start + 1, end):
            if re.match(rf"[ \t]*{re.escape(key)}[ \t]*=", lines[number]):
                ending = lines[number][len(lines[number].rstrip("\r\n")) :]
                lines[number] = made + ending
                break
        else:
            lines.insert(start + 1, made + ("\r\n" if lines[start].endswith("\r\n") else "\n"))
            end += 1
    return "".join(lines)


def _blocks(lines: list[str], path: tuple[str, str], *, inner: bool = True) -> list[tuple[int, int]]:
    """From which line to before which the table stands, and each table in it; what stands before the next one belongs to that."""
    words = r"[ \t]*\.[ \t]*".join(rf"(?:{re.escape(word)}|\"{re.escape(word)}\"|'{re.escape(word)}')" for word in path)
    wanted = re.compile(rf"[ \t]*\[\[?[ \t]*{words}[ \t]*{'(?:[.][^#]*)?' if inner else ''}\]")
    found = []
    for start, line in enumerate(lines):
        if wanted.match(line):
            end = start + 1
            while end < len(lines) and not _HEADER.match(lines[end]):
                end += 1
            last = end
            while end < len(lines) and last > start + 1 and (not lines[last - 1].strip() or lines[last - 1].lstrip().startswith("#")):
                last -= 1
            found.append((start, last))
    return found


def _checked(text: str, wanted: dict[str, Any], path: tuple[str, str]) -> str:
    try:
        right = load(text) == wanted
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        what = ".".join(path)
        told = f"`{what}` is written in a way that cannot be changed here without touching the rest"
        raise AegisError(ErrorKind.USAGE, told, f"write it as a table of its own, `[{what}]`, or change it by hand")
    return text


def _rendered(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_rendered(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_rendered, value)) + "]"
    if isinstance(value, str):  # a basic string is written as in JSON, but for what JSON leaves as it is
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
