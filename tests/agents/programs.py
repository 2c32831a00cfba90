"""A program that does what the test says: a driver and its conversations, without any process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.drivers import Accepted, Answer, Capabilities, Died, Finished, Installation, Opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aegis.core.dialects import Dialect
    from aegis.drivers import ConversationSpec, DriverEvent, Message
    from aegis.sandboxes.link import Link


class Conversation:
    """One start of the program. `did` is what was asked of it, in order."""

    def __init__(self, driver: Program, link: Link, spec: ConversationSpec, opened: Opened) -> None:
        self.driver = driver
        self.spec = spec
        self.opened = opened
        self.did: list[tuple[Any, ...]] = []
        self.closed = False
        self._said: asyncio.Queue[DriverEvent | None] = asyncio.Queue()
        link.closed.add_done_callback(lambda _: self._said.put_nowait(Died(None, "the sandbox is gone")))

    def say(self, *events: DriverEvent) -> None:
        """What the program says next."""
        for event in events:
            self._said.put_nowait(event)

    def done(self, text: str = "done", **more: Any) -> None:
        """The program ends the turn well."""
        self.say(Finished(Outcome.COMPLETED, text, **more))

    def accept(self) -> None:
        """The program has the messages of its last turn, and keeps them."""
        messages: list[Message] = self.asked("send")[-1][1]
        ids = [message.id for message in messages]
        self.driver.transcripts[self.opened.program_session] += ids
        self.say(Accepted(ids))

    def asked(self, what: str) -> list[tuple[Any, ...]]:
        """What was asked of it by one verb, without the verb."""
        return [(*rest,) for verb, *rest in self.did if verb == what]

    async def until(self, what: str, count: int = 1) -> tuple[Any, ...]:
        """Wait until something was asked of it so often; the last of it."""
        async with asyncio.timeout(20):
            while len(self.asked(what)) < count:
                await asyncio.sleep(0.002)
        return self.asked(what)[count - 1]

    async def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> None:
        self.did.append(("send", turn, messages, continues))
        self.driver.turns.append(self)

    async def add(self, turn: str, messages: list[Message]) -> None:
        self.did.append(("add", turn, messages))

    async def events(self) -> AsyncIterator[DriverEvent]:
        while (event := await self._said.get()) is not None:
            yield event
            if isinstance(event, Died):
                return

    async def committed(self, n: int) -> None:
        raise AssertionError("it says no records")

    async def answer(self, request: str, answer: Answer) -> None:
        self.did.append(("answer", request, answer))

    async def configure(self, *, model: str | None = None, mode: str | None = None, effort: str | None = None) -> None:
        self.did.append(("configure", model, mode, effort))
        if self.driver.rigid is not None:
            raise self.driver.rigid

    async def interrupt(self) -> None:
        self.did.append(("interrupt",))
        if self.driver.obedient:
            self.say(Finished(Outcome.CANCELLED))

    async def close(self) -> None:
        self.closed = True
        self._said.put_nowait(None)


class Program:
    """The driver. Its transcripts survive every start, as files in a HOME do."""

    name = "fake"

    def __init__(self) -> None:
        self.capabilities = Capabilities(
            resume=True,
            fork=True,
            permission_requests=True,
            images=True,
            switch_model=True,
            modes=("default", "plan"),
            efforts=("low", "high"),
        )
        self.dialects: tuple[Dialect, ...] = ("anthropic",)
        self.conversations: list[Conversation] = []
        self.turns: list[Conversation] = []  # for each turn that was sent, to which
        self.transcripts: dict[str, list[str]] = {}
        self.missing: AegisError | None = None  # why it is not found
        self.rigid: AegisError | None = None  # what it says to every `configure`
        self.obedient = True  # ends a turn that is interrupted

    async def locate(self) -> Installation | None:
        if self.missing is not None:
            raise self.missing
        return None

    async def start(self, link: Link, spec: ConversationSpec) -> Conversation:
        if spec.resume is not None and spec.resume not in self.transcripts:
            raise AegisError(ErrorKind.NOT_FOUND, f"there is no session {spec.resume}")
        name = spec.fresh_id if spec.resume is None or spec.fork else spec.resume
        kept = self.transcripts.setdefault(name, list(self.transcripts.get(spec.resume or "", [])))
        known = tuple(message.id for message in spec.pending if message.id in kept)
        opened = Opened(name, "1.0", spec.resume is not None, spec.model, spec.mode or "default", known)
        self.conversations.append(Conversation(self, link, spec, opened))
        return self.conversations[-1]

    async def started(self, count: int = 1) -> Conversation:
        """Wait for the `count`th start of the program."""
        async with asyncio.timeout(20):
            while len(self.conversations) < count:
                await asyncio.sleep(0.002)
        return self.conversations[count - 1]
