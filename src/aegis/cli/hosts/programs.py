"""Agent programs of a person: where each keeps its MCP servers, and what an entry looks like there."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegis.cli.hosts import jsonc, tables
from aegis.cli.hosts.jsonc import Dialect, Fault
from aegis.core.errors import AegisError, ErrorKind

#: How an entry is called where nobody says otherwise.
NAME: Final = "aegis"
#: What the program runs, after the command `aegis`.
SERVE: Final = ("mcp", "serve")


class Host(NamedTuple):
    """A program. Its files are tried in order; the first that is there is used, else the first is made.

    `entry` makes an entry from a command line and variables. `dialect` is None for TOML.
    """

    name: str
    title: str
    program: str
    key: str
    dialect: Dialect | None
    user: Callable[[], list[Path]]
    project: Callable[[Path], list[Path]]
    entry: Callable[[list[str], dict[str, str]], dict[str, Any]]
    after: str  # what a person does next


class BadFile(AegisError):
    """A file that its own program could not read either."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(ErrorKind.USAGE, f"{path} is not right, {why}; it is left as it is", "mend it first", place=str(path))


def load(host: Host, path: Path, text: str) -> dict[str, Any]:
    """The whole file as its program reads it. Raises BadFile."""
    try:
        return tables.load(text) if host.dialect is None else jsonc.load(text, host.dialect)
    except (Fault, tomllib.TOMLDecodeError) as error:
        raise BadFile(path, error) from None


def entry_of(host: Host, path: Path, text: str, name: str) -> Any:
    """The entry of that name; None when there is none. Raises BadFile."""
    servers = load(host, path, text).get(host.key)
    if servers is not None and not isinstance(servers, dict):
        raise BadFile(path, f"`{host.key}` is no {'table' if host.dialect is None else 'object'}")
    return servers.get(name) if servers else None


def with_entry(host: Host, path: Path, text: str, name: str, entry: dict[str, Any]) -> str:
    """The text with this entry; keys that the entry there has besides stay. Raises BadFile, USAGE."""
    before = load(host, path, text)
    old = entry_of(host, path, text, name)
    if host.dialect is None:
        return tables.put(text, (host.key, name), entry)
    wanted = {**old, **entry} if isinstance(old, dict) else entry
    if wanted == old:
        return text
    changed = jsonc.put(text, (host.key, name), wanted, host.dialect)
    _check(host, path, changed, {**before, host.key: {**before.get(host.key, {}), name: wanted}})
    return changed


def without_entry(host: Host, path: Path, text: str, name: str) -> str:
    """The text without this entry. Raises BadFile, USAGE."""
    before = load(host, path, text)
    if entry_of(host, path, text, name) is None:
        return text
    if host.dialect is None:
        return tables.drop(text, (host.key, name))
    changed = jsonc.drop(text, (host.key, name), host.dialect)
    rest = {key: value for key, value in before[host.key].items() if key != name}
    wanted = {key: value for key, value in before.items() if key != host.key} | ({host.key: rest} if rest else {})
    there = load(host, path, changed)
    if not rest and there.get(host.key) == {}:  # only a comment is left in it
        wanted[host.key] = {}
    _check(host, path, changed, wanted)
    return changed


def is_ours(entry: Any) -> bool:
    """Whether an entry runs `aegis mcp serve`."""
    if not isinstance(entry, dict):
        return False
    command, args = entry.get("command"), entry.get("args", [])
    words = [command, *args] if isinstance(command, str) and isinstance(args, list) else command
    return isinstance(words, list) and [str(word) for word in words[-2:]] == list(SERVE)


def command_line(*, shared: bool) -> list[str]:
    """How `aegis` is run: for a file that others share by its name alone, where that is on the PATH; else by where it is."""
    if shared and shutil.which(NAME):
        return [NAME]
    started = Path(sys.argv[0])
    if started.name == NAME and started.is_absolute() and os.access(started, os.X_OK):
        return [str(started)]
    return [sys.executable, "-P", "-m", "aegis"]


def present(host: Host) -> bool:
    """Whether the program seems to be used here: it is on the PATH, or has a file of its own."""
    return shutil.which(host.program) is not None or any(os.path.lexists(path) for path in host.user())


def choose(paths: list[Path]) -> Path:
    """The file that is there, or the one to make."""
    return next((path for path in paths if os.path.lexists(path)), paths[0])


def _check(host: Host, path: Path, text: str, wanted: dict[str, Any]) -> None:
    if load(host, path, text) != wanted:
        told = f"{path} is written in a way that cannot be changed here without touching the rest"
        raise AegisError(ErrorKind.USAGE, told, "change it by hand; see docs/host-agents.md")


def _folder(variable: str, usual: str) -> Path:
    """A program's directory: what its variable says, else the usual one below HOME."""
    named = os.environ.get(variable)
    return Path(named).expanduser().absolute() if named else Path.home() / usual


def _plain(words: list[str], env: dict[str, str]) -> dict[str, Any]:
    return {"command": words[0], "args": [*words[1:], *SERVE], **({"env": env} if env else {})}


def _claude(words: list[str], env: dict[str, str]) -> dict[str, Any]:
    return {"type": "stdio", **_plain(words, env)}


def _opencode(words: list[str], env: dict[str, str]) -> dict[str, Any]:
    return {"type": "local", "command": [*words, *SERVE], "enabled": True, **({"environment": env} if env else {})}


def _names(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


HOSTS: Final = {
    host.name: host
    for host in (
        Host(
            "claude", "Claude Code", "claude", "mcpServers", Dialect(),
            lambda: [_folder("CLAUDE_CONFIG_DIR", "") / ".claude.json"],
            lambda place: [place / ".mcp.json"],
            _claude, "Claude Code asks once before it uses a project's servers; `/mcp` shows them",
        ),
        Host(
            "gemini", "Gemini CLI", "gemini", "mcpServers", Dialect(comments=True),
            lambda: [_folder("GEMINI_CLI_HOME", "") / ".gemini" / "settings.json"],
            lambda place: [place / ".gemini" / "settings.json"],
            _plain, "`/mcp` in Gemini CLI shows it; it asks before each tool unless you trust the server",
        ),
        Host(
            "opencode", "OpenCode", "opencode", "mcp", Dialect(comments=True, trailing_commas=True),
            lambda: _names(_folder("XDG_CONFIG_HOME", ".config") / "opencode", "opencode.json", "opencode.jsonc"),
            lambda place: _names(place, "opencode.json", "opencode.jsonc"),
            _opencode, "`opencode mcp list` shows it",
        ),
        Host(
            "codex", "Codex", "codex", "mcp_servers", None,
            lambda: [_folder("CODEX_HOME", ".codex") / "config.toml"],
            lambda place: [place / ".codex" / "config.toml"],
            _plain, "`codex mcp list` shows it; a project's file counts only in a project that Codex trusts",
        ),
    )
}  # fmt: skip
