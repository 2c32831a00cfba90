"""The native driver and the agent in a real sandbox of kind `process`, against a scripted model."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import HANG, ModelServer, Say, call, text

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, TextDelta, ToolResult
from aegis.drivers import ConversationSpec, Died, DriverEvent, Finished, Happened, Message, Record
from aegis.drivers.native import NativeConversation, NativeDriver
from aegis.sandboxes import Mount, SandboxSpec
from aegis.sandboxes.link import Link
from aegis.sandboxes.process import ProcessKind


@pytest.fixture
def server() -> Iterator[ModelServer]:
    one = ModelServer()
    yield one
    one.close()


@pytest.fixture
async def link(tmp_path: Path, server: ModelServer) -> AsyncIterator[Link]:
    """The tether of a running sandbox; its model channels lead to the server, as the broker's would."""
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    mount = Mount(tmp_path / "work", str(tmp_path / "work"), writable=True)
    ident = uuid.uuid4().hex  # sandboxes are found, and killed, by it on the whole machine
    spec = SandboxSpec(id=ident, index=1, handle="one", home=tmp_path / "home", state=tmp_path / "home/state", workspace=mount)
    sandbox = ProcessKind().create(spec)
    link = await sandbox.start()
    port = int(server.url.rpartition(":")[2])
    pumps: set[asyncio.Task[None]] = set()

    async def pump(channel: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def upwards() -> None:
            try:
                while data := await channel.read():
                    writer.write(data)
                    await writer.drain()
            except AegisError:
                pass
            writer.close()

        up = asyncio.create_task(upwards())
        try:
            while data := await reader.read(65536):
                await channel.write(data)
            await channel.eof()
        except (AegisError, OSError):
            pass
        finally:
            await up

    def accept(channel: Any) -> None:
        if channel.kind == "model":
            task = asyncio.create_task(pump(channel))
            pumps.add(task)
            task.add_done_callback(pumps.discard)

    link.on_channel = accept
    yield link
    await sandbox.stop(0.0)
    for task in list(pumps):
        task.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)


def spec(**fields: Any) -> ConversationSpec:
    base = {"session": "host:default", "model": "anthropic/x", "dialect": "anthropic", "env": {"AEGIS_TOKEN": "t"}}
    return ConversationSpec(**{**base, **fields})


async def turn(conversation: NativeConversation, events: AsyncIterator[DriverEvent], *texts: str, ident: str = "t1") -> list[DriverEvent]:
    """A turn up to its end, with everything committed."""
    await conversation.send(ident, [Message(f"{ident}.{i}", t) for i, t in enumerate(texts)])
    seen: list[DriverEvent] = []
    async for event in events:
        seen.append(event)
        if isinstance(event, Record):
            await conversation.committed(event.n)
        if isinstance(event, Finished | Died):
            break
    return seen


async def test_a_turn_with_a_tool(link: Link, server: ModelServer, tmp_path: Path) -> None:
    server.script = [Say([call("bash", {"command": "echo hello > out; pwd"})]), Say([text("Done.")])]
    conversation = await NativeDriver().start(link, spec())
    events = conversation.events()
    seen = await turn(conversation, events, "go")
    assert seen[-1] == Finished(Outcome.COMPLETED, "Done.", None, 2)
    assert (tmp_path / "work/out").read_text() == "hello\n"
    [result] = [f for e in seen if isinstance(e, Record) for f in e.facts if isinstance(f, ToolResult)]
    assert result.output == str(tmp_path / "work")
    assert "".join(e.fact.text for e in seen if isinstance(e, Happened) and isinstance(e.fact, TextDelta)) == "Done."
    assert server.headers[0]["authorization"] == "Bearer t"
    await conversation.close()
    await conversation.close()
    assert [e async for e in events] == []


async def test_memory_is_resumed(link: Link, server: ModelServer) -> None:
    server.script = [Say([text("one")]), Say([text("two")])]
    first = await NativeDriver().start(link, spec())
    seen = await turn(first, first.events(), "a")
    await first.close()
    second = await NativeDriver().start(link, spec(history=[e.message for e in seen if isinstance(e, Record)]))
    await turn(second, second.events(), "b", ident="t2")
    assert [m["role"] for m in server.requests[1]["messages"]] == ["user", "assistant", "user"]
    await second.close()


async def test_interrupt(link: Link, server: ModelServer) -> None:
    server.script = [Say([text("so far"), HANG]), Say([text("next")])]
    conversation = await NativeDriver().start(link, spec())
    events = conversation.events()
    await conversation.send("t1", [Message("m1", "go")])
    async for event in events:
        if isinstance(event, Record):
            await conversation.committed(event.n)
        if isinstance(event, Happened) and isinstance(event.fact, TextDelta):
            await conversation.interrupt()
        if isinstance(event, Finished):
            assert event.outcome is Outcome.CANCELLED
            break
    assert (await turn(conversation, events, "then", ident="t2"))[-1] == Finished(Outcome.COMPLETED, "next", None, 1)
    await conversation.close()


async def test_death_in_a_turn(link: Link, server: ModelServer) -> None:
    server.script = [Say([call("bash", {"command": "kill -9 $PPID"})])]
    conversation = await NativeDriver().start(link, spec())
    seen = await turn(conversation, conversation.events(), "go")
    assert isinstance(seen[-1], Died)
    assert seen[-1].exit == -9
    await conversation.committed(9)
    await conversation.interrupt()
    await conversation.close()


async def test_the_sandbox_goes_in_a_turn(link: Link, server: ModelServer) -> None:
    server.script = [Say([text("so far"), HANG])]
    conversation = await NativeDriver().start(link, spec())
    await conversation.send("t1", [Message("m1", "go")])
    last: DriverEvent | None = None
    async for event in conversation.events():
        last = event
        if isinstance(event, Record):
            await conversation.committed(event.n)
        if isinstance(event, Happened) and isinstance(event.fact, TextDelta):
            await link.close()
    assert isinstance(last, Died)
    assert last.exit is None
    assert "the sandbox is gone" in last.stderr


async def test_it_does_not_start(link: Link) -> None:
    with pytest.raises(AegisError, match="did not start") as raised:
        await NativeDriver().start(link, spec(dialect="morse"))
    assert raised.value.kind is ErrorKind.FAILED
    assert raised.value.data["exit"] == 1
    assert "unknown dialect `morse`" in raised.value.data["stderr"]


async def test_close_in_a_turn_ends_its_tools(link: Link, server: ModelServer, tmp_path: Path) -> None:
    server.script = [Say([call("bash", {"command": "echo $$ > pid; exec sleep 1000"})])]
    conversation = await NativeDriver().start(link, spec())
    await conversation.send("t1", [Message("m1", "go")])
    async for event in conversation.events():
        if isinstance(event, Record):
            await conversation.committed(event.n)
        if isinstance(event, Record) and event.message["role"] == "assistant":
            break
    pid = tmp_path / "work/pid"
    while not pid.exists() or not pid.read_text().endswith("\n"):
        await asyncio.sleep(0.01)
    await conversation.close()
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"
