"""The agent's tools: a table with their schemas, and the one way to use them and those of MCP servers.

A use never raises but `Stopped`: bad arguments, missing files and crashes become results that tell the model what to do.
"""

from __future__ import annotations

import os
import time

from aegis.guest.agent.tools import children, files, shell
from aegis.guest.agent.tools.output import Output, ToolError
from aegis.tether.jsontext import dumps_text, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from aegis.guest.agent.mcp.servers import Servers
    from aegis.guest.agent.wire import Wire

_RESULT_BYTES = 1024 * 1024
_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}
_PATH = {"type": "string", "description": "relative to the workspace, or absolute"}


def _glob(arguments: dict[str, Any]) -> Output:
    from aegis.guest.agent.tools import search

    return search.glob(arguments)


def _grep(arguments: dict[str, Any]) -> Output:
    from aegis.guest.agent.tools import search

    return search.grep(arguments)


class Tool:
    """One tool. `writes` says that it changes the workspace; `function` is None for the one that runs programs."""

    def __init__(
        self,
        name: str,
        description: str,
        function: Callable[[dict[str, Any]], Output] | None,
        properties: dict[str, dict[str, str]],
        required: tuple[str, ...],
        writes: bool = False,
    ) -> None:
        self.name = name
        self.description = description
        self.function = function
        self.writes = writes
        self.asks = writes or function is None  # a person may want to be asked first
        self.properties = properties
        self.required = required
        self.parameters = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "read",
            "Read a text file. Each line comes with its number and a tab before it.",
            files.read,
            {
                "path": _PATH,
                "start_line": {"type": "integer", "description": "from 1"},
                "end_line": {"type": "integer", "description": "included"},
            },
            ("path",),
        ),
        Tool(
            "write",
            "Create or replace a file. Directories are made as needed.",
            files.write,
            {"path": _PATH, "content": {"type": "string"}},
            ("path", "content"),
            writes=True,
        ),
        Tool(
            "edit",
            "Replace text in a file. old_text must match exactly (without line numbers) and only once, unless all is true.",
            files.edit,
            {"path": _PATH, "old_text": {"type": "string"}, "new_text": {"type": "string"}, "all": {"type": "boolean"}},
            ("path", "old_text", "new_text"),
            writes=True,
        ),
        Tool("list", "List a directory with sizes.", files.list_, {"path": _PATH}, ()),
        Tool(
            "glob",
            "Find files by pattern, such as src/**/*.py or *.{js,ts}; ** is any number of directories. "
            "** does not enter .git, node_modules, __pycache__ and .venv.",
            _glob,
            {"pattern": {"type": "string"}, "path": _PATH},
            ("pattern",),
        ),
        Tool(
            "grep",
            "Search text files for a Python regular expression, line by line. Skips .git, node_modules, __pycache__ and .venv below path.",
            _grep,
            {
                "pattern": {"type": "string"},
                "path": _PATH,
                "include": {"type": "string", "description": "only files like this, such as *.py or src/**/*.py"},
                "max": {"type": "integer", "description": "matches to show, 100 unless given"},
            },
            ("pattern",),
        ),
        Tool(
            "bash",
            "Run a shell command in the workspace. Each call is a fresh shell without input. "
            "To leave a program running, put it in the background.",
            None,
            {"command": {"type": "string"}, "timeout": {"type": "number", "description": "seconds"}},
            ("command",),
        ),
    )
}


def offered(permission: str) -> list[dict[str, Any]]:
    """The tools as a model is told of them: those that write only with a permission greater than `read`."""
    return [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        for tool in TOOLS.values()
        if permission != "read" or not tool.writes
    ]


def use(
    wire: Wire,
    name: str,
    arguments: dict[str, Any],
    problem: str,
    permission: str,
    seconds: float,
    leave: Callable[[str, dict[str, Any]], str | dict[str, Any]] | None = None,
    servers: Servers | None = None,
) -> Output:
    """Use a tool for at most `seconds`. `problem` is what is already known to be wrong with the arguments. Raises Stopped only.

    With `leave` a person is asked before anything is changed or run: it returns the arguments to use, or why not as a text.
    """
    own = TOOLS.get(name)
    tool = own or (servers.find(name) if servers else None)
    if tool is None:
        there = [*TOOLS, *(one["name"] for one in servers.offered())] if servers else TOOLS
        return _refused(f"there is no tool `{name}`; there are: {', '.join(there)}")
    if own:
        arguments = {k: v for k, v in arguments.items() if v is not None or k in own.required}
        problem = problem or _problem(own, arguments)
    if problem:
        return _refused(f"{problem}. The arguments of `{name}` must match {dumps_text(tool.parameters).decode()}")
    if tool.writes and permission == "read":
        return _refused(f"`{name}` is not allowed: the workspace is read-only for you. Say what you would change instead.")
    if leave is not None and tool.asks:
        answer = leave(name, arguments)
        if isinstance(answer, str):
            return _refused(f"`{name}` was not allowed: {answer}")
        if answer != arguments:
            note = f"[A person changed the arguments to {dumps_text(answer).decode()}]\n"
            output = use(wire, name, answer, "", permission, seconds, servers=servers)
            return Output(note + output.text, ok=output.ok, truncated=output.truncated, pictures=output.pictures)
    if not isinstance(tool, Tool):
        assert servers is not None
        return servers.use(tool, arguments, seconds)
    if tool.function in (_glob, _grep):
        import aegis.guest.agent.tools.search  # noqa: F401 - 8 ms, once here rather than in each child, and not at all for most turns
    if tool.function is None:
        return shell.bash(wire, arguments, seconds)
    return _forked(wire, tool.function, arguments, seconds)


def _refused(text: str) -> Output:
    return Output(f"error: {text}", ok=False)


def _forked(wire: Wire, function: Callable[[dict[str, Any]], Output], arguments: dict[str, Any], seconds: float) -> Output:
    def body(_: str) -> None:
        output = _guarded(function, arguments)
        data = dumps_text([output.text, output.ok, output.truncated])
        while data:
            data = data[os.write(1, data) :]

    started = time.monotonic()
    ended = children.run(wire, body, seconds, _RESULT_BYTES)
    if ended.exit is None:
        return _refused(f"timed out after {time.monotonic() - started:.3g} s")
    try:
        text, ok, truncated = loads(ended.output)
    except ValueError:
        return _refused(f"the tool died (exit {ended.exit})")
    return Output(text, ok=ok, truncated=truncated)


def _guarded(function: Callable[[dict[str, Any]], Output], arguments: dict[str, Any]) -> Output:
    try:
        return function(arguments)
    except ToolError as error:
        return _refused(str(error))
    except OSError as error:
        return _refused(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    except Exception as error:
        return _refused(f"{type(error).__name__}: {error}")


def _problem(tool: Tool, arguments: dict[str, Any]) -> str:
    """What is wrong with the arguments; empty when nothing is."""
    for name in tool.required:
        if name not in arguments:
            return f"`{name}` is missing"
    for name, value in arguments.items():
        if name not in tool.properties:
            return f"there is no argument `{name}`"
        kind = tool.properties[name]["type"]
        if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
            return f"`{name}` must be of type {kind}"
    return ""
