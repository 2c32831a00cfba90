"""The state machine of the Codex driver, fed with recorded and made-up frames; no process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drivers.claude.scenes import lines_of
from tests.drivers.codex import scenes

from aegis.core.errors import ErrorKind
from aegis.core.events import Outcome, Plan, PlanEntry, Retrying, SessionCompacted, Text, TextDelta, ToolCall, ToolResult
from aegis.drivers import Accepted, Acknowledged, Answer, Asked, Began, Busy, DriverEvent, Finished, Happened, Message, Noted, Withdrawn
from aegis.drivers.codex import items, launch, results
from aegis.drivers.codex.machine import Machine
from aegis.drivers.process import Broken

THREAD, TURN = "thread-1", "turn-1"


@pytest.mark.parametrize("name", scenes.SCENES)
def test_recorded(name: str) -> None:
    """What `python -m tests.drivers.codex.scenes` wrote, and a person has read."""
    assert lines_of(scenes.replayed(name)) == (scenes.FRAMES / f"{name}.events").read_text().splitlines()


@pytest.mark.parametrize("name", scenes.SCENES)
def test_every_turn_has_one_beginning_and_one_end(name: str) -> None:
    running = False
    for event in scenes.replayed(name):
        if isinstance(event, Accepted | Began):
            assert not running or (isinstance(event, Accepted) and name == "added")
            running = True
        elif isinstance(event, Finished):
            assert running
            running = False
        elif not isinstance(event, Busy):
            assert running, event
    assert not running


@pytest.mark.parametrize("name", scenes.SCENES)
def test_torn_anywhere_it_says_the_same(name: str) -> None:
    replay, seen = scenes.Replay(), list[DriverEvent]()
    for line in scenes.recorded(name):
        if line.startswith(b'{"aegis"'):
            seen += replay.line(line)
            continue
        half = len(line) // 2
        assert replay.machine.feed(line[:half]) == []
        seen += replay.machine.feed(line[half:])
        replay.machine.outgoing()
    assert lines_of(seen) == (scenes.FRAMES / f"{name}.events").read_text().splitlines()


# Made-up frames.


def machine(**more: Any) -> Machine:
    one = Machine(model="m", **more)
    one.thread = THREAD
    return one


def told(method: str, **params: Any) -> bytes:
    return json.dumps({"method": method, "params": {"threadId": THREAD, "turnId": TURN, **params}}).encode() + b"\n"


def item(begins: bool, **fields: Any) -> bytes:
    return told(f"item/{'started' if begins else 'completed'}", item={"id": "i", **fields})


def user(*ids: str) -> bytes:
    return item(False, type="userMessage", clientId=",".join(ids), content=[])


def ended(status: str = "completed", **more: Any) -> bytes:
    return told("turn/completed", turn={"id": TURN, "status": status, "items": [], **more})


def started(one: Machine, *ids: str, taken: bool = True) -> list[DriverEvent]:
    """A turn that the program has begun."""
    sent = json.loads(one.send("t1", [Message(ident, "go") for ident in ids or ("m1",)]))
    reply = json.dumps({"id": sent["id"], "result": {"turn": {"id": TURN}}}).encode() + b"\n"
    return one.feed(reply + (user(*ids or ("m1",)) if taken else b""))


def asks(ident: int | str, method: str, **params: Any) -> bytes:
    return json.dumps({"id": ident, "method": method, "params": {"threadId": THREAD, "turnId": TURN, **params}}).encode() + b"\n"


def of(events: list[DriverEvent], kind: type) -> list[Any]:
    return [e.fact if isinstance(e, Happened) else e for e in events if isinstance(e.fact if isinstance(e, Happened) else e, kind)]


def test_all_messages_go_in_one_frame_under_their_names() -> None:
    one = machine(effort="high")
    frame = json.loads(one.send("t1", [Message("m1", "a"), Message("m2", "b")]))
    assert frame["params"]["clientUserMessageId"] == "m1,m2"
    assert [part["text"] for part in frame["params"]["input"]] == ["a", "b"]
    assert (frame["params"]["model"], frame["params"]["effort"]) == ("m", "high")


def test_the_messages_are_accepted_when_they_are_in_the_conversation() -> None:
    one = machine()
    assert started(one, taken=False) == []
    assert of(one.feed(user("m1")), Accepted) == [Accepted(["m1"])]
    events = one.feed(told("item/agentMessage/delta", itemId="x", delta="hi"))
    assert of(events, Acknowledged) == [Acknowledged(["m1"])]
    assert of(events, TextDelta) == [TextDelta("hi")]


def test_a_refused_turn_ends_at_once() -> None:
    one = machine()
    sent = json.loads(one.send("t1", [Message("m1", "go")]))
    events = one.feed(json.dumps({"id": sent["id"], "error": {"code": -1, "message": "no such thread"}}).encode() + b"\n")
    assert of(events, Accepted) == [Accepted(["m1"])]
    [end] = of(events, Finished)
    assert (end.outcome, end.error["error"]) == (Outcome.FAILED, "no such thread")
    assert not one.working


def test_an_interrupt_on_its_way_is_not_lost() -> None:
    one = machine()
    sent = json.loads(one.send("t1", [Message("m1", "go")]))
    assert one.interrupt() == b""
    one.feed(json.dumps({"id": sent["id"], "result": {"turn": {"id": TURN}}}).encode() + b"\n")
    assert json.loads(one.outgoing())["method"] == "turn/interrupt"
    [end] = of(one.feed(ended("interrupted")), Finished)
    assert end.outcome is Outcome.CANCELLED


def test_messages_of_a_turn_follow_a_turn_of_its_own() -> None:
    one = machine()
    assert of(one.feed(told("turn/started", turn={"id": TURN})), Began)
    assert one.send("t1", [Message("m1", "go")]) == b""
    one.feed(ended())
    assert json.loads(one.outgoing())["params"]["clientUserMessageId"] == "m1"


def test_added_messages_count_only_when_it_says_so() -> None:
    one = machine()
    assert one.add("t1", [Message("m0", "x")]) == b""
    started(one)
    frame = json.loads(one.add("t1", [Message("m2", "b"), Message("m3", "c")]))
    assert (frame["method"], frame["params"]["expectedTurnId"]) == ("turn/steer", TURN)
    assert one.add("another", [Message("m4", "d")]) == b""
    assert of(one.feed(user("m2", "m3")), Accepted) == [Accepted(["m2", "m3"])]
    one.add("t1", [Message("m5", "e")])
    assert of(one.feed(ended()), Accepted) == []
    assert one.add("t1", [Message("m6", "f")]) == b""


def test_what_was_added_before_the_turn_has_a_name_follows() -> None:
    one = machine()
    sent = json.loads(one.send("t1", [Message("m1", "go")]))
    assert one.add("t1", [Message("m2", "b")]) == b""
    one.feed(json.dumps({"id": sent["id"], "result": {"turn": {"id": TURN}}}).encode() + b"\n")
    assert json.loads(one.outgoing())["params"]["clientUserMessageId"] == "m2"


def test_a_refusal_tells_its_reason_with_a_message() -> None:
    one = machine()
    started(one)
    [asked] = of(one.feed(asks(0, "item/commandExecution/requestApproval", itemId="i", command="/bin/bash -lc 'rm x'")), Asked)
    assert (asked.tool, asked.input["command"], asked.kind) == ("exec_command", "rm x", "execute")
    first, second = map(json.loads, one.answer(asked.id, Answer(False, "it is mine")).splitlines())
    assert first == {"id": 0, "result": {"decision": "decline"}}
    assert "it is mine" in second["params"]["input"][0]["text"]
    assert one.answer(asked.id, Answer(True)) == b""


def test_a_request_that_is_withdrawn_is_not_answered() -> None:
    one = machine()
    started(one)
    [asked] = of(one.feed(asks("r", "item/fileChange/requestApproval", itemId="i")), Asked)
    assert of(one.feed(told("serverRequest/resolved", requestId="r")), Withdrawn) == [Withdrawn(asked.id)]
    assert one.answer(asked.id, Answer(True)) == b""


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("item/commandExecution/requestApproval", {"threadId": "another", "command": "x"}),
        ("currentTime/read", {}),
        ("mcpServer/elicitation/request", {"mode": "url", "url": "http://x"}),
    ],
)
def test_what_nobody_answers_is_refused(method: str, params: dict[str, Any]) -> None:
    one = machine()
    started(one)
    assert of(one.feed(asks(7, method, **params)), Asked) == []
    assert json.loads(one.outgoing())["error"]["code"] == -32601


def test_its_questions_are_a_persons() -> None:
    one = machine()
    started(one)
    wanted = [{"id": "q", "header": "H", "question": "Which?", "options": [{"label": "A"}, {"label": "B"}]}]
    [asked] = of(one.feed(asks(1, "item/tool/requestUserInput", itemId="i", questions=wanted)), Asked)
    assert (asked.question, asked.title) == (True, "Which?")
    frame = json.loads(one.answer(asked.id, Answer(True, input={"answers": {"Which?": "B"}})))
    assert frame["result"] == {"answers": {"q": {"answers": ["B"]}}}


def test_a_command_that_outlives_its_turn_keeps_it_busy() -> None:
    one = machine()
    started(one)
    command = {"type": "commandExecution", "command": "sleep 9", "commandActions": [], "status": "inProgress"}
    [call] = of(one.feed(item(True, **command)), ToolCall)
    assert of(one.feed(ended()), Busy) == [Busy(True)]
    done = item(False, **{**command, "status": "completed", "exitCode": 0, "aggregatedOutput": "x"})
    assert one.feed(done) == [Busy(False)]
    [result] = of(started(one, "m2"), ToolResult)
    assert (result.call_id, result.output) == (call.call_id, "x")


def test_plans_compaction_and_a_missing_server_are_told() -> None:
    one = machine()
    started(one)
    [plan] = of(one.feed(told("turn/plan/updated", plan=[{"step": "a", "status": "inProgress"}, {"step": "b"}])), Plan)
    assert plan.entries == [PlanEntry("a", "in_progress"), PlanEntry("b", "pending")]
    assert of(one.feed(item(False, type="contextCompaction")), SessionCompacted)
    [note] = of(one.feed(told("mcpServer/startupStatus/updated", name="x", status="failed", error="gone")), Noted)
    assert "x" in note.text


def test_what_no_repetition_mends_is_not_repeated() -> None:
    one = machine()
    started(one)
    error = {
        "message": "Reconnecting... 1/10",
        "codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": 401}},
        "additionalDetails": "no",
    }
    assert of(one.feed(told("error", error=error, willRetry=True)), Retrying) == []
    assert json.loads(one.outgoing())["method"] == "turn/interrupt"
    [end] = of(one.feed(ended("interrupted")), Finished)
    assert (end.outcome, end.error["kind"], end.error["error"]) == (Outcome.FAILED, "denied", "no")


def test_a_passing_failure_is_told() -> None:
    one = machine()
    started(one)
    error = {"message": "Reconnecting... 3/10", "codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": 503}}}
    [retry] = of(one.feed(told("error", error=error, willRetry=True)), Retrying)
    assert (retry.attempt, retry.status) == (3, 503)


def test_other_threads_are_passed_over() -> None:
    one = machine()
    started(one)
    assert one.feed(told("item/agentMessage/delta", threadId="another", delta="x", itemId="i")) == []
    assert one.feed(item(False, type="agentMessage", text="x").replace(THREAD.encode(), b"another")) == []


def test_half_a_text_is_kept_when_the_turn_is_cut() -> None:
    one = machine()
    started(one)
    one.feed(told("item/agentMessage/delta", itemId="i", delta="half"))
    one.interrupt()
    events = one.feed(ended("interrupted"))
    assert of(events, Text) == [Text("half", model="m")]
    assert of(events, Finished)[0].outcome is Outcome.CANCELLED


def test_lines_without_end_and_noise() -> None:
    one = machine()
    assert one.feed(b"Welcome!\n[1]\n{half\n\xff\x00\n") == []
    assert "Welcome!" in one.output.said
    with pytest.raises(Broken):
        one.feed(b"z" * (65 * 1024 * 1024))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_KINDS = st.sampled_from(["userMessage", "agentMessage", "reasoning", "commandExecution", "fileChange", "mcpToolCall", "webSearch", "x"])
_METHODS = st.sampled_from(
    [
        "turn/started", "turn/completed", "item/started", "item/completed", "error", "turn/plan/updated", "thread/tokenUsage/updated",
        "serverRequest/resolved", "account/rateLimits/updated", "item/agentMessage/delta", "mcpServer/startupStatus/updated",
        "item/commandExecution/requestApproval", "item/fileChange/requestApproval", "mcpServer/elicitation/request",
        "item/tool/requestUserInput", "item/permissions/requestApproval",
    ]
)  # fmt: skip
_FIELDS = st.sampled_from(
    "item turn error plan tokenUsage itemId delta status rateLimits willRetry requestId command commandActions changes questions _meta".split()
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            _METHODS,
            st.dictionaries(
                _FIELDS,
                _JSON
                | st.fixed_dictionaries({"type": _KINDS, "id": st.text(max_size=3), "changes": _JSON, "command": _JSON, "result": _JSON}),
            ),
            st.none() | st.integers(0, 5),
        ),
        max_size=6,
    )
)
def test_frames_of_other_types_do_no_harm(frames: list[tuple[str, dict[str, Any], int | None]]) -> None:
    one = machine()
    started(one)
    for method, params, ident in frames:
        frame = {"method": method, "params": {"threadId": THREAD, "turnId": TURN, **params}} | ({} if ident is None else {"id": ident})
        for event in one.feed(json.dumps(frame).encode() + b"\n"):
            if isinstance(event, Asked):
                one.answer(event.id, Answer(False, "no"))
        one.outgoing()


# What it says, in our words.


@pytest.mark.parametrize(
    ("line", "script"),
    [("/bin/bash -lc 'a; b'", "a; b"), ("ls", "ls"), ("/bin/bash -lc 'a", "/bin/bash -lc 'a"), ("", "")],
)
def test_the_script_in_a_command(line: str, script: str) -> None:
    assert items.script_of(line) == script


def test_changes_of_every_kind() -> None:
    changes = [
        {"path": "/w/a", "kind": {"type": "add"}, "diff": "new\n"},
        {"path": "/w/b", "kind": {"type": "delete"}, "diff": "old\n"},
        {"path": "/w/c", "kind": {"type": "update", "move_path": "/w/d"}, "diff": "@@ -1,2 +1,2 @@\n a\n-x\n+y\n\\ No newline\n"},
    ]
    told = items.result_of({"type": "fileChange", "changes": changes, "status": "completed"})
    assert [(d.path, d.old, d.new) for d in told.diffs] == [("/w/a", None, "new\n"), ("/w/b", "old\n", ""), ("/w/d", "a\nx\n", "a\ny\n")]
    assert items.result_of({"type": "fileChange", "changes": changes, "status": "failed"}).diffs == ()


@pytest.mark.parametrize(
    ("message", "at"),
    [
        ("try again at Nov 30th, 2026 12:53 AM.", 1_795_999_980.0),
        ("try again at 3:10 PM.", 1_795_273_800.0),
        ("try again later", None),
        ("try again at Feb 31st, 2026 12:53 AM", None),
    ],
)
def test_when_a_limit_ends(message: str, at: float | None) -> None:
    assert results.resets_at(message, 1_795_230_000.0) == at


def test_a_limit_of_the_account_says_when() -> None:
    limits = {"primary": {"usedPercent": 100, "resetsAt": 50}, "secondary": {"usedPercent": 20, "resetsAt": 90}}
    assert results.window_ends(limits) == 50.0
    assert results.window_ends({"primary": {"usedPercent": 3, "resetsAt": 50}}) is None
    assert results.window_ends(None) is None


def test_failures_by_their_cause() -> None:
    failed = results.failure({"message": json.dumps({"error": {"message": "too long"}}), "codexErrorInfo": "contextWindowExceeded"})
    end = results.finished("failed", "", failed, (0, 0, 0), rounds=0, cut=False, resets_at=None, now=0.0)
    assert end.error is not None
    assert (end.error["kind"], end.error["error"]) == (ErrorKind.TOO_LARGE, "too long")


def test_its_tools_are_there_as_tools() -> None:
    told = json.dumps({"models": [{"slug": "a", "supports_search_tool": True, "tool_mode": "code_mode_only"}, {"no": 1}, 7]}).encode()
    changed = launch.catalogue(told)
    assert changed is not None
    assert json.loads(changed) == {"models": [{"slug": "a", "supports_search_tool": False, "tool_mode": None}]}
    assert launch.catalogue(b"not json") is None
    assert launch.catalogue(b'{"models": []}') is None
