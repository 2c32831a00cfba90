"""One session of an agent, as a process in a sandbox: the thin shell around the machine.

Two tasks run with the process: one reads what it says, one writes what the machine has for it. Nothing here waits for the
program while it holds something that the program waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.events import Outcome, SessionSettings
from aegis.drivers import Answer, Died, DriverEvent, Finished, Happened, Message, Opened
from aegis.drivers.acp import files, templates, transcript
from aegis.drivers.acp.machine import Machine, Reply
from aegis.drivers.process import Broken, unstarted
from aegis.tether.frames import STDERR

if TYPE_CHECKING:
    from aegis.drivers.acp.spec import AgentSpec
    from aegis.sandboxes.link import Link, Program

#: Events that may wait to be read before the program's output is not read any more.
_MOST_UNREAD: Final = 2000
#: How long an agent may take for a small request, to end a turn that is cut, and to end by itself, in seconds.
_CALL_SECONDS: Final = 60.0
_CANCEL_SECONDS: Final = 15.0
_CLOSE_SECONDS: Final = 1.5
_TERM: Final = 15


class AcpConversation:
    """A started session."""

    def __init__(
        self, agent: AgentSpec, link: Link, program: Program, place: files.Place, machine: Machine, system: str | None = None
    ) -> None:
        self.opened = Opened()
        self.machine = machine
        self.images = False
        self._agent = agent
        self._link = link
        self._program = program
        self._place = place
        self._system = system  # to be said before the first message
        self._events: deque[DriverEvent] = deque()
        self._unread = asyncio.Event()
        self._room = asyncio.Event()
        self._outgoing = asyncio.Event()
        self._heard = asyncio.Event()
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._turns = 0
        self._end: Died | None = None
        self._closed = False
        self._gone = asyncio.Event()
        self._late: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()  # no turn runs
        self._over.set()
        self._reader = asyncio.create_task(self._read())
        self._writer = asyncio.create_task(self._write())

    # The port.

    async def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> None:
        """Begin a turn. Raises AegisError: CONFLICT while another one runs, UNAVAILABLE for pictures where it takes none."""
        if any(message.images for message in messages) and not self.images:
            raise AegisError(ErrorKind.UNAVAILABLE, f"{self._agent.title} takes no pictures")
        before = [self._system] if self._system else []
        if continues:
            before.append(transcript.GO_ON)
        self.machine.prompt(transcript.blocks(before, messages), [message.id for message in messages])
        self._system = None
        self._turns += 1
        self._over.clear()
        self._outgoing.set()

    async def events(self) -> AsyncIterator[DriverEvent]:
        """Everything it says until its end."""
        while True:
            while self._events:
                event = self._events.popleft()
                if len(self._events) < _MOST_UNREAD:
                    self._room.set()
                yield event
            if self._closed:
                return
            if self._end is not None:
                yield self._end
                return
            self._unread.clear()
            await self._unread.wait()

    async def committed(self, n: int) -> None:
        """Nothing: the program keeps its own files."""

    async def answer(self, request: str, answer: Answer) -> None:
        """Answer what it asked."""
        self.machine.answer(request, answer)
        self._outgoing.set()

    async def configure(self, *, model: str | None = None, mode: str | None = None, effort: str | None = None) -> None:
        """Change what it runs with. Raises AegisError: CONFLICT where that needs a new start, NOT_FOUND for what it does not know."""
        if mode is not None:
            self._tell(await self.set_mode(mode))
        if model is not None:
            self._tell(await self._set_model(model))
        if effort is not None:
            self._tell(await self._set_effort(effort))

    async def interrupt(self) -> None:
        """Cut the running turn. A program that does not end it within 15 seconds is killed."""
        if not self.machine.busy:
            return
        self._put(self.machine.cancel())
        self._outgoing.set()
        if self._late is None:
            self._late = asyncio.get_running_loop().call_later(_CANCEL_SECONDS, self._too_late, self._turns)

    async def close(self) -> None:
        """End the process and all it started."""
        if self._closed:
            return
        self._closed = True
        self._room.set()
        self._unread.set()
        try:
            if self._end is None:
                await self._leave()
        finally:
            await asyncio.shield(self._clear())

    # Requests, also for the driver.

    async def call(self, method: str, params: dict[str, Any], seconds: float = _CALL_SECONDS) -> dict[str, Any]:
        """Ask the program. Raises its error, TIMEOUT, or FAILED with `exit` and `stderr` when it dies."""
        if self._end is not None:
            raise unstarted(self._agent.title, self._end)
        ident = self.machine.request(method, params)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._calls[ident] = future
        self._outgoing.set()
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            text = f"{self._agent.title} did not answer `{method}` within {seconds:g} s"
            raise AegisError(ErrorKind.TIMEOUT, text, stderr=self.machine.output.said) from None
        finally:
            self._calls.pop(ident, None)

    async def drained(self, seconds: float) -> None:
        """The history may still come after the response: wait for its end, `seconds` at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.machine.transcript is not None and not self.machine.transcript.complete and self._end is None:
            self._heard.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._heard.wait()
            except TimeoutError:
                return

    def begin(self, opened: Opened) -> None:
        """The session is open."""
        self.opened = opened

    async def set_mode(self, mode: str) -> SessionSettings | None:
        """Change the mode. Raises AegisError(NOT_FOUND) with the nearest one it has."""
        known = self.machine.settings.modes or list(self._agent.modes.known)
        if not known:
            raise AegisError(ErrorKind.NOT_FOUND, f"{self._agent.title} has no modes")
        if mode not in known:
            raise unknown_name(f"mode of {self._agent.title}", mode, known)
        if option := self._agent.modes.option:
            await self._option(option, mode)
        else:
            await self.call("session/set_mode", {"sessionId": self.machine.session, "modeId": mode})
        return self.machine.settings.set(mode=mode)

    async def _set_model(self, model: str) -> SessionSettings | None:
        name = model.partition("/")[2] or model
        value = templates.text(self._agent.model.value, {"model": name})
        way = self._agent.model.switch
        if way == "none":
            raise AegisError(ErrorKind.CONFLICT, f"{self._agent.title} takes its model only when it starts")
        option = self._agent.model.option
        if way == "set_config_option" and value not in self.machine.settings.options.get(option, [value]):
            raise AegisError(ErrorKind.CONFLICT, f"{self._agent.title} learns of the model {name} only when it starts")
        try:
            if way == "set_config_option":
                await self._option(option, value)
            else:
                await self.call("session/set_model", {"sessionId": self.machine.session, "modelId": value})
        except AegisError as error:
            if error.kind is not ErrorKind.FAILED or self._end is not None:
                raise
            text = f"{self._agent.title} does not take the model {name} in a running session: {error.message}"
            raise AegisError(ErrorKind.CONFLICT, text) from None
        return self.machine.settings.set(model=model)

    async def _set_effort(self, effort: str) -> SessionSettings | None:
        rules = self._agent.effort
        known = self.machine.settings.options.get(rules.option) or list(rules.known)
        if known and effort not in known:
            raise unknown_name(f"effort of {self._agent.title}", effort, known)
        if not rules.option:
            raise AegisError(ErrorKind.CONFLICT, f"{self._agent.title} cannot be told how hard to think while it runs")
        await self._option(rules.option, effort)
        return self.machine.settings.set(effort=effort)

    async def _option(self, option: str, value: str) -> None:
        params = {"sessionId": self.machine.session, "configId": option, "value": value}
        result = await self.call("session/set_config_option", params)
        self._tell(self.machine.settings.configured(result.get("configOptions")))

    # The two tasks.

    async def _read(self) -> None:
        exit_: int | None = None
        reason = ""
        try:
            while (output := await self._program.read()) is not None:
                if output[0] == STDERR:
                    self.machine.output.aside(output[1])
                    continue
                self._put(self.machine.feed(output[1]))
                self._outgoing.set()
                self._heard.set()
                while len(self._events) >= _MOST_UNREAD and not self._closed:
                    self._room.clear()
                    await self._room.wait()
            exit_ = await self._program.wait()
        except Broken as broken:
            reason = str(broken)
            await self._program.channel.close()
        except AegisError as error:
            reason = error.message
        finally:
            self._ended(self.machine.output.died(exit_, reason))

    async def _write(self) -> None:
        with contextlib.suppress(AegisError):  # the reader finds the end, and its reason
            while True:
                await self._outgoing.wait()
                self._outgoing.clear()
                data, events = self.machine.take()
                if data:
                    await self._program.write(data)
                self._put(events)

    def _put(self, events: Iterable[DriverEvent | Reply]) -> None:
        for event in events:
            if isinstance(event, Reply):
                future = self._calls.get(event.id)
                if future is not None and not future.done():
                    future.set_exception(event.error) if event.error is not None else future.set_result(event.result)
                continue
            if isinstance(event, Finished):
                self._finished()
            self._events.append(event)
        if self._events:
            self._unread.set()

    def _tell(self, settings: SessionSettings | None) -> None:
        if settings is not None:
            self._put([Happened(settings)])

    def _finished(self) -> None:
        self._over.set()
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self, turn: int) -> None:
        """The program does not let go of a turn: it ends here, and the process with it, so that nothing of it comes later."""
        self._late = None
        if turn == self._turns and self.machine.busy and self._end is None:
            self._put([Finished(Outcome.CANCELLED, reason="killed")])
            self._reader.cancel()
            self._ended(self.machine.output.died(None, f"it did not end the turn within {_CANCEL_SECONDS:g} s"))
            self._killing = asyncio.create_task(self._program.channel.close())

    def _ended(self, end: Died) -> None:
        if self._end is None:
            self._end = end
        self._finished()
        self._unread.set()
        self._gone.set()
        self._heard.set()
        self._writer.cancel()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(unstarted(self._agent.title, self._end))
                future.exception()

    # The end.

    async def _leave(self) -> None:
        """Let it end by itself, if it does so soon."""
        with contextlib.suppress(TimeoutError, AegisError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                if self.machine.busy:
                    self.machine.cancel()
                    self._outgoing.set()
                    await self._over.wait()
        with contextlib.suppress(TimeoutError, AegisError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._program.close_stdin()
                if self._agent.quirks.sigterm:
                    await self._program.signal(_TERM)
                await self._gone.wait()

    async def _clear(self) -> None:
        """End what is left of it, in its tree and out of it."""
        if self._late is not None:
            self._late.cancel()
        await self._program.channel.close()
        await files.sweep(self._link, self._place)
        for task in (self._reader, self._writer):
            task.cancel()
        await asyncio.gather(self._reader, self._writer, return_exceptions=True)
