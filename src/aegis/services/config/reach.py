"""The kinds of value that say what an agent reaches beyond its sandbox: egress rules and MCP servers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.drivers import McpServer
from aegis.services.config.kinds import NAME, VARIABLE, Choice, Text, items, wrong

if TYPE_CHECKING:
    from aegis.services.config.document import Node

_URL: Final = re.compile(r"https?://[A-Za-z0-9\[](?:(?![@#\\])[!-~]){0,1000}")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_MEMBERS: Final = ("command", "env", "url", "headers")
MAX_RULES: Final = 200
MAX_SERVERS: Final = 50
#: The families of tools that Aegis's own MCP server has for an agent, and the name of that server, which no other may have.
FAMILIES: Final = ("core", "children")
OWN_SERVER: Final = "aegis"


@dataclass(frozen=True, slots=True)
class EgressRules:
    """A list of `HOST:PORT`, or the word `packages`."""

    form: str = "a list of `HOST:PORT`, `*.HOST:PORT` or `packages`"

    def read(self, node: Node) -> list[str]:
        rules: list[str] = []
        for item in items(node, self.form):
            text = Text("an egress rule such as `api.example.com:443`", limit=500).read(item)
            try:
                check_rules([text])
            except AegisError as error:
                raise item.place.error(error.message, error.hint) from error
            rules.append(text)
        if len(rules) > MAX_RULES:
            raise node.place.error(f"more than {MAX_RULES} egress rules")
        return rules


@dataclass(frozen=True, slots=True)
class Families:
    """A list of families of tools."""

    form: str = f"a list of {' and '.join(f'`{name}`' for name in FAMILIES)}"

    def read(self, node: Node) -> list[str]:
        return sorted({Choice(FAMILIES).read(item) for item in items(node, self.form)})


@dataclass(frozen=True, slots=True)
class McpServers:
    """A mapping of names to servers: a command inside the sandbox, or a URL on its loopback."""

    form: str = "a mapping of names to `{command: [...], env: {...}}` or `{url, headers: {...}}`"

    def read(self, node: Node) -> list[McpServer]:
        if not isinstance(node.value, dict):
            raise wrong(node, self.form)
        if len(node.value) > MAX_SERVERS:
            raise node.place.error(f"more than {MAX_SERVERS} MCP servers")
        return [self._one(name, node, child) for name, child in node.value.items()]

    def _one(self, name: str, parent: Node, node: Node) -> McpServer:
        place = parent.keys[name]
        if not NAME.fullmatch(name):
            raise place.error(f"`{one_line(name, 80)}` cannot name an MCP server", f"a name looks like `{NAME.pattern}`")
        if not isinstance(node.value, dict):
            raise wrong(node, "`{command: [...], env: {...}}` or `{url, headers: {...}}`")
        for key, at in node.keys.items():
            if key not in _MEMBERS:
                raise at.error(f"unknown key `{one_line(key, 80)}` in an MCP server", "known: " + ", ".join(f"`{m}`" for m in _MEMBERS))
        of = node.value
        command = [Text(limit=4096).read(item) for item in items(of["command"], "a list of words")] if "command" in of else []
        url = Text("an http or https address without user name", _URL, 1024).read(of["url"]) if "url" in of else ""
        server = McpServer(
            name=name,
            command=command,
            env=_texts(of.get("env"), VARIABLE, "a variable"),
            url=url,
            headers=_texts(of.get("headers"), _HEADER, "a header"),
        )
        try:
            return check_server(server)
        except AegisError as error:
            raise place.error(error.message, error.hint) from error


def check_rules(rules: list[str]) -> None:
    """Raise USAGE for an egress rule that cannot be read."""
    from aegis.services.egress.rules import Rules

    Rules(rules)


def check_server(server: McpServer) -> McpServer:
    """The server, if it is one: it has a name and either a command or a URL. Raises USAGE otherwise."""

    def refuse(what: str, hint: str) -> AegisError:
        return AegisError(ErrorKind.USAGE, f"the MCP server `{one_line(server.name, 80)}` {what}", hint)

    if not NAME.fullmatch(server.name):
        raise refuse("cannot be called so", f"a name looks like `{NAME.pattern}`")
    if server.name.lower().startswith(OWN_SERVER):  # programs make one name of a server's and its tool's
        raise refuse("has a name like that of Aegis's own", f"choose one that does not begin with `{OWN_SERVER}`")
    if bool(server.command) == bool(server.url):
        raise refuse("needs either `command` or `url`", "`command: [PROGRAM, ARGUMENT...]` starts it inside; `url` is one that runs there")
    if server.command and server.headers:
        raise refuse("has `headers` and no `url`", "headers are for servers that are reached by `url`")
    if server.url and (server.env or not _URL.fullmatch(server.url)):
        raise refuse("has a `url` that cannot be used, or `env` with it", "write http(s)://host:port/path; `env` is for `command`")
    for name, pattern, values in (("variable", VARIABLE, server.env), ("header", _HEADER, server.headers)):
        for key, value in values.items():
            if not pattern.fullmatch(key) or any(mark in value for mark in "\x00\r\n"):
                raise refuse(f"has a {name} {one_line(key, 80)!r} that cannot be set", "values stand on one line")
    return server


def _texts(node: Node | None, pattern: re.Pattern[str], what: str) -> dict[str, str]:
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        raise wrong(node, "a mapping of names to text")
    found: dict[str, str] = {}
    for name, child in node.value.items():
        if not pattern.fullmatch(name):
            raise node.keys[name].error(f"`{one_line(name, 80)}` cannot name {what}")
        found[name] = Text(limit=32_768).read(child)
    return found


def as_written(servers: list[McpServer]) -> dict[str, Any]:
    """The servers in the form in which a file declares them."""
    return {
        s.name: {"command": s.command} | ({"env": s.env} if s.env else {})
        if s.command
        else {"url": s.url} | ({"headers": s.headers} if s.headers else {})
        for s in servers
    }
