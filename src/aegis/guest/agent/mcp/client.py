"""One MCP server: it is started and agreed with, its tools are listed, and they are used."""

from __future__ import annotations

import time

from aegis.guest.agent.mcp import Broken, Late, Refused, one_line
from aegis.guest.agent.mcp.machine import MODERN, NO_METHOD, Machine, is_modern, notification

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aegis.guest.agent.mcp import Flow
    from aegis.guest.agent.mcp.http import Http
    from aegis.guest.agent.mcp.stdio import Stdio

#: How long a server has for showing that it is of the newer era, in seconds, before it is asked in the older one as well.
_PROBE = 3.0
_PAGES = 64
#: How many tools of a server are taken.
MOST_TOOLS = 128


class Client:
    """A server that was reached, or is to be. `own` is Aegis's own, which is known to be of the newer era."""

    def __init__(self, transport: Stdio | Http, *, own: bool = False) -> None:
        self._transport = transport
        self._own = own
        self._machine = Machine()
        #: Its tools as it lists them; each has a name.
        self.tools: list[dict[str, Any]] = []
        #: There were more of them.
        self.more = False

    @property
    def changed(self) -> bool:
        """Whether it said that its tools are others now."""
        return self._machine.changed

    def start(self, until: float) -> Flow[None]:
        """Start it, agree, and list its tools. Raises Broken and Late; then it is closed."""
        try:
            self._machine = Machine()
            self._transport.open()
            if self._own:
                self._machine.version = MODERN
            else:
                yield from self._agree(until)
            yield from self.list(until)
        except BaseException:
            self._transport.close()
            raise

    def list(self, until: float) -> Flow[None]:
        """List its tools. Raises Broken and Late."""
        self._machine.changed = False
        try:
            yield from self._list(until)
        except BaseException:
            self._machine.changed = True
            raise

    def _list(self, until: float) -> Flow[None]:
        found: dict[str, dict[str, Any]] = {}
        cursor: str | None = None
        for _ in range(_PAGES):
            message = self._machine.request("tools/list", {"cursor": cursor} if cursor else None)
            _, result = yield from self._transport.request(self._machine, message, until)
            if isinstance(result, Refused):
                if result.code == NO_METHOD and not found:
                    break  # it has none
                raise Broken(f"does not list its tools: {one_line(str(result))}")
            tools = result.get("tools") if isinstance(result, dict) else None
            if not isinstance(tools, list):
                raise Broken("does not list its tools: there is no list in its answer")
            for tool in tools:
                if isinstance(tool, dict) and isinstance(tool.get("name"), str) and tool["name"]:
                    found.setdefault(tool["name"], tool)
            cursor = result.get("nextCursor")
            if not (isinstance(cursor, str) and cursor) or len(found) > MOST_TOOLS:
                break
        self.more = len(found) > MOST_TOOLS
        self.tools = [*found.values()][:MOST_TOOLS]
        schemas = {tool["name"]: tool.get("inputSchema") for tool in self.tools}
        self._transport.schemas = {name: schema for name, schema in schemas.items() if isinstance(schema, dict)}

    def call(self, name: str, arguments: dict[str, Any], until: float) -> Flow[Any]:
        """Use a tool; returns its result. Raises Refused, Unsent, Broken and Late. Ended before it is done, it tells the server."""
        message = self._machine.request("tools/call", {"name": name, "arguments": arguments})
        try:
            _, result = yield from self._transport.request(self._machine, message, until)
        except (Late, GeneratorExit):
            self._transport.cancel(self._machine, message["id"])
            raise
        if isinstance(result, Refused):
            raise result
        return result

    def hang_up(self) -> None:
        """Tell it to end."""
        self._transport.hang_up()

    @property
    def running(self) -> bool:
        """Whether there is a program that has not ended."""
        return self._transport.running

    def close(self) -> None:
        """End it. Idempotent."""
        self._transport.close()

    def _agree(self, until: float) -> Flow[None]:
        machine, transport = self._machine, self._transport
        probe = machine.discover()
        try:
            _, result = yield from transport.request(machine, probe, min(until, time.monotonic() + _PROBE))
            if machine.discovered(result):
                return
        except Late:
            if time.monotonic() >= until:
                raise
        except Broken:  # some servers of the older era do not live through a question that they do not know
            transport.open()
        hello = machine.initialize()
        ident, result = yield from transport.request(machine, hello, until, probe["id"])
        if ident == probe["id"]:  # it was only slow
            if not machine.discovered(result):
                raise Broken("speaks no version of the protocol that is known here")
            machine.version = MODERN
        elif isinstance(result, Refused):
            if not is_modern(result):
                raise Broken(f"does not begin: {one_line(str(result))}")
            machine.version = MODERN
        else:
            machine.initialized(result)
            message = notification("notifications/initialized")
            yield from transport.notify(message, until, machine)
