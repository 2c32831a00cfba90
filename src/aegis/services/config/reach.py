"""The kinds of value that say what an agent reaches beyond its sandbox: egress rules and MCP servers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aegis.core.egress import EgressRule
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.drivers import McpServer
from aegis.services.config.kinds import NAME, VARIABLE, Choice, Flag, Text, items, wrong

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.services.config.document import Node
    from aegis.services.config.model import ToolServer

_URL: Final = re.compile(r"https?://[A-Za-z0-9\[](?:(?![@#\\])[!-~]){0,1000}")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_MEMBERS: Final = ("command", "env", "url", "headers")
MAX_RULES: Final = 200
MAX_SERVERS: Final = 50
#: The families of tools that Aegis's own MCP server has for an agent, and the name of that server, which no other may have.
FAMILIES: Final = ("core", "children", "fs", "cmd", "web")
OWN_SERVER: Final = "aegis"
#: Names of sources of tools that come with Aegis.
RESERVED: Final = ("aegis", "fs", "cmd", "web")


@dataclass(frozen=True, slots=True)
class EgressRules:
    """A list of `HOST:PORT`, or the word `packages`; with `requests` also of mappings, for hosts whose requests are looked at."""

    requests: bool = False

    @property
    def form(self) -> str:
        return "a list of `HOST:PORT`, `*.HOST:PORT` or `packages`" + (
            ", or of mappings `{host, inspect: true, methods, paths, secret, header, roots}`" if self.requests else ""
        )

    def read(self, node: Node) -> list[str | EgressRule]:
        rules: list[str | EgressRule] = []
        for item in items(node, self.form):
            rule = self._one(item)
            try:
                check_rules([rule])
            except AegisError as error:
                raise item.place.error(error.message, error.hint) from error
            rules.append(rule)
        if len(rules) > MAX_RULES:
            raise node.place.error(f"more than {MAX_RULES} egress rules")
        return rules

    def _one(self, node: Node) -> str | EgressRule:
        if not isinstance(node.value, dict) or not self.requests:
            return Text("an egress rule such as `api.example.com:443`", limit=500).read(node)
        known = EgressRule.__struct_fields__
        for key, place in node.keys.items():
            if key not in known:
                raise place.error(f"unknown key `{one_line(key, 80)}` in an egress rule", "known: " + ", ".join(f"`{k}`" for k in known))
        if "host" not in node.value:
            raise node.place.error("an egress rule without `host`", 'such as `host: "api.example.com:443"`')
        given: dict[str, Any] = {"host": Text("a host such as `api.example.com:443`", limit=500).read(node.value["host"])}
        for name, what in (("methods", "a list of methods, such as `[GET, POST]`"), ("paths", 'a list of paths, such as `["/v1/*"]`')):
            if name in node.value:
                listed = items(node.value[name], what)
                if not 0 < len(listed) <= MAX_RULES:
                    raise wrong(node.value[name], what, "a list with nothing in it allows nothing")
                given[name] = tuple(Text(what, limit=500).read(item) for item in listed)
        for name in ("secret", "header", "roots"):
            if name in node.value:
                given[name] = Text(f"the `{name}` of an egress rule", limit=500).read(node.value[name])
        if "inspect" in node.value:
            given["inspect"] = Flag().read(node.value["inspect"])
        return EgressRule(**given)


@dataclass(frozen=True, slots=True)
class Families:
    """A list of families of tools."""

    form: str = f"a list of {', '.join(f'`{name}`' for name in FAMILIES[:-1])} and `{FAMILIES[-1]}`"

    def read(self, node: Node) -> list[str]:
        return sorted({Choice(FAMILIES).read(item) for item in items(node, self.form)})


@dataclass(frozen=True, slots=True)
class ServerNames:
    """A list of names of tool servers."""

    form: str = "a list of names declared under `tool_servers` or in `.mcp.json`"

    def read(self, node: Node) -> list[str]:
        found: dict[str, None] = {}
        for item in items(node, self.form):
            if not isinstance(item.value, str) or not NAME.fullmatch(item.value):
                raise wrong(item, "the name of a tool server")
            found[item.value] = None
        if len(found) > MAX_SERVERS:
            raise node.place.error(f"more than {MAX_SERVERS} tool servers")
        return list(found)


@dataclass(frozen=True, slots=True)
class Words:
    """A program and its arguments."""

    form: str = "a list of texts: a program and its arguments"

    def read(self, node: Node) -> list[str]:
        words = [Text(limit=4096).read(item) for item in items(node, self.form)]
        if not words or len(words) > 256:
            raise wrong(node, "a program and at most 255 arguments")
        return words


@dataclass(frozen=True, slots=True)
class Headers:
    """A mapping of names of headers to their values."""

    form: str = "a mapping of names to text; `{secret:NAME}` in a text stands for the value of a secret"

    def read(self, node: Node) -> dict[str, str]:
        return _texts(node, _HEADER, "a header")


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


def check_rules(rules: Sequence[str | EgressRule]) -> None:
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


def check_tool_server(server: ToolServer) -> ToolServer:
    """The server, if it can be used as it is declared. Raises USAGE otherwise.

    A name is such that `SERVER__tool` is that of one tool of one server, and none like that of a tool that Aegis brings along.
    """

    def refuse(what: str, hint: str) -> AegisError:
        return AegisError(ErrorKind.USAGE, f"the tool server `{one_line(server.name, 80)}` {what}", hint)

    low = server.name.lower()
    if not NAME.fullmatch(server.name) or "__" in server.name or server.name.endswith("_"):
        raise refuse("cannot be called so", "use letters, digits, `-` and single `_`, not at the end")
    if low.startswith(OWN_SERVER) or low in RESERVED:
        raise refuse("has the name of tools that Aegis brings along", f"choose one other than {', '.join(RESERVED)}")
    if bool(server.command) == bool(server.url):
        raise refuse("needs either `command` or `url`", "`command: [PROGRAM, ARGUMENT...]` is started in a sandbox; `url` is called")
    if server.url and not _URL.fullmatch(server.url):
        raise refuse("has a `url` that cannot be used", "write http(s)://host:port/path")
    if server.url and (server.env or server.exposed or server.mounts or server.sandbox or server.workspace != "none"):
        raise refuse("is reached by `url`, so nothing is started for it", "`env`, `workspace`, `mounts`, `sandbox` are for `command`")
    if server.command and server.headers:
        raise refuse("has `headers` and no `url`", "headers are for servers that are reached by `url`")
    if not all(isinstance(rule, str) for rule in server.egress):
        raise refuse("has an egress rule that looks at requests", "those are for agents; write `HOST:PORT`")
    for name, value in {**server.env, **server.headers}.items():
        if any(mark in value for mark in "\x00\r\n"):
            raise refuse(f"has a value for {one_line(name, 80)!r} that cannot be set", "values stand on one line")
        if name.startswith("AEGIS_"):
            raise refuse(f"sets `{one_line(name, 80)}`, which Aegis sets itself", "choose another name")
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
