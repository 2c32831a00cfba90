"""Using the tools a program offers without knowing the program: by purpose, and by the argument names it declares."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from aegis.models.scripted.acts import Call
from aegis.models.scripted.conversation import Conversation, Result, Tool, Use, tells_of_interruption
from aegis.models.scripted.schemas import smallest

#: Names that tools for a purpose go by, in lower case without separators; the first on offer is used.
_TOOLS: Final = {
    "list": ("list", "listfiles", "ls", "listdir", "listdirectory"),
    "read": ("read", "readfile", "view"),
    "shell": ("bash", "shell", "exec", "runshellcommand", "execcommand", "shellcommand"),
    "edit": ("edit", "editfile", "strreplace", "replace"),
    "write": ("write", "writefile", "createfile"),
    "glob": ("glob", "globfiles", "findfiles"),
}
#: Names that an argument goes by.
_ARGUMENTS: Final = {
    "path": ("path", "file_path", "filePath", "absolute_path", "dir_path", "directory", "file"),
    "command": ("command", "cmd"),
    "old": ("old", "old_string", "oldString", "old_text", "old_str"),
    "new": ("new", "new_string", "newString", "new_text", "new_str"),
    "content": ("content", "contents", "text", "file_text"),
    "pattern": ("pattern", "glob", "glob_pattern"),
}
_PURPOSES: Final = {"bash": "shell", **{purpose: purpose for purpose in _TOOLS}}
_ALIASES: Final = {name: names for names in _ARGUMENTS.values() for name in names}


class Done(msgspec.Struct, frozen=True):
    """A call that was made: what for, with what, and what came back. `lost` means that nobody knows whether it happened."""

    purpose: str
    path: str
    command: str
    text: str
    ok: bool
    lost: bool


class Hands:
    """The tools on offer and the calls that were made with them."""

    def __init__(self, conversation: Conversation) -> None:
        self._tools = conversation.tools
        self._named: dict[str, str] = {}
        plain = {name.lower().replace("_", "").replace("-", ""): name for name in reversed(conversation.tools)}
        for purpose, names in _TOOLS.items():
            found = next((plain[name] for name in names if name in plain), None)
            if found is not None:
                self._named[purpose] = found

    def can(self, purpose: str) -> bool:
        """Whether there is a tool for it."""
        return purpose in self._named

    def use(self, purpose: str, **arguments: str) -> Call:
        """The call, with the argument names the tool declares; others it requires are filled with a small value."""
        name = self._named[purpose]
        return Call(name, _fitted(self._tools[name], arguments, fill=True))

    def called(self, name: str, arguments: dict[str, Any]) -> Call | None:
        """The call that a script means by `name`; None when no tool on offer is meant.

        `=NAME` is that name and no other, on offer or not. `write`, `read`, `bash`, `edit`, `glob` and `list` are
        purposes: arguments get the names that the tool declares, and what it requires besides them is filled in.
        """
        if name.startswith("="):
            return Call(name[1:], arguments)
        purpose = _PURPOSES.get(name)
        if name not in self._tools and purpose in ("write", "edit") and not self.can(purpose):
            patched = self._patch(purpose, arguments)
            if patched is not None:
                return patched
        offered = name if name in self._tools else self._named.get(purpose or "") or self._ending(name)
        if offered is None:
            return None
        return Call(offered, _fitted(self._tools[offered], arguments) if purpose else arguments)

    def done(self, items: list[Use | Result]) -> list[Done]:
        """The calls among `items` that have a result, in order."""
        results = {item.id: item for item in items if isinstance(item, Result)}
        return [self._done(item, results[item.id]) for item in items if isinstance(item, Use) and item.id in results]

    def _ending(self, name: str) -> str | None:
        """The only tool that ends with `name`, as names behind a prefix do."""
        ends = [tool for tool in self._tools if ("_" + _plain(tool)).endswith("_" + _plain(name))]
        return ends[0] if len(ends) == 1 else None

    def _patch(self, purpose: str, arguments: dict[str, Any]) -> Call | None:
        """A change of a file by way of the shell tool, in the patch language that some programs read out of its command."""
        shell = self._named.get("shell")
        path, content = str(arguments.get("path", "")), str(arguments.get("content", ""))
        if shell is None or self._tools[shell].properties.keys() & {"content", "file_path"}:
            return None
        lines = "".join(f"+{line}\n" for line in content.splitlines())
        if purpose == "edit":
            lines = f"@@\n-{arguments.get('old', '')}\n+{arguments.get('new', '')}\n"
        patch = f"*** Begin Patch\n*** {'Add' if purpose == 'write' else 'Update'} File: {path}\n{lines}*** End Patch\n"
        return self.use("shell", command=f"apply_patch <<'EOF'\n{patch}EOF")

    def _done(self, use: Use, result: Result) -> Done:
        purpose = next((purpose for purpose, name in self._named.items() if name == use.name), "")
        path, command = (
            "".join(str(use.input[key])[:4096] for key in _ARGUMENTS[kind] if key in use.input) for kind in ("path", "command")
        )
        lost = len(result.text) < 500 and tells_of_interruption(result.text)
        start = result.text[:40].lstrip().lower()
        ok = result.ok and not lost and not start.startswith(("error", '{"ok":false', '{"ok": false'))
        return Done(purpose, path, command, result.text, ok, lost)


def _fitted(tool: Tool, arguments: dict[str, Any], *, fill: bool = False) -> dict[str, Any]:
    """`arguments` under the names that the tool declares, with what it requires besides; with `fill`, all that it requires."""
    given: dict[str, Any] = {}
    for key, value in arguments.items():
        names = (key, *_ALIASES.get(key, ()))
        name = next((each for each in names if each in tool.properties), key)
        wanted = tool.properties.get(name)
        # a shell that takes the words of a command and not its text
        words = isinstance(value, str) and isinstance(wanted, dict) and wanted.get("type") == "array"
        given[name] = ["bash", "-lc", value] if words else value
    for key in tool.required:
        if key not in given and (fill or key not in _ALIASES):
            value = smallest(tool.properties.get(key))
            given[key] = "demo" if value is None else value
    return given


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())
