"""The thin shell around a process of Codex's app-server in a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.core.version import __version__
from aegis.drivers import Answer, Began, Capabilities, ConversationSpec, DriverEvent, Finished, Installation, Message, Opened
from aegis.drivers.acp import files
from aegis.drivers.claude.frames import a_dict, a_list, a_text
from aegis.drivers.codex import frames, inside, launch
from aegis.drivers.codex.machine import Machine, ids_of
from aegis.drivers.process import Broken, unstarted
from aegis.drivers.programs import ProgramSpec
from aegis.tether.frames import STDERR

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.core.dialects import Dialect
    from aegis.drivers import Died
    from aegis.drivers.acp.files import Place
    from aegis.sandboxes.link import Link, Program

_NAME: Final = "codex"
_START_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 1.0
_INFO: Final = {"name": "aegis", "title": "Aegis", "version": __version__}
#: Events of its start that are kept; what is answered to it while it does not read, in bytes.
_MOST_EARLY: Final = 10_000
_MOST_UNREAD: Final = 128 * 1024 * 1024
#: The last turns of a session in which messages of a turn that was cut are looked for.
_LAST: Final = 5
_MISSING: Final = ("no rollout found", "invalid session id", "not found")
PROGRAM: Final = ProgramSpec(
    name=_NAME,
    command=("codex",),
    pinned="0.169.0",
    oldest="0.160.0",
    install="npm install -g @openai/codex@0.169.0",
)


class CodexConversation:
    """A running Codex. What is written to one that is gone is dropped: `events` tells of its end."""

    def __init__(self, link: Link, program: Program, place: Place, machine: Machine) -> None:
        self.opened = Opened()
        self._link = link
        self._program = program
        self._place = place
        self._machine = machine
        self._closed = False
        self._ended = False  # nothing more comes from it
        self._began = 0.0  # when the last turn did
        self._early: list[DriverEvent] = []
        self._unwritten: deque[bytes] = deque()
        self._waiting = 0  # bytes that it has not read
        self._due = asyncio.Event()
        self._rested = asyncio.Event()
        #: Writes apart from reading: a program that waits for us to read must not keep us from it by not reading itself.
        self._writer = asyncio.create_task(self._write())

    async def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> None:
        """Begin a turn; see the port. While the program is in a turn of its own, the messages follow it."""
        self._began = self._began or asyncio.get_running_loop().time()
        self._post(self._machine.send(turn, messages, continues=continues))

    async def add(self, turn: str, messages: list[Message]) -> None:
        """Hand further messages to the turn that runs; see the port."""
        self._post(self._machine.add(turn, messages))

    async def events(self) -> AsyncIterator[DriverEvent]:
        """Everything the program says; see the port. To be iterated once."""
        early, self._early = self._early, []
        for event in early:
            yield event
        last = None
        try:
            while (output := await self._program.read()) is not None:
                for event in self._take(output):
                    if isinstance(event, Began):
                        self._began = self._began or asyncio.get_running_loop().time()
                    if isinstance(event, Finished):
                        await self._over(event)
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
        if not self._closed:
            yield last

    async def committed(self, n: int) -> None:
        """Nothing: Codex keeps its own memory."""

    async def answer(self, request: str, answer: Answer) -> None:
        """Answer what it asked; nothing happens for a request that it withdrew."""
        self._post(self._machine.answer(request, answer))

    async def configure(self, *, model: str | None = None, mode: str | None = None, effort: str | None = None) -> None:
        """Change model or effort from the next model call on; see the port."""
        if mode is not None:
            raise AegisError(
                ErrorKind.NOT_FOUND, f"codex has no modes, so no `{mode}`", "what it may do `--permission` and `--approvals` say"
            )
        effort = launch.effort_of(effort)
        model = None if model is None else launch.model_of(model)
        self._machine.model = model or self._machine.model
        self._machine.effort = effort or self._machine.effort
        self._post(self._machine.settings())

    async def interrupt(self) -> None:
        """Cut the running turn; nothing happens between turns."""
        self._post(self._machine.interrupt())

    async def close(self) -> None:
        """End the process and all it started: a running turn is cut first, so that its record is whole. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._machine.working and not self._ended:
                self._rested.clear()
                self._post(self._machine.interrupt())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._rested.wait(), _CLOSE_SECONDS)
            with contextlib.suppress(AegisError, TimeoutError):
                await asyncio.wait_for(self._program.kill(), _CLOSE_SECONDS)
        finally:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            await self._program.channel.close()
            await asyncio.shield(files.sweep(self._link, self._place))

    # Below: the pipes.

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask something before `events` is read. Raises AegisError: FAILED with its end, or with its refusal as `refused`."""
        ident, data = self._machine.request(method, **params)
        self._post(data)
        try:
            while ident not in self._machine.replies:
                output = await self._program.read()
                if output is None:
                    raise failed(self._machine.output.died(await self._program.wait()))
                self._early += self._take(output)
                if len(self._early) > _MOST_EARLY:
                    raise Broken("Codex says too much before it is ready")
        except Broken as broken:
            raise failed(self._machine.output.died(None, str(broken))) from None
        reply = self._machine.replies.pop(ident)
        if "error" in reply:
            why = a_text(a_dict(reply["error"]).get("message")) or "it does not say why"
            raise AegisError(ErrorKind.FAILED, f"Codex refused `{method}`: {why}", "aegis doctor", refused=why)
        return a_dict(reply.get("result"))

    def notify(self, method: str) -> None:
        """Tell it something."""
        self._post(frames.notice(method))

    async def _over(self, end: Finished) -> None:
        """A turn has ended. One that was cut leaves its commands running, if they are older than a moment: they end here."""
        if end.outcome is Outcome.CANCELLED and self._began:
            await inside.end(self._link, self._machine.thread, asyncio.get_running_loop().time() - self._began)
        self._began = 0.0
        self._rested.set()

    def _take(self, output: tuple[int, bytes]) -> list[DriverEvent]:
        stream, data = output
        if stream == STDERR:
            self._machine.output.aside(data)
            return []
        events = self._machine.feed(data)
        self._post(self._machine.outgoing())
        if self._waiting > _MOST_UNREAD:
            raise Broken("Codex asks and does not read the answers")
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


class CodexDriver:
    """Starts Codex. `find` tells where a program is, as `Programs.find` does."""

    name = _NAME
    capabilities = Capabilities(
        resume=True,
        fork=True,
        mid_turn_input=True,
        permission_requests=True,
        images=True,
        switch_model=True,
        tells_retries=True,
        efforts=launch.EFFORTS,
    )
    dialects: tuple[Dialect, ...] = ("responses",)

    def __init__(self, find: Callable[[ProgramSpec], Awaitable[Installation]]) -> None:
        self._find = find

    async def locate(self) -> Installation:
        """Find the program; see the port."""
        return await self._find(PROGRAM)

    async def start(self, link: Link, spec: ConversationSpec) -> CodexConversation:
        """Start it, or go on with what it has; see the port."""
        there = await self.locate()
        effort, model = launch.effort_of(spec.effort), launch.model_of(spec.model)
        place, told = await inside.make(link, spec.session, spec.cwd)
        try:
            models = await inside.models(link, there.argv, place)
            argv = [*there.argv, *launch.arguments(spec, models)]
            program = await link.run(argv, env=launch.environment(spec, place.home, place.tmp), cwd=spec.cwd)
        except BaseException:
            await asyncio.shield(files.sweep(link, place))
            raise
        machine = Machine(model=model, effort=effort, metered=not spec.endpoint)
        conversation = CodexConversation(link, program, place, machine)
        try:
            async with asyncio.timeout(_START_SECONDS):
                conversation.opened = await _open(conversation, link, machine, spec, there, told)
        except BaseException as error:
            await conversation.close()
            if isinstance(error, TimeoutError):
                raise failed(machine.output.died(None, f"it did not answer within {_START_SECONDS:g} s")) from None
            raise
        return conversation


async def _open(
    conversation: CodexConversation, link: Link, machine: Machine, spec: ConversationSpec, there: Installation, said: str
) -> Opened:
    await conversation.call("initialize", clientInfo=_INFO, capabilities={"experimentalApi": True})
    conversation.notify("initialized")
    told, resumed = await _thread(conversation, link, spec, launch.thread(spec, said))
    thread = a_dict(told.get("thread"))
    machine.thread = a_text(thread.get("id"))
    if not machine.thread:
        raise failed(machine.output.died(None, "it opened a session without a name"))
    if not resumed:
        await inside.mark(link, machine.thread)
    known: tuple[str, ...] = ()
    if resumed and spec.pending:
        known = await _known(conversation, machine.thread, spec.pending)
    version = a_text(thread.get("cliVersion")) if not resumed else ""
    return Opened(machine.thread, version or there.version, resumed, spec.model, "", known)


async def _thread(
    conversation: CodexConversation, link: Link, spec: ConversationSpec, asked: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """The opened thread, and whether it goes on with an earlier one."""
    if spec.resume is None:
        return await conversation.call("thread/start", **asked), False
    method = "thread/fork" if spec.fork else "thread/resume"
    try:
        return await conversation.call(method, threadId=spec.resume, excludeTurns=True, **asked), True
    except AegisError as error:
        why = str(error.data.get("refused") or "")
        if not any(words in why for words in _MISSING):
            raise
        if await inside.marked(link, spec.resume):  # never spoken in: nothing is lost
            return await conversation.call("thread/start", **asked), False
        text = f"Codex has no session {spec.resume} in the instance's HOME"
        raise AegisError(ErrorKind.NOT_FOUND, text, "start a new session", session=spec.resume) from None


async def _known(conversation: CodexConversation, thread: str, pending: list[Message]) -> tuple[str, ...]:
    """The messages among the pending ones that the last turns of the thread hold."""
    told = await conversation.call("thread/turns/list", threadId=thread, limit=_LAST, itemsView="full")
    held = {
        ident
        for turn in a_list(told.get("data"))
        for item in a_list(a_dict(turn).get("items"))
        for ident in ids_of(a_dict(item).get("clientId"))
    }
    return tuple(message.id for message in pending if message.id in held)


def failed(end: Died) -> AegisError:
    """Why it did not start, with what mends it where that is known."""
    hint = "aegis doctor"
    if "log in" in end.stderr.lower() or "codex login" in end.stderr:
        hint = "log in with `codex login` by yourself once more, or leave out `auth: login`"
    elif "unexpected argument" in end.stderr or "unrecognized subcommand" in end.stderr:
        hint = f"it is too old or too new for Aegis: `{PROGRAM.install}`"
    return unstarted("Codex", end, ErrorKind.FAILED, hint)
