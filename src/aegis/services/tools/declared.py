"""Which MCP servers are declared for a project, and which of them take effect.

Those of the home and of a trusted project do. A project's `.mcp.json` is somebody else's file, which other programs write and a
checkout brings along: each server in it takes effect only when a person has accepted exactly that declaration. The table
`trusted_servers`. Nothing is expanded in it: a `${VARIABLE}` would carry the daemon's own environment to whoever is named there.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.text import one_line
from aegis.services.config.model import ToolServer
from aegis.services.config.reach import check_tool_server
from aegis.services.config.trust import server_lines
from aegis.services.tools.pinning import Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.core.clock import Clock
    from aegis.core.principals import Principal
    from aegis.services.config.model import ProjectConfig
    from aegis.services.gate import Gate
    from aegis.store import Store

FILE: Final = ".mcp.json"
_MAX_FILE: Final = 1024 * 1024
_MOST: Final = 50
#: For so long, in seconds, what was read counts where calls are made.
_FRESH: Final = 1.0


class Found(NamedTuple):
    """A declared server. `problem` says why it cannot be used; one that is not `trusted` is not used."""

    server: ToolServer
    origin: Origin
    trusted: bool
    problem: str = ""


class TrustOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A server of `.mcp.json`: what it would do, and the hash that a person agrees to."""

    server: str
    project: str
    hash: str
    trusted: bool
    summary: list[str]


def hash_of(server: ToolServer) -> str:
    """What a declaration is known by: all that it says, and nothing of where it stands."""
    plain = msgspec.structs.replace(server, source="", origin="")
    return hashlib.sha256(b"aegis tool server 1\0" + msgspec.json.encode(plain, order="deterministic")).hexdigest()


class Declared:
    """Reads declarations, and remembers which of `.mcp.json` were accepted."""

    def __init__(self, store: Store, clock: Clock, gate: Gate, load: Callable[[Path | None], ProjectConfig]) -> None:
        self._store = store
        self._clock = clock
        self._gate = gate
        self._load = load
        self._read: dict[str, tuple[float, dict[str, Found]]] = {}

    def servers(self, project: str | None, *, fresh: bool = True) -> dict[str, Found]:
        """Every server by name, for a project, or for the home alone. Raises USAGE for anything wrong in the configuration."""
        key, now = project or "", self._clock.monotonic()
        known = self._read.get(key)
        if not fresh and known is not None and now - known[0] < _FRESH:
            return known[1]
        found = self._find(project)
        self._read[key] = (now, found)
        return found

    def _find(self, project: str | None) -> dict[str, Found]:
        try:
            config = self._load(Path(project) if project else None)
        except AegisError as error:
            if project is None or error.kind is not ErrorKind.DENIED:
                raise
            config = self._load(None)  # its own declarations do not count
        found: dict[str, Found] = {}
        for server in config.tool_servers.values():
            scope = project or "" if server.origin == "project" else ""
            found[server.name] = Found(server, Origin(scope, server.name, hash_of(server)), True)
        if project is not None:
            for other in self._of_file(Path(project)):
                found.setdefault(other.server.name, other)
        return dict(sorted(found.items()))

    def _of_file(self, project: Path) -> list[Found]:
        """What `.mcp.json` says. One that cannot be read declares nothing but a problem."""
        try:
            entries = _entries(project / FILE)
        except AegisError as error:
            nobody = ToolServer(name=FILE, source=str(project / FILE), origin=FILE)
            return [Found(nobody, Origin(str(project), FILE, ""), False, error.message)]
        return [self._one(project, name, entry) for name, entry in list(entries.items())[:_MOST]]

    def _one(self, project: Path, name: str, entry: Any) -> Found:
        shown = one_line(name, 63)
        try:
            server = _server(name, entry, str(project / FILE))
        except (AegisError, ValueError) as error:
            nobody = ToolServer(name=shown, source=str(project / FILE), origin=FILE)
            return Found(nobody, Origin(str(project), shown, ""), False, error.message if isinstance(error, AegisError) else str(error))
        digest = hash_of(server)
        return Found(server, Origin(str(project), name, digest), self._trusted(str(project), name, digest))

    def _trusted(self, project: str, name: str, digest: str) -> bool:
        sql = "SELECT 1 FROM trusted_servers WHERE project = ? AND server = ? AND hash = ?"
        return bool(self._store.read(lambda db: db.execute(sql, (project, name, digest)).fetchone()))

    def offers(self, project: str) -> list[TrustOffer]:
        """The servers of a project's `.mcp.json` that could be used."""
        return [
            TrustOffer(
                server=each.server.name,
                project=project,
                hash=each.origin.declared,
                trusted=each.trusted,
                summary=server_lines(each.server),
            )
            for each in self._of_file(Path(project))
            if not each.problem
        ]

    async def trust(self, principal: Principal, project: str, name: str, digest: str) -> TrustOffer:
        """Accept a server of `.mcp.json` with exactly the declaration of that hash.

        Raises NOT_FOUND with the nearest name, CONFLICT when it is declared otherwise by now, DENIED.
        """
        offers = {offer.server: offer for offer in self.offers(project)}
        if name not in offers:
            raise unknown_name("server", name, offers, f"`{FILE}` of the project declares them")
        if offers[name].hash != digest:
            raise AegisError(ErrorKind.CONFLICT, f"the declaration of `{name}` is not the one shown", "run `aegis tools trust` again")
        decision = await self._gate.check(principal, "tool.trust", name, project=project, hash=digest)
        row = (project, name, digest, self._clock.now())

        def write(tx: Any) -> None:
            self._gate.write(tx, decision)
            tx.execute("INSERT OR IGNORE INTO trusted_servers (project, server, hash, at) VALUES (?, ?, ?, ?)", row)

        await self._store.write(write)
        self._read.pop(project, None)
        return msgspec.structs.replace(offers[name], trusted=True)


def _entries(path: Path) -> dict[str, Any]:
    """The entries of the file; none where there is no file. Raises USAGE for one that is no such file."""

    def refuse(what: str) -> AegisError:
        return AegisError(ErrorKind.USAGE, f"{path} {what}", 'it looks like {"mcpServers": {"NAME": {"command": "..."}}}')

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise refuse("is not an ordinary file")
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise refuse(f"is larger than {_MAX_FILE} bytes")
    try:
        whole = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse(f"is no JSON: {one_line(str(error), 200)}") from None
    entries = whole.get("mcpServers") if isinstance(whole, dict) else None
    if not isinstance(entries, dict):
        raise refuse("has no object `mcpServers`")
    return entries


def _server(name: str, entry: Any, source: str) -> ToolServer:
    """One entry. Raises USAGE or ValueError for what cannot be used."""
    if not isinstance(entry, dict):
        raise ValueError("its declaration is no object")
    command, args = entry.get("command"), entry.get("args", [])
    env, headers, url = entry.get("env") or {}, entry.get("headers") or {}, entry.get("url", "")
    if not isinstance(args, list) or not all(isinstance(word, str) for word in args):
        raise ValueError("`args` is a list of texts")
    if command is not None and (not isinstance(command, str) or not command):
        raise ValueError("`command` is a text")
    for what, values in (("env", env), ("headers", headers)):
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise ValueError(f"`{what}` is an object of texts")
    if not isinstance(url, str):
        raise ValueError("`url` is a text")
    words = [command, *args] if command is not None else []
    if any("${" in text or "{secret:" in text for text in (*words, url, *env.values(), *headers.values())):
        raise ValueError("it wants variables or secrets put in: declare it under `tool_servers` in `.aegis.yaml`, which can name secrets")
    if any("\x00" in text for text in words):
        raise ValueError("a word of its command holds a NUL")
    workspace = "read" if words else "none"
    return check_tool_server(
        ToolServer(name=name, source=source, origin=FILE, command=words, env=env, url=url, headers=headers, workspace=workspace)
    )
