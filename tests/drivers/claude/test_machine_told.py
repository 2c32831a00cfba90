"""What the Claude Code driver tells of: ends of turns and limits, requests, tools, settings; no process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.drivers.claude.saying import finished, line, machine, of, result, started, use, used

from aegis.core.envelopes import Image
from aegis.core.events import (
    MAX_DIFF,
    Diff,
    Outcome,
    Plan,
    PlanEntry,
    SessionSettings,
    Text,
    ToolResult,
)
from aegis.drivers import Answer, Asked, Finished, Message, Withdrawn

# Ends.


@pytest.mark.parametrize(
    ("told", "outcome", "kind", "data"),
    [
        ({"is_error": True, "result": "API Error: 400 no", "api_error_status": 400}, "failed", "failed", {"status": 400}),
        ({"is_error": True, "result": "x", "api_error_status": 401}, "failed", "denied", {"status": 401}),
        ({"is_error": True, "result": "x", "api_error_status": 529}, "failed", "unavailable", {"status": 529}),
        ({"is_error": True, "result": "x", "api_error_status": 429}, "limited", "limit", {"status": 429}),
        ({"is_error": True, "result": "Claude AI usage limit reached|1767225600"}, "limited", "limit", {"resets_at": 1767225600.0}),
        ({"is_error": True, "result": "5-hour limit reached ∙ resets 3pm"}, "limited", "limit", {}),
        ({"is_error": True, "result": "Invalid API key · Please run /login"}, "failed", "failed", None),
        ({"subtype": "error_max_turns", "is_error": True}, "limited", "limit", {"limit": "rounds"}),
        ({"subtype": "error_max_budget_usd", "is_error": True}, "limited", "limit", {"limit": "cost"}),
        ({"subtype": "error_during_execution", "is_error": True, "errors": ["boom"]}, "failed", "failed", None),
        ({"stop_reason": "refusal"}, "failed", "failed", None),
        ({"subtype": "error_of_tomorrow"}, "failed", "failed", None),
    ],
)
def test_ends(told: dict[str, Any], outcome: str, kind: str, data: dict[str, Any] | None) -> None:
    one = machine()
    started(one)
    end = finished(one.feed(result(**told)))
    assert (end.outcome, (end.error or {})["kind"]) == (outcome, kind)
    assert (end.error or {}).get("data") == (data or None)


def test_a_limit_that_is_told_beforehand() -> None:
    one = machine()
    started(one)
    info = {"status": "rejected", "resetsAt": 1767225600, "rateLimitType": "five_hour"}
    end = finished(one.feed(line(type="rate_limit_event", rate_limit_info=info) + result(is_error=True, result="sorry")))
    assert (end.outcome, (end.error or {})["data"]) == (Outcome.LIMITED, {"resets_at": 1767225600.0})
    started(one, "m2")
    fine = line(type="rate_limit_event", rate_limit_info={**info, "status": "allowed_warning"})
    assert finished(one.feed(fine + result())).outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resets 3pm (UTC)", 1767279600.0),  # now is 2026-01-01 12:00 UTC
        ("resets at 11:30 am (UTC)", 1767353400.0),
        ("resets 3pm (Europe/Berlin)", 1767276000.0),
        ("resets 15:00", 1767279600.0),
        ("resets Jan 4, 3pm (UTC)", 1767538800.0),
        ("resets Jan 4 at 12am (UTC)", 1767484800.0),
        ("resets 3pm (Nowhere/Land)", None),
        ("resets Feb 31, 3pm (UTC)", None),
        ("resets 99pm", None),
        ("try later", None),
    ],
)
def test_when_a_limit_ends(text: str, expected: float | None) -> None:
    from aegis.drivers.claude.results import resets_at

    assert resets_at(f"You've hit your limit · {text}", 1767268800.0) == expected


def test_an_error_that_it_made_a_message_of_is_no_text() -> None:
    one = machine()
    started(one)
    made_up = {"id": "x", "model": "<synthetic>", "content": [{"type": "text", "text": "API Error: 401 no"}]}
    events = one.feed(line(type="assistant", message=made_up, error="authentication_failed", is_api_error_message=True))
    assert of(events, Text) == []
    end = finished(one.feed(result(is_error=True, result=None)))
    assert (end.error or {})["error"] == "API Error: 401 no"
    assert (end.error or {})["kind"] == "denied"
    assert "auth: login" in (end.error or {})["hint"]


# Requests.


def test_a_request_that_is_withdrawn() -> None:
    one = machine()
    started(one)
    one.feed(line(type="control_request", request_id="r", request={"subtype": "can_use_tool", "tool_name": "Bash", "input": {}}))
    assert one.feed(line(type="control_cancel_request", request_id="r") * 2) == [Withdrawn("r")]
    assert one.answer("r", Answer(True)) == b""


def test_requests_left_open_are_withdrawn_at_the_end() -> None:
    one = machine()
    started(one)
    one.feed(line(type="control_request", request_id="r", request={"subtype": "can_use_tool", "tool_name": "Bash", "input": {}}))
    events = one.feed(result())
    assert events[0] == Withdrawn("r")
    assert isinstance(events[-1], Finished)


def test_what_no_host_of_ours_offers_is_refused() -> None:
    one = machine()
    one.feed(line(type="control_request", request_id="r", request={"subtype": "hook_callback"}))
    assert json.loads(one.outgoing())["response"] == {"subtype": "error", "request_id": "r", "error": "unsupported request: hook_callback"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(True, input={"answers": {"Which?": "B"}}), {"Which?": "B"}),
        (Answer(True, input={"Which?": "B"}), {"Which?": "B"}),
        (Answer(True, "B"), {"Which?": "B"}),
        (Answer(True), {}),
    ],
)
def test_answers_of_a_person(answer: Answer, expected: dict[str, str]) -> None:
    one = machine()
    started(one)
    asked = {"questions": [{"question": "Which?"}]}
    request = {"subtype": "can_use_tool", "tool_name": "AskUserQuestion", "input": asked, "requires_user_interaction": True}
    [event] = [e for e in one.feed(line(type="control_request", request_id="r", request=request)) if isinstance(e, Asked)]
    assert event.question
    reply = json.loads(one.answer("r", answer))["response"]["response"]
    assert reply == {"behavior": "allow", "updatedInput": {**asked, "answers": expected}}


def test_a_message_with_pictures() -> None:
    frame = json.loads(
        machine().send("t", [Message("m1", "look", [Image("image/png", b"\x89PNG")]), Message("m2", "", [Image("image/gif", b"GIF")])])
    )
    assert [block["type"] for block in frame["message"]["content"]] == ["text", "image", "image"]
    assert frame["message"]["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}


# Tools and settings.


def test_diffs_come_from_the_result_or_from_what_was_meant() -> None:
    one = machine()
    started(one)
    long = "x" * (MAX_DIFF + 1)
    one.feed(use("a", "Edit", file_path="/w/a", old_string="1", new_string="2"))
    one.feed(use("b", "Write", file_path="/w/b", content=long) + use("c", "Edit", file_path="/w/c", old_string="1", new_string="2"))
    one.feed(
        use("d", "MultiEdit", file_path="/w/d", edits=[{"old_string": "1", "new_string": "2"}, {"old_string": "3", "new_string": "4"}])
    )
    events = one.feed(
        used("a") + used("b", told={"filePath": "/w/b", "content": long, "originalFile": "old"}) + used("c", is_error=True) + used("d")
    )
    assert [fact.diffs for fact in of(events, ToolResult)] == [
        [Diff("/w/a", "2", "1")],
        [Diff("/w/b", long[:MAX_DIFF], "old", True)],
        [],
        [Diff("/w/d", "2", "1"), Diff("/w/d", "4", "3")],
    ]


def test_todos_are_a_plan() -> None:
    one = machine()
    started(one)
    todos = [{"content": "look", "status": "completed", "activeForm": "x"}, {"content": "mend", "status": "odd"}]
    events = one.feed(use("a", "TodoWrite", todos=todos) + used("a") + use("b", "TodoWrite", todos=todos) + used("b"))
    assert of(events, Plan) == [Plan([PlanEntry("look", "completed"), PlanEntry("mend")])]


def test_tasks_are_known_again_from_their_list() -> None:
    one = machine()
    started(one)
    events = one.feed(use("a", "TaskList") + used("a", "#1 [completed] look\n#2 [in_progress] mend (me) [blocked by #1]"))
    assert of(events, Plan) == [Plan([PlanEntry("look", "completed"), PlanEntry("mend", "in_progress")])]


def test_settings_that_change_by_themselves() -> None:
    one = machine()
    started(one)
    assert of(one.feed(line(type="system", subtype="init", model="claude-x[1m]", permissionMode="default")), SessionSettings) == []
    events = one.feed(line(type="system", subtype="init", model="claude-y", permissionMode="plan"))
    assert of(events, SessionSettings) == [SessionSettings("anthropic/claude-y", "plan")]
    assert of(one.feed(line(type="system", subtype="status", permissionMode="default")), SessionSettings) == [
        SessionSettings(mode="default")
    ]
