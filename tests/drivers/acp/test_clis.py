"""The real Gemini CLI and OpenCode in a real sandbox, with the scripted models: what was promised of every agent.

What upstream does wrong is tested bare, as a strict xfail: when it passes, the way round it can go.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from acp_replay import agent
from tests.kit.clis import overrides
from tests.kit.model_server import ModelServer

from aegis.core.envelopes import Image
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, SessionSettings, Text, TextDelta, Thinking, ThinkingDelta, ToolCall, ToolProgress, ToolResult
from aegis.core.ids import new_id
from aegis.drivers import Answer, Asked, ConversationSpec, DriverEvent, Finished, Happened, McpServer, Message, Withdrawn
from aegis.drivers.acp import AcpDriver
from aegis.drivers.acp.conversation import AcpConversation
from aegis.drivers.programs import Programs
from aegis.sandboxes import Mount, SandboxSpec
from aegis.sandboxes.bwrap import Bwrap
from aegis.sandboxes.link import Link

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
YES = Answer(True)


class Rig:
    """A sandbox whose model channels lead to the scripted models, and one program for it."""

    def __init__(self, name: str, link: Link, server: ModelServer, work: Path, driver: AcpDriver) -> None:
        self.name = name
        self.link = link
        self.server = server
        self.work = work
        self.driver = driver
        self.started: list[AcpConversation] = []

    def spec(self, **fields: Any) -> ConversationSpec:
        base = {"session": "host:default", "model": "prov/first-model", "dialect": self.driver.dialects[0], "token": "dummy"}
        return ConversationSpec(**{**base, "endpoint": f"{self.link.endpoint}/s/a2V5", **fields})

    async def start(self, **fields: Any) -> AcpConversation:
        self.started.append(await self.driver.start(self.link, self.spec(**fields)))
        return self.started[-1]

    async def sh(self, command: str) -> str:
        """What a command says inside."""
        program = await self.link.run(["/bin/sh", "-c", command], stdin=False)
        said = b""
        while (output := await program.read()) is not None:
            said += output[1]
        await program.wait()
        return said.decode()

    async def gone(self, word: str) -> bool:
        """Whether no process inside has `word` in its command line."""
        return await self.sh(f"ps ax -o args= | grep -F {shlex.quote(word)} | grep -v grep || true") == ""


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as one:
        yield one


@pytest.fixture(params=["gemini", "opencode"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path, server: ModelServer) -> AsyncIterator[Rig]:
    kind = Bwrap()
    verdict = await kind.probe()
    if not verdict.ok:
        pytest.skip(f"bwrap: {verdict.detail}; {verdict.mend}")
    driver = AcpDriver(agent(request.param), Programs(path=os.defpath, overrides=lambda: overrides(request.param)))
    found = await driver.locate()
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    ident = new_id("inst")
    spec = SandboxSpec(
        id=ident,
        index=1,
        handle="tester",
        home=tmp_path / "home",
        state=tmp_path / "home" / ident,
        workspace=Mount(tmp_path / "work", "/workspace", True),
        mounts=found.mounts,
    )
    sandbox = kind.create(spec)
    link = await sandbox.start()
    pumps: set[asyncio.Task[None]] = set()
    port = int(server.url.rpartition(":")[2])

    def accept(channel: Any) -> None:
        if channel.kind == "model":
            task = asyncio.create_task(_pump(channel, port))
            pumps.add(task)
            task.add_done_callback(pumps.discard)

    link.on_channel = accept
    one = Rig(request.param, link, server, tmp_path / "work", driver)
    yield one
    for conversation in one.started:
        await conversation.close()
    await sandbox.stop(0.0)
    for task in list(pumps):
        task.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(channel: Any, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def upwards() -> None:
        try:
            while data := await channel.read():
                writer.write(data)
                await writer.drain()
        except (AegisError, OSError):
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
        writer.close()
        await up


only = {name: pytest.mark.parametrize("rig", [name], indirect=True) for name in ("gemini", "opencode")}


async def turn(
    events: AsyncIterator[DriverEvent], conversation: AcpConversation, text: str, answer: Answer = YES, **more: Any
) -> list[DriverEvent]:
    images = more.pop("images", [])
    await conversation.send("t", [Message("m", text, images)] if text else [], **more)
    seen: list[DriverEvent] = []
    async with asyncio.timeout(60):
        async for event in events:
            seen.append(event)
            if isinstance(event, Asked):
                await conversation.answer(event.id, answer)
            if isinstance(event, Finished):
                return seen
    raise AssertionError(f"it ended: {conversation.machine.output.said}")


async def until(events: AsyncIterator[DriverEvent], kind: type, holds: Any = lambda event: True) -> Any:
    async with asyncio.timeout(60):
        async for event in events:
            found = event.fact if isinstance(event, Happened) and isinstance(event.fact, kind) else event
            if isinstance(found, kind) and holds(found):
                return found
    raise AssertionError("it ended")


def facts(seen: list[DriverEvent], kind: type) -> list[Any]:
    return [event.fact for event in seen if isinstance(event, Happened) and isinstance(event.fact, kind)]


async def test_turns_with_tools(rig: Rig) -> None:
    """Text and thoughts as they come, a file written and changed, a shell, what was refused; and then nothing is left."""
    conversation = await rig.start(system="Be brief.")
    assert conversation.opened.version == rig.driver.agent.program.pinned
    assert conversation.opened.model == "prov/first-model"
    events = conversation.events()
    seen = await turn(events, conversation, "[[think hmm]] [[slow 4 1]]")
    assert len(facts(seen, TextDelta)) >= 2
    assert "".join(fact.text for fact in facts(seen, TextDelta)) == facts(seen, Text)[0].text
    assert facts(seen, ThinkingDelta)
    assert "hmm" in facts(seen, Thinking)[0].text
    write = {"path": "/workspace/a.txt", "content": "one\ntwo\n"}
    script = (
        f"[[call write {json.dumps(write)}]] [[call bash {json.dumps({'command': 'echo out; sleep 1000 >/dev/null 2>&1 &'})}]] [[say done]]"
    )
    seen = await turn(events, conversation, script)
    assert (rig.work / "a.txt").read_text() == "one\ntwo\n"
    assert [fact.kind for fact in facts(seen, ToolCall)] == ["edit", "execute"]
    assert [fact.ok for fact in facts(seen, ToolResult)] == [True, True]
    assert facts(seen, ToolResult)[0].diffs[0].new == "one\ntwo\n"
    assert seen[-1].outcome is Outcome.COMPLETED  # type: ignore[union-attr]
    assert seen[-1].text.strip() == "done"  # type: ignore[union-attr]
    write = {"path": "/workspace/b.txt", "content": "x"}
    seen = await turn(events, conversation, f"[[call write {json.dumps(write)}]] [[say fine]]", Answer(False, "only reading"))
    assert not (rig.work / "b.txt").exists()
    assert [fact.ok for fact in facts(seen, ToolResult)] == [False]
    if rig.name == "opencode":
        assert any("only reading" in json.dumps(request.body) for request in rig.server.calls)
    seen = await turn(events, conversation, "[[images]]", images=[Image("image/png", PIXEL)])
    assert "1" in seen[-1].text  # type: ignore[union-attr]
    assert all(request.session == "a2V5" and request.model == "first-model" for request in rig.server.requests)
    assert "Be brief." in json.dumps(rig.server.calls[0].body)
    tmp = conversation._place.tmp
    await conversation.close()
    assert await rig.gone("sleep 1000")
    assert await rig.gone("gemini.js")
    assert await rig.gone("bin/opencode")
    assert await rig.sh(f"ls -d {tmp}* /tmp/.*.so 2>/dev/null; true") == ""


@pytest.mark.parametrize("way", ["command", pytest.param("http", marks=pytest.mark.thorough)])
async def test_tools_of_a_server(rig: Rig, way: str) -> None:
    (rig.work / "probe.py").write_text((Path(__file__).parent / "mcp_probe.py").read_text())
    if way == "command":
        server = McpServer(name="probe", command=["python3", "/workspace/probe.py"])
    else:
        program = await rig.link.run(["python3", "/workspace/probe.py", "8765"])
        await program.read()
        server = McpServer(name="probe", url="http://127.0.0.1:8765/mcp", headers={"Authorization": "Bearer T"})
    conversation = await rig.start(mcp=[server])
    seen = await turn(conversation.events(), conversation, '[[call probe_add {"a": 2, "b": 3}]] [[lastresult]]')
    assert "5" in seen[-1].text  # type: ignore[union-attr]
    assert facts(seen, ToolCall)[0].name.endswith("probe_add")
    assert way == "command" or (rig.work / "bearer").read_text() == "Bearer T"
    await conversation.close()
    assert await rig.gone("gemini.js")
    assert await rig.gone("bin/opencode")


async def test_cuts(rig: Rig) -> None:
    """In the middle of a text, of a shell and of a question; afterwards it works on, and nothing of the cut turn comes later."""
    conversation = await rig.start()
    events = conversation.events()
    await conversation.send("t", [Message("m", "[[slow 2000 50]]")])
    await until(events, TextDelta)
    await conversation.interrupt()
    assert (await until(events, Finished)).outcome is Outcome.CANCELLED
    await rig.server.when(lambda: rig.server.calls[-1].disconnected)
    command = json.dumps({"command": "echo $$ > pid; echo before; exec sleep 4321"})
    await conversation.send("t", [Message("m", f"[[call bash {command}]]")])
    await conversation.answer((await until(events, Asked)).id, YES)
    while not (rig.work / "pid").exists() or not (rig.work / "pid").read_text().endswith("\n"):
        await asyncio.sleep(0.02)
    await conversation.interrupt()
    assert (await until(events, Finished)).outcome is Outcome.CANCELLED
    while not await rig.gone("sleep 4321"):
        await asyncio.sleep(0.02)
    await conversation.send("t", [Message("m", '[[call write {"path": "/workspace/c.txt", "content": "x"}]]')])
    asked = await until(events, Asked)
    await conversation.interrupt()
    assert (await until(events, Withdrawn)).id == asked.id
    assert (await until(events, Finished)).outcome is Outcome.CANCELLED
    seen = await turn(events, conversation, "[[say still here]]")
    assert [fact.text.strip() for fact in facts(seen, Text)] == ["still here"]
    assert not (rig.work / "c.txt").exists()


async def test_settings(rig: Rig) -> None:
    conversation = await rig.start()
    events = conversation.events()
    mode = rig.driver.agent.modes.known[-1]
    await conversation.configure(mode=mode)
    assert await until(events, SessionSettings) == SessionSettings(mode=mode)
    with pytest.raises(AegisError) as raised:
        await conversation.configure(mode=mode[:-1])
    assert (raised.value.kind, raised.value.data["nearest"]) == (ErrorKind.NOT_FOUND, mode)
    if rig.name == "gemini":
        await conversation.configure(model="prov/second-model")
        await turn(events, conversation, "x")
        assert rig.server.calls[-1].model == "second-model"
    else:
        with pytest.raises(AegisError) as raised:
            await conversation.configure(model="prov/second-model")
        assert raised.value.kind is ErrorKind.CONFLICT


async def test_killed_and_gone_on(rig: Rig) -> None:
    """Killed in a turn, thrice; each time it is there again with all of it, and the messages of the cut turn are found."""
    conversation = await rig.start(system="Be brief.")
    events = conversation.events()
    await turn(events, conversation, "remember alpha")
    resume = conversation.opened.program_session
    cut = Message("cut", "and beta [[slow 2000 20]]")
    await conversation.send("t", [cut])
    await until(events, TextDelta)
    await conversation._program.kill()
    await conversation.close()
    for number in range(2):
        conversation = await rig.start(resume=resume, pending=[cut, Message("never", "not there"), Message("old", "remember alpha")])
        assert (conversation.opened.program_session, conversation.opened.resumed) == (resume, True)
        assert conversation.opened.known == ("cut",)
        events = conversation.events()
        await conversation.send("t", [Message("never", f"[[recall]] {number}")], continues=True)
        text = (await until(events, Finished)).text
        assert "alpha" in text
        assert "beta" in text
        # the next start finds the message of the cut turn only while it is the last one
        cut = Message("cut", f"gamma {number} [[slow 2000 20]]")
        await conversation.send("t", [cut])
        await until(events, TextDelta)
        await conversation._program.kill()
        await conversation.close()
    with pytest.raises(AegisError) as raised:
        await rig.start(resume="89ad5021-b1e1-4707-85e2-e692465c82bf")
    assert raised.value.kind is ErrorKind.NOT_FOUND


@only["opencode"]
async def test_output_as_it_comes(rig: Rig) -> None:
    conversation = await rig.start()
    command = json.dumps({"command": "echo one; sleep 0.5; echo two"})
    seen = await turn(conversation.events(), conversation, f"[[call bash {command}]] [[say x]]")
    assert "".join(fact.text for fact in facts(seen, ToolProgress)) in ("one\n", "one\ntwo\n")
    assert facts(seen, ToolResult)[0].output == "one\ntwo\n"


class Bare:
    """The CLI without the driver: frames in, frames out."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.ids = 0
        self.line = b""
        self.program: Any = None

    async def start(self, read: bool = False) -> Any:
        from aegis.drivers.acp.driver import _command, _values
        from aegis.drivers.acp.files import Place

        spec = self.rig.spec()
        place = Place("/home/agent", "/tmp")
        argv, env = _command(self.rig.driver.agent, await self.rig.driver.locate(), spec, _values(self.rig.driver.agent, spec, place))
        self.program = await self.rig.link.run(argv, env=env, cwd="/workspace")
        fs = {"readTextFile": read, "writeTextFile": read}
        await self.call("initialize", protocolVersion=1, clientCapabilities={"fs": fs, "terminal": False})

    async def write(self, **frame: Any) -> None:
        await self.program.write(json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.ids += 1
        await self.write(id=f"c{self.ids}", method=method, params=params)
        return await self.answer(f"c{self.ids}")

    async def answer(self, ident: str) -> dict[str, Any]:
        """The answer to a call; leave is given, files do not exist."""
        async with asyncio.timeout(60):
            while True:
                while b"\n" not in self.line:
                    output = await self.program.read()
                    assert output is not None
                    self.line += output[1] if output[0] == 1 else b""
                line, _, self.line = self.line.partition(b"\n")
                frame = json.loads(line)
                if frame.get("id") == ident and "method" not in frame:
                    return frame
                if frame.get("method") == "session/request_permission":
                    option = next(one["optionId"] for one in frame["params"]["options"] if one["kind"] == "allow_once")
                    await self.write(id=frame["id"], result={"outcome": {"outcome": "selected", "optionId": option}})
                elif frame.get("id") is not None:
                    await self.write(id=frame["id"], error={"code": -32002, "message": "Resource not found"})


@only["gemini"]
@pytest.mark.xfail(strict=True, reason="loading a session in the minute in which it was started destroys it")
async def test_upstream_load_in_the_same_minute(rig: Rig) -> None:
    one = Bare(rig)
    await one.start()
    session = (await one.call("session/new", cwd="/workspace", mcpServers=[]))["result"]["sessionId"]
    await one.call("session/prompt", sessionId=session, prompt=[{"type": "text", "text": "hello"}])
    await one.program.kill()
    while True:
        # the file is named after the minute: if that has passed by now, it is given the name that it would have
        minute = time.gmtime().tm_min
        await rig.sh("cd ~/.gemini/tmp/*/chats && for f in session-*; do mv -n $f session-$(date -u +%Y-%m-%dT%H-%M)-${f##*-}; done")
        two = Bare(rig)
        await two.start()
        loaded = await two.call("session/load", sessionId=session, cwd="/workspace", mcpServers=[])
        if time.gmtime().tm_min == minute:
            break
        await two.program.kill()  # another minute began meanwhile
    assert "result" in loaded


@only["gemini"]
@pytest.mark.xfail(strict=True, reason="with the client's files a new file cannot be made")
async def test_upstream_a_new_file_with_the_clients_files(rig: Rig) -> None:
    bare = Bare(rig)
    await bare.start(read=True)
    session = (await bare.call("session/new", cwd="/workspace", mcpServers=[]))["result"]["sessionId"]
    text = '[[call write {"path": "/workspace/new.txt", "content": "x"}]] [[lastresult]]'
    await bare.call("session/prompt", sessionId=session, prompt=[{"type": "text", "text": text}])
    assert "Resource not found" not in json.dumps(rig.server.calls[-1].body)


@only["opencode"]
@pytest.mark.xfail(strict=True, reason="what its shell started outlives SIGTERM")
async def test_upstream_children_after_sigterm(rig: Rig) -> None:
    bare = Bare(rig)
    await bare.start()
    session = (await bare.call("session/new", cwd="/workspace", mcpServers=[]))["result"]["sessionId"]
    command = json.dumps({"command": "echo > started; exec sleep 5432"})
    await bare.write(
        id="p", method="session/prompt", params={"sessionId": session, "prompt": [{"type": "text", "text": f"[[call bash {command}]]"}]}
    )
    waiting = asyncio.create_task(bare.answer("p"))
    while not (rig.work / "started").exists():
        await asyncio.sleep(0.02)
    await bare.program.signal(15)
    with pytest.raises(AssertionError):
        await waiting
    assert await rig.gone("sleep 5432")
