"""`cmd`: commands in the caller's sandbox, with its rights, bounded in time and output."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.services.gate.calls import effect_of
from aegis.services.tools import Definition
from aegis.services.tools.builtin.arguments import Arguments, may_use, names_of, needed, place_of, read, schema_of
from aegis.services.tools.builtin.output import Kept, said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.sandboxes.link import Link
    from aegis.services.agents.model import Instance
    from aegis.services.gate import Effect
    from aegis.services.tools import Result, ToolCaller
    from aegis.services.tools.builtin.desks import Desks

_MODULE: Final = "aegis.guest.command"
_VARIABLE: Final = "AEGIS_RUN"  # where that module looks for its request
#: Seconds that a command may run unless more is asked for, and at most.
_SECONDS: Final = 120.0
_MOST_SECONDS: Final = 600.0
#: Bytes of output that are told unless more is asked for, and at most.
_OUTPUT: Final = 32_000
_MOST_OUTPUT: Final = 256 * 1024
#: The longest command, in bytes: what fits into one request to the guest.
_LONGEST: Final = 128 * 1024


class Run(Arguments, frozen=True):
    """The command."""

    command: Annotated[
        str | list[str],
        msgspec.Meta(description='A command line for the shell, or a program and its arguments, such as ["git", "status"], without one.'),
    ]
    cwd: Annotated[str, msgspec.Meta(description="Where it runs, relative to the workspace; the workspace itself unless given.")] = ""
    timeout: (
        Annotated[float, msgspec.Meta(gt=0, description="It is ended after so many seconds; 120 unless given, at most 600.")] | None
    ) = None
    max_output: Annotated[int, msgspec.Meta(ge=1, description="Bytes of output to tell; 32000 unless given.")] | None = None


_DEFINITION: Final = Definition(
    name="run",
    description="Run a command in the workspace, without input; its output and errors come together. Each call is a fresh process.",
    schema=schema_of(Run),
    kind="execute",
    changes=True,
)


class Commands:
    """The source `cmd`."""

    name: str = "cmd"

    def __init__(self, desks: Desks) -> None:
        self._holding = desks.holding

    async def tools(self, caller: ToolCaller) -> Sequence[Definition]:
        """`run`, for who has it. Where nothing makes the workspace read-only, who may only read cannot run commands."""
        if not may_use(caller, self.name) or (caller.instance is not None and _unbounded(caller.instance)):
            return ()
        return (_DEFINITION,)

    def effect(self, caller: ToolCaller, name: str, arguments: dict[str, Any]) -> Effect:
        """The exact call. Raises AegisError: NOT_FOUND, USAGE, DENIED."""
        instance, given, names = _parsed(caller, name, arguments)
        place = place_of(instance)
        said_: dict[str, Any] = {**arguments, "command": given.command, "cwd": "/".join((place, *names))}
        return effect_of("cmd.run", "execute", said_, cwd=place, workspace=place, session=caller.session)

    async def call(self, caller: ToolCaller, name: str, arguments: dict[str, Any], *, limit: int) -> Result:
        """Run it to its end, or to that of its time. Raises AegisError."""
        instance, given, names = _parsed(caller, name, arguments)
        seconds = min(given.timeout or _SECONDS, _MOST_SECONDS, instance.launch.turn.tool_seconds)
        kept = Kept(max(256, min(given.max_output or _OUTPUT, _MOST_OUTPUT, limit - 256)))
        what = {"line": given.command} if isinstance(given.command, str) else {"argv": given.command}
        async with self._holding(instance) as link:
            code = await _run(link, {"path": names, **what}, kept, seconds)
        end = f"[ended after {seconds:g} s, with all its processes]" if code is None else f"[exit code: {code}]"
        output = kept.text()
        text = f"{output}{'' if not output or output.endswith(chr(10)) else chr(10)}{end}"
        data = {"output": output, "exit_code": code, "left_out": kept.dropped, "timed_out": code is None}
        return said(text, data, failed=code is None)


async def _run(link: Link, request: dict[str, Any], kept: Kept, seconds: float) -> int | None:
    """Its exit code; None when its time was over. Cancelled, it ends with all that it started."""
    program = await link.run_module(_MODULE, env={_VARIABLE: json.dumps(request)})
    code: int | None = None
    try:
        async with asyncio.timeout(seconds):
            await program.close_stdin()
            while (piece := await program.read()) is not None:
                kept.add(piece[1])
            code = await program.wait()
    except TimeoutError:
        pass
    finally:
        if code is None:
            with contextlib.suppress(AegisError):  # the sandbox has gone, and the command with it
                await program.channel.close()
    return code


def _parsed(caller: ToolCaller, name: str, arguments: dict[str, Any]) -> tuple[Instance, Run, list[str]]:
    if name != "run":
        raise AegisError(ErrorKind.NOT_FOUND, f"there is no tool `cmd.{one_line(name, 80)}`", "there is cmd.run")
    instance = needed(caller, "cmd.run")
    given = read(Run, "cmd.run", arguments)
    words = [given.command] if isinstance(given.command, str) else given.command
    if not words or not words[0].strip():
        raise AegisError(ErrorKind.USAGE, "cmd.run: the command is empty", 'give a command line, or a list such as ["ls", "-l"]')
    if any("\0" in word for word in words):
        raise AegisError(ErrorKind.USAGE, "cmd.run: the command holds a NUL", "leave it out: programs would take the text to end there")
    if sum(len(word.encode("utf-8", "replace")) for word in words) > _LONGEST:
        raise AegisError(ErrorKind.TOO_LARGE, f"cmd.run: the command is over {_LONGEST:,} bytes", "write it to a file and run that")
    if _unbounded(instance):
        text = f"the permission of `{instance.handle}` is `read`, and its sandbox `process` cannot keep a command to that"
        raise AegisError(ErrorKind.DENIED, text, "a person can start it in the sandbox `bwrap`")
    return instance, given, names_of(instance, given.cwd)


def _unbounded(instance: Instance) -> bool:
    """Whether it may only read, and nothing but its own word would keep its commands to that."""
    return instance.launch.read_only and instance.launch.sandbox == "process"
