"""The native driver's state machine, fed with frames; no process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.events import Diff, Outcome, Text, TextDelta, Thinking, ThinkingDelta, ToolCall, ToolResult, TurnPresence
from aegis.drivers import Accepted, Acknowledged, Asked, DriverEvent, Finished, Happened, Noted, Record
from aegis.drivers.native import MAX_LINE, Machine
from aegis.drivers.process import TAIL, Broken

USER = {"role": "user", "content": [{"type": "text", "text": "go"}], "ids": ["m1"]}
SAID = {
    "role": "assistant",
    "content": [
        {"type": "thinking", "text": "hm", "signature": "s"},
        {"type": "thinking", "text": "", "redacted": "x"},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_call", "id": "c1", "name": "list", "input": {}},
    ],
}
DID = {
    "role": "tool",
    "content": [{"type": "tool_result", "id": "c1", "name": "list", "ok": True, "output": "a\n", "truncated": True, "ms": 1.5}],
}
FRAMES: list[dict[str, Any]] = [
    {"type": "ready"},
    {"type": "record", "n": 1, "message": USER},
    {"type": "accepted", "ids": ["m1"]},
    {"type": "presence", "state": "thinking"},
    {"type": "acknowledged", "ids": ["m1"]},
    {"type": "thinking", "text": "hm"},
    {"type": "delta", "text": "Let"},
    {"type": "usage", "model": "m", "input": 1, "output": 1, "cached": 0, "cache_written": 0, "ms": 1},
    {"type": "record", "n": 2, "message": SAID},
    {"type": "record", "n": 3, "message": DID},
    {"type": "finished", "outcome": "completed", "text": "Done.", "rounds": 2},
]
EVENTS: list[DriverEvent] = [
    Record(1, USER, []),
    Accepted(["m1"]),
    Happened(TurnPresence("thinking")),
    Acknowledged(["m1"]),
    Happened(ThinkingDelta("hm")),
    Happened(TextDelta("Let")),
    Record(2, SAID, [Thinking("hm"), Text("Let me see."), ToolCall("c1", "list", {}, kind="search")]),
    Record(3, DID, [ToolResult("c1", "list", True, "a\n", True, 1.5, kind="search")]),
    Finished(Outcome.COMPLETED, "Done.", None, 2),
]


def lines(*frames: Any) -> bytes:
    return b"".join(json.dumps(frame).encode() + b"\n" for frame in frames)


def test_a_turn() -> None:
    machine = Machine()
    assert machine.feed(lines(*FRAMES)) == EVENTS
    assert machine.ready


@given(st.lists(st.integers(0, len(lines(*FRAMES))), max_size=20))
def test_however_it_is_cut(cuts: list[int]) -> None:
    data, machine, events, start = lines(*FRAMES), Machine(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        events += machine.feed(data[start:cut])
        start = cut
    assert events == EVENTS


@pytest.mark.parametrize("count", range(len(FRAMES) + 1))
def test_death_at_each_frame(count: int) -> None:
    """Whole frames count, a torn one does not, and the end carries what was said on stderr."""
    machine = Machine()
    torn = lines(FRAMES[count])[:-2] if count < len(FRAMES) else b""
    events = machine.feed(lines(*FRAMES[:count]) + torn)
    machine.output.aside(b"MemoryError\n")
    assert events == EVENTS[: len(events)]
    assert machine.output.died(-9).stderr == "MemoryError"
    assert machine.output.died(-9).exit == -9


def test_what_it_does_not_know_is_passed_over() -> None:
    machine = Machine()
    noise = b'Traceback (most\n{"type":"news"}\n\n[1]\n{"kind":1}\n' + lines({"type": "accepted", "ids": [], "more": 1})
    assert machine.feed(noise) == [Accepted([])]
    assert machine.output.died(1).stderr == "Traceback (most\n[1]"


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "record", "message": USER},
        {"type": "record", "n": "1", "message": USER},
        {"type": "record", "n": 1, "message": {"role": "user"}},
        {"type": "record", "n": 1, "message": {"role": "assistant", "content": [{"type": "tool_call", "id": "c"}]}},
        {"type": "record", "n": 1, "message": {"role": "assistant", "content": [{"type": "text", "text": 7}]}},
        {"type": "accepted"},
        {"type": "delta", "text": 1},
        {"type": "finished"},
        {"type": "finished", "outcome": "completed", "rounds": "many"},
    ],
)
def test_a_known_frame_that_cannot_be_read_is_the_end(frame: dict[str, Any]) -> None:
    with pytest.raises(Broken, match=frame["type"]):
        Machine().feed(lines(frame))


def test_errors_take_the_shape_that_faces_know() -> None:
    error = {"kind": "limit", "message": "too much", "status": 429, "resets_at": 7.0}
    [end] = Machine().feed(lines({"type": "finished", "outcome": "limited", "error": error}))
    assert end == Finished(Outcome.LIMITED, "", {"error": "too much", "kind": "limit", "data": {"status": 429, "resets_at": 7.0}})
    [end] = Machine().feed(lines({"type": "finished", "outcome": "exploded"}))
    assert isinstance(end, Finished)
    assert end.outcome is Outcome.FAILED
    assert "exploded" in str(end.error)


def test_a_line_without_end() -> None:
    machine = Machine()
    machine.feed(b"x" * MAX_LINE)
    with pytest.raises(Broken, match="more than"):
        machine.feed(b"x")
    with pytest.raises(Broken, match="more than"):
        Machine().feed(b"x" * (MAX_LINE + 1) + b"\n")


def test_the_tail_of_stderr() -> None:
    machine = Machine()
    for _ in range(100):
        machine.output.aside(b"x" * 1000)
    machine.output.aside(b"the end")
    end = machine.output.died(None, "our reason")
    assert len(end.stderr) == TAIL + 1 + len("our reason")
    assert end.stderr.endswith("the end\nour reason")


@pytest.mark.parametrize(
    ("name", "arguments", "output", "told"),
    [
        ("edit", {"path": "a.py", "old_text": "x", "new_text": "y"}, "replaced 1", [Diff("a.py", "y", "x")]),
        ("write", {"path": "b.py", "content": "new"}, "created `b.py`, 3 bytes", [Diff("b.py", "new")]),
        ("write", {"path": "b.py", "content": "new"}, "replaced `b.py`, 3 bytes", []),
        ("bash", {"command": "ls"}, "a", []),
        ("edit", {"path": 7}, "odd", []),
    ],
)
def test_what_a_tool_changed_is_told(name: str, arguments: dict[str, Any], output: str, told: list[Diff]) -> None:
    call = {"role": "assistant", "content": [{"type": "tool_call", "id": "c", "name": name, "input": arguments}]}
    done = {"role": "user", "content": [{"type": "tool_result", "id": "c", "name": name, "ok": True, "output": output}]}
    records = Machine().feed(lines({"type": "record", "n": 1, "message": call}, {"type": "record", "n": 2, "message": done}))
    assert isinstance(records[1], Record)
    [result] = records[1].facts
    assert isinstance(result, ToolResult)
    assert result.diffs == told


def test_a_note_for_the_log_and_tools_of_others() -> None:
    machine = Machine()
    assert machine.feed(lines({"type": "note", "text": "MCP server `x`: \x1b[2J\nended"})) == [Noted("MCP server `x`: ended")]
    with pytest.raises(Broken):
        machine.feed(lines({"type": "note", "text": 7}))
    call = {"type": "tool_call", "id": "c1", "name": "kit__write", "input": {"n": 1, "to": "", "text": "a\nb"}}
    message = {"role": "assistant", "content": [call]}
    [record] = machine.feed(lines({"type": "record", "n": 1, "message": message}))
    assert record == Record(1, message, [ToolCall("c1", "kit__write", call["input"], title="a b")])
    [asked] = machine.feed(lines({"type": "ask", "id": "ask_1", "call_id": "c1", "tool": "kit__write", "input": call["input"]}))
    assert asked == Asked(id="ask_1", call_id="c1", tool="kit__write", input=call["input"], title="a b")
