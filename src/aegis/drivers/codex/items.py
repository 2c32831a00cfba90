"""The items of a thread in Aegis's words: what a call does, a line for people, the places it touches, what it changed."""

from __future__ import annotations

import re
import shlex
from typing import Any, Final, NamedTuple

from aegis.core.events import MAX_DIFF, Diff, Location, ToolKind
from aegis.core.text import one_line
from aegis.drivers.claude.frames import a_count, a_dict, a_list, a_text

_TITLE: Final = 200
#: Longer commands are not taken apart to find the script in them.
_LONG: Final = 100_000
_HUNK: Final = re.compile(r"^@@ .*@@", re.MULTILINE)
#: What a command is, where the program understood all of it.
_READS: Final = {"read": "read", "listFiles": "search", "search": "search"}
_EDITS: Final[dict[str, ToolKind]] = {"add": "edit", "update": "edit", "delete": "delete"}


class Call(NamedTuple):
    """A use of a tool."""

    name: str
    input: dict[str, Any]
    kind: ToolKind = "other"
    title: str = ""
    locations: tuple[Location, ...] = ()


class Result(NamedTuple):
    """How it ended. `ms` is 0 where nobody says."""

    ok: bool
    output: str
    ms: float = 0.0
    diffs: tuple[Diff, ...] = ()


def call_of(item: dict[str, Any]) -> Call | None:
    """The call that an item is; None when it is none."""
    match item.get("type"):
        case "commandExecution":
            return command(item)
        case "fileChange":
            return changes(item)
        case "mcpToolCall":
            arguments = item.get("arguments")
            name = mcp_name(a_text(item.get("server")), a_text(item.get("tool")))
            given = arguments if isinstance(arguments, dict) else {"arguments": arguments}
            return Call(name, given, "other", _telling(given))
        case "dynamicToolCall":
            given = a_dict(item.get("arguments"))
            return Call(a_text(item.get("tool")) or "tool", given, "other", _telling(given))
        case "webSearch":
            return Call("web_search", {"query": a_text(item.get("query"))}, "fetch", one_line(a_text(item.get("query")), _TITLE))
        case "imageView":
            path = a_text(item.get("path"))
            return Call("view_image", {"path": path}, "read", one_line(path, _TITLE), (Location(path),) if path else ())
    return None


def mcp_name(server: str, tool: str) -> str:
    """What a tool of an MCP server is called, as in all programs."""
    return f"mcp__{server}__{tool}"


def command(item: dict[str, Any]) -> Call:
    """A command. What it only reads by the program's own understanding is told as reading: nothing depends on it but what people see."""
    script = script_of(a_text(item.get("command")))
    actions = [a_dict(action) for action in a_list(item.get("commandActions"))]
    kinds = {_READS.get(a_text(action.get("type")), "execute") for action in actions} or {"execute"}
    kind: ToolKind = "execute"
    if kinds <= {"read", "search"}:
        kind = "read" if "read" in kinds else "search"
    paths = dict.fromkeys(a_text(action.get("path")) for action in actions)
    given = {"command": script, "cwd": a_text(item.get("cwd"))}
    return Call("exec_command", given, kind, one_line(script, _TITLE), tuple(Location(path) for path in paths if path))


def script_of(line: str) -> str:
    """What a shell was started to do, without the shell."""
    if len(line) > _LONG:
        return line
    try:
        words = shlex.split(line)
    except ValueError:
        return line
    return words[2] if len(words) == 3 and words[1] in ("-lc", "-c") else line


def changes(item: dict[str, Any]) -> Call:
    """A change of files."""
    told = [a_dict(change) for change in a_list(item.get("changes"))]
    paths = [a_text(change.get("path")) for change in told]
    kinds = {_EDITS.get(a_text(a_dict(change.get("kind")).get("type")), "edit") for change in told}
    kind: ToolKind = "delete" if kinds == {"delete"} else "edit"
    places = tuple(Location(path) for path in dict.fromkeys(paths) if path)
    listed = [
        {"path": path, "kind": a_text(a_dict(change.get("kind")).get("type")), "diff": a_text(change.get("diff"))}
        for path, change in zip(paths, told, strict=True)
    ]
    return Call("apply_patch", {"changes": listed}, kind, one_line(", ".join(paths), _TITLE), places)


def result_of(item: dict[str, Any]) -> Result:
    """How an item that is a call ended."""
    status, ms = a_text(item.get("status")), float(a_count(item.get("durationMs")))
    ok = status not in ("failed", "declined")
    match item.get("type"):
        case "commandExecution":
            code = item.get("exitCode")
            output = a_text(item.get("aggregatedOutput"))
            if status == "declined" and not output:
                output = "This was not allowed."
            return Result(ok and code in (0, None), output, ms)
        case "fileChange":
            diffs = [_diff(a_dict(change)) for change in a_list(item.get("changes"))] if ok else []
            output = "" if ok else "This was not allowed." if status == "declined" else "The change could not be made."
            return Result(ok, output, ms, tuple(diffs))
        case "mcpToolCall":
            told, error = a_dict(item.get("result")), a_dict(item.get("error"))
            output = a_text(error.get("message")) or _texts(told.get("content"))
            return Result(ok and not error and told.get("isError") is not True, output, ms)
        case "dynamicToolCall":
            return Result(ok and item.get("success") is not False, _texts(item.get("contentItems")), ms)
    return Result(ok, "", ms)


def _diff(change: dict[str, Any]) -> Diff:
    path, told = a_text(change.get("path")), a_text(change.get("diff"))
    kind = a_dict(change.get("kind"))
    match kind.get("type"):
        case "add":
            old, new = None, told
        case "delete":
            old, new = told, ""
        case _:
            old, new = _sides(told)
    path = a_text(kind.get("move_path")) or path
    cut = len(new) > MAX_DIFF or (old is not None and len(old) > MAX_DIFF)
    return Diff(path, new[:MAX_DIFF], None if old is None else old[:MAX_DIFF], cut)


def _sides(unified: str) -> tuple[str, str]:
    """The lines before and after, of the hunks alone."""
    old, new = [], []
    found = _HUNK.search(unified)
    for line in unified[found.start() :].splitlines(keepends=True) if found else ():
        mark, rest = line[:1], line[1:]
        if mark == "@" or mark == "\\":
            continue
        if mark != "+":
            old.append(rest)
        if mark != "-":
            new.append(rest)
    return "".join(old), "".join(new)


def _texts(content: object) -> str:
    parts = []
    for block in a_list(content):
        kind = a_text(a_dict(block).get("type"))
        if kind in ("text", "inputText"):
            parts.append(a_text(a_dict(block).get("text")))
        elif kind in ("image", "inputImage"):
            parts.append("[image]")
    return "\n".join(parts)


def _telling(arguments: dict[str, Any]) -> str:
    return one_line(next((value for value in arguments.values() if isinstance(value, str) and value), ""), _TITLE)
