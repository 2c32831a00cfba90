"""The machine on what real agents said."""

from __future__ import annotations

import json

import pytest
from acp_replay import NAMES, Played

from aegis.core.events import Diff, Outcome, SessionContext, SessionSettings, Text, TextDelta, Thinking, ToolCall, ToolProgress, ToolResult
from aegis.drivers import Accepted, Acknowledged, Asked, Finished, Happened, Message, Withdrawn


def facts(played: Played, kind: type) -> list:
    return [event.fact for event in played.events if isinstance(event, Happened) and isinstance(event.fact, kind)]


@pytest.mark.parametrize("name", NAMES)
def test_it_writes_what_was_written(name: str) -> None:
    played = Played(name)

    def order(frames: list) -> list[str]:
        return sorted(json.dumps({k: v for k, v in f.items() if k != "error"} | {"error": "error" in f}, sort_keys=True) for f in frames)

    assert order(played.written) == order(played.wanted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_however_it_is_cut(name: str, pieces: int) -> None:
    assert Played(name, pieces).events == Played(name).events


@pytest.mark.parametrize("name", NAMES)
def test_each_turn_begins_and_ends_once(name: str) -> None:
    turns = [event for event in Played(name).events if isinstance(event, Accepted | Finished)]
    assert turns
    assert [type(event) for event in turns] == [Accepted, Finished] * (len(turns) // 2)


@pytest.mark.parametrize("name", NAMES)
def test_each_call_has_one_result_after_it(name: str) -> None:
    played = Played(name)
    calls = [fact.call_id for fact in facts(played, ToolCall)]
    assert calls == [fact.call_id for fact in facts(played, ToolResult)]
    assert len(set(calls)) == len(calls)
    asked = [event for event in played.events if isinstance(event, Asked)]
    assert all(event.call_id in calls and event.input and event.tool for event in asked)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_their_deltas(name: str) -> None:
    played = Played(name)
    assert "".join(fact.text for fact in facts(played, TextDelta)) == "".join(fact.text for fact in facts(played, Text))


def test_gemini_tools() -> None:
    played = Played("gemini-tools")
    calls = facts(played, ToolCall)
    assert [(call.name, call.kind) for call in calls] == [
        ("write_file", "edit"),
        ("run_shell_command", "execute"),
        ("read_file", "read"),
        ("replace", "edit"),
        ("write_file", "edit"),
    ]
    assert calls[1].input == {"command": "echo out; echo err >&2; exit 3"}
    results = facts(played, ToolResult)
    assert results[0].diffs == [Diff("/workspace/a.txt", "one\ntwo\n", None)]
    assert results[3].diffs == [Diff("/workspace/a.txt", "one\nthree\n", "one\ntwo\n")]
    assert (results[4].ok, results[4].output) == (False, "refused: no")
    assert [fact.text for fact in facts(played, Thinking)] == ["**Thinking**\nhmm", "**Thinking**\nok"]
    ends = [event for event in played.events if isinstance(event, Finished)]
    assert ends[0] == Finished(Outcome.COMPLETED, "hi there ", None, 0, "end_turn", 10, 7)
    assert facts(played, Text)[0].model == "gemini-2.5-flash"


def test_opencode_tools() -> None:
    played = Played("opencode-tools")
    calls = facts(played, ToolCall)
    assert [call.name for call in calls] == ["write", "bash", "read", "edit", "write"]
    assert calls[0].input == {"filePath": "/workspace/a.txt", "content": "one\ntwo\n"}
    assert calls[1].input["command"] == "echo out; echo err >&2; exit 3"
    assert [fact.text for fact in facts(played, ToolProgress)] == ["out\n", "err\n"]
    results = facts(played, ToolResult)
    assert results[1].output == "out\nerr\n"
    assert results[3].diffs == [Diff("/workspace/a.txt", "three", "two")]
    assert "rejected" in results[4].output
    assert facts(played, SessionContext)[0] == SessionContext(10, 200000)


@pytest.mark.parametrize("name", ["gemini-faults", "opencode-faults"])
def test_what_goes_wrong(name: str) -> None:
    played = Played(name)
    ends = [event for event in played.events if isinstance(event, Finished)]
    outcomes = [end.outcome.value for end in ends]
    assert outcomes == ["completed", "cancelled", "cancelled", "cancelled", *["completed"] * 2, "failed", *["completed"] * 3]
    assert ends[6].error is not None
    assert ends[6].error["data"]["status"] == 400
    assert "fake error 400" in ends[6].error["error"]
    asked = [event for event in played.events if isinstance(event, Asked)]
    assert Withdrawn(asked[-1].id) in played.events
    refused = [reply.error for reply in played.replies if reply.error is not None]
    assert refused
    assert all(error.kind == "failed" for error in refused)


def test_settings_are_told_when_they_change() -> None:
    played = Played("opencode-faults")
    assert SessionSettings(model="p/fake-2") in facts(played, SessionSettings)
    assert played.machine.settings.modes == ["build", "plan"]
    assert played.machine.settings.options["model"] == ["aegis/fake-2", "aegis/fake-1"]


@pytest.mark.parametrize("name", ["gemini-load", "opencode-load"])
def test_history_is_no_event_and_tells_what_is_known(name: str) -> None:
    played = Played(name)
    assert played.transcript is not None
    cut = Message("cut", "[[think deep]] cut turn [[slow 100 50]]")
    assert played.transcript.known([cut, Message("never", "cut turn"), Message("old", "hello one")]) == ("cut",)
    assert [event for event in played.events if isinstance(event, Accepted | Acknowledged)] == [Accepted(["m2"]), Acknowledged(["m2"])]
    assert facts(played, ToolCall) == []
