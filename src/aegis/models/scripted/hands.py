"""Using the tools a program offers without knowing the program: by purpose, and by the argument names it declares."""

from __future__ import annotations

from typing import Final

import msgspec

from aegis.models.scripted.acts import Call
from aegis.models.scripted.conversation import Conversation, Result, Use, tells_of_interruption

#: Names that tools for a purpose go by, in lower case without separators; the first on offer is used.
_TOOLS: Final = {
    "list": ("list", "listfiles", "ls", "listdir", "listdirectory"),
    "read": ("read", "readfile", "view"),
    "shell": ("bash", "shell", "exec", "runshellcommand", "execcommand", "shellcommand"),
    "edit": ("edit", "editfile", "strreplace", "replace"),
}
#: Names that an argument goes by.
_ARGUMENTS: Final = {
    "path": ("path", "file_path", "filePath", "absolute_path", "dir_path", "directory", "file"),
    "command": ("command", "cmd"),
    "old": ("old", "old_string", "oldString", "old_text", "old_str"),
    "new": ("new", "new_string", "newString", "new_text", "new_str"),
}


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
        """The call, with the argument names the tool declares; others it requires are filled with a word."""
        name = self._named[purpose]
        tool = self._tools[name]
        given = {next((each for each in _ARGUMENTS[key] if each in tool.properties), key): value for key, value in arguments.items()}
        given.update({key: "demo" for key in tool.required if key not in given})
        return Call(name, given)

    def done(self, items: list[Use | Result]) -> list[Done]:
        """The calls among `items` that have a result, in order."""
        results = {item.id: item for item in items if isinstance(item, Result)}
        return [self._done(item, results[item.id]) for item in items if isinstance(item, Use) and item.id in results]

    def _done(self, use: Use, result: Result) -> Done:
        purpose = next((purpose for purpose, name in self._named.items() if name == use.name), "")
        path, command = (
            "".join(str(use.input[key])[:4096] for key in _ARGUMENTS[kind] if key in use.input) for kind in ("path", "command")
        )
        lost = len(result.text) < 500 and tells_of_interruption(result.text)
        start = result.text[:40].lstrip().lower()
        ok = result.ok and not lost and not start.startswith(("error", '{"ok":false', '{"ok": false'))
        return Done(purpose, path, command, result.text, ok, lost)
