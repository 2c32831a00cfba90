"""Aegis's own MCP server in the hands of the real programs: each sees the others, hands over, and gets mail while it works."""

from __future__ import annotations

from typing import Any

import pytest
from tests.programs.conftest import Lab, finished, only

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
#: Those that take no message in the middle of a turn, so that mail comes with the result of a tool.
NOTED = ("gemini", "opencode")


def test_a_program_reaches_another_agent(lab: Lab) -> None:
    """A person who wants to be asked is not asked about verbs that only look or write; and an answer comes once."""
    lab.start(approvals="ask")
    lab.start("b", provider="native", model="scripted/directives", sandbox="process", workspace=None)
    receipt = lab.send(
        "[[call aegis_list_sessions {}]] "
        '[[call aegis_handoff {"target_handle": "b", "context": "[[say the answer of b]]", "report": true}]] '
        '[[call aegis_status {"handle": "b", "wait_s": 30}]] [[call aegis_meta {}]] [[lastresult]]'
    )
    events = lab.turn(receipt)
    end = finished(events)
    assert end["outcome"] == "completed", end
    results = only(events, "turn.tool.result")
    assert all(result["ok"] for result in results), results
    listed, handed, waited, told = (result["output"] for result in results)
    assert "b  agent" in listed or '"handle":"b"' in listed, listed
    assert "landed at b" in handed
    assert "the answer of b" in waited
    assert "`a`" in told or '"handle":"a"' in told, told
    assert only(events, "approval.requested") == []

    report: list[str] = []

    def acknowledged(event: dict[str, Any]) -> bool:
        data = event["data"]
        if event["type"] == "mail.accepted" and data.get("name") == "agent:b":
            report.append(data["message_id"])
        return event["type"] == "mail.acknowledged" and bool(set(report) & set(data["message_ids"]))

    lab.until(receipt, acknowledged)
    (mail,) = [row for row in lab.client.mail.all("a") if row["name"] == "agent:b"]
    assert (mail["status"], mail["text"].strip()) == ("ok", "the answer of b")
    if lab.program in NOTED:
        assert mail["turn"] == events[-1]["turn"], "it was not put behind the result of a tool"
        assert any("> from agent:b" in output and "  the answer of b" in output for output in (waited, told)), (waited, told)
    lab.server.until(lambda: any("> from agent:b" in str(request.body) for request in lab.server.requests))


def test_a_person_is_asked_before_an_agent_is_started(lab: Lab) -> None:
    lab.start(approvals="ask")
    receipt = lab.send('[[call aegis_spawn {"prompt": "[[say hi]]", "slug": "kid"}]] [[lastresult]]')
    lab.until(receipt, lambda event: event["type"] == "approval.requested")
    (pending,) = lab.client.approvals.list()
    assert "aegis_spawn" in pending["tool"], pending
    assert [row["handle"] for row in lab.client.instances.all()] == ["a"]
    lab.client.approvals.decide(pending["id"], approve=False, reason="not now")
    assert finished(lab.turn(receipt))["outcome"] in ("completed", "cancelled")
    assert [row["handle"] for row in lab.client.instances.all()] == ["a"]
