"""A sandbox of kind bwrap with the pinned Claude Code in it and the scripted models at its endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kit.clis import cli, pin
from tests.kit.model_server import ModelServer

from aegis.core.errors import AegisError
from aegis.core.events import Fact, TextDelta
from aegis.drivers import Answer, Asked, ConversationSpec, Died, DriverEvent, Finished, Happened, Installation, Message
from aegis.drivers.claude import ClaudeConversation, ClaudeDriver
from aegis.sandboxes import Mount, SandboxSpec
from aegis.sandboxes.bwrap.kind import Bwrap
from aegis.sandboxes.link import Link


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as one:
        yield one


class Box:
    """One instance's sandbox, that can be stopped and started again on the same HOME."""

    def __init__(self, folder: Path, server: ModelServer, mounts: tuple[Mount, ...] = ()) -> None:
        self.folder, self._server, self._mounts = folder, server, mounts
        self.work = folder / "work"
        self.home = folder / "home/state/home"
        self.work.mkdir()
        (folder / "home").mkdir()
        self._pumps: set[asyncio.Task[None]] = set()
        self._kind = Bwrap()
        self.link: Link
        self._sandbox: Any = None

    async def up(self) -> None:
        """Start it."""
        ident = uuid.uuid4().hex  # sandboxes are found, and killed, by it on the whole machine
        spec = SandboxSpec(
            id=ident,
            index=1,
            handle="one",
            home=self.folder / "home",
            state=self.folder / "home/state",
            workspace=Mount(self.work, "/workspace", writable=True),
            mounts=self._mounts,
        )
        self._sandbox = self._kind.create(spec)
        self.link = await self._sandbox.start()
        self.link.on_channel = self._accept

    async def down(self) -> None:
        """Kill everything in it at once."""
        if self._sandbox is not None:
            await self._sandbox.stop(0.0)
            self._sandbox = None
        for task in list(self._pumps):
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def run(self, script: str) -> str:
        """What a shell script in the sandbox says."""
        program = await self.link.run(["/bin/sh", "-c", script], stdin=False)
        said = b""
        while (output := await program.read()) is not None:
            said += output[1]
        await program.wait()
        return said.decode()

    def _accept(self, channel: Any) -> None:
        if channel.kind == "model":
            task = asyncio.create_task(self._pump(channel))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(self, channel: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self._server.url.rpartition(":")[2]))

        async def upwards() -> None:
            with contextlib.suppress(AegisError, OSError):
                while data := await channel.read():
                    writer.write(data)
                    await writer.drain()
            writer.close()

        up = asyncio.create_task(upwards())
        try:
            while data := await reader.read(65536):
                await channel.write(data)
            await channel.eof()
        except (AegisError, OSError):
            pass
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            writer.transport.abort()


@pytest.fixture
async def empty(tmp_path: Path, server: ModelServer) -> AsyncIterator[Box]:
    """A sandbox without the program."""
    one = Box(tmp_path, server)
    await one.up()
    yield one
    await one.down()


@pytest.fixture
async def box(tmp_path: Path, server: ModelServer) -> AsyncIterator[Box]:
    """A sandbox in which the real program is shown."""
    folder = cli("claude-code").parent
    one = Box(tmp_path, server, (Mount(folder, str(folder)),))
    await one.up()
    yield one
    await one.down()


def driver(*argv: str, version: str = "0") -> ClaudeDriver:
    """The driver of a program that is run as `argv`."""

    async def find(wanted: Any) -> Installation:
        return Installation(name=wanted.name, argv=list(argv), version=version, path=Path(argv[0]))

    return ClaudeDriver(find)


def real() -> ClaudeDriver:
    """The driver of the pinned program."""
    return driver(str(cli("claude-code")), version=pin("claude-code"))


class Talk:
    """A conversation with all its events. Requests of the program wait until the test answers, unless `rule` does."""

    def __init__(self, conversation: ClaudeConversation, rule: Callable[[Asked], Answer | None]) -> None:
        self.conversation = conversation
        self.seen: list[DriverEvent] = []
        self._rule = rule
        self._more = asyncio.Condition()
        self._read = asyncio.create_task(self._reading())
        self._turns = 0

    async def _reading(self) -> None:
        async for event in self.conversation.events():
            if isinstance(event, Asked) and (answer := self._rule(event)) is not None:
                await self.conversation.answer(event.id, answer)
            async with self._more:
                self.seen.append(event)
                self._more.notify_all()

    async def until(self, holds: Callable[[DriverEvent], bool], start: int = 0) -> DriverEvent:
        """The first event from number `start` on for which `holds` does. Fails when the program dies first."""
        position = start
        async with asyncio.timeout(40):
            while True:
                async with self._more:
                    while len(self.seen) <= position:
                        await self._more.wait()
                event = self.seen[position]
                position += 1
                if holds(event):
                    return event
                assert not isinstance(event, Died), event

    async def send(self, text: str, **more: Any) -> int:
        """Send a message; returns where its turn's events begin."""
        self._turns += 1
        start = len(self.seen)
        message = Message(f"m{self._turns}-{uuid.uuid4().hex}", text, more.pop("images", []))
        await self.conversation.send(f"t{self._turns}", [message], **more)
        return start

    async def turn(self, text: str, **more: Any) -> list[DriverEvent]:
        """A whole turn."""
        start = await self.send(text, **more)
        end = await self.until(lambda event: isinstance(event, Finished), start)
        return self.seen[start : self.seen.index(end, start) + 1]

    async def delta(self, start: int = 0) -> DriverEvent:
        """The first piece of text."""
        return await self.until(lambda event: isinstance(event, Happened) and isinstance(event.fact, TextDelta), start)

    async def close(self) -> None:
        """Close the conversation; its events are then over."""
        await self.conversation.close()
        async with asyncio.timeout(20):
            await self._read


def facts(events: list[DriverEvent], *kinds: type[Fact]) -> list[Any]:
    """The facts of these kinds."""
    return [event.fact for event in events if isinstance(event, Happened) and isinstance(event.fact, kinds)]


def allow(asked: Asked) -> Answer:
    """The rule that allows everything."""
    return Answer(True)


def wait_for_test(asked: Asked) -> None:
    """The rule that leaves the answer to the test."""


def spec_of(link: Link, **fields: Any) -> ConversationSpec:
    """What a conversation is started with, at the least."""
    base: dict[str, Any] = {
        "session": "host:default",
        "model": "scripted/claude-sonnet-4-5",
        "dialect": "anthropic",
        "endpoint": f"{link.endpoint}/s/aG9zdDpkZWZhdWx0",
        "token": "token-of-the-session",
        "fresh_id": str(uuid.uuid4()),
    }
    return ConversationSpec(**{**base, **fields})


@pytest.fixture
async def talk(box: Box) -> AsyncIterator[Callable[..., Any]]:
    """Start the real program in the box. Fields are those of `ConversationSpec`; `rule` answers its requests."""
    talks: list[Talk] = []

    async def start(rule: Callable[[Asked], Answer | None] = allow, **fields: Any) -> Talk:
        conversation = await real().start(box.link, spec_of(box.link, **fields))
        talks.append(Talk(conversation, rule))
        return talks[-1]

    yield start
    for one in talks:
        await one.close()
