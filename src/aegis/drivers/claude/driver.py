"""The thin shell around a process of Claude Code in a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.events import Outcome
from aegis.drivers import Answer, Capabilities, ConversationSpec, DriverEvent, Finished, Installation, Message, Opened
from aegis.drivers.claude import launch, transcript
from aegis.drivers.claude.frames import a_dict, a_text
from aegis.drivers.claude.machine import Machine
from aegis.drivers.process import Broken, unstarted
from aegis.drivers.programs import ProgramSpec
from aegis.tether.frames import STDERR

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.core.dialects import Dialect
    from aegis.drivers import Died
    from aegis.sandboxes.link import Link, Program

_NAME: Final = "claude-code"
_START_SECONDS: Final = 30.0
_REPLY_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 1.0
#: Events of its start that are kept; what is answered to it while it does not read, in bytes.
_MOST_EARLY: Final = 10_000
_MOST_UNREAD: Final = 128 * 1024 * 1024
PROGRAM: Final = ProgramSpec(
    name=_NAME,
    command=("claude",),
    pinned="2.1.328",
    oldest="2.0.0",
    install="npm install -g @anthropic-ai/claude-code@2.1.328",
    env=launch.QUIET,
)


class ClaudeConversation:
    """A running Claude Code. What is written to one that is gone is dropped: `events` tells of its end."""

    def __init__(self, program: Program, machine: Machine, opened: Opened, effort: str | None) -> None:
        self.opened = opened
        self._program = program
        self._machine = machine
        self._effort = effort
        self._closed = False
        self._ended = False  # nothing more comes from it
        self._early: list[DriverEvent] = []
        self._unwritten: deque[bytes] = deque()
        self._waiting = 0  # bytes that it has not read
        self._due = asyncio.Event()
        self._rested = asyncio.Event()
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        #: Writes apart from reading: a program that waits for us to read must not keep us from it by not reading itself.
        self._writer = asyncio.create_task(self._write())

    async def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> None:
        """Begin a turn; see the port. While the program is in a turn of its own, the messages follow it."""
        self._post(self._machine.send(turn, messages, continues=continues))

    async def add(self, turn: str, messages: list[Message]) -> None:
        """Hand further messages to the turn that runs; see `Listening`."""
        self._post(self._machine.add(messages))

    async def events(self) -> AsyncIterator[DriverEvent]:
        """Everything the program says; see the port. To be iterated once."""
        early, self._early = self._early, []
        for event in early:
            yield event
        last = None
        try:
            while (output := await self._program.read()) is not None:
                for event in self._take(output):
                    if isinstance(event, Finished):
                        self._rested.set()
                    yield event
            last = self._machine.output.died(await self._program.wait())
        except Broken as broken:
            await self._program.channel.close()
            last = self._machine.output.died(None, str(broken))
        except AegisError as error:
            last = self._machine.output.died(None, error.message)
        finally:
            self._ended = True
            self._rested.set()
            self._give_up()
        if not self._closed:
            yield last

    async def committed(self, n: int) -> None:
        """Nothing: Claude Code keeps its own memory."""

    async def answer(self, request: str, answer: Answer) -> None:
        """Answer what it asked; nothing happens for a request that it withdrew."""
        self._post(self._machine.answer(request, answer))

    async def configure(self, *, model: str | None = None, mode: str | None = None, effort: str | None = None) -> None:
        """Change model or mode of the running session; see the port. `events` must be read meanwhile, by another task."""
        if effort is not None and effort != self._effort:
            raise AegisError(ErrorKind.CONFLICT, "Claude Code can only be started with another effort", "start the session anew")
        if mode is not None and mode not in launch.MODES:
            raise unknown_name(f"permission mode of {_NAME}", mode, launch.MODES)
        if model is not None:
            with self._machine.expecting(model=model):
                await self._ask("set_model", model=launch.model_of(model))
        if mode is not None:
            with self._machine.expecting(mode=mode):
                await self._ask("set_permission_mode", mode=mode)

    async def interrupt(self) -> None:
        """Cut the running turn; nothing happens between turns."""
        self._post(self._machine.interrupt())

    async def close(self) -> None:
        """End the process and all it started: a running turn is cut first, so that its transcript is whole. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._machine.working and not self._ended:
                self._rested.clear()
                self._post(self._machine.interrupt())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._rested.wait(), _CLOSE_SECONDS)
            # Not by closing its stdin or SIGTERM: it would end first, and what it left in the background could not be found any more.
            with contextlib.suppress(AegisError, TimeoutError):
                await asyncio.wait_for(self._program.kill(), _CLOSE_SECONDS)
        finally:
            self._give_up()
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            await self._program.channel.close()

    # Below: the pipes.

    async def initialize(self, system: str | None) -> dict[str, Any]:
        """Wait until it answers. Raises AegisError with its end, as `failed` words it."""
        fields: dict[str, Any] = {"hooks": None}
        if system:
            fields["appendSystemPrompt"] = system
        ident, data = self._machine.request("initialize", **fields)
        self._post(data)
        try:
            while ident not in self._machine.replies:
                output = await self._program.read()
                if output is None:
                    raise failed(self._machine.output.died(await self._program.wait()))
                self._early += self._take(output, replies=False)
                if len(self._early) > _MOST_EARLY:
                    raise Broken("Claude Code says too much before it is ready")
                if ends := [event for event in self._early if isinstance(event, Finished) and event.outcome is Outcome.FAILED]:
                    self._machine.output.aside(a_text((ends[0].error or {}).get("error")).encode())
                    self._early.clear()
        except Broken as broken:
            raise failed(self._machine.output.died(None, str(broken))) from None
        return _value(self._machine.replies.pop(ident))

    async def _ask(self, subtype: str, **fields: Any) -> dict[str, Any]:
        if self._ended:
            raise _gone()
        ident, data = self._machine.request(subtype, **fields)
        self._replies[ident] = future = asyncio.get_running_loop().create_future()
        self._post(data)
        try:
            return _value(await asyncio.wait_for(future, _REPLY_SECONDS))
        except TimeoutError:
            raise AegisError(ErrorKind.TIMEOUT, f"Claude Code did not answer `{subtype}` within {_REPLY_SECONDS:g} s") from None
        finally:
            self._replies.pop(ident, None)

    def _take(self, output: tuple[int, bytes], replies: bool = True) -> list[DriverEvent]:
        stream, data = output
        if stream == STDERR:
            self._machine.output.aside(data)
            return []
        events = self._machine.feed(data)
        self._post(self._machine.outgoing())
        if self._waiting > _MOST_UNREAD:
            raise Broken("Claude Code asks and does not read the answers")
        if replies and self._machine.replies:
            for ident, reply in self._machine.replies.items():
                future = self._replies.get(ident)
                if future is not None and not future.done():
                    future.set_result(reply)
            self._machine.replies.clear()
        return events

    def _post(self, data: bytes) -> None:
        if data:
            self._unwritten.append(data)
            self._waiting += len(data)
            self._due.set()

    async def _write(self) -> None:
        try:
            while await self._due.wait():
                self._due.clear()
                while self._unwritten:
                    data = self._unwritten.popleft()
                    await self._program.write(data)
                    self._waiting -= len(data)
        except AegisError:
            return

    def _give_up(self) -> None:
        for future in self._replies.values():
            if not future.done():
                future.set_exception(_gone())


def _gone() -> AegisError:
    return AegisError(ErrorKind.INTERRUPTED, "Claude Code ended before it answered")


class ClaudeDriver:
    """Starts Claude Code. `find` tells where a program is, as `Programs.find` does."""

    name = _NAME
    capabilities = Capabilities(
        resume=True,
        fork=True,
        mid_turn_input=True,
        permission_requests=True,
        images=True,
        switch_model=True,
        tells_retries=True,
        modes=launch.MODES,
        unasking=launch.UNASKING,
        efforts=launch.EFFORTS,
    )
    dialects: tuple[Dialect, ...] = ("anthropic",)

    def __init__(self, find: Callable[[ProgramSpec], Awaitable[Installation]]) -> None:
        self._find = find

    async def locate(self) -> Installation:
        """Find the program; see the port."""
        return await self._find(PROGRAM)

    async def start(self, link: Link, spec: ConversationSpec) -> ClaudeConversation:
        """Start it, or go on with what it has; see the port."""
        there = await self.locate()
        session, resume = spec.fresh_id, False
        known: tuple[str, ...] = ()
        if spec.resume is not None:
            found = await transcript.look(link, spec.resume, spec.pending)
            if not (found.there or found.begun):
                text = f"Claude Code has no session {spec.resume} in the instance's HOME"
                raise AegisError(ErrorKind.NOT_FOUND, text, "start a new session", session=spec.resume)
            resume, known = found.there, found.known
            session = spec.fresh_id if spec.fork else spec.resume
        argv = [*there.argv, *launch.arguments(spec, session, resume=resume)]
        mode = launch.mode_of(spec.mode)
        opened = Opened(session, there.version, resume, spec.model, mode, known)
        program = await link.run(["/bin/sh", "-c", transcript.MARK, session, *argv], env=launch.environment(spec), cwd=spec.cwd)
        machine = Machine(session=session, model=spec.model, mode=mode, resumed=resume, metered=not spec.endpoint)
        conversation = ClaudeConversation(program, machine, opened, spec.effort)
        try:
            async with asyncio.timeout(_START_SECONDS):
                told = await conversation.initialize(spec.system)
        except BaseException as error:
            await conversation.close()
            if isinstance(error, TimeoutError):
                raise failed(machine.output.died(None, f"it did not answer within {_START_SECONDS:g} s")) from None
            raise
        version = a_text(told.get("claude_code_version")) or there.version
        conversation.opened = Opened(session, version, resume, spec.model, mode, known)
        return conversation


def failed(end: Died) -> AegisError:
    """Why it did not start, with what mends it where that is known."""
    said = end.stderr
    kind, hint = ErrorKind.FAILED, "aegis doctor"
    if "No conversation found" in said:
        kind, hint = ErrorKind.NOT_FOUND, "start a new session"
    elif "unknown option" in said:
        hint = f"it is too old or too new for Aegis: `{PROGRAM.install}`"
    elif "/login" in said or "Invalid API key" in said:
        hint = "log in with `claude` by yourself once more, or leave out `auth: login`"
    return unstarted("Claude Code", end, kind, hint)


def _value(reply: dict[str, Any]) -> dict[str, Any]:
    if reply.get("subtype") == "error":
        raise AegisError(ErrorKind.FAILED, f"Claude Code refused: {a_text(reply.get('error'))}")
    return a_dict(reply.get("response"))
