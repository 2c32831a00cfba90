"""How events look: pieces once, whole texts only where pieces are missing, tools and their results in few lines, nothing that acts."""

from __future__ import annotations

import io
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from aegis.cli import blocks, render
from aegis.cli.output import Output
from aegis.cli.view import THOUGHT, View

Show = Callable[..., str]
_SEQ = itertools.count(1)


def ev(type_: str, /, session: str = "host:default", instance: str = "inst_1", turn: str = "turn_1", **data: Any) -> dict[str, Any]:
    """An event as the daemon sends it."""
    return {"v": 1, "seq": next(_SEQ), "ts": 1.0, "type": type_, "instance": instance, "session": session, "turn": turn, "data": data}


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Show events; returns what a person sees where there is no terminal."""

    def show(*events: dict[str, Any], terminal: bool = False, **options: Any) -> str:
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, write_through=True))
        output = Output()
        output._moves = terminal
        view = View(output, **options)
        for event in events:
            view.show(event)
        view.close()
        output.flush()
        shown = buffer.getvalue().decode()
        return shown

    return show


def _texts(spelt: list[str]) -> list[dict[str, Any]]:
    return [ev("turn.text.delta" if each[0] == "+" else "turn.text", text=each[1:]) for each in spelt]


@pytest.mark.parametrize(
    ("spelt", "shown"),
    [
        (["+he", "+llo", "=hello"], "hello\n"),
        (["+he", "=hello"], "hello\n"),
        (["=hello"], "hello\n"),
        (["+one", "+two", "=one", "=two"], "onetwo\n"),
        (["+one", "+tw", "=one", "=two"], "onetwo\n"),
        (["+lost", "=other"], "lost\nother\n"),
        (["+one", "=one", "+two", "=two"], "one\ntwo\n"),
        (["+lo", "=Hello"], "lo\nHello\n"),
        (["+a\n\nb", "+\nc", "=a\n\nb\nc"], "a\n\nb\nc\n"),
    ],
)
def test_what_was_shown_in_pieces_is_not_shown_again(show: Show, spelt: list[str], shown: str) -> None:
    assert show(*_texts(spelt)) == shown


def test_a_whole_turn(show: Show) -> None:
    shown = show(
        ev("mail.accepted", message_id="m", sender="person:ann", text="do it\nnow", images=2),
        ev("turn.started", in_reply_to=["m"]),
        ev("turn.thinking.delta", text="hmm"),
        ev("turn.thinking", text="hmm"),
        ev("turn.tool.call", call_id="1", name="Bash", input={"command": "ls"}, kind="execute", title="ls\n-l"),
        ev("turn.tool.result", call_id="1", name="Bash", ok=True, output="a\nb\nc", ms=12.4),
        ev("turn.tool.call", call_id="2", name="Read", input={"path": "x"}, kind="read"),
        ev("turn.tool.result", call_id="2", name="Read", ok=False, output="no\nsuch file"),
        ev(
            "turn.plan",
            entries=[{"content": "one", "status": "completed"}, {"content": "two", "status": "in_progress"}, {"content": "three"}],
        ),
        ev("turn.retrying", attempt=2, delay=4.0, status=529, reason="overloaded"),
        ev("turn.text.delta", text="done"),
        ev("turn.text", text="done"),
        ev("turn.usage", model="m", input=1000, output=200),
        ev("session.context", used=15000, size=200000),
        ev(
            "turn.finished",
            outcome="completed",
            in_reply_to=["m"],
            input=1200,
            output=30,
            cached=1000,
            cost_usd=0.004,
            ms=1500,
            reason="max_tokens",
        ),
    )
    assert shown == (
        "✉ ann  [2 images]\n  do it\n  now\n"
        "∴ hmm\n"
        "⌬ Bash  ls -l\n  ✓ a  (+2 lines)  12 ms\n"
        "📖 Read  x\n  ✗ no\n    such file\n"
        "📋 1/3\n  ● one\n  ◐ two\n  ○ three\n"
        "↻ the model does not answer: 529 overloaded; try 2 in 4 s\n"
        "done\n"
        "it stopped: max_tokens\n"
        "↑1.2k (83% cached) ↓30 · ctx 15k (8%) · 0.4¢ · ⚒ 2 (1 failed) · 1.5 s\n"
    )


def test_changes_in_files_are_shown_and_bounded(show: Show) -> None:
    small = {"path": "a.py", "old": "x = 1\ny = 2\n", "new": "x = 1\ny = 3\n"}
    fresh = {"path": "b.py", "new": "\n".join(f"line {n}" for n in range(100))}
    shown = show(
        ev("turn.tool.call", call_id="1", name="Edit", input={}, kind="edit"),
        ev("turn.tool.result", call_id="1", name="Edit", ok=True, output="File changed.", diffs=[small, fresh]),
    )
    assert "  a.py  +1 -1\n" in shown
    assert "-y = 2\n" in shown
    assert "+y = 3\n" in shown
    assert "b.py (new)  +100 -0\n" in shown
    assert f"… {100 - blocks.DIFF_LINES} more lines" in shown
    assert "File changed." not in shown
    assert len(shown.splitlines()) < 2 * blocks.DIFF_LINES + 6


def test_sub_agents_are_indented(show: Show) -> None:
    shown = show(
        ev("turn.tool.call", call_id="1", name="Task", input={}, kind="think", title="look around"),
        ev("turn.tool.call", call_id="2", name="Grep", input={"pattern": "x"}, kind="search", parent="1"),
        ev("turn.tool.result", call_id="2", name="Grep", ok=True, output="found", parent="1"),
        ev("turn.text", text="two\nlines", parent="1"),
        ev("turn.tool.result", call_id="1", name="Task", ok=True, output="done"),
    )
    assert shown == "✻ Task  look around\n  │ 🔎 Grep  x\n  │   ✓ found\n  │ two\n  │ lines\n  ✓ done\n"


def test_results_say_whose_they_are_when_several_tools_run(show: Show) -> None:
    shown = show(
        ev("turn.tool.call", call_id="1", name="A", input={}),
        ev("turn.tool.call", call_id="2", name="B", input={}),
        ev("turn.tool.result", call_id="2", name="B", ok=True, output="b"),
        ev("turn.tool.result", call_id="1", name="A", ok=True, output="a"),
    )
    assert shown.splitlines()[2:] == ["  ✓ B: b", "  ✓ a"]


def test_a_request_for_leave_says_what_for_and_how_to_answer(show: Show) -> None:
    shown = show(
        ev(
            "approval.requested",
            approval_id="appr_000000000000000k3x9f2",
            tool="Bash",
            input={"command": "rm x", "why": "tidy"},
            kind="execute",
            title="rm x",
        ),
        ev("approval.decided", approval_id="appr_000000000000000k3x9f2", verdict="rejected", principal="person:ann", reason="no"),
    )
    assert shown == (
        "⚠ needs you  ⌬ Bash  rm x\n    why: tidy\n"
        "    aegis approvals approve k3x9f2   or   aegis approvals reject k3x9f2\n"
        "  ✗ rejected by ann: no\n"
    )
    edit = show(
        ev(
            "approval.requested",
            approval_id="appr_1",
            tool="Edit",
            kind="edit",
            input={"file_path": "f", "old_string": "a", "new_string": "b"},
        )
    )
    assert "-a\n" in edit
    assert "+b\n" in edit


def test_a_request_that_follows_its_tool_does_not_name_it_again(show: Show) -> None:
    call = ev("turn.tool.call", call_id="1", name="Write", kind="edit", input={"file_path": "f"}, title="f")
    ask = ev(
        "approval.requested", approval_id="appr_1", tool="Write", kind="edit", input={"file_path": "f", "content": "x\ny"}, call_id="1"
    )
    assert show(call, ask).startswith("✏️ Write  f\n⚠ needs you\n    f  +2 -0\n")
    assert "⚠ needs you  ✏️ Write" in show(call, ev("turn.text", text="hm"), ask)


def test_long_reasoning_is_cut_and_hidden_reasoning_is_told(show: Show) -> None:
    shown = show(*(ev("turn.thinking.delta", text="word " * 20) for _ in range(50)), ev("turn.thinking", text="word " * 1000))
    assert len(shown) < THOUGHT + 20
    assert shown.endswith(" …\n")
    assert show(ev("turn.thinking", text="", tokens=1200)) == "∴ thought, about 1.2k tokens\n"


def test_of_several_conversations_one_streams_at_a_time(show: Show) -> None:
    one, two = {"session": "a:1"}, {"session": "b:2"}
    shown = show(
        ev("turn.text.delta", text="fir", **one),
        ev("turn.text.delta", text="sec", **two),
        ev("turn.text.delta", text="st", **one),
        ev("turn.text", text="first", **one),
        ev("turn.text", text="second", **two),
        name=lambda place: place[1],
    )
    assert shown == "── a:1 ──\nfirst\n── b:2 ──\nsecond\n"


def test_how_a_turn_failed_is_said_once(show: Show) -> None:
    end = ev("turn.finished", outcome="failed", in_reply_to=[], error={"error": "no model", "kind": "failed", "hint": "start it"})
    assert show(end) == "✗ failed: no model\n  hint: start it\n"
    assert show(end, failures=False) == ""
    cut = ev("turn.finished", outcome="interrupted", in_reply_to=[], error={"error": "x", "will_continue": True})
    assert show(cut, failures=False) == "… cut short, and continued\n"


def test_what_happens_to_the_instance_and_the_session(show: Show) -> None:
    shown = show(
        ev("instance.state", state="failed", previous="running", reason="it died", stderr="trace\n\x1b[31mboom"),
        ev("instance.limited", provider="anthropic", until=0.0, told=False),
        ev("instance.egress", host="evil.example", port=443, allowed=False, reason="no rule"),
        ev("instance.egress", host="good.example", port=443, allowed=True),
        ev("session.opened", program="claude-code", program_session="u", version="2.1", resumed=True),
        ev("session.settings", model="a/b", mode="plan"),
        ev("session.compacted", trigger="auto", before=120_000, after=30_000),
        ev("session.title", title="Mending"),
        ev("turn.presence", state="thinking"),
        ev("some.thing.new", x=1),
    )
    assert "· failed: it died\n  | trace\n  | boom\n" in shown
    assert "anthropic gives no more until" in shown
    assert "(a guess)" in shown
    assert "no way to evil.example:443: no rule" in shown
    assert "good.example" not in shown
    assert "· claude-code 2.1 goes on\n· model a/b, mode plan\n✂ the conversation was shortened: 120k → 30k tokens\n· “Mending”\n" in shown


def test_instances_that_come_and_go_do_not_interrupt(show: Show) -> None:
    shown = show(
        ev("turn.text", text="one", instance="a"),
        ev("instance.state", state="paused", previous="running", instance="b", session=""),
        ev("instance.state", state="stopped", previous="paused", reason="idle", instance="b", session=""),
        ev("turn.text", text="two", instance="a"),
        name=lambda place: " ".join(filter(None, place)),
    )
    assert shown == "── a host:default ──\none\n· b  stopped: idle\ntwo\n"


def _edit(call: str, **given: Any) -> list[dict[str, Any]]:
    """A tool that changes a file with a person's leave, as different programs word it."""
    again = {"path": "/workspace/f", "old": given.get("old"), "new": given["new"]}
    asked = ev("approval.requested", approval_id=f"appr_{call}", tool="Edit", kind="edit", input=given["input"], call_id=call)
    answer = ev("approval.decided", approval_id=f"appr_{call}", verdict="approved", principal="person:ann")
    return [
        ev("turn.tool.call", call_id=call, name="Edit", kind="edit", input=given["input"]),
        {**asked, "ts": 10.0},
        {**answer, "ts": 14.0},
        ev("turn.tool.result", call_id=call, name="Edit", kind="edit", ok=True, output="done", diffs=[again], ms=4500),
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"file_path": "/workspace/f", "old_string": "a", "new_string": "b"},
        {"filePath": "f", "oldString": "a", "newString": "b"},
        {"path": "/workspace/f", "old_text": "a", "new_text": "b"},
    ],
    ids=["claude-code", "opencode", "gemini"],
)
def test_a_change_is_shown_once_and_a_persons_time_is_not_the_tools(show: Show, given: dict[str, str]) -> None:
    shown = show(*_edit("1", input=given, old="a", new="b\n"))
    assert shown == (
        "✏️ Edit  f\n⚠ needs you\n    f  +1 -1\n      -a\n      +b\n"
        "    aegis approvals approve appr_1   or   aegis approvals reject appr_1\n"
        "  ✓ approved by ann\n  ✓ f  +1 -1  500 ms\n"
    ).replace("appr_1", "appr_1"[-6:])
    other = show(*_edit("1", input=given, old="a", new="something else"))
    assert "+something else\n" in other


def test_who_is_asked_here_needs_no_commands(show: Show) -> None:
    shown = show(ev("mail.accepted", message_id="m", sender="person:me", text="hi"), *_edit("1", input={"path": "f"}, new="b"), here=True)
    assert "aegis approvals" not in shown
    assert "✉" not in shown


def test_a_refusal_is_told_once(show: Show) -> None:
    shown = show(
        ev("turn.tool.call", call_id="1", name="Bash", kind="execute", input={"command": "rm x"}),
        ev("approval.requested", approval_id="appr_1", tool="Bash", kind="execute", input={"command": "rm x"}, call_id="1"),
        ev("approval.decided", approval_id="appr_1", verdict="rejected", principal="person:ann", reason="keep it"),
        ev("turn.tool.result", call_id="1", name="Bash", ok=False, output="The user rejected this tool call."),
        here=True,
    )
    assert shown == "⌬ Bash  rm x\n⚠ needs you\n  ✗ rejected by ann: keep it\n"


def test_questions_are_shown_with_their_answers(show: Show) -> None:
    question = {"question": "Which one?", "options": [{"label": "A", "description": "first"}, {"label": "B"}]}
    shown = show(
        ev("approval.requested", approval_id="appr_1", tool="AskUserQuestion", kind="other", input={"questions": [question]}), here=True
    )
    assert shown == "⚠ needs you  ⏺ AskUserQuestion  1 question\n    Which one?\n    1 A  first\n    2 B\n"


def test_a_limit_that_lasts_is_no_continuation(show: Show) -> None:
    shown = show(
        ev("instance.limited", provider="anthropic", until=0.0, session=""),
        ev("turn.finished", outcome="limited", in_reply_to=[], error={"error": "x", "will_continue": True}),
    )
    assert shown.endswith("\n… it waits until then\n")


def test_why_nothing_was_delivered_is_said_once(show: Show) -> None:
    shown = show(
        ev("turn.finished", outcome="failed", in_reply_to=["m"], error={"error": "no model"}),
        ev("mail.failed", message_ids=["m"], reason="no model"),
        ev("mail.failed", message_ids=["m"], reason="it expired"),
    )
    assert shown == "✗ failed: no model\n✗ not delivered: it expired\n"


def test_what_goes_on_at_the_moment_has_a_passing_line_on_a_terminal(show: Show) -> None:
    at_work = [
        ev("turn.presence", state="thinking"),
        ev("turn.tool.call", call_id="1", name="Bash", input={"command": "make"}),
        ev("turn.tool.progress", call_id="1", text="one\ntwo \x1b[31m\n"),
        ev("turn.tool.progress", call_id="1", title="Bash, 30 s"),
        ev("turn.tool.result", call_id="1", name="Bash", ok=True, output="one\ntwo"),
        ev("instance.activity", activity="starting"),
        ev("turn.text.delta", text="done"),
        ev("turn.tool.progress", call_id="1", text="too late"),
        ev("turn.text", text="done"),
    ]
    assert show(*at_work) == "⏺ Bash  make\n  ✓ one  (+1 lines)\ndone\n"
    gone = "\r\x1b[2K"
    shown = show(*at_work, terminal=True).replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert shown == (f"  ⋯ thinking{gone}⏺ Bash  make\n  ⋯ two{gone}  ⋯ Bash, 30 s{gone}  ✓ one  (+1 lines)\n  ⋯ starting{gone}done\n")


EVIL = "a\x1b]0;owned\x07b\x1b[31mc\u202ed\x9b2Je\rf"


@pytest.mark.parametrize(
    "event",
    [
        ev("mail.accepted", message_id="m", sender=EVIL, text=EVIL),
        ev("turn.text.delta", text=EVIL),
        ev("turn.text", text=EVIL),
        ev("turn.thinking", text=EVIL),
        ev("turn.tool.call", call_id="1", name=EVIL, input={EVIL: EVIL, "b": EVIL}, title=EVIL),
        ev("turn.tool.result", call_id="1", name=EVIL, ok=True, output=EVIL, diffs=[{"path": EVIL, "old": EVIL, "new": EVIL + "x"}]),
        ev("turn.tool.result", call_id="1", name=EVIL, ok=False, output=f"{EVIL}\n{EVIL}"),
        ev("turn.plan", entries=[{"content": EVIL, "status": EVIL}]),
        ev("turn.retrying", attempt=1, reason=EVIL),
        ev("approval.requested", approval_id=EVIL, tool=EVIL, input={EVIL: EVIL, "c": 1}, title=EVIL),
        ev("approval.decided", approval_id="x", verdict=EVIL, principal=EVIL, reason=EVIL),
        ev("turn.finished", outcome=EVIL, in_reply_to=[], error={"error": EVIL, "hint": EVIL}),
        ev("session.title", title=EVIL),
        ev("session.opened", program=EVIL, program_session=EVIL, version=EVIL, forked_from=EVIL),
        ev("instance.egress", host=EVIL, port=1, allowed=False, reason=EVIL),
        ev("instance.exec", exec_id="x", argv=[EVIL], principal=EVIL),
    ],
    ids=lambda event: str(event["type"]),
)
def test_nothing_that_an_agent_says_acts_on_the_terminal(show: Show, event: dict[str, Any]) -> None:
    shown = show(event)
    assert shown
    assert not set(shown) & set("\x1b\x07\x9b\r\u202e")


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (0.0, "0¢"),
        (0.0001, "<0.1¢"),
        (0.004, "0.4¢"),
        (0.0099, "1¢"),
        (0.12, "12¢"),
        (0.999, "$1.00"),
        (1.234, "$1.23"),
        (1234.5, "$1,234.50"),
    ],
)
def test_money(usd: float, shown: str) -> None:
    assert blocks.cost(usd) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (950, "950"), (1000, "1.0k"), (1234, "1.2k"), (34_000, "34k"), (999_999, "1.0M"), (12_345_678, "12M")]
)
def test_tokens(number: int, shown: str) -> None:
    assert blocks.count(number) == shown


@pytest.mark.parametrize(
    ("ms", "shown"), [(0.4, "0 ms"), (12, "12 ms"), (999.9, "1.0 s"), (1500, "1.5 s"), (125_000, "2m 05s"), (3_725_000, "1h 02m")]
)
def test_times(ms: float, shown: str) -> None:
    assert blocks.span(ms) == shown


@pytest.mark.parametrize(
    "value", ["2026-01-31T12:00:00.123456789Z", "2026-01-31T12:00:00.123Z", "2026-01-31T14:00:00.123+02:00", 1769860800.123]
)
def test_times_of_every_form_are_read(value: str | float) -> None:
    found = render.moment(value)
    assert found is not None
    assert int(found.timestamp()) == 1769860800
    assert found.microsecond // 1000 == 123
    assert render.when(None) == "-"


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ({"activity": "idle"}, "idle"),
        ({"activity": "needs-you", "open_approvals": 2}, "needs-you (2)"),
        ({"activity": "limited", "activity_until": 1769860800.0}, f"limited until {render.moment(1769860800.0):%H:%M}"),
        ({}, "-"),
    ],
)
def test_what_an_instance_is_about(item: Any, shown: str) -> None:
    assert render.activity(item)[0] == shown


def test_what_a_person_is_told_is_a_line_of_its_own(show: Show) -> None:
    event = ev("attention.raised", kind="needs-you", handle="a", text="a asks leave: \x1b[31mmake\x07")
    assert show(event) == "· a asks leave: make\n"
    assert show(event, whole=True) == "", "what is past rings nobody"
    assert show(event, here=True) == "", "he is asked here"
    assert show(ev("attention.raised", kind="stuck", handle="a", text="a seems stuck"), here=True) == "· a seems stuck\n"
    assert show(ev("attention.raised", kind="failed", handle="", text="no bus", instance="", session=""), name=lambda _: "the home") != ""


def test_an_agent_that_seems_stuck_is_named(show: Show) -> None:
    assert show(ev("turn.stuck", reason="the same call again and again", tool="Bash", count=8)) == (
        "⚠ it seems stuck: the same call again and again: Bash, 8 times\n"
    )
    assert show(ev("turn.stuck", reason="no sign of life", seconds=300.0)) == "⚠ it seems stuck: nothing was heard of it for 5 min\n"


def test_the_bell_rings_on_a_terminal_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, write_through=True))
    output = Output()
    output.bell()
    assert buffer.getvalue() == b""
    output._out_tty = True
    view = View(output)
    old = ev("attention.raised", kind="done", handle="a", text="a is done")
    view.show(old)
    output.flush()
    assert buffer.getvalue().count(b"\a") == 0, "that was long ago"
    view.show({**ev("attention.raised", kind="done", handle="a", text="a is done", bell=False), "ts": time.time()})
    output.flush()
    assert buffer.getvalue().count(b"\a") == 0, "not wanted"
    for _ in range(3):
        view.show({**old, "ts": time.time()})
    output.flush()
    assert buffer.getvalue().count(b"\a") == 1
