"""The tools for single files: read, write, edit, list.

Paths are relative to the workspace. What the sandbox lets the agent reach, it may reach: a check here would protect nothing.
"""

from __future__ import annotations

import os
import stat

from aegis.guest.agent.tools.output import LIMIT, Output, ToolError, lines
from aegis.guest.passages import MAX_LINE, NotThere, exchange, is_binary, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_EDIT = 16 * 1024 * 1024
_MAX_ENTRIES = 1000
_SNIFF = 8192


def path_of(text: str) -> str:
    """A path as the agent wrote it, with `~` resolved; empty means the workspace."""
    return os.path.expanduser(text) or "."


def read(arguments: dict[str, Any]) -> Output:
    """The lines from `start_line` to `end_line`, each with its number and a tab."""
    path = path_of(arguments["path"])
    first = max(1, arguments.get("start_line", 1))
    last = arguments.get("end_line")
    if last is not None and last < first:
        raise ToolError(f"end_line {last} is before start_line {first}")
    _regular(path)
    out: list[str] = []
    size, number, more = 0, 0, False
    with open(path, "rb") as file:
        if is_binary(file.peek(_SNIFF)):
            raise ToolError(f"`{path}` is a binary file of {os.path.getsize(path)} bytes; look at it with bash (file, xxd, strings)")
        for number, line in enumerate(_capped_lines(file), 1):
            if number < first:
                continue
            if last is not None and number > last:
                break
            shown = f"{number}\t{line}"
            size += len(shown) + 1
            if size > LIMIT and out:
                more = True
                break
            out.append(shown)
    if not out:
        return Output("(the file is empty)" if not number else f"(the file has only {number} lines)")
    if more:
        out.append(f"[cut at line {number - 1}; read on with start_line={number}]")
    return Output("\n".join(out), truncated=more)


def write(arguments: dict[str, Any]) -> Output:
    """Make the file hold exactly `content`, with the directories it needs."""
    path = path_of(arguments["path"])
    if os.path.lexists(path) and not os.path.islink(path):
        _regular(path)
    elif parent := os.path.dirname(path):
        os.makedirs(parent, exist_ok=True)
    verb = "replaced" if os.path.exists(path) else "created"
    data = arguments["content"].encode("utf-8", "replace")
    with open(path, "wb") as file:
        file.write(data)
    return Output(f"{verb} `{path}`, {len(data)} bytes")


def edit(arguments: dict[str, Any]) -> Output:
    """Replace `old_text`, which must stand there exactly once unless `all`, by `new_text`."""
    path, old, new = path_of(arguments["path"]), arguments["old_text"], arguments["new_text"]
    try:
        changed, places = exchange(path, _text(path) if old and old != new else "", old, new, every=bool(arguments.get("all")))
    except NotThere as error:
        hint = ", or set all" if "to make it unique" in str(error) else ""
        raise ToolError(f"{error}{hint}") from None
    with open(path, "wb") as file:
        file.write(changed.encode("utf-8", "replace"))
    return Output(f"replaced {len(places)} in `{path}`, line{'s' * (len(places) > 1)} {listed(places)}")


def list_(arguments: dict[str, Any]) -> Output:
    """The entries of a directory with their sizes; directories end with a slash."""
    path = path_of(arguments.get("path", ""))
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    return lines([_entry(entry) for entry in found[:_MAX_ENTRIES]], _MAX_ENTRIES, len(found) > _MAX_ENTRIES, "(the directory is empty)")


def _regular(path: str) -> None:
    """Refuse what is not a plain file: a device or a pipe would never end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ToolError(f"`{path}` is a directory; use list")
    if not stat.S_ISREG(mode):
        raise ToolError(f"`{path}` is not a regular file")


def _capped_lines(file: Any) -> Any:
    """The lines of a binary file as text, each at most `MAX_LINE` characters, however long it is in the file."""
    while data := file.readline(MAX_LINE * 4):
        extra = 0
        end = data
        while not end.endswith(b"\n") and (end := file.readline(1 << 20)):
            extra += len(end.rstrip(b"\n"))
        text = data.decode("utf-8", "replace").rstrip("\r\n")
        if extra or len(text) > MAX_LINE:
            text = f"{text[:MAX_LINE]}[... {extra + len(text) - MAX_LINE} more in this line]"
        yield text


def _text(path: str) -> str:
    _regular(path)
    if os.path.getsize(path) > _MAX_EDIT:
        raise ToolError(f"`{path}` is larger than {_MAX_EDIT} bytes; edit it with bash (sed)")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError:
        raise ToolError(f"`{path}` is not UTF-8 text; edit it with bash") from None


def _entry(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_symlink():
            return f"{entry.name} -> {os.readlink(entry.path)}"
        return f"{entry.name}/" if entry.is_dir() else f"{entry.name}\t{entry.stat().st_size}"
    except OSError:
        return f"{entry.name}\t?"
