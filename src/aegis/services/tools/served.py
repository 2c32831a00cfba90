"""An MCP server as a source of tools: what it offers is compared with what was accepted, and only that is offered and called."""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.services.gate.calls import effect_of
from aegis.services.tools.cleaning import LONGEST, result
from aegis.services.tools.pinning import Change, Pins
from aegis.services.tools.speaking import Refused

if TYPE_CHECKING:
    from aegis.services.gate import Effect
    from aegis.services.tools import Definition, Result, ToolCaller
    from aegis.services.tools.servers import Child

#: How long a list waits for a server that begins, in seconds: one whose tools are known from before, and one whose are not.
KNOWN: Final = 0.5
UNKNOWN: Final = 3.0
_INSIDE: Final = "/workspace"
_OTHER: Final = re.compile(r"[^A-Za-z0-9_-]")


def called(server: str, tool: str) -> str:
    """What programs call a tool of a server: one name for one tool, which says by a number where it could not be kept as it is."""
    clean = _OTHER.sub("_", tool)
    name = f"{server}__{clean}"
    if clean == tool and len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}_{zlib.crc32(f'{server}.{tool}'.encode()):08x}"


class Served:
    """The source. One for each running server; `pins` are those of its declaration."""

    def __init__(self, child: Child, pins: Pins) -> None:
        self.name = child.server.name
        self.child = child
        self._pins = pins
        self._compared = -1
        self._accepted: dict[str, Definition] = {}
        self._change: Change | None = None
        self._by_name: dict[str, str] = {}
        self._lock = asyncio.Lock()

    async def tools(self, caller: ToolCaller) -> list[Definition]:
        """What was accepted and is still offered. Raises UNAVAILABLE."""
        known = self._pins.of(self.child.origin)
        try:
            bound = KNOWN if known else UNKNOWN
            async with asyncio.timeout(max(0.05, bound - self.child.starting_for)):
                await self.child.ready()
        except TimeoutError:
            if not known:
                raise AegisError(
                    ErrorKind.UNAVAILABLE, f"the tool server `{self.name}` has not begun yet", "list the tools again in a moment"
                ) from None
            return self._know({name: definition for name, (_, definition) in known.items()})
        await self.compare()
        return list(self._accepted.values())

    def effect(self, caller: ToolCaller, name: str, arguments: dict[str, Any]) -> Effect:
        """The call, as far as it can be understood from outside of the server."""
        return effect_of(f"{self.name}.{name}", "other", arguments, cwd=_INSIDE, workspace=_INSIDE, session=caller.session)

    async def call(self, caller: ToolCaller, name: str, arguments: dict[str, Any], *, limit: int) -> Result:
        """Call it, if it is the tool that was accepted. Raises NOT_FOUND, CONFLICT, TIMEOUT, UNAVAILABLE, FAILED."""
        child = self.child
        try:
            async with asyncio.timeout(child.server.timeout):
                await child.ready()
                await self.compare()
                if name not in self._accepted:
                    raise self._missing(name)
                return result(await child.call(name, arguments), limit)
        except TimeoutError:
            child.suspect()
            text = f"`{self.name}.{name}` did not answer within {child.server.timeout:g} s"
            raise AegisError(ErrorKind.TIMEOUT, text, "its `timeout` is that of the server's declaration") from None
        except Refused as error:
            raise AegisError(ErrorKind.FAILED, f"`{self.name}.{name}` refused the call: {error}", "look at its arguments") from None

    def tool_of(self, name: str) -> str | None:
        """The server's own name of the tool that programs call so; None when that is not known."""
        if not self._by_name:
            self._know({known: definition for known, (_, definition) in self._pins.of(self.child.origin).items()})
        return self._by_name.get(name)

    async def compare(self) -> Change | None:
        """Compare what is offered now with what was accepted; what is offered first is accepted. Returns the last comparison."""
        child = self.child
        if self._compared == child.listed:
            return self._change
        async with self._lock:
            seen = child.listed
            if self._compared == seen:
                return self._change
            offered = child.offered.tools
            await self._pins.first(child.origin, offered)
            self._change = self._pins.change(child.origin, offered)
            away = {*self._change.changed, *self._change.added}
            self._accepted = {each.name: each for each in offered if each.name not in away}
            self._know(self._accepted)
            self._compared = seen
        if self._change.any:
            await self._pins.tell(child.origin, self._change)
        return self._change

    @property
    def change(self) -> Change | None:
        """The last comparison."""
        return self._change

    def again(self) -> None:
        """Something else was accepted: compare once more."""
        self._compared = -1

    def _know(self, definitions: dict[str, Definition]) -> list[Definition]:
        self._by_name = {called(self.name, name): name for name in definitions}
        return list(definitions.values())

    def _missing(self, name: str) -> AegisError:
        change = self._change
        if change is not None and name in (*change.changed, *change.added):
            what = "is defined otherwise than when it was accepted" if name in change.changed else "is new, and nobody has accepted it"
            return AegisError(
                ErrorKind.CONFLICT,
                f"the tool `{self.name}.{name}` {what}, so it is not called",
                f"a person looks at it and accepts it with `aegis tools pin {self.name}`",
                server=self.name,
            )
        if (why := self.child.offered.refused.get(name)) is not None:
            return AegisError(ErrorKind.USAGE, f"the tool `{self.name}.{name}` cannot be used: {why}", "see `aegis tools servers`")
        return unknown_name("tool", f"{self.name}.{name}", [f"{self.name}.{each}" for each in self._accepted], "see `aegis tools list`")
