"""The state machine of the Claude Code driver, fed with recorded and made-up frames: lines, blocks, turns; no process."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drivers.claude import scenes
from tests.drivers.claude.saying import delta, finished, line, machine, of, result, start_of_message, started, text_frame, use, used

from aegis.core.events import (
    Outcome,
    SessionContext,
    Text,
    TextDelta,
    Thinking,
    ToolCall,
    TurnPresence,
    Usage,
)
from aegis.drivers import Accepted, Acknowledged, Answer, Asked, Began, Busy, DriverEvent, Finished, Happened, Message
from aegis.drivers.claude import frames
from aegis.drivers.claude.machine import frame_id
from aegis.drivers.process import TAIL, Broken, Output

# Recordings.


@pytest.mark.parametrize("name", scenes.SCENES)
def test_recorded(name: str) -> None:
    """What `python -m tests.drivers.claude.scenes` wrote, and a person has read."""
    assert scenes.lines_of(scenes.replayed(name)) == (scenes.FRAMES / f"{name}.events").read_text().splitlines()


@pytest.mark.parametrize("name", scenes.SCENES)
def test_every_turn_has_one_beginning_and_one_end(name: str) -> None:
    running = False
    for event in scenes.replayed(name):
        if isinstance(event, Accepted) and running and name.startswith("added"):
            continue  # it came into the turn that runs
        if isinstance(event, Accepted | Began):
            assert not running
            running = True
        elif isinstance(event, Finished):
            assert running
            running = False
        elif not isinstance(event, Busy):
            assert running, event
    assert not running


@pytest.mark.parametrize("name", scenes.SCENES)
def test_death_at_each_frame(name: str) -> None:
    """Whole frames count, a torn one does not, and the end carries what was said on stderr."""
    recorded, everything = scenes.frames_of(name), scenes.replayed(name)
    replay, seen = scenes.Replay(name), list[DriverEvent]()
    for frame in recorded:
        other = frame[: len(frame) // 2]
        assert replay.machine.feed(b"") == []
        replay.before(frame)
        assert replay.machine.feed(other) == []
        new = replay.machine.feed(frame[len(other) :])
        replay.after(new)
        seen += new
        assert seen == everything[: len(seen)]
    replay.machine.output.aside(b"Killed\n")
    assert (replay.machine.output.died(-9).exit, replay.machine.output.died(-9).stderr) == (-9, "Killed")


@settings(max_examples=30)
@given(st.sampled_from(sorted(scenes.SCENES)), st.data())
def test_however_it_is_cut(name: str, data: st.DataObject) -> None:
    replay, seen = scenes.Replay(name), list[DriverEvent]()
    for frame in scenes.frames_of(name):
        cut = data.draw(st.integers(0, len(frame)))
        replay.before(frame)
        new = replay.machine.feed(frame[:cut]) + replay.machine.feed(frame[cut:])
        replay.after(new)
        seen += new
    assert seen == scenes.replayed(name)


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(_PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_value_in_any_field(value: Any) -> None:
    """Fields of other types than usual do no harm."""
    names = (
        "message",
        "event",
        "request",
        "response",
        "uuid",
        "parent_tool_use_id",
        "modelUsage",
        "usage",
        "tasks",
        "compact_metadata",
        "subtype",
    )
    for kind in (
        "assistant",
        "user",
        "stream_event",
        "control_request",
        "control_response",
        "system",
        "rate_limit_event",
        "command_lifecycle",
    ):
        one = machine()
        started(one)
        for name in names:
            one.feed(line(**{"type": kind, name: value}))
        for inner in ("content", "id", "model", "usage"):
            one.feed(line(type=kind, message={inner: value}, event={"type": "message_start", "message": {inner: value}}))
        one.feed(line(type=kind, subtype="init", model=value, permissionMode=value))
    one = machine()
    started(one)
    ends = one.feed(line(type="result", subtype=value, is_error=value, modelUsage=value, usage=value, result=value, num_turns=value))
    assert len([event for event in ends if isinstance(event, Finished)]) == 1


# Lines.


def test_what_is_no_frame_is_kept_with_stderr() -> None:
    one = machine()
    assert one.feed(b'Bun has crashed\n{"type":"news"}\n\n[1]\n{"kind":1}\nx' + b"\xff\n") == []
    assert one.output.died(1).stderr == "Bun has crashed\n[1]\nx\ufffd"


def test_half_a_character_does_not_lose_the_frame() -> None:
    one = machine()
    started(one)
    assert finished(one.feed(result(result="cut \ud83d"))).text == "cut ?"


def test_a_frame_that_is_too_deep() -> None:
    assert machine().feed(b'{"type":' * 100_000 + b"\n") == []


def test_stderr_is_bounded() -> None:
    one = machine()
    for _ in range(100):
        one.output.aside(b"x" * 100_000)
    one.feed(b"y" * 200_000 + b"\n")
    assert len(one.output.died(1).stderr) <= TAIL


def test_a_large_frame_in_small_pieces_takes_linear_time() -> None:
    """Each piece is looked at once: a quadratic splitter would copy gigabytes here."""
    output = Output("x", frames.MAX_LINE)
    piece = b"x" * 65_536
    tracemalloc.start()
    try:
        for _ in range(900):
            assert output.lines(piece) == []
        [whole] = output.lines(b"\n")
        assert tracemalloc.get_traced_memory()[1] < 150 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert len(whole) == 900 * 65_536


def test_a_frame_without_end_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_LINE", 1000)
    one = machine()
    one.feed(b"x" * 1000)
    with pytest.raises(Broken, match="more than 1000 bytes"):
        one.feed(b"x")


# What is told once.


def test_a_block_is_told_once() -> None:
    one = machine()
    started(one)
    events = one.feed(
        start_of_message() + delta("Hel") + delta("lo") + text_frame("Hello") + text_frame("Hello") + use("c", "Bash") + use("c", "Bash")
    )
    assert of(events, Text) == [Text("Hello", model="claude-x")]
    assert len(of(events, ToolCall)) == 1
    assert [fact.text for fact in of(events, TextDelta)] == ["Hel", "lo"]


def test_the_same_text_in_another_message_is_told() -> None:
    one = machine()
    started(one)
    assert len(of(one.feed(text_frame("a", "msg_1") + text_frame("a", "msg_2")), Text)) == 2


def test_text_that_never_came_as_a_whole() -> None:
    """A message that was broken off has only its pieces."""
    one = machine()
    started(one)
    events = one.feed(start_of_message() + delta("so ") + delta("far") + result(result=""))
    assert of(events, Text) == [Text("so far", model="claude-x")]
    assert finished(events).text == "so far"


def test_whole_text_without_pieces() -> None:
    one = machine()
    started(one)
    assert of(one.feed(text_frame("all at once")), Text) == [Text("all at once", model="claude-x")]


def test_hidden_thinking_has_a_length() -> None:
    one = machine()
    started(one)
    told = b"".join(line(type="system", subtype="thinking_tokens", estimated_tokens=n, estimated_tokens_delta=1) for n in (1, 40))
    block = {"id": "msg_1", "model": "claude-x", "content": [{"type": "redacted_thinking", "data": "x"}]}
    assert of(one.feed(told + line(type="assistant", message=block)), Thinking) == [Thinking("", None, "claude-x", 40)]


def test_sub_agents_stay_out_of_the_main_text() -> None:
    one = machine()
    started(one)
    events = one.feed(
        text_frame("below", parent_tool_use_id="c") + delta("b", parent_tool_use_id="c") + text_frame("main") + result(result="")
    )
    assert [(fact.text, fact.parent) for fact in of(events, Text)] == [("below", "c"), ("main", None)]
    assert of(events, TextDelta) == [TextDelta("b", "c")]
    assert finished(events).text == "main"


def test_context_counts_what_came_from_the_cache() -> None:
    one = machine()
    started(one)
    told = start_of_message(input_tokens=5, cache_creation_input_tokens=70, cache_read_input_tokens=900)
    assert of(one.feed(told + told), SessionContext) == [SessionContext(975, 200_000)]
    events = one.feed(result(modelUsage={"claude-x": {"contextWindow": 1_000_000}}))
    assert of(events, SessionContext) == [SessionContext(975, 1_000_000)]


# Turns.


def test_counts_are_the_turns_own() -> None:
    one = machine()
    for n, (input_, cost) in enumerate([(100, 0.5), (160, 0.75)]):
        started(one, f"m{n}")
        usage = {
            "inputTokens": input_,
            "outputTokens": input_ // 10,
            "cacheReadInputTokens": 10,
            "cacheCreationInputTokens": 1,
            "costUSD": cost,
        }
        end = finished(one.feed(result(total_cost_usd=cost, modelUsage={"claude-x": usage})))
        expected = (111, 10, 10, 0.5) if n == 0 else (60, 6, 0, 0.25)
        assert (end.input, end.output, end.cached, end.cost_usd) == expected


def test_usage_is_told_where_nobody_else_sees_it() -> None:
    one = machine(metered=True)
    started(one)
    since = {"claude-x": {"inputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 3, "cacheCreationInputTokens": 4, "costUSD": 0.5}}
    assert of(one.feed(result(model_usage_since_last_result=since)), Usage) == [Usage("claude-x", 8, 2, 3, 4, 0.5, source="program")]
    other = machine()
    started(other)
    assert of(other.feed(result(model_usage_since_last_result=since)), Usage) == []


def test_messages_are_acknowledged_with_the_first_call() -> None:
    one = machine()
    started(one)
    events = one.feed(start_of_message() + start_of_message())
    assert [event for event in events if isinstance(event, Acknowledged)] == [Acknowledged(["m1"])]


def test_counts_of_a_resumed_session_do_not_hold_the_earlier_ones() -> None:
    one = machine(resumed=True)
    started(one)
    total = {"claude-x": {"inputTokens": 5000, "outputTokens": 500, "costUSD": 9.0}}
    end = finished(one.feed(result(total_cost_usd=9.0, modelUsage=total, usage={"input_tokens": 7, "output_tokens": 2})))
    assert (end.input, end.output, end.cost_usd) == (7, 2, None)


def test_older_programs_do_not_say_when_they_take_a_message() -> None:
    one = machine()
    one.send("t1", [Message("m1", "go")])
    events = one.feed(line(type="system", subtype="init") + start_of_message() + text_frame("hi") + result())
    assert events[0] == Accepted(["m1"])
    assert finished(events).outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    "notice",
    [
        line(type="system", subtype="init", model="claude-x", permissionMode="default"),
        line(type="system", subtype="commands_changed"),
        line(type="system", subtype="hook_started"),
        line(type="system", subtype="task_updated", task_id="x", patch={}),
        line(type="system", subtype="session_state_changed", state="idle"),
        line(type="user", message={"role": "user", "content": "<local-command-stdout>x</local-command-stdout>"}, isReplay=True),
        text_frame("t0", aborted=True),
        delta("late"),
        used("c"),
        line(type="result", subtype="success", is_error=False, num_turns=0),
        line(type="keep_alive"),
        line(type="auth_status"),
    ],
)
def test_notices_begin_no_turn(notice: bytes) -> None:
    one = machine()
    assert one.feed(notice) == []
    assert not one.working


def test_a_turn_of_its_own_and_a_message_after_it() -> None:
    one = machine()
    one.feed(line(type="command_lifecycle", command_uuid="other", state="completed"))
    begun = one.feed(line(type="system", subtype="status", status="requesting"))
    assert begun == [Began(), Happened(TurnPresence("thinking"))]
    assert one.send("t1", [Message("m1", "go")]) == b""
    events = one.feed(text_frame("by myself") + result())
    assert finished(events).text == "done"
    sent = json.loads(one.outgoing())
    assert sent["uuid"] == frame_id(["m1"])
    assert one.outgoing() == b""
    taken = one.feed(line(type="command_lifecycle", command_uuid=sent["uuid"], state="started") + result())
    assert taken[0] == Accepted(["m1"])
    assert finished(taken).outcome is Outcome.COMPLETED


def test_a_message_that_crosses_a_turn_of_its_own() -> None:
    """It was written when the program had begun by itself, and joins that turn: its end is then ours."""
    one = machine()
    one.feed(line(type="command_lifecycle", command_uuid="other", state="completed"))
    one.send("t1", [Message("m1", "go")])
    begun = one.feed(start_of_message())
    assert begun[0] == Began()
    events = one.feed(line(type="command_lifecycle", command_uuid=frame_id(["m1"]), state="started") + text_frame("both") + result())
    kinds = [type(event) for event in events if not isinstance(event, Happened)]
    assert kinds == [Finished, Accepted, Acknowledged, Finished]


def test_a_message_that_is_told_only_in_the_result() -> None:
    one = machine()
    one.feed(line(type="command_lifecycle", command_uuid="other", state="completed"))
    one.send("t1", [Message("m1", "go")])
    events = one.feed(result(user_message_uuids=[frame_id(["m1"])]))
    assert [type(event) for event in events if not isinstance(event, Happened)] == [Accepted, Finished]


def test_a_message_that_is_dropped_before_it_is_taken() -> None:
    one = machine()
    one.send("t1", [Message("m1", "go")])
    one.interrupt()
    events = one.feed(line(type="command_lifecycle", command_uuid=frame_id(["m1"]), state="cancelled"))
    assert events[0] == Accepted(["m1"])
    assert finished(events).outcome is Outcome.CANCELLED


def test_a_turn_that_ends_without_a_result() -> None:
    one = machine()
    started(one)
    end = finished(one.feed(line(type="system", subtype="session_state_changed", state="idle")))
    assert end.outcome is Outcome.FAILED
    assert end.error is not None


def test_what_waits_is_interrupted_when_it_comes_up() -> None:
    one = machine()
    one.feed(line(type="command_lifecycle", command_uuid="other", state="completed") + start_of_message())
    one.send("t1", [Message("m1", "go")])
    assert b"interrupt" in one.interrupt()
    one.feed(result(subtype="error_during_execution", is_error=True))
    one.outgoing()
    one.feed(line(type="command_lifecycle", command_uuid=frame_id(["m1"]), state="started"))
    assert b"interrupt" in one.outgoing()
    end = finished(one.feed(result(subtype="error_during_execution", is_error=True, terminal_reason="aborted_streaming")))
    assert (end.outcome, end.reason) == (Outcome.CANCELLED, "aborted_streaming")


def test_sub_agents_between_turns_wait_for_the_next() -> None:
    one = machine()
    started(one)
    one.feed(result())
    assert one.feed(text_frame("below", parent_tool_use_id="c")) == []
    assert of(one.feed(start_of_message()), Text) == [Text("below", "c", "claude-x")]


def test_a_sub_agent_asks_between_turns() -> None:
    """The request has a turn of its own, which ends with the answer, so that a message need not wait for the sub-agent."""
    one = machine()
    started(one)
    one.feed(result())
    request = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}, "tool_use_id": "c2"}
    events = one.feed(line(type="control_request", request_id="r", request=request))
    assert events[0] == Began()
    assert [event for event in events if isinstance(event, Asked)] == [
        Asked(id="r", tool="Bash", input={"command": "ls"}, kind="execute", title="ls", call_id="c2")
    ]
    assert one.send("t2", [Message("m2", "go")]) == b""
    assert json.loads(one.answer("r", Answer(True)))["response"]["response"] == {"behavior": "allow", "updatedInput": {"command": "ls"}}
    end = finished(one.feed(line(type="system", subtype="session_state_changed", state="running")))
    assert (end.outcome, end.reason) == (Outcome.COMPLETED, "background")
    assert json.loads(one.outgoing())["uuid"] == frame_id(["m2"])


def test_background_work_keeps_it_busy() -> None:
    one = machine()
    running = [{"task_id": "a"}, {"task_id": "b"}]
    assert one.feed(line(type="system", subtype="background_tasks_changed", tasks=running)) == [Busy(True)]
    assert one.feed(line(type="system", subtype="task_started", task_id="a", is_backgrounded=True)) == []
    assert one.feed(line(type="system", subtype="task_notification", task_id="a", status="completed")) == []
    assert one.feed(line(type="system", subtype="task_notification", task_id="b", status="completed")) == [Busy(False)]
    assert one.feed(line(type="system", subtype="task_started", task_id="c", is_backgrounded=False)) == []
