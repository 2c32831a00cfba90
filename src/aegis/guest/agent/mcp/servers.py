"""All MCP servers of a session, as the loop and the tools see them."""

from __future__ import annotations

import time

from aegis.guest.agent.mcp import Broken, Late, Refused, Unsent, one_line, run
from aegis.guest.agent.mcp.client import Client
from aegis.guest.agent.mcp.results import output
from aegis.guest.agent.mcp.schemas import about, named, parameters
from aegis.guest.agent.tools.output import Output
from aegis.tether.jsontext import dumps_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from aegis.guest.agent.wire import Wire

#: How long a server has for its start, in seconds, and how often one is started in the life of an agent.
START_SECONDS = 15.0
MOST_STARTS = 4
#: The most bytes of definitions that the model is told, of all servers together, and how often in a session they may change.
_DEFINITIONS = 160 * 1024
_CHANGES = 50
_END_SECONDS = 0.3
_STEP = 0.005


class McpTool:
    """One tool of one server. `name` is what the model calls it; `asks`: a person may want to be asked first."""

    writes = False

    def __init__(self, server: _Server, name: str, given: dict[str, Any]) -> None:
        self.server = server
        self.given: str = given["name"]
        self.name = name
        self.description = about(given)
        self.parameters = parameters(given.get("inputSchema"))
        hints = given.get("annotations")
        # Of others, that a tool only reads is no more than their word.
        self.asks = not (server.own and isinstance(hints, dict) and hints.get("readOnlyHint") is True)


class _Server:
    """One server and what became of it."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.name: str = given["name"]
        self.own = bool(given.get("own"))
        self.given = given
        self.client: Client | None = None
        self.up = False
        self.starts = 0
        self.hopeless = False  # it is not tried again
        self.said: set[str] = set()  # what the log was told of it already
        self.told = False  # the model knows that it is not there


class Servers:
    """The servers of one session. `taken` are the names that no tool of theirs may have."""

    def __init__(self, wire: Wire, given: list[dict[str, Any]], taken: Collection[str], seconds: float) -> None:
        self._wire = wire
        self._taken = frozenset(taken)
        self._seconds = min(START_SECONDS, seconds)
        self._servers = [_Server(one) for one in given]
        self._tools: dict[str, McpTool] = {}
        self._notes: list[str] = []  # for the model
        self._changes = 0
        self._begun = False
        self._lapsed = False  # tools are offered that will not be there again

    def ready(self, *, turn: bool) -> bool:
        """Start what is to be started when a turn begins, and list again what has changed. Raises Stopped.

        Returns whether the offer may be another one now.
        """
        begun, self._begun = self._begun, True
        absent = [s for s in self._servers if not s.up and not s.hopeless] if turn or not begun else []
        changed = [s for s in self._servers if s.up and s.client is not None and s.client.changed and self._changes < _CHANGES]
        self._start(absent)
        self._changes += len(changed)
        for server in changed:
            assert server.client is not None
            [end] = run(self._wire, [server.client.list(time.monotonic() + self._seconds)])
            if isinstance(end, Exception):
                self._lost(server, end)
            else:
                self._say(server, "has other tools than before", tell=False)
        other = bool(absent or changed or self._lapsed)
        if other:
            self._learn()
        return other

    def offered(self) -> list[dict[str, Any]]:
        """The tools as a model is told of them."""
        return [{"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in self._tools.values()]

    def notes(self) -> str:
        """What the model is to be told of the servers, once; empty when there is nothing."""
        notes, self._notes = self._notes, []
        return "\n".join(f"[{note}]" for note in notes)

    def find(self, name: str) -> McpTool | None:
        """The tool that the model calls so."""
        return self._tools.get(name)

    def use(self, tool: McpTool, arguments: dict[str, Any], seconds: float) -> Output:
        """Use a tool for at most `seconds`. Raises Stopped only."""
        server = tool.server
        end: Any = None
        for _ in range(2):
            if not server.up and (problem := self._again(server)):
                return _error(problem)
            assert server.client is not None
            [end] = run(self._wire, [server.client.call(tool.given, arguments, time.monotonic() + seconds)])
            if isinstance(end, Broken):
                self._lost(server, end)
            if not isinstance(end, Unsent):
                break
        if isinstance(end, Refused):
            return _error(one_line(str(end), 2000))
        if isinstance(end, Late):
            return _error(f"timed out after {seconds:g} s; whether it is done is unknown")
        if isinstance(end, Unsent):
            return _error(f"not run: the MCP server `{server.name}` {end}")
        if isinstance(end, Broken):
            return _error(f"the MCP server `{server.name}` {end}. Whether the tool ran and what it did is unknown")
        return output(end)

    def close(self) -> None:
        """End all of them, gently where that goes quickly. Idempotent."""
        clients = [server.client for server in self._servers if server.client is not None]
        for client in clients:
            client.hang_up()
        end = time.monotonic() + _END_SECONDS
        while any(client.running for client in clients) and time.monotonic() < end:
            time.sleep(_STEP)
        for client in clients:
            client.close()

    def _start(self, servers: list[_Server]) -> None:
        """Start these at once; what does not work is noted."""
        until = time.monotonic() + self._seconds
        if any(not server.own for server in servers):
            self._wire.send("presence", state="starting MCP servers")
        flows = []
        for server in servers:
            server.starts += 1
            if server.client is None:
                server.client = _client(self._wire, server)
            flows.append(server.client.start(until))
        for server, end in zip(servers, run(self._wire, flows), strict=True):
            server.up = not isinstance(end, Exception)
            if server.up:
                server.told = False
                continue
            server.hopeless = not server.own and (isinstance(end, Late) or server.starts >= MOST_STARTS)
            self._say(server, f"did not start within {self._seconds:g} s" if isinstance(end, Late) else str(end))

    def _again(self, server: _Server) -> str:
        """Start a server that is down because its tool is called; returns why not."""
        if not server.hopeless:
            self._start([server])
            self._lapsed = True  # what it has now is offered with the next model call
        return "" if server.up else f"not run: the MCP server `{server.name}` is not there"

    def _lost(self, server: _Server, end: Exception) -> None:
        """Give up the connection to a server, which begins anew with its next call. Where nothing died, that is nothing to speak of."""
        server.up = False
        if isinstance(end, Unsent) and server.given.get("url"):
            server.starts -= 1
            return
        server.hopeless = not server.own and server.starts >= MOST_STARTS
        if server.client is not None:
            server.client.close()
        words = "does not answer" if isinstance(end, Late) else str(end)
        self._say(server, words + (" (it is not started again)" if server.hopeless else ""), tell=server.hopeless)
        self._lapsed = self._lapsed or server.hopeless

    def _say(self, server: _Server, words: str, *, tell: bool = True) -> None:
        """Tell the log, unless it was told already, and with `tell` the model, unless it knows that the server is not there."""
        if words not in server.said and len(server.said) < MOST_STARTS + 2:
            server.said.add(words)
            self._wire.send("note", text=f"MCP server `{server.name}`: {one_line(words, 600)}")
        if tell and not server.told:
            server.told = True
            self._notes.append(f"The MCP server `{server.name}` {one_line(words)}. Its tools are not there.")

    def _learn(self) -> None:
        """Give every tool its name. The order is that of the servers and of their lists, so that the offer stays the same."""
        tools: dict[str, McpTool] = {}
        room = _DEFINITIONS
        for server in self._servers:
            # The tools of one that is down for the moment stay: a call starts it again.
            left = len(server.client.tools) if server.client is not None and server.client.more else 0
            for given in server.client.tools if server.client is not None and not server.hopeless else []:
                name = named(server.name, given["name"], self._taken | tools.keys(), own=server.own)
                tool = McpTool(server, name, given) if name else None
                size = len(dumps_text([tool.name, tool.description, tool.parameters])) if tool else room + 1
                if tool is None or size > room:
                    left += 1
                    continue
                room -= size
                tools[tool.name] = tool
            if left:
                self._say(server, "has more tools than can be offered; the last of them are left out", tell=False)
        self._tools, self._lapsed = tools, False


def _client(wire: Wire, server: _Server) -> Client:
    given = server.given
    if given.get("url"):
        from aegis.guest.agent.mcp.http import Http

        return Client(Http(given["url"], given.get("headers") or {}), own=server.own)
    from aegis.guest.agent.mcp.stdio import Stdio

    return Client(Stdio(wire, given["command"], given.get("env") or {}))


def _error(text: str) -> Output:
    return Output(f"error: {text}", ok=False)
