"""Claude Code's tools in Aegis's words: what kind each is, a line for people, the places it touches, what it changed."""

from __future__ import annotations

from typing import Any, Final

from aegis.core.events import MAX_DIFF, Diff, Location, ToolKind
from aegis.core.text import one_line
from aegis.drivers.claude.frames import a_dict, a_list, a_text

_KINDS: Final[dict[str, ToolKind]] = {
    **dict.fromkeys(("Read", "NotebookRead", "ReadMcpResourceTool", "ListMcpResourcesTool", "TaskOutput", "AgentOutputTool"), "read"),
    **dict.fromkeys(("Edit", "MultiEdit", "Write", "NotebookEdit"), "edit"),
    **dict.fromkeys(("Bash", "BashOutput", "KillShell", "KillBash", "TaskStop", "Monitor", "PowerShell"), "execute"),
    **dict.fromkeys(("Glob", "Grep", "LS", "ToolSearch", "LSP"), "search"),
    **dict.fromkeys(("WebFetch", "WebSearch"), "fetch"),
    **dict.fromkeys(("Task", "Agent", "TodoWrite", "TaskCreate", "TaskUpdate", "TaskList", "TaskGet"), "think"),
    **dict.fromkeys(("Skill", "SendMessage", "AskUserQuestion", "ListAgents", "ReportFindings"), "think"),
    **dict.fromkeys(("EnterPlanMode", "ExitPlanMode", "EnterWorktree", "ExitWorktree"), "switch_mode"),
}
#: The argument that says most about a call.
_TELLING: Final = {
    "Bash": "command",
    "PowerShell": "command",
    "Monitor": "command",
    "WebFetch": "url",
    "WebSearch": "query",
    "ToolSearch": "query",
    "Glob": "pattern",
    "Grep": "pattern",
    "Task": "description",
    "Agent": "description",
    "Skill": "skill",
    "TaskCreate": "subject",
    "TaskUpdate": "taskId",
}
_PATHS: Final = ("file_path", "notebook_path", "path")
#: Tools that want something from a person, as far as the program does not say so by itself.
QUESTIONS: Final = frozenset({"AskUserQuestion", "ExitPlanMode"})
_TITLE: Final = 200


def kind_of(name: str) -> ToolKind:
    """What a tool does. Tools of MCP servers are `other`: their names tell nothing that could be relied on."""
    return _KINDS.get(name, "other")


def title_of(name: str, arguments: dict[str, Any]) -> str:
    """One line for people, such as the command or the path."""
    told = arguments.get(_TELLING.get(name, ""))
    if not isinstance(told, str):
        told = next((arguments[key] for key in _PATHS if isinstance(arguments.get(key), str)), None)
    if told is None and name == "AskUserQuestion":
        told = next((a_text(a_dict(question).get("question")) for question in a_list(arguments.get("questions"))), None)
    if told is None:
        told = next((value for value in arguments.values() if isinstance(value, str) and value), "")
    return one_line(told, _TITLE)


def locations_of(arguments: dict[str, Any]) -> list[Location]:
    """The places that a call touches."""
    line = arguments.get("offset")
    return [
        Location(arguments[key], line if isinstance(line, int) and line > 0 else None)
        for key in _PATHS
        if isinstance(arguments.get(key), str) and arguments[key]
    ]


def diffs_of(name: str, arguments: dict[str, Any], told: object) -> list[Diff]:
    """What a call that went well changed: as the result tells (`told`), else as its arguments meant to."""
    if kind_of(name) != "edit":
        return []
    told = a_dict(told)
    path = a_text(told.get("filePath")) or next((a_text(arguments.get(key)) for key in _PATHS if arguments.get(key)), "")
    if not path:
        return []
    if name == "Write":
        old = told.get("originalFile")
        return [_diff(path, old if isinstance(old, str) else None, a_text(told.get("content", arguments.get("content"))))]
    if name == "MultiEdit":
        edits = [a_dict(edit) for edit in a_list(arguments.get("edits"))]
        return [_diff(path, a_text(edit.get("old_string")), a_text(edit.get("new_string"))) for edit in edits]
    if name == "NotebookEdit":
        before = told.get("old_source")
        return [_diff(path, before if isinstance(before, str) else None, a_text(told.get("new_source", arguments.get("new_source"))))]
    old = a_text(told.get("oldString", arguments.get("old_string")))
    created = old == "" and not a_text(told.get("originalFile"))
    return [_diff(path, None if created else old, a_text(told.get("newString", arguments.get("new_string"))))]


def _diff(path: str, old: str | None, new: str) -> Diff:
    cut = len(new) > MAX_DIFF or (old is not None and len(old) > MAX_DIFF)
    return Diff(path, new[:MAX_DIFF], None if old is None else old[:MAX_DIFF], cut)
