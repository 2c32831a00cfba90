"""The verb that runs a command in an instance, for a person's own agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.mcp.model import Arguments, Said, Verb

if TYPE_CHECKING:
    from aegis.daemon.mcp.model import Caller
    from aegis.daemon.wiring import House

#: The most of a command's output that is told, in bytes: its beginning and its end. Seconds that it may run.
_HEAD: Final = 12_000
_TAIL: Final = 20_000
_SECONDS: Final = 120.0
_MOST_SECONDS: Final = 600.0


class Exec(Arguments, frozen=True):
    """The command."""

    name: Annotated[str, msgspec.Meta(description="Handle or id of the instance.")]
    command: Annotated[list[str], msgspec.Meta(description='The program and its arguments, such as ["sh", "-c", "ls"].')]
    cwd: Annotated[str | None, msgspec.Meta(description="A directory inside; its workspace by default.")] = None
    timeout_s: Annotated[float, msgspec.Meta(description="It is killed after so many seconds; at most 600.")] = _SECONDS


class Kept:
    """Output as it comes, of which the middle is dropped when it is long."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        """More of it."""
        room = _HEAD - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * _TAIL:
            self._cut()

    def text(self) -> str:
        """What is kept."""
        self._cut()
        head, tail = (bytes(part).decode("utf-8", "replace") for part in (self._head, self._tail))
        return f"{head}\n[... {self.dropped} bytes left out ...]\n{tail}" if self.dropped else head + tail

    def _cut(self) -> None:
        over = len(self._tail) - _TAIL
        if over > 0:
            del self._tail[:over]
            self.dropped += over


async def _exec(house: House, caller: Caller, wanted: Exec) -> Said:
    found = house.registry.get(wanted.name)
    if not found.enabled:
        told = f"`{found.handle}` is disabled"
        raise AegisError(ErrorKind.CONFLICT, told, f"instance_start with name {found.handle} starts it again")
    seconds = min(wanted.timeout_s, _MOST_SECONDS)
    if not seconds > 0:
        raise AegisError(ErrorKind.USAGE, "timeout_s must be over zero", f"leave it out for {_SECONDS:g}")
    kept = Kept()
    code: int | None = None
    try:
        async with (
            asyncio.timeout(seconds),
            house.agents.exec(caller.principal, found, wanted.command, env={}, cwd=wanted.cwd, stdin=False) as (_, program),
        ):
            while (piece := await program.read()) is not None:
                kept.add(piece[1])
            code = await program.wait()
    except TimeoutError:
        pass
    output = kept.text()
    end = f"[killed after {seconds:g} s]" if code is None else f"[exit code: {code}]"
    text = f"{output}{'' if not output or output.endswith(chr(10)) else chr(10)}{end}"
    return Said(text, {"output": output, "exit_code": code, "left_out": kept.dropped}, failed=code is None)


EXEC: Final = Verb("exec", "Run a command in an instance; output and errors come together.", Exec, _exec, "host")
