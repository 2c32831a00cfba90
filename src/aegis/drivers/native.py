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
    Location,
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
    Asked,
    Capabilities,
    ConversationSpec,
    DriverEvent,
    Finished,
    Happened,
    Installation,
    Message,
    Noted,
    Opened,
    Record,
)
from aegis.drivers.process import Broken, Output, unstarted
from aegis.guest.agent.dialects import EFFORTS
from aegis.tether.frames import STDERR

if TYPE_CHECKING:
    from aegis.core.dialects import Dialect
    from aegis.sandboxes.link import Link, Program

#: The largest frame, in bytes.
MAX_LINE: Final = 32 * 1024 * 1024
_START_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 2.0
#: The most characters of a line that it has for the log.
_NOTE: Final = 1000
_MODULE: Final = "aegis.guest.agent.main"


class Machine:
    """What the agent says, as events.

    Tolerant of what it does not know: unknown frames and unknown fields are passed over, and lines that are no JSON are kept
    with stderr. Not tolerant of a known frame without its fields, because what waits for it would wait for ever.
    """

    def __init__(self) -> None:
        #: The agent has said that it is there.
        self.ready = False
        self.output = Output("the agent", MAX_LINE)
        self._inputs: dict[str, dict[str, Any]] = {}  # of the tools that have not said how they ended

    def feed(self, data: bytes) -> list[DriverEvent]:
        """The events that these bytes of stdout complete. Raises Broken."""
        return [event for line in self.output.lines(data) if (event := self._event(line))]

    def _event(self, line: bytes) -> DriverEvent | None:
        try:
            frame = msgspec.json.decode(line)
        except msgspec.DecodeError:
            frame = None
        if not isinstance(frame, dict):
            self.output.aside(line + b"\n")
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
            case "note":
                return Noted(one_line(msgspec.convert(frame["text"], str), _NOTE))
            case "ask":
                return _asked(frame)
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


#: What its tools do. Those of MCP servers are `other`: their names and what is said of them tell nothing that could be relied on.
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
            facts.append(msgspec.convert({**call, "title": _title(block["name"], block["input"])}, ToolCall))
        elif kind == "tool_result":
            given = {name: value for name, value in block.items() if name != "type"}
            about = {"kind": _KINDS.get(block["name"], "other"), "diffs": _diffs(block, inputs.pop(block["id"], {}))}
            facts.append(msgspec.convert({"call_id": block["id"], **given, **about}, ToolResult))
    return facts


def _asked(frame: dict[str, Any]) -> Asked:
    """The agent wants to use a tool."""
    asked = msgspec.convert({"kind": _KINDS.get(frame["tool"], "other"), "title": _title(frame["tool"], frame["input"]), **frame}, Asked)
    path = asked.input.get("path")
    return msgspec.structs.replace(asked, locations=[Location(path)] if isinstance(path, str) else [])


def _title(name: str, arguments: dict[str, Any]) -> str:
    """What a tool is used for, in a line: the first of these that it was given; the first text, for a tool of others."""
    texts = [arguments[word] for word in ("command", "pattern", "path") if isinstance(arguments.get(word), str)]
    if name not in _KINDS:
        texts += [value for value in arguments.values() if isinstance(value, str) and value]
    return one_line(next(iter(texts), ""))


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

    def __init__(self, program: Program, machine: Machine, model: str) -> None:
        self._program = program
        self._machine = machine
        self._provider = model.partition("/")[0]
        self._closed = False

    async def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> None:
        """Begin a turn; see the port."""
        await self._write(type="turn", turn=turn, messages=messages, continues=continues)

    async def add(self, turn: str, messages: list[Message]) -> None:
        """Hand further messages to a turn that runs; see `Listening`."""
        await self._write(type="add", turn=turn, messages=messages)

    async def events(self) -> AsyncIterator[DriverEvent]:
        """Everything the agent says; see the port. To be iterated once; the agent waits when it is not read."""
        try:
            while (output := await self._program.read()) is not None:
                for event in _take(self._machine, output):
                    yield event
            exit_ = await self._program.wait()
            last = self._machine.output.died(exit_)
        except Broken as broken:
            await self._program.channel.close()
            last = self._machine.output.died(None, str(broken))
        except AegisError as error:
            last = self._machine.output.died(None, error.message)
        if not self._closed:
            yield last

    async def committed(self, n: int) -> None:
        """Record `n` is on disk."""
        await self._write(type="committed", n=n)

    async def answer(self, request: str, answer: Answer) -> None:
        """Answer what it asked."""
        await self._write(type="answer", id=request, allow=answer.allow, reason=answer.reason, input=answer.input)

    async def configure(self, *, model: str | None = None, mode: str | None = None, effort: str | None = None) -> None:
        """Change the model or the effort; see the port. CONFLICT for another provider, which may speak another dialect."""
        if mode is not None:
            raise AegisError(ErrorKind.NOT_FOUND, "the native agent has no modes", f"leave out the mode `{mode}`")
        if model is not None and model.partition("/")[0] != self._provider:
            raise AegisError(ErrorKind.CONFLICT, "the agent goes to another provider only when it is started anew")
        await self._write(type="configure", model=model, effort=effort)

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
    capabilities = Capabilities(
        resume=True,
        fork=True,
        mid_turn_input=True,
        permission_requests=True,
        images=True,
        switch_model=True,
        efforts=tuple(EFFORTS),
        keeps_memory=False,
    )
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
                await _until_ready(program, machine, spec, _servers(link, spec))
        except BaseException as error:
            await program.channel.close()
            if isinstance(error, TimeoutError):
                raise unstarted("the agent", machine.output.died(None, f"it was not ready within {_START_SECONDS:g} s")) from None
            raise
        return NativeConversation(program, machine, spec.model)


def _servers(link: Link, spec: ConversationSpec) -> list[dict[str, Any]]:
    """The MCP servers as the agent is told of them. Aegis's own, which alone is believed, is the one behind the endpoint of the guest."""
    try:
        plane = f"{link.mcp}/s/"
    except AegisError:
        plane = None
    return [{**msgspec.to_builtins(one), "own": plane is not None and one.url.startswith(plane)} for one in spec.mcp]


async def _until_ready(program: Program, machine: Machine, spec: ConversationSpec, servers: list[dict[str, Any]]) -> None:
    fields = ("session", "system", "model", "dialect", "history", "permission", "approvals", "effort", "limits")
    init = {"type": "init", **{name: getattr(spec, name) for name in fields}, "mcp": servers}
    try:
        await program.write(msgspec.json.encode(init) + b"\n")
    except AegisError as error:
        if error.kind is not ErrorKind.CONFLICT:  # CONFLICT: it has ended, and its output says why
            raise unstarted("the agent", machine.output.died(None, error.message)) from None
    try:
        while not machine.ready:
            output = await program.read()
            if output is None:
                raise unstarted("the agent", machine.output.died(await program.wait()))
            _take(machine, output)
    except Broken as broken:
        raise unstarted("the agent", machine.output.died(None, str(broken))) from None


def _take(machine: Machine, output: tuple[int, bytes]) -> list[DriverEvent]:
    stream, data = output
    if stream == STDERR:
        machine.output.aside(data)
        return []
    return machine.feed(data)
