"""The driver with the real Codex in a bwrap sandbox, against scripted models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.drivers.claude.conftest import Box, facts
from tests.drivers.codex.conftest import real, spec_of
from tests.kit.model_server import ModelServer

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, ToolCall, ToolResult
from aegis.drivers import Accepted, Acknowledged, Answer, Asked, Finished, McpServer, Message

Start = Callable[..., Any]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


def is_end(event: object) -> bool:
    return isinstance(event, Finished)


async def until(box: Box, script: str) -> None:
    """Wait in the sandbox until a command there succeeds."""
    await box.run(f"until {script}; do sleep 0.02; done")


async def test_a_message_joins_the_turn(talk: Start, server: ModelServer) -> None:
    one = await talk()
    start = await one.send('[[call bash {"command": "until test -e go; do sleep 0.02; done"}]] [[say done]]')
    await one.until(lambda event: isinstance(event, Asked), start)
    await one.conversation.add("t1", [Message("late", "by the way: plums")])
    await one.conversation._link.run(["/bin/sh", "-c", "touch /workspace/go"], stdin=False)
    await one.until(is_end, start)
    accepted = [event.ids for event in one.seen[start:] if isinstance(event, Accepted)]
    assert accepted[1:] == [["late"]]
    assert ["late"] in [event.ids for event in one.seen[start:] if isinstance(event, Acknowledged)]
    assert "plums" in json.dumps(server.calls[-1].body["input"])


async def test_what_was_not_read_before_the_end_is_never_read(talk: Start, box: Box, server: ModelServer) -> None:
    one = await talk()
    start = await one.send('[[call bash {"command": "touch begun; sleep 299"}]] [[say done]]')
    await until(box, "test -e begun")
    await one.conversation.add("t1", [Message("late", "by the way: plums")])
    await one.conversation.interrupt()
    await one.until(is_end, start)
    assert [event.ids for event in one.seen[start:] if isinstance(event, Accepted) and "late" in event.ids] == []
    await one.turn("[[say next]]")
    assert "plums" not in json.dumps(server.calls[-1].body["input"])


async def test_an_interrupt_ends_what_the_turn_started_and_nothing_else(talk: Start, box: Box) -> None:
    one = await talk()
    await one.turn('[[call bash {"command": "setsid sleep 2971 > /dev/null 2>&1 < /dev/null & sleep 0.05"}]] [[say ok]]')
    start = await one.send('[[call bash {"command": "setsid sleep 2972 & (env -i sleep 2973) & touch begun; sleep 2974"}]] [[say x]]')
    await until(box, "test -e begun")
    await box.run("sleep 0.5")  # what is younger than about a tenth of a second, it ends by itself
    await one.conversation.interrupt()
    end = await one.until(is_end, start)
    assert end.outcome is Outcome.CANCELLED
    listing = await box.run('for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline; echo; done 2>/dev/null')
    assert [word for word in ("2971", "2972", "2973", "2974") if f"sleep {word}" in listing] == ["2971"]
    assert (await one.turn("[[say fresh]]"))[-1].text == "fresh"


async def test_it_goes_on_after_a_kill(talk: Start, box: Box) -> None:
    one = await talk()
    await one.turn("[[say the word is marzipan]]")
    start = await one.send("[[slow 400 50]]")
    await one.delta(start)
    sent = next(event.ids[0] for event in one.seen[start:] if isinstance(event, Accepted))
    await box.down()
    await box.up()
    session = one.conversation.opened.program_session
    pending = [Message(sent, "x"), Message("never", "y")]
    two = await talk(resume=session, pending=pending)
    assert two.conversation.opened.known == (sent,)
    assert two.conversation.opened.resumed
    assert "marzipan" in (await two.turn("[[recall]]"))[-1].text
    copy = await talk(resume=session, fork=True, session="host:copy")
    assert copy.conversation.opened.program_session not in ("", session)
    assert "marzipan" in (await copy.turn("[[recall]]"))[-1].text


async def test_a_session_that_was_never_spoken_in(talk: Start, box: Box) -> None:
    one = await talk()
    session = one.conversation.opened.program_session
    await one.close()
    two = await talk(resume=session)
    assert not two.conversation.opened.resumed
    for missing in ("01a1ff7f-551d-77f0-af7d-af329f5b991e", "nonsense; rm -rf /"):
        with pytest.raises(AegisError) as caught:
            await real().start(box.link, spec_of(box.link, resume=missing))
        assert caught.value.kind is ErrorKind.NOT_FOUND


@pytest.mark.parametrize("model", ["scripted/directives", "scripted/gpt-6.1-sol"])
async def test_tools_of_servers_are_there_at_once(talk: Start, box: Box, server: ModelServer, model: str) -> None:
    """Also with a model that Codex knows, from which it would hide them."""
    await box.run("cp /opt/probe.py /workspace/probe.py; setsid python3 /workspace/probe.py 8111 > /dev/null 2>&1 < /dev/null &")
    await until(box, 'python3 -c "import socket; socket.create_connection((\\"127.0.0.1\\", 8111))" 2>/dev/null')
    servers = [
        McpServer(name="far", url="http://127.0.0.1:8111/mcp", headers={"Authorization": "Bearer of-the-session"}),
        McpServer(name="near", command=["python3", "/opt/probe.py"]),
    ]
    asked: list[Asked] = []

    def rule(event: Asked) -> Answer:
        asked.append(event)
        return Answer(True)

    one = await talk(rule, mcp=servers, model=model, system="You are the tester.")
    for name in ("far", "near"):
        events = await one.turn(f'[[call {name}.add {{"a": 2, "b": 3}}]] [[say done]]')
        [call], [result] = facts(events, ToolCall), facts(events, ToolResult)
        assert (call.name, result.ok, result.output) == (f"mcp__{name}__add", True, "5")
    assert [(event.tool, event.call_id is not None) for event in asked] == [("mcp__far__add", True), ("mcp__near__add", True)]
    assert (box.work / "bearer").read_text() == "Bearer of-the-session"
    assert "You are the tester." in json.dumps(server.calls[-1].body["input"])
    assert not {"spawn_agent", "create_goal", "web_search"} & set(server.calls[-1].tools)


async def test_what_an_agent_wrote_for_itself_does_not_count(talk: Start, box: Box, server: ModelServer) -> None:
    await box.run(
        "mkdir -p ~/.codex/rules; echo 'approval_policy = \"never\"' > ~/.codex/config.toml;"
        'echo \'prefix_rule(pattern = ["touch"], decision = "allow")\' > ~/.codex/rules/x.rules; echo read me > /workspace/AGENTS.md'
    )
    one = await talk(lambda _: Answer(False))
    await one.turn('[[call bash {"command": "touch done.txt"}]] [[say over]]')
    assert not (box.work / "done.txt").exists()
    assert "read me" in json.dumps(server.calls[-1].body["input"]), "the repository may say how to work in it"


async def test_nothing_is_left(talk: Start, box: Box) -> None:
    one = await talk()
    await one.turn('[[call bash {"command": "setsid sleep 2981 > /dev/null 2>&1 < /dev/null & echo ok"}]] [[say done]]')
    start = await one.send('[[call bash {"command": "touch begun; sleep 2982"}]] [[say done]]')
    await until(box, "test -e begun")
    await one.close()
    assert not any(is_end(event) and event.outcome is not Outcome.CANCELLED for event in one.seen[start:])
    left = await box.run('ls -A /tmp; for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline; echo; done 2>/dev/null')
    assert not any(word in left for word in ("sleep", "codex")), left
