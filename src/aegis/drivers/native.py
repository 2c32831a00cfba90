"""The driver of Aegis's own agent, `aegis.guest.agent`, over JSON lines on its stdin and stdout.

`Machine` is the pure part: bytes in, `DriverEvent`s out. `NativeConversation` is the thin shell around a program in the
sandbox. The agent's own count of tokens is not passed on: the broker, through which every model call goes, records them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import (
    MAX_DIFF,
    Fact,
    Outcome,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolKind,
    ToolResult,
    TurnPresence,
)
from aegis.core.text import one_line
from aegis.drivers import (
    Accepted,
    Acknowledged,
    Answer,
    Capabilities,
    ConversationSpec,
    Died,
    DriverEvent,
    Finished,
    Happened,
    Installation,
    Message,
    Opened,
    Record,
)
from aegis.tether.frames import STDERR

if TYPE_CHECKING:
    from aegis.core.dialects import Dialect
    from aegis.sandboxes.link import Link, Program

#: The largest frame, in bytes.
MAX_LINE: Final = 32 * 1024 * 1024
#: How much of what the program said last on stderr is kept, in bytes.
STDERR_TAIL: Final = 4096
_START_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 2.0
_MODULE: Final = "aegis.guest.agent.main"


class Broken(Exception):
    """The program does not keep to the protocol."""


class Machine:
    """What the agent says, as events.

    Tolerant of what it does not know: unknown frames and unknown fields are passed over, and lines that are no JSON are kept
    with stderr. Not tolerant of a known frame without its fields, because what waits for it would wait for ever.
    """

    def __init__(self) -> None:
        #: The agent has said that it is there.
        self.ready = False
        self._line = bytearray()
        self._stderr = bytearray()
        self._inputs: dict[str, dict[str, Any]] = {}  # of the tools that have not said how they ended

    def feed(self, data: bytes) -> list[DriverEvent]:
        """The events that these bytes of stdout complete. Raises Broken."""
        self._line += data
        if b"\n" not in data:
            if len(self._line) > MAX_LINE:
                raise Broken(f"the agent sent a line of more than {MAX_LINE} bytes")
            return []
        *lines, rest = bytes(self._line).split(b"\n")
        self._line = bytearray(rest)
        return [event for line in lines if line.strip() and (event := self._event(line))]

    def feed_stderr(self, data: bytes) -> None:
        """Keep the end of what the program says to people."""
        self._stderr += data
        del self._stderr[:-STDERR_TAIL]

    def died(self, exit_: int | None, reason: str = "") -> Died:
        """The event of its end; `reason` is ours, and stands behind what it said itself."""
        said = self._stderr.decode("utf-8", "replace").strip()
        return Died(exit_, "\n".join(part for part in (said, reason) if part))

    def _event(self, line: bytes) -> DriverEvent | None:
        if len(line) > MAX_LINE:
            raise Broken(f"the agent sent a line of more than {MAX_LINE} bytes")
        try:
            frame = msgspec.json.decode(line)
        except msgspec.DecodeError:
            frame = None
        if not isinstance(frame, dict):
            self.feed_stderr(line + b"\n")
            return None
        try:
            return self._known(frame)
        except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
            raise Broken(f"the agent sent a `{frame.get('type')}` that cannot be read: {error!r}") from None

    def _known(self, frame: dict[str, Any]) -> DriverEvent | None:
        match frame.get("type"):
            case "ready":
                self.ready = True
            case "accepted":
                return msgspec.convert(frame, Accepted)
            case "acknowledged":
                return msgspec.convert(frame, Acknowledged)
            case "record":
                return Record(msgspec.convert(frame["n"], int), frame["message"], _facts(frame["message"], self._inputs))
            case "delta":
                return Happened(msgspec.convert(frame, TextDelta))
            case "thinking":
                return Happened(msgspec.convert(frame, ThinkingDelta))
            case "presence":
                return Happened(msgspec.convert(frame, TurnPresence))
            case "finished":
                return _finished(frame)
        return None


def _finished(frame: dict[str, Any]) -> Finished:
    """The end of a turn. The agent's error, `{kind, message, ...}`, becomes one as every face of Aegis shows it."""
    told = frame.get("error")
    if frame["outcome"] not in set(Outcome):
        told = {"kind": "internal", "message": f"the agent ended the turn with the unknown outcome {frame['outcome']!r}"}
        frame = {**frame, "outcome": "failed"}
    error = None
    if told is not None:
        rest = {name: value for name, value in told.items() if name not in ("kind", "message")}
        error = {"error": str(told["message"]), "kind": str(told["kind"]), **({"data": rest} if rest else {})}
    return msgspec.convert({**frame, "error": error}, Finished)


#: What its tools do.
_KINDS: Final[dict[str, ToolKind]] = {
    "read": "read", "write": "edit", "edit": "edit", "list": "search", "glob": "search", "grep": "search", "bash": "execute",
}  # fmt: skip


def _facts(message: dict[str, Any], inputs: dict[str, dict[str, Any]]) -> list[Fact]:
    """What subscribers are told of a message. What users said they know from the mail. `inputs` remembers those of the tools at work."""
    facts: list[Fact] = []
    for block in message["content"]:
        kind = block["type"]
        if kind == "text" and message["role"] == "assistant":
            facts.append(msgspec.convert({"text": block["text"]}, Text))
        elif kind == "thinking" and block["text"]:
            facts.append(msgspec.convert({"text": block["text"]}, Thinking))
        elif kind == "tool_call":
            call = {"call_id": block["id"], "name": block["name"], "input": block["input"], "kind": _KINDS.get(block["name"], "other")}
            inputs[block["id"]] = block["input"]
            facts.append(msgspec.convert({**call, "title": _title(block["input"])}, ToolCall))
        elif kind == "tool_result":
            given = {name: value for name, value in block.items() if name != "type"}
            about = {"kind": _KINDS.get(block["name"], "other"), "diffs": _diffs(block, inputs.pop(block["id"], {}))}
            facts.append(msgspec.convert({"call_id": block["id"], **given, **about}, ToolResult))
    return facts


def _title(arguments: dict[str, Any]) -> str:
    """What a tool is used for, in a line: the first of these that it was given."""
    told = next((arguments[name] for name in ("command", "pattern", "path") if isinstance(arguments.get(name), str)), "")
    return one_line(told)


def _diffs(block: dict[str, Any], arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """What a tool changed, as far as its input tells; a file that was replaced as a whole is not known as it was."""
    if not block.get("ok"):
        return []
    old: str | None = None
    match block["name"], arguments:
        case "edit", {"path": str(path), "old_text": str(before), "new_text": str(new)}:
            old = before
        case "write", {"path": str(path), "content": str(new)} if str(block.get("output")).startswith("created"):
            pass
        case _:
            return []
    cut = max(len(old or ""), len(new)) > MAX_DIFF
    return [{"path": path, "new": new[:MAX_DIFF], "old": None if old is None else old[:MAX_DIFF], "truncated": cut}]


class NativeConversation:
    """A running agent. What is written to one that is gone is dropped: `events` tells of its end."""

    #: It has no name of its own for a session: Aegis keeps the conversation.
    opened = Opened()

    def __init__(self, program: Program, machine: Machine) -> None:
        self._program = program
        self._machine = machine
        self._closed = False

    async def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> None:
        """Begin a turn; see the port."""
        await self._write(type="turn", turn=turn, messages=messages, continues=continues)

    async def events(self) -> AsyncIterator[DriverEvent]:
        """Everything the agent says; see the port. To be iterated once; the agent waits when it is not read."""
        try:
            while (output := await self._program.read()) is not None:
                for event in _take(self._machine, output):
                    yield event
            exit_ = await self._program.wait()
            last = self._machine.died(exit_)
        except Broken as broken:
            await self._program.channel.close()
            last = self._machine.died(None, str(broken))
        except AegisError as error:
            last = self._machine.died(None, error.message)
        if not self._closed:
            yield last

    async def committed(self, n: int) -> None:
        """Record `n` is on disk."""
        await self._write(type="committed", n=n)

    async def answer(self, request: str, answer: Answer) -> None:
        """Nothing: it never asks, its tools look at the permission themselves."""

    async def configure(self, *, model: str | None = None, mode: str | None = None, effort: str | None = None) -> None:
        """Always CONFLICT: it is started with its settings."""
        raise AegisError(ErrorKind.CONFLICT, "the agent takes other settings only when it is started anew")

    async def interrupt(self) -> None:
        """Cut the running turn."""
        await self._write(type="interrupt")

    async def close(self) -> None:
        """Ask the agent to end; kill it, with all it started, when it does not within two seconds."""
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._write(type="close")
                await self._program.wait()
        except (TimeoutError, AegisError):
            pass
        finally:
            await self._program.channel.close()

    async def _write(self, **frame: Any) -> None:
        try:
            await self._program.write(msgspec.json.encode(frame) + b"\n")
        except AegisError:
            return


class NativeDriver:
    """Starts Aegis's own agent."""

    name = "native"
    capabilities = Capabilities(resume=True, fork=True, keeps_memory=False)
    dialects: tuple[Dialect, ...] = ("anthropic", "openai")

    async def locate(self) -> Installation | None:
        """Nothing is to be found: it comes with Aegis."""
        return None

    async def start(self, link: Link, spec: ConversationSpec) -> NativeConversation:
        """Start the agent and give it its memory; see the port."""
        program = await link.run_module(_MODULE, env=spec.env)
        machine = Machine()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await _until_ready(program, machine, spec)
        except BaseException as error:
            await program.channel.close()
            if isinstance(error, TimeoutError):
                raise _failed(machine.died(None, f"it was not ready within {_START_SECONDS:g} s")) from None
            raise
        return NativeConversation(program, machine)


async def _until_ready(program: Program, machine: Machine, spec: ConversationSpec) -> None:
    fields = ("session", "system", "model", "dialect", "history", "permission", "limits")
    init = {"type": "init", **{name: getattr(spec, name) for name in fields}}
    try:
        await program.write(msgspec.json.encode(init) + b"\n")
    except AegisError as error:
        if error.kind is not ErrorKind.CONFLICT:  # CONFLICT: it has ended, and its output says why
            raise _failed(machine.died(None, error.message)) from None
    try:
        while not machine.ready:
            output = await program.read()
            if output is None:
                raise _failed(machine.died(await program.wait()))
            _take(machine, output)
    except Broken as broken:
        raise _failed(machine.died(None, str(broken))) from None


def _take(machine: Machine, output: tuple[int, bytes]) -> list[DriverEvent]:
    stream, data = output
    if stream == STDERR:
        machine.feed_stderr(data)
        return []
    return machine.feed(data)


def _failed(end: Died) -> AegisError:
    how = "" if end.exit is None else f" (exit {end.exit})"
    last = end.stderr.splitlines()[-1] if end.stderr else "it said nothing"
    return AegisError(ErrorKind.FAILED, f"the agent did not start{how}: {last}", "aegis doctor", exit=end.exit, stderr=end.stderr)
