"""One MCP server as its client has it: agreed with, its tools listed, its tools called."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aegis.core.text import one_line
from aegis.services.tools.speaking import MODERN, NO_METHOD, Broken, Refused, Speaker, is_modern, notification

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.services.tools.wires import Wire

#: How long a server has for showing that it is of the newer era, in seconds, before it is asked in the older one.
_PROBE: Final = 3.0
_PAGES: Final = 64
#: So many tools of a server are taken.
MOST_TOOLS: Final = 128


class Upstream:
    """A server that was reached. `open` makes a wire, more than once where a server does not live through a question it does not know."""

    def __init__(self, open: Callable[[], Awaitable[Wire]], *, version: str = "") -> None:
        self._open = open
        self._known = version
        self.speaker = Speaker()
        self.wire: Wire | None = None
        #: Its tools as it lists them, each with a name, and whether there were more.
        self.tools: list[dict[str, Any]] = []
        self.more = False

    async def start(self) -> None:
        """Reach it, agree, and list its tools. Raises Broken."""
        self.wire = await self._open()
        if self._known == MODERN:
            self.speaker.version = MODERN
        else:
            await self._agree(self._known == "")
        await self.list()

    async def list(self) -> None:
        """List its tools. Raises Broken."""
        assert self.wire is not None
        self.speaker.changed = False
        found: dict[str, dict[str, Any]] = {}
        cursor: str | None = None
        for _ in range(_PAGES):
            result = await self.wire.ask(self.speaker, self.speaker.request("tools/list", {"cursor": cursor} if cursor else None))
            if isinstance(result, Refused):
                if result.code == NO_METHOD and not found:
                    break  # it has none
                raise Broken(f"does not list its tools: {result}")
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

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call a tool; its result. Raises Refused and Broken."""
        assert self.wire is not None
        result = await self.wire.ask(self.speaker, self.speaker.request("tools/call", {"name": name, "arguments": arguments}))
        if isinstance(result, Refused):
            raise result
        return result

    async def ping(self) -> None:
        """Return when it has answered anything at all. Raises Broken."""
        assert self.wire is not None
        await self.wire.ask(self.speaker, self.speaker.request("ping"))

    async def close(self) -> None:
        """Let go of it. Idempotent."""
        wire, self.wire = self.wire, None
        if wire is not None:
            await wire.close()

    async def _agree(self, probe: bool) -> None:
        assert self.wire is not None
        speaker = self.speaker
        if probe:
            try:
                async with asyncio.timeout(_PROBE):
                    if speaker.discovered(await self.wire.ask(speaker, speaker.discover())):
                        return
            except TimeoutError:
                pass
            except Broken:  # some servers of the older era do not live through a question that they do not know
                await self.wire.close()
                self.wire = await self._open()
        result = await self.wire.ask(speaker, speaker.initialize())
        if isinstance(result, Refused):
            if not is_modern(result):
                raise Broken(f"does not begin: {one_line(str(result))}")
            speaker.version = MODERN
            return
        speaker.initialized(result)
        await self.wire.tell(speaker, notification("notifications/initialized"))
