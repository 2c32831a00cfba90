"""An editor talks to agents through `aegis acp`: the real command and daemon, the official SDK as the editor."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from acp import RequestError
from acp.schema import ImageContentBlock, ResourceContentBlock, TextContentBlock
from tests.conftest import RealDaemon
from tests.hosts.conftest import SECONDS, editor

from aegis.sandboxes.bwrap import Bwrap

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def text(said: str) -> list[Any]:
    return [TextContentBlock(type="text", text=said)]


def call(name: str, **given: Any) -> str:
    return f"[[call {name} {json.dumps(given)}]]"


async def test_a_folder_gets_an_agent_and_its_turns_are_shown(home: RealDaemon, folder: Path) -> None:
    """Text, thoughts, tools with their kinds, places and changes; pictures and links; history; the list; another folder is another agent."""
    async with editor(home) as one:
        session = await one.connection.new_session(cwd=str(folder), mcp_servers=[])
        done = await one.connection.prompt(
            session_id=session.session_id,
            prompt=text(f"[[think hmm]] {call('write', path='a.txt', content='one')} {call('bash', command='echo out')} [[say fin]]"),
        )
        assert done.stop_reason == "end_turn"
        assert done.usage is not None
        assert done.usage.output_tokens > 0
        assert (folder / "a.txt").read_text() == "one"
        assert one.text() == "fin"
        assert one.text("agent_thought_chunk") == "hmm"
        assert one.of("user_message_chunk") == []
        write, shell = one.of("tool_call")
        assert (write.kind, write.locations[0].path) == ("edit", str(folder / "a.txt"))
        assert (shell.kind, shell.title) == ("execute", "echo out")
        wrote, ran = [update for update in one.of("tool_call_update") if update.status == "completed"]
        assert (wrote.tool_call_id, ran.tool_call_id) == (write.tool_call_id, shell.tool_call_id)
        assert (wrote.content[0].path, wrote.content[0].new_text) == (str(folder / "a.txt"), "one")
        assert "out" in ran.content[0].content.text

        image = ImageContentBlock(type="image", data=PIXEL, mime_type="image/png")
        link = ResourceContentBlock(type="resource_link", name="a.txt", uri=(folder / "a.txt").as_uri())
        await one.connection.prompt(session_id=session.session_id, prompt=[*text("[[images]] of "), link, image])
        assert one.text().endswith("1 image: image/png")
        (instance,) = home.client.instances.all()
        (said,) = [m for m in home.client.mail.all(instance["handle"]) if "[[images]]" in m["text"]]
        assert said["text"] == f"[[images]] of [@a.txt]({folder / 'a.txt'})"
        assert instance["workspace"] == str(folder)

        (folder.parent / "other").mkdir()
        other = await one.connection.new_session(cwd=str(folder.parent / "other"), mcp_servers=[])
        second = await one.connection.new_session(cwd=str(folder), mcp_servers=[])
        assert len({session.session_id, other.session_id, second.session_id}) == 3
        assert len(home.client.instances.all()) == 2
        first = session.session_id

    async with editor(home) as again:  # the editor was closed in between
        listed = await again.connection.list_sessions(cwd=str(folder))
        assert [each.session_id for each in listed.sessions] == [first]
        assert listed.sessions[0].cwd == str(folder)
        await again.connection.load_session(cwd=str(folder), session_id=first, mcp_servers=[])
        await again.until(lambda: again.text() == "fin1 image: image/png")
        assert again.text("user_message_chunk").startswith("[[think hmm]]")
        assert [update.status for update in again.of("tool_call_update")] == ["completed", "completed"]
        assert len({update.message_id for update in again.of("agent_message_chunk")}) == 2
        await again.connection.prompt(session_id=first, prompt=text("[[recall]]"))
        assert "think hmm" in again.text()


async def test_leave_is_asked_in_the_editor_and_answered_there_or_elsewhere(home: RealDaemon, folder: Path) -> None:
    verdict = await Bwrap().probe()
    if not verdict.ok:
        pytest.skip(f"bwrap: {verdict.detail}; {verdict.mend}")
    home.up()
    home.start("w", workspace=str(folder), approvals="ask", sandbox="bwrap")
    async with editor(home, "--instance", "w") as one:
        session = (await one.connection.new_session(cwd="/", mcp_servers=[])).session_id
        await one.connection.prompt(session_id=session, prompt=text(f"{call('write', path='/workspace/a.txt', content='one')} [[say yes]]"))
        assert (folder / "a.txt").exists()
        (asked,) = one.asked
        assert (asked["call"].kind, asked["call"].locations[0].path) == ("edit", str(folder / "a.txt"))
        assert asked["call"].tool_call_id == one.of("tool_call")[0].tool_call_id
        assert [option.kind for option in asked["options"]] == ["allow_once", "reject_once"]

        one.answer = lambda request: "reject"
        await one.connection.prompt(session_id=session, prompt=text(f"{call('write', path='b.txt', content='one')} [[say no]]"))
        assert not (folder / "b.txt").exists()

        one.answer = lambda request: "never"  # somebody decides it elsewhere, and the turn goes on
        prompt = asyncio.create_task(
            one.connection.prompt(session_id=session, prompt=text(f"{call('write', path='c.txt', content='one')} [[say c]]"))
        )
        await one.until(lambda: len(one.asked) == 3)
        (waiting,) = home.client.approvals.list()
        home.client.approvals.decide(waiting["id"], True)
        async with asyncio.timeout(SECONDS):
            assert (await prompt).stop_reason == "end_turn"
        assert (folder / "c.txt").exists()

        prompt = asyncio.create_task(one.connection.prompt(session_id=session, prompt=text(call("write", path="d.txt", content="x"))))
        await one.until(lambda: len(one.asked) == 4)
        await one.connection.cancel(session_id=session)
        async with asyncio.timeout(SECONDS):
            assert (await prompt).stop_reason == "cancelled"
        assert home.client.approvals.list() == []
        assert not (folder / "d.txt").exists()


async def test_a_turn_is_cut_and_the_daemon_may_die(home: RealDaemon, folder: Path) -> None:
    """Cancelled at once and in the middle; killed in the middle of a turn, which goes on; stopped, and started by the next prompt."""
    home.up()
    async with editor(home) as one:
        session = (await one.connection.new_session(cwd=str(folder), mcp_servers=[])).session_id
        prompt = asyncio.create_task(one.connection.prompt(session_id=session, prompt=text("[[slow 3 1]] [[hang 600]]")))
        await one.until(lambda: one.text())
        await one.connection.cancel(session_id=session)
        async with asyncio.timeout(SECONDS):
            assert (await prompt).stop_reason == "cancelled"

        prompt = asyncio.create_task(one.connection.prompt(session_id=session, prompt=text("[[hang 600]]")))
        await asyncio.sleep(0)  # it is on its way
        await one.connection.cancel(session_id=session)  # likely before its turn has begun
        async with asyncio.timeout(SECONDS):
            assert (await prompt).stop_reason == "cancelled"

        one.updates.clear()
        script = f"{call('bash', command='touch began; while [ ! -e go ]; do sleep 0.02; done')} [[say after all]]"
        prompt = asyncio.create_task(one.connection.prompt(session_id=session, prompt=text(script)))
        await one.until(lambda: one.of("tool_call"))
        home.kill()
        (folder / "go").touch()
        async with asyncio.timeout(SECONDS):
            assert (await prompt).stop_reason == "end_turn"
        assert one.text() == "after all"

        home.down()
        one.updates.clear()
        done = await one.connection.prompt(session_id=session, prompt=text("[[say back]]"))
        assert done.stop_reason == "end_turn"
        await one.until(lambda: one.text() == "back")


async def test_options_forks_and_what_goes_wrong(home: RealDaemon, folder: Path) -> None:
    home.up()
    home.client.config.add_agent("other", {"model": "scripted/echo"}, None)
    async with editor(home, "--agent", "other") as one:
        session = await one.connection.new_session(cwd=str(folder), mcp_servers=[])
        (model, *_) = session.config_options or []
        assert (model.id, model.current_value) == ("model", "scripted/echo")
        ident = session.session_id
        changed = await one.connection.set_config_option(config_id="model", session_id=ident, value="scripted/directives")
        assert changed.config_options[0].current_value == "scripted/directives"
        await one.connection.prompt(session_id=ident, prompt=text("[[say set]]"))
        assert one.text() == "set"
        fork = await one.connection.fork_session(session_id=ident, cwd=str(folder), mcp_servers=[])
        await one.connection.prompt(session_id=fork.session_id, prompt=text("[[recall]]"))
        assert "say set" in one.text()

        async def refused(work: Any) -> RequestError:
            with pytest.raises(RequestError) as caught:
                await work
            return caught.value

        (folder.parent / "wild").mkdir()
        (folder.parent / "wild" / ".aegis.yaml").write_text("agents: {other: {model: scripted/echo}}\n")
        assert "aegis config trust" in str(await refused(one.connection.new_session(cwd=str(folder.parent / "wild"), mcp_servers=[])))
        failed = await refused(one.connection.prompt(session_id=ident, prompt=text("[[error 400]]")))
        assert failed.code == -32603
        assert "400" in str(failed)
        assert (await refused(one.connection.prompt(session_id="inst_0/acp:x", prompt=text("x")))).code == -32002
        assert (await refused(one.connection.prompt(session_id=ident, prompt=[]))).code == -32602
        assert (await refused(one.connection.new_session(cwd="relative", mcp_servers=[]))).code == -32602
        assert (await refused(one.connection.new_session(cwd=str(folder / "no"), mcp_servers=[]))).code == -32602
        assert (await refused(one.connection.load_session(cwd="/", session_id="inst_0/acp:x", mcp_servers=[]))).code == -32002
        assert (await refused(one.connection.set_config_option(config_id="x", session_id=ident, value="y"))).code == -32602
        unknown = await refused(one.connection.set_config_option(config_id="model", session_id=ident, value="scripted/nothing"))
        assert "scripted/" in str(unknown)
        audio = {"type": "audio", "data": base64.b64encode(b"x").decode(), "mimeType": "audio/wav"}
        assert (await refused(one.connection._conn.send_request("session/prompt", {"sessionId": ident, "prompt": [audio]}))).code == -32602
        assert (await refused(one.connection._conn.send_request("session/nothing", {}))).code == -32601

        one.updates.clear()
        prompt = asyncio.create_task(one.connection.prompt(session_id=ident, prompt=text("[[slow 3 1]] [[hang 600]]")))
        await one.until(one.text)
        home.client.instances.delete(ident.partition("/")[0])
        assert (await refused(prompt)).code == -32002
