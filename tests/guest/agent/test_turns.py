"""Turns from end to end, against a scripted model: order of frames, rounds, memory, errors, limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from model_server import BREAK, ModelServer, Refuse, Say, call, text, thinking

Start = Callable[..., AgentProcess]
DIALECTS = pytest.mark.parametrize("dialect", ["anthropic", "openai"])


def kinds(agent: AgentProcess) -> list[str]:
    out: list[str] = []
    for frame in agent.frames:
        if not out or out[-1] != frame["type"]:
            out.append(frame["type"])
    return out


def texts(message: dict[str, Any]) -> list[str]:
    return [b["text"] for b in message["content"] if b["type"] == "text"]


@DIALECTS
def test_answer(start: Start, server: ModelServer, dialect: str) -> None:
    agent = start(Say([thinking("hm, hello"), text("Hello, world. ünï")]), dialect=dialect, session="tg:7")
    done = agent.turn("hi")
    assert done == {"type": "finished", "outcome": "completed", "text": "Hello, world. ünï", "rounds": 1}
    order = ["ready", "record", "accepted", "presence", "acknowledged", "thinking", "delta", "usage", "record", "finished"]
    assert kinds(agent) == order
    assert "".join(f["text"] for f in agent.frames if f["type"] == "delta") == "Hello, world. ünï"
    assert agent.records[0] == {"role": "user", "content": [{"type": "text", "text": "hi"}], "ids": ["turn-1.0"]}
    assert server.headers[0]["authorization"] == "Bearer token-1"
    assert server.headers[0]["x-aegis-session"] == "tg:7"
    assert server.requests[0]["model"] == "anthropic/test"
    assert server.requests[0]["stream"] is True
    usage = next(f for f in agent.frames if f["type"] == "usage")
    assert (usage["input"], usage["output"], usage["cached"]) == ((16, 5, 3) if dialect == "anthropic" else (11, 5, 3))


@DIALECTS
def test_tools_then_answer(start: Start, server: ModelServer, workspace: Path, dialect: str) -> None:
    (workspace / "a.txt").write_text("one\ntwo\n")
    agent = start(
        Say([text("Looking."), call("read", {"path": "a.txt"}, "a"), call("list", "", "b")]), Say([text("Done.")]), dialect=dialect
    )
    done = agent.turn("look")
    assert (done["outcome"], done["text"], done["rounds"]) == ("completed", "Done.", 2)
    roles = [m["role"] for m in agent.records]
    assert roles == ["user", "assistant", "tool", "assistant"]
    first, second = agent.results()
    assert (first["id"], first["ok"], first["output"]) == ("a", True, "1\tone\n2\ttwo")
    assert (second["id"], second["ok"], second["output"]) == ("b", True, "a.txt\t8")
    assert agent.records[1]["content"][2]["input"] == {}
    states = [f["state"] for f in agent.frames if f["type"] == "presence"]
    assert states == ["thinking", "tool: read", "tool: list", "thinking"]
    sent = server.requests[1]["messages"]
    if dialect == "anthropic":
        assert [b["type"] for b in sent[-1]["content"]] == ["tool_result", "tool_result"]
    else:
        assert [m["role"] for m in sent] == ["system", "user", "assistant", "tool", "tool"]


def test_nothing_runs_before_its_commit(start: Start, workspace: Path) -> None:
    agent = start(Say([call("write", {"path": "x", "content": "1"})]), Say([text("ok")]))
    agent.begin("go")
    agent.until("record")
    agent.hold = True
    record = agent.until("record")
    assert record["message"]["role"] == "assistant"
    agent.send("nonsense")
    agent.send("committed", n=record["n"] - 1)
    assert not (workspace / "x").exists()
    agent.hold = False
    agent.send("committed", n=record["n"])
    agent.until("finished")
    assert (workspace / "x").read_text() == "1"


def test_messages_are_accepted_after_their_commit(start: Start) -> None:
    agent = start(Say([text("ok")]))
    agent.hold = True
    agent.begin("go", "on")
    record = agent.next()
    assert record["type"] == "record"
    agent.send("committed", n=record["n"])
    assert agent.next() == {"type": "accepted", "ids": ["turn-1.0", "turn-1.1"]}
    agent.hold = False
    agent.send("committed", n=agent.until("record")["n"])
    agent.until("finished")


@DIALECTS
def test_several_messages_are_one_with_a_block_each(start: Start, server: ModelServer, dialect: str) -> None:
    agent = start(Say([text("ok")]), dialect=dialect)
    agent.turn("one", "two")
    user = server.requests[0]["messages"][-1]
    assert [b["text"] for b in user["content"]] == ["one", "two"]


def test_acknowledged_once_per_id(start: Start) -> None:
    agent = start(Refuse(500, {"error": {"type": "api_error", "message": "down"}}), Say([call("list", {})]), Say([text("ok")]))
    assert agent.turn("first", turn="a")["outcome"] == "failed"
    agent.turn("second", turn="b")
    assert [f["ids"] for f in agent.frames if f["type"] == "acknowledged"] == [["a.0", "b.0"]]


def test_memory_goes_on_over_turns_and_processes(start: Start, server: ModelServer) -> None:
    agent = start(Say([text("A")]), Say([text("B")]), Say([text("C")]))
    agent.turn("1", turn="a")
    agent.turn("2", turn="b")
    other = start(history=agent.records)
    other.turn("3", turn="c")
    assert [m["role"] for m in server.requests[2]["messages"]] == ["user", "assistant"] * 2 + ["user"]


def test_continues_with_a_dangling_call(start: Start, server: ModelServer) -> None:
    history = [
        {"role": "user", "content": [{"type": "text", "text": "go"}], "ids": ["m1"]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "text": "t", "signature": "s"},
                {"type": "tool_call", "id": "x", "name": "bash", "input": {"command": "true"}},
            ],
        },
    ]
    agent = start(Say([text("went on")]), history=history)
    done = agent.turn(continues=True)
    assert done["outcome"] == "completed"
    assert [m["role"] for m in agent.records] == ["tool", "user", "assistant"]
    assert not agent.records[0]["content"][0]["ok"]
    assert "unknown" in agent.records[0]["content"][0]["output"]
    assert "interrupted" in texts(agent.records[1])[0]
    sent = server.requests[0]["messages"]
    assert [b["type"] for b in sent[1]["content"]] == ["thinking", "tool_use"]
    assert [b["type"] for b in sent[2]["content"]] == ["tool_result", "text"]


def test_continues_before_any_answer_acknowledges(start: Start) -> None:
    history = [{"role": "user", "content": [{"type": "text", "text": "go"}], "ids": ["m1"]}]
    agent = start(Say([text("done")]), history=history)
    agent.turn("go", continues=True, ids=["m1"])
    assert [m["role"] for m in agent.records] == ["user", "assistant"]
    assert len(agent.records[0]["content"]) == 1
    assert next(f for f in agent.frames if f["type"] == "accepted")["ids"] == ["m1"]
    assert next(f for f in agent.frames if f["type"] == "acknowledged")["ids"] == ["m1"]


def test_continues_a_turn_that_was_over(start: Start, server: ModelServer) -> None:
    history = [
        {"role": "user", "content": [{"type": "text", "text": "go"}], "ids": ["m1"]},
        {"role": "assistant", "content": [{"type": "text", "text": "all done"}]},
    ]
    agent = start(history=history)
    done = agent.turn("go", continues=True, ids=["m1"])
    assert (done["outcome"], done["text"], done["rounds"]) == ("completed", "all done", 0)
    assert server.requests == []


def test_a_message_is_applied_once(start: Start, server: ModelServer) -> None:
    agent = start(Say([text("A")]), Say([text("B")]))
    agent.turn("pay", ids=["m1"])
    agent.turn("pay", "more", ids=["m1", "m2"])
    assert [b["text"] for m in server.requests[1]["messages"] if m["role"] == "user" for b in m["content"]] == ["pay", "more"]


@pytest.mark.parametrize(
    ("refusal", "outcome", "kind"),
    [
        (Refuse(401, {"error": {"type": "authentication_error", "message": "no"}}), "failed", "denied"),
        (Refuse(400, {"error": {"type": "invalid_request_error", "message": "no"}}), "failed", "failed"),
        (Refuse(529, {"error": {"type": "overloaded_error", "message": "no"}}), "failed", "unavailable"),
        (Refuse(502, b"<html>no</html>"), "failed", "unavailable"),
        (Refuse(429, {"error": {"type": "rate_limit_error", "message": "no", "resets_at": 77}}), "limited", "limit"),
        (Refuse(429, {"error": {"message": "no"}}, {"X-Aegis-Limit": "provider", "X-Aegis-Resets-At": "77"}), "limited", "limit"),
        (Refuse(400, {"error": {"message": "no"}}, {"X-Aegis-Limit": "budget"}), "limited", "limit"),
        (Refuse(402, {"error": {"type": "budget", "message": "no"}}), "limited", "limit"),
        (Refuse(429, {"error": {"type": "whatever", "message": "no"}}), "failed", "failed"),
    ],
)
@DIALECTS
def test_refusals(start: Start, refusal: Refuse, outcome: str, kind: str, dialect: str) -> None:
    agent = start(refusal, Say([text("ok")]), dialect=dialect)
    done = agent.turn("hi")
    assert (done["outcome"], done["error"]["kind"], done["error"]["status"]) == (outcome, kind, refusal.status)
    assert "no" in done["error"]["message"]
    if "77" in repr(refusal):
        assert done["error"]["resets_at"] == 77
    assert not any(f["type"] == "acknowledged" for f in agent.frames)
    assert agent.turn("again", turn="b")["outcome"] == "completed"


def test_no_endpoint(start: Start, server: ModelServer) -> None:
    server.close()
    done = start().turn("hi")
    assert (done["outcome"], done["error"]["kind"]) == ("failed", "unreachable")


@DIALECTS
def test_broken_stream_is_asked_for_again(start: Start, server: ModelServer, workspace: Path, dialect: str) -> None:
    broken = Say([text("par"), call("write", {"path": "x", "content": "1"}), BREAK])
    agent = start(broken, broken, Say([text("whole")]), dialect=dialect)
    done = agent.turn("hi")
    assert (done["outcome"], done["text"], len(server.requests)) == ("completed", "whole", 3)
    assert not (workspace / "x").exists()
    assert len([f for f in agent.frames if f["type"] == "acknowledged"]) == 1


@DIALECTS
def test_broken_stream_ends_in_failure(start: Start, server: ModelServer, dialect: str) -> None:
    agent = start(*[Say([text("par"), BREAK])] * 3, Say([text("fine")]), dialect=dialect)
    done = agent.turn("hi")
    assert (done["outcome"], done["error"]["kind"], done["text"], len(server.requests)) == ("failed", "unreachable", "", 3)
    assert agent.turn("again", turn="b")["text"] == "fine"


@pytest.mark.parametrize(
    ("type_", "outcome", "requests"),
    [("overloaded_error", "failed", 3), ("rate_limit_error", "limited", 1), ("invalid_request_error", "failed", 1)],
)
def test_error_within_the_stream(start: Start, server: ModelServer, type_: str, outcome: str, requests: int) -> None:
    event = b'event: error\ndata: {"type":"error","error":{"type":"%s","message":"bad luck"}}\n\n' % type_.encode()
    done = start(*[Say([text("a"), ("raw", event)])] * 3).turn("hi")
    assert (done["outcome"], done["error"]["message"], len(server.requests)) == (outcome, "bad luck", requests)


@DIALECTS
def test_garbage_events_do_not_kill_it(start: Start, dialect: str) -> None:
    events = (b"{nope", b'{"type":"content_block_delta","index":9,"choices":[1]}', b'[]\n\ndata: {"type":"message_delta","choices":"x"}')
    junk = [Say([("raw", b"data: " + event + b"\n\n")]) for event in events]
    agent = start(*junk, Say([text("fine")]), dialect=dialect)
    assert agent.turn("hi")["outcome"] == "failed"
    assert agent.turn("again", turn="b")["outcome"] == "completed"


@DIALECTS
def test_cut_text(start: Start, dialect: str) -> None:
    agent = start(Say([text("once upon")], stop="max_tokens"), dialect=dialect)
    done = agent.turn("tell")
    assert (done["outcome"], done["error"]["kind"], done["error"]["limit"]) == ("limited", "limit", "max_tokens")
    assert texts(agent.records[-1])[0] == "once upon"
    assert "cut off" in texts(agent.records[-1])[1]


@DIALECTS
def test_cut_call_never_runs(start: Start, server: ModelServer, workspace: Path, dialect: str) -> None:
    calls = [call("write", {"path": "a", "content": "1"}, "a"), call("write", '{"path": "b", "content": "12', "b")]
    agent = start(Say([text("w"), *calls], stop="max_tokens"), Say([text("smaller")]), dialect=dialect)
    assert agent.turn("go")["outcome"] == "completed"
    assert list(workspace.iterdir()) == []
    assert [r["ok"] for r in agent.results()] == [False, False]
    assert "cut off" in texts(agent.records[1])[1]
    assert len(server.requests) == 2


def test_refusal_of_the_model(start: Start) -> None:
    done = start(Say([text("I cannot")], stop="refusal")).turn("hi")
    assert (done["outcome"], done["error"]["kind"], done["text"]) == ("failed", "denied", "I cannot")


def test_round_limit(start: Start, server: ModelServer) -> None:
    agent = start(*[Say([call("list", {}, f"c{i}")]) for i in range(40)], limits={"rounds": 30})
    done = agent.turn("loop")
    assert (done["outcome"], done["rounds"], done["error"]["limit"]) == ("limited", 30, "rounds")
    assert len(server.requests) == 30
    assert agent.records[-1]["role"] == "tool"
    server.script = [Say([text("now done")])]
    assert agent.turn("go on", turn="b")["text"] == "now done"


@DIALECTS
def test_bad_calls_become_results(start: Start, dialect: str) -> None:
    calls = [("read", '{"path": '), ("read", "[1]"), ("read", {}), ("read", {"path": 7}), ("read", {"path": "a", "x": 1}), ("fly", {})]
    calls += [("read", {"path": "missing"}), ("bash", {"command": "a\0b"}), ("read", {"path": "x", "start_line": True})]
    agent = start(Say([call(n, a, f"c{i}") for i, (n, a) in enumerate(calls)]), Say([text("ok")]), dialect=dialect)
    assert agent.turn("go")["outcome"] == "completed"
    results = agent.results()
    assert [r["ok"] for r in results] == [False] * len(calls)
    expected = ["JSON", "JSON object", "missing", "string", "no argument", "no tool", "missing: No such", "", "integer"]
    for part, got in zip(expected, results, strict=True):
        assert part in got["output"]
    assert '"required":["path"]' in results[0]["output"]


def test_calls_without_an_id_or_with_the_same(start: Start) -> None:
    agent = start(Say([call("list", {}, ""), call("list", {}, "x"), call("list", {}, "x")]), Say([text("ok")]), dialect="openai")
    agent.turn("go")
    ids = [r["id"] for r in agent.results()]
    assert len(set(ids)) == 3
    assert all(ids)


def test_permission_read(start: Start, server: ModelServer, workspace: Path) -> None:
    agent = start(Say([call("write", {"path": "x", "content": ""})]), Say([text("ok")]), permission="read")
    agent.turn("go")
    assert "read-only" in agent.results()[0]["output"]
    assert not (workspace / "x").exists()
    assert {t["name"] for t in server.requests[0]["tools"]} == {"read", "list", "glob", "grep", "bash"}


def test_thinking_goes_back_within_the_turn_only(start: Start, server: ModelServer) -> None:
    agent = start(Say([thinking("plan", "sig-1"), call("list", {})]), Say([text("a")]), Say([text("b")]))
    agent.turn("one", turn="a")
    agent.turn("two", turn="b")
    assert server.requests[1]["messages"][1]["content"][0] == {"type": "thinking", "thinking": "plan", "signature": "sig-1"}
    assert "sig-1" not in str(server.requests[2])


def test_surrogates_and_tokens_of_the_agent(start: Start, server: ModelServer) -> None:
    command = "echo [$AEGIS_TOKEN]; printf '\\377ok'"
    agent = start(Say([text("lone \ud83d and pair \ud83d\ude00"), call("bash", {"command": command})], split=1), Say([text("x")]))
    agent.turn("go")
    assert texts(agent.records[1])[0] == "lone \ufffd and pair \U0001f600"
    assert agent.results()[0]["output"] == "[]\n\ufffdok"


def test_close_and_end_of_stdin(start: Start) -> None:
    assert start().close() == 0
    agent = start()
    assert agent.process.stdin is not None
    agent.process.stdin.close()
    assert agent.process.wait(10) == 0


@DIALECTS
def test_a_message_in_the_middle(start: Start, server: ModelServer, workspace: Path, dialect: str) -> None:
    """It is read after the tools have run, each once; what is meant for another turn never."""
    agent = start(Say([call("list", "", "a")]), Say([call("list", "", "b")]), Say([text("Read.")]), dialect=dialect)
    more = [{"id": "m1", "text": "first"}, {"id": "m2", "text": "second"}]

    def on(frame: dict[str, Any]) -> None:
        if frame["type"] == "presence" and frame["state"] == "tool: list":
            agent.send("add", turn="turn-0", messages=[{"id": "old", "text": "late"}])
            agent.send("add", turn="turn-1", messages=more)
            agent.send("add", turn="turn-1", messages=[*more, {"id": "turn-1.0", "text": "begin"}])

    done = agent.turn("begin", on=on)
    assert (done["outcome"], done["text"]) == ("completed", "Read.")
    assert [(m["role"], m.get("ids", [])) for m in agent.records] == [
        ("user", ["turn-1.0"]), ("assistant", []), ("tool", []), ("user", ["m1", "m2"]), ("assistant", []), ("tool", []), ("assistant", []),
    ]  # fmt: skip
    assert "second" in str(server.requests[1])
    acknowledged = [f["ids"] for f in agent.frames if f["type"] == "acknowledged"]
    assert acknowledged == [["turn-1.0"], ["m1", "m2"]]


def test_a_message_after_the_last_word_is_not_read(start: Start, server: ModelServer) -> None:
    """The agent has ended its turn: a message that crosses its last word belongs to no turn, and comes again."""
    agent = start(Say([text("One.")]), Say([text("Two.")]))
    assert agent.turn("one")["text"] == "One."
    agent.send("add", turn="turn-1", messages=[{"id": "m1", "text": "crossed"}])
    assert agent.turn("two", turn="turn-2")["text"] == "Two."
    assert [m.get("ids") for m in agent.records if m["role"] == "user"] == [["turn-1.0"], ["turn-2.0"]]
    assert "crossed" not in str(server.requests)
