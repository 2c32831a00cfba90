"""Pictures, leave to use tools, and settings that change while the agent runs."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from model_server import ModelServer, Say, call, text, thinking

from aegis.guest.agent.context import IMAGE, cost, fit
from aegis.guest.agent.dialects import dialect
from aegis.guest.agent.pictures import GONE, Pictures

Start = Callable[..., AgentProcess]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 32).decode()
SHOWN = {"type": "image", "media_type": "image/png"}


def picture(message: str = "m1", n: int = 0) -> dict[str, Any]:
    return {**SHOWN, "message": message, "n": n}


def send(agent: AgentProcess, ident: str, *images: str) -> dict[str, Any]:
    messages = [{"id": ident, "text": "look", "images": [{"media_type": "image/png", "data": data} for data in images]}]
    agent.send("turn", turn=ident, messages=messages)
    return agent.until("finished")


@pytest.mark.parametrize("name", ["anthropic", "openai"])
def test_a_picture_is_shown_and_only_its_name_is_remembered(start: Start, server: ModelServer, name: str) -> None:
    agent = start(Say([text("a cat")]), Say([text("still")]), dialect=name)
    assert send(agent, "m1", PNG)["outcome"] == "completed"
    assert agent.records[0]["content"] == [{"type": "text", "text": "look"}, picture()]
    agent.turn("and now?")
    for request in server.requests:
        content = next(m for m in request["messages"] if m["role"] == "user")["content"]
        if name == "anthropic":
            assert content[1]["source"] == {"type": "base64", "media_type": "image/png", "data": PNG}
        else:
            assert content[1] == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


def test_an_agent_is_started_with_the_pictures_of_its_history(start: Start, server: ModelServer) -> None:
    history = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, picture("m0") | {"data": PNG}, picture("lost")], "ids": ["m0"]},
        {"role": "assistant", "content": [{"type": "text", "text": "seen"}]},
    ]
    agent = start(Say([text("ok")]), history=history)
    agent.turn("again")
    shown = server.requests[0]["messages"][0]["content"]
    assert shown[1]["source"]["data"] == PNG
    assert shown[2] == {"type": "text", "text": GONE}


def test_only_the_newest_pictures_are_kept() -> None:
    pictures = Pictures(limit=10)
    message = {"role": "user", "content": pictures.take("a", [{"media_type": "image/png", "data": "x" * 6}])}
    message["content"] += pictures.take("b", [{"media_type": "image/png", "data": "y" * 6}])
    [shown] = pictures.shown([message])
    assert [b.get("data") for b in shown["content"]] == [None, "y" * 6]
    assert shown["content"][0] == {"type": "text", "text": GONE}
    assert all("data" not in b for b in message["content"])


def test_a_picture_counts_and_gives_way_when_there_is_no_room() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "look"}, picture()], "ids": ["m1"]}
    assert IMAGE < cost([message]) < IMAGE + 50
    assert fit([message], 10_000) == [message]
    [small] = fit([message], 400)
    assert [b["type"] for b in small["content"]] == ["text", "text"]
    assert cost([small]) <= 400


@pytest.mark.parametrize(
    ("model", "adaptive"),
    [
        ("anthropic/claude-opus-4-6", True),
        ("anthropic/claude-sonnet-5-5", True),
        ("anthropic/claude-fable-5", True),
        ("anthropic/claude-sonnet-4-5-20250929", False),
        ("anthropic/claude-sonnet-4-20250514", False),
        ("anthropic/claude-3-7-sonnet-20250219", False),
        ("other/claude-like", True),
        ("other/glm-9", False),
    ],
)
def test_how_hard_claude_is_told_to_think(model: str, adaptive: bool) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    body = dialect("anthropic").body(model=model, system="", messages=messages, tools=[], max_tokens=100, effort="medium")
    assert body["max_tokens"] > 8192
    if adaptive:
        assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "medium"})
    else:
        assert body["thinking"] == {"type": "enabled", "budget_tokens": 8192}
        assert "output_config" not in body


def test_no_budget_for_thoughts_between_tools_that_began_without_one() -> None:
    call_, result = {"type": "tool_call", "id": "c", "name": "list", "input": {}}, {"type": "tool_result", "id": "c", "name": "list"}
    thought = {"type": "thinking", "text": "hm", "signature": "s"}
    for first, thinks in (([], False), ([thought], True)):
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [*first, call_]},
            {"role": "tool", "content": [{**result, "ok": True, "output": "x"}]},
        ]
        body = dialect("anthropic").body(model="x/y", system="", messages=messages, tools=[], max_tokens=100, effort="low")
        assert ("thinking" in body) is thinks


def test_settings_change_with_the_next_call(start: Start, server: ModelServer) -> None:
    agent = start(Say([text("one")]), Say([thinking("hm"), text("two")]), model="openai/a", dialect="openai")
    agent.turn("a")
    agent.send("configure", model="openai/b", effort="high")
    agent.turn("b", turn="turn-2")
    first, second = server.requests
    assert (first["model"], first.get("reasoning_effort"), second["model"], second["reasoning_effort"]) == (
        "openai/a",
        None,
        "openai/b",
        "high",
    )
    assert second["max_completion_tokens"] > first["max_completion_tokens"]


def answering(agent: AgentProcess, **answer: Any) -> Callable[[dict[str, Any]], None]:
    def on(frame: dict[str, Any]) -> None:
        if frame["type"] == "ask":
            agent.send("answer", id=frame["id"], **{"allow": False, "reason": "", "input": None, **answer})

    return on


def test_a_person_is_asked_before_anything_changes(start: Start, workspace: Path) -> None:
    (workspace / "a").write_text("one")
    calls = [call("read", {"path": "a"}, "r"), call("write", {"path": "b", "content": "1"}, "w"), call("bash", {"command": "touch c"}, "x")]
    agent = start(Say(calls), Say([text("ok")]), approvals="ask")
    agent.turn("go", on=answering(agent, allow=False, reason="not today"))
    asked = [f for f in agent.frames if f["type"] == "ask"]
    assert [(f["tool"], f["call_id"]) for f in asked] == [("write", "w"), ("bash", "x")]
    assert len({f["id"] for f in asked}) == 2
    read, write, bash = agent.results()
    assert read["ok"]
    assert not write["ok"]
    assert "not today" in write["output"]
    assert "not today" in bash["output"]
    assert sorted(p.name for p in workspace.iterdir()) == ["a"]


def test_a_person_may_change_what_is_done(start: Start, workspace: Path) -> None:
    agent = start(Say([call("write", {"path": "b", "content": "1"})]), Say([text("ok")]), approvals="ask")
    agent.turn("go", on=answering(agent, allow=True, input={"path": "b", "content": "2"}))
    assert (workspace / "b").read_text() == "2"
    [result] = agent.results()
    assert result["ok"]
    assert '"content":"2"' in result["output"]


def test_what_a_person_changed_is_checked_again(start: Start, workspace: Path) -> None:
    agent = start(Say([call("write", {"path": "b", "content": "1"})]), Say([text("ok")]), approvals="ask")
    agent.turn("go", on=answering(agent, allow=True, input={"path": 7}))
    assert not agent.results()[0]["ok"]
    assert list(workspace.iterdir()) == []


def test_a_question_can_be_cut_and_its_time_is_not_counted(start: Start, workspace: Path) -> None:
    agent = start(Say([call("write", {"path": "b", "content": "1"})]), Say([text("ok")]), approvals="ask")
    agent.begin("go")
    agent.until("ask")
    agent.send("interrupt")
    assert agent.until("finished")["outcome"] == "cancelled"
    assert not (workspace / "b").exists()
    agent.send("answer", id="ask_1", allow=True, reason="", input=None)  # too late
    assert agent.turn("more", turn="turn-2")["outcome"] == "completed"
    assert not (workspace / "b").exists()


def test_nobody_is_asked_about_what_is_refused_anyway(start: Start) -> None:
    calls = [call("write", {"path": "b", "content": "1"}), call("bash", {})]
    agent = start(Say(calls), Say([text("ok")]), approvals="ask", permission="read")
    agent.turn("go")
    assert [f for f in agent.frames if f["type"] == "ask"] == []


@pytest.mark.parametrize("permission", ["write", "full"])
def test_whoever_may_write_has_the_tools_for_it(start: Start, server: ModelServer, workspace: Path, permission: str) -> None:
    agent = start(Say([call("write", {"path": "b", "content": "1"})]), Say([text("ok")]), permission=permission)
    agent.turn("go")
    assert {"write", "edit"} <= {tool["name"] for tool in server.requests[0]["tools"]}
    assert (workspace / "b").read_text() == "1"
