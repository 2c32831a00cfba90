"""Stopping: by the user or by time, in a stream, in a tool, at the start; the next turn finds a consistent memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from model_server import HANG, ModelServer, Say, call, text, thinking

Start = Callable[..., AgentProcess]
DIALECTS = pytest.mark.parametrize("dialect", ["anthropic", "openai"])


def alive(path: Path) -> list[int]:
    """Which of the process numbers in a file still live."""
    pids = [int(word) for word in path.read_text().split()]
    living = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            living.append(pid)
    return living


@DIALECTS
def test_in_the_stream(start: Start, server: ModelServer, dialect: str) -> None:
    agent = start(Say([thinking("t"), text("so far"), HANG]), Say([text("next")]), dialect=dialect)
    agent.begin("go")
    agent.until("delta")
    assert server.hanging.wait(10)
    agent.send("interrupt")
    done = agent.until("finished")
    assert (done["outcome"], done["error"]["kind"]) == ("cancelled", "interrupted")
    assert server.left.wait(10)
    said = [b["text"] for b in agent.records[-1]["content"] if b["type"] == "text"]
    assert said[0].startswith("so")
    assert said[1] == "[cut off: interrupted by the user]"
    assert agent.turn("then", turn="b")["text"] == "next"
    assert [m["role"] for m in server.requests[1]["messages"] if m["role"] != "system"] == ["user", "assistant", "user"]


def test_before_the_first_byte(start: Start, server: ModelServer) -> None:
    agent = start(Say([HANG]), Say([text("next")]))
    agent.begin("go")
    agent.until("presence")
    assert server.hanging.wait(10)
    agent.send("interrupt")
    assert agent.until("finished")["outcome"] == "cancelled"
    agent.turn("then", turn="b")
    assert [m["role"] for m in server.requests[1]["messages"]] == ["user", "assistant", "user"]


def test_a_call_that_was_not_whole_is_forgotten(start: Start, server: ModelServer, workspace: Path) -> None:
    agent = start(Say([text("w"), call("write", {"path": "x", "content": ""}), HANG]), Say([text("next")]))
    agent.begin("go")
    agent.until("presence")
    assert server.hanging.wait(10)
    agent.send("interrupt")
    assert agent.until("finished")["outcome"] == "cancelled"
    assert "tool_call" not in str(agent.records)
    assert agent.turn("then", turn="b")["outcome"] == "completed"


def test_right_at_the_start(start: Start, server: ModelServer) -> None:
    agent = start(Say([text("next")]))
    agent.hold = True
    agent.begin("go")
    agent.send("interrupt")
    record = agent.until("record")
    agent.send("committed", n=record["n"])
    agent.hold = False
    done = agent.until("finished")
    assert (done["outcome"], done["rounds"]) == ("cancelled", 0)
    assert [f["type"] for f in agent.frames] == ["ready", "record", "accepted", "record", "finished"]
    assert server.requests == []
    assert agent.turn("then", turn="b")["text"] == "next"


def test_between_turns_it_means_nothing(start: Start) -> None:
    agent = start(Say([text("a")]), Say([text("b")]))
    agent.send("interrupt")
    assert agent.turn("1", turn="a")["outcome"] == "completed"
    agent.send("interrupt")
    assert agent.turn("2", turn="b")["outcome"] == "completed"


@DIALECTS
def test_in_a_tool(start: Start, server: ModelServer, workspace: Path, dialect: str) -> None:
    # The inner shells leave the session and lose their parents; all write their numbers first.
    command = "echo started; echo $$ >> pids; (setsid sh -c 'echo $$ >> pids; exec sleep 1000' &) ; "
    command += "(sleep 1000 & echo $! >> pids); touch ready; sleep 1000"
    calls = [call("bash", {"command": command}, "a"), call("write", {"path": "x", "content": ""}, "b")]
    agent = start(Say([text("Running."), *calls]), Say([text("next")]), dialect=dialect)
    agent.begin("go")
    agent.until("presence", state="tool: bash")
    while not (workspace / "ready").exists() or len((workspace / "pids").read_text().split()) < 3:
        os.sched_yield()
    agent.send("interrupt")
    assert agent.until("finished")["outcome"] == "cancelled"
    assert alive(workspace / "pids") == []
    first, second = agent.results()
    assert "interrupted by the user" in first["output"]
    assert "started" in first["output"]
    assert "not run" in second["output"]
    assert not (workspace / "x").exists()
    assert agent.turn("then", turn="b")["text"] == "next"


def test_between_the_tools_and_the_next_call(start: Start) -> None:
    agent = start(Say([text("Looking."), call("list", {})]), Say([text("next")]))
    agent.begin("go")
    agent.until("presence", state="tool: list")
    agent.hold = True
    record = agent.until("record")
    agent.send("interrupt")
    agent.send("committed", n=record["n"])
    assert agent.until("finished")["outcome"] == "cancelled"
    assert [m["role"] for m in agent.records] == ["user", "assistant", "tool"]
    assert agent.results()[0]["ok"]
    agent.hold = False
    assert agent.turn("then", turn="b")["text"] == "next"


def test_between_the_reply_and_its_tools(start: Start, workspace: Path) -> None:
    agent = start(Say([call("write", {"path": "x", "content": ""})]), Say([text("next")]))
    agent.begin("go")
    agent.until("record")
    agent.hold = True
    record = agent.until("record")
    agent.send("interrupt")
    agent.send("committed", n=record["n"])
    agent.hold = False
    assert agent.until("finished")["outcome"] == "cancelled"
    assert not (workspace / "x").exists()
    assert agent.turn("then", turn="b")["text"] == "next"


@pytest.mark.parametrize(("name", "arguments"), [("grep", {"pattern": "(a+)+$"}), ("bash", {"command": "yes"})])
def test_what_would_never_end_can_be_interrupted(start: Start, workspace: Path, name: str, arguments: dict[str, Any]) -> None:
    (workspace / "a.txt").write_text("a" * 200 + "!")
    agent = start(Say([call(name, arguments)]))
    agent.begin("go")
    agent.until("presence", state=f"tool: {name}")
    agent.send("interrupt")
    assert agent.until("finished")["outcome"] == "cancelled"


def test_close_in_a_tool_leaves_nothing(start: Start, workspace: Path) -> None:
    agent = start(Say([call("bash", {"command": "echo $$ > pids; exec sleep 1000"})]))
    agent.begin("go")
    agent.until("presence", state="tool: bash")
    while not (workspace / "pids").exists() or not (workspace / "pids").read_text().endswith("\n"):
        os.sched_yield()
    assert agent.close() == 0
    assert alive(workspace / "pids") == []


def test_time_of_the_turn_in_the_stream(start: Start, server: ModelServer) -> None:
    agent = start(Say([text("so far"), HANG]), Say([text("next")]), limits={"turn_seconds": 0.5})
    done = agent.turn("go")
    assert (done["outcome"], done["error"]["limit"], done["error"]["kind"]) == ("limited", "turn_seconds", "limit")
    assert "time limit" in agent.records[-1]["content"][-1]["text"]
    assert server.left.wait(10)


def test_time_of_the_turn_in_a_tool(start: Start, workspace: Path) -> None:
    agent = start(Say([call("bash", {"command": "echo $$ > pids; yes > /dev/null"})]), limits={"turn_seconds": 1.0})
    assert agent.turn("go")["outcome"] == "limited"
    assert "time limit" in agent.results()[0]["output"]
    assert alive(workspace / "pids") == []


def test_time_of_a_tool(start: Start, workspace: Path) -> None:
    (workspace / "a.txt").write_text("a" * 200 + "!")
    calls = [call("bash", {"command": "echo hi; yes"}, "a"), call("grep", {"pattern": "(a+)+$"}, "b")]
    calls.append(call("bash", {"command": "(setsid sh -c 'echo $$ > pids; exec sleep 1000' &); sleep 1000", "timeout": 0.4}, "c"))
    agent = start(Say(calls), Say([text("ok")]), limits={"tool_seconds": 0.6})
    assert agent.turn("go")["outcome"] == "completed"
    first, second, third = agent.results()
    assert first["output"].startswith("hi\ny\n")
    assert first["output"].endswith("[timed out after 0.6 s; all its processes were killed]")
    assert first["truncated"]
    assert "timed out" in second["output"]
    assert "timed out after 0.4 s" in third["output"]
    assert alive(workspace / "pids") == []
