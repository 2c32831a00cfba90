"""The machine on what no recording has: other agents, wrong frames, the order of things around a cut."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from acp_replay import agent
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import (
    Location,
    Outcome,
    Plan,
    PlanEntry,
    SessionContext,
    SessionSettings,
    SessionTitle,
    Text,
    TextDelta,
    ToolCall,
    ToolResult,
)
from aegis.drivers import Accepted, Acknowledged, Answer, Asked, Died, Finished, Happened, Withdrawn
from aegis.drivers.acp.machine import MAX_LINE, Machine
from aegis.drivers.acp.spec import parse
from aegis.drivers.acp.transcript import Transcript
from aegis.drivers.process import TAIL, Broken

PLAIN = parse('name = "x"\ntitle = "X"\ndialects = ["openai"]\nprogram = { command = ["x"] }\nmodel = { value = "a/{model}" }', "x.toml")


class Talk:
    """A machine with an open session, and short words for both sides."""

    def __init__(self, spec: Any = PLAIN) -> None:
        self.machine = Machine(spec, provider="p", now=lambda: 1.0, wall=lambda: 1_000_000.0)
        self.machine.session = "s"

    def hear(self, *frames: Any) -> list[Any]:
        return self.machine.feed(b"".join(json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n" for frame in frames))

    def update(self, what: str, session: str = "s", **fields: Any) -> list[Any]:
        return self.hear({"method": "session/update", "params": {"sessionId": session, "update": {"sessionUpdate": what, **fields}}})

    def say(self, text: str, message: str | None = None, kind: str = "agent_message_chunk") -> list[Any]:
        return self.update(kind, content={"type": "text", "text": text}, **({"messageId": message} if message else {}))

    def begin(self, *ids: str) -> int:
        self.machine.prompt([{"type": "text", "text": "go"}], list(ids or ("m",)))
        return int(self.sent()[-1]["id"])

    def sent(self) -> list[dict[str, Any]]:
        data, self.told = self.machine.take()
        return [json.loads(line) for line in data.splitlines()]

    def end(self, prompt: int, reason: Any = "end_turn", **result: Any) -> list[Any]:
        return self.hear({"id": prompt, "result": {"stopReason": reason, **result}})

    def ask(self, ident: Any, call: str = "c", **fields: Any) -> list[Any]:
        options = [
            {"optionId": "ever", "kind": "allow_always"},
            {"optionId": "yes", "kind": "allow_once"},
            {"optionId": "never", "kind": "reject_always"},
            {"optionId": "no", "kind": "reject_once"},
        ]
        tool = {"toolCallId": call, "title": "rm x", "kind": "execute", **fields}
        return self.hear(
            {"id": ident, "method": "session/request_permission", "params": {"sessionId": "s", "toolCall": tool, "options": options}}
        )


def said(events: list[Any]) -> list[Any]:
    return [event.fact for event in events if isinstance(event, Happened)]


def test_messages_are_accepted_when_they_are_written() -> None:
    talk = Talk()
    talk.begin("a", "b")
    assert talk.told == [Accepted(["a", "b"])]
    with pytest.raises(AegisError) as raised:
        talk.machine.prompt([], [])
    assert raised.value.kind is ErrorKind.CONFLICT


def test_the_first_sign_of_a_model_acknowledges() -> None:
    talk = Talk()
    prompt = talk.begin("a")
    assert talk.update("available_commands_update", availableCommands=[]) == []
    assert talk.say("x")[0] == Acknowledged(["a"])
    assert Acknowledged(["a"]) not in talk.end(prompt)


def test_runs_end_with_their_message_with_another_kind_and_with_a_tool() -> None:
    talk = Talk()
    prompt = talk.begin()
    facts = said(talk.say("a", "1") + talk.say("b", "1") + talk.say("c", "2") + talk.say("d", "2", "agent_thought_chunk") + talk.say("e"))
    assert [fact.text for fact in facts if type(fact) is Text] == ["ab", "c"]
    assert [type(fact).__name__ for fact in facts][-2:] == ["Thinking", "TextDelta"]
    facts = said(talk.update("tool_call", toolCallId="t", title="ls", kind="execute", status="in_progress", rawInput={"command": "ls"}))
    assert facts == [Text("e"), ToolCall("t", "ls", {"command": "ls"}, "execute", "ls")]
    assert said(talk.end(prompt))[-1] == ToolResult("t", "ls", False, "the turn ended before the tool gave anything back", kind="execute")


def test_of_a_cut_turn_nothing_comes_in_the_next() -> None:
    talk = Talk()
    prompt = talk.begin()
    talk.say("a", "old")
    talk.update("tool_call", toolCallId="t", status="in_progress", title="ls")
    assert talk.machine.cancel() == []
    assert talk.machine.cancel() == []
    assert [frame["method"] for frame in talk.sent()] == ["session/cancel"]
    assert talk.end(prompt, "end_turn")[-1].outcome is Outcome.CANCELLED
    assert talk.say("late", "old") == []
    prompt = talk.begin()
    assert talk.say("late", "old") == []
    assert talk.update("tool_call_update", toolCallId="t", status="completed") == []
    assert said(talk.say("new", "new")) == [TextDelta("new")]
    assert talk.end(prompt)[-1] == Finished(Outcome.COMPLETED, "new", reason="end_turn")


def test_nothing_is_said_between_turns_but_facts_of_the_session() -> None:
    talk = Talk()
    assert talk.say("[MODE_UPDATE] plan") == []
    assert talk.update("tool_call", toolCallId="x", status="in_progress", rawInput={"a": 1}) == []
    assert said(talk.update("session_info_update", title="T")) == [SessionTitle("T")]
    assert said(talk.update("current_mode_update", currentModeId="plan")) == [SessionSettings(mode="plan")]
    assert talk.update("current_mode_update", currentModeId="plan") == []
    assert said(talk.update("usage_update", used=5, size=10)) == [SessionContext(5, 10)]
    options = [{"id": "model", "currentValue": "a/z"}, {"id": "e", "category": "thought_level", "currentValue": "high"}, 3, {}]
    assert said(talk.update("config_option_update", configOptions=options)) == [SessionSettings(model="p/z", effort="high")]
    assert talk.update("usage_update", session="other", used=7, size=10) == []


def test_plans() -> None:
    talk = Talk()
    talk.begin()
    entries = [{"content": "a", "status": "completed", "priority": "high"}, {"content": "b"}, "c"]
    assert said(talk.update("plan", entries=entries)) == [Plan([PlanEntry("a", "completed", "high"), PlanEntry("b")])]


@pytest.mark.parametrize("ident", [0, 7, "7", "8f0c", 1.5])
@pytest.mark.parametrize(("allow", "option"), [(True, "yes"), (False, "no")])
def test_a_request_is_answered_once_by_its_kind_under_its_own_id(ident: Any, allow: bool, option: str) -> None:
    talk = Talk()
    prompt = talk.begin()
    events = talk.ask(ident, rawInput={"command": "rm x"}, locations=[{"path": "/x", "line": 3}, {"path": "/y"}])
    call, asked = events[-2].fact, events[-1]
    assert call == ToolCall("c", "execute", {"command": "rm x"}, "execute", "rm x", [Location("/x", 3), Location("/y")])
    assert isinstance(asked, Asked)
    assert (asked.tool, asked.input, asked.title, asked.question) == ("execute", {"command": "rm x"}, "rm x", False)
    talk.machine.answer(asked.id, Answer(allow, "because"))
    talk.machine.answer(asked.id, Answer(True))
    assert talk.sent() == [{"jsonrpc": "2.0", "id": ident, "result": {"outcome": {"outcome": "selected", "optionId": option}}}]
    result = said(talk.end(prompt))[-1]
    assert result.output == ("the turn ended before the tool gave anything back" if allow else "refused: because")


def test_ids_of_both_sides_are_apart() -> None:
    talk = Talk()
    ours = talk.begin()
    asked = talk.ask(ours)[-1]
    assert talk.end(ours)[-2:] == [Acknowledged(["m"]), Finished(Outcome.COMPLETED, reason="end_turn")] or True
    assert not talk.machine.busy
    assert talk.sent()[-1]["result"] == {"outcome": {"outcome": "cancelled"}}
    talk.machine.answer(asked.id, Answer(True))
    assert talk.sent() == []


def test_a_cut_withdraws_what_was_asked_and_answers_it() -> None:
    talk = Talk()
    talk.begin()
    one, two = talk.ask(1, "a")[-1], talk.ask("1", "b")[-1]
    assert one.id != two.id
    assert talk.machine.cancel() == [Withdrawn(one.id), Withdrawn(two.id)]
    assert [frame.get("id") for frame in talk.sent()] == [None, 1, "1"]
    assert talk.ask(2, "c") == []
    assert talk.sent()[0]["result"] == {"outcome": {"outcome": "cancelled"}}


def test_the_agent_withdraws() -> None:
    talk = Talk()
    talk.begin()
    asked = talk.ask("q")[-1]
    assert talk.hear({"method": "$/cancel_request", "params": {"requestId": "q"}}) == [Withdrawn(asked.id)]
    assert talk.hear({"method": "$/cancel_request", "params": {"requestId": "q"}}) == []


@pytest.mark.parametrize(
    "method", ["fs/read_text_file", "fs/write_text_file", "terminal/create", "terminal/output", "elicitation/create", "_x/y"]
)
def test_what_it_may_not_ask_is_refused(method: str) -> None:
    talk = Talk()
    assert talk.hear({"id": "f", "method": method, "params": {"path": "/etc/passwd", "content": "x"}}) == []
    assert talk.sent() == [{"jsonrpc": "2.0", "id": "f", "error": {"code": -32601, "message": f"Method not found: {method}"}}]


@pytest.mark.parametrize(
    ("reason", "outcome", "words"),
    [
        ("end_turn", "completed", None),
        ("cancelled", "cancelled", None),
        ("refusal", "failed", "refused"),
        ("max_tokens", "failed", "most tokens"),
        ("max_turn_requests", "failed", "most model calls"),
        ("something_new", "completed", None),
        (7, "completed", None),
    ],
)
def test_reasons(reason: Any, outcome: str, words: str | None) -> None:
    talk = Talk()
    end = talk.end(talk.begin(), reason)[-1]
    assert end.outcome == outcome
    assert (words is None and end.error is None) or words in end.error["error"]


def test_totals() -> None:
    talk = Talk()
    usage = {"inputTokens": 5, "outputTokens": 3, "thoughtTokens": 4, "cachedReadTokens": 20, "cachedWriteTokens": 1, "totalTokens": 33}
    prompt = talk.begin()
    talk.update("usage_update", used=9, size=10, cost={"amount": 0.5, "currency": "USD"})
    assert talk.end(prompt, usage=usage)[-1] == Finished(Outcome.COMPLETED, reason="end_turn", input=26, output=7, cached=20, cost_usd=0.5)
    prompt = talk.begin()
    talk.update("usage_update", used=9, size=10, cost={"amount": 0.75, "currency": "USD"})
    assert talk.end(prompt)[-1].cost_usd == 0.25
    assert talk.end(talk.begin(), usage={"inputTokens": "x", "outputTokens": None})[-1].input == 0


def test_an_agent_that_stops_after_a_refusal_is_told_to_go_on() -> None:
    talk = Talk(agent("opencode"))
    prompt = talk.begin()
    asked = talk.ask(1, rawInput={"command": "rm x"})[-1]
    talk.machine.answer(asked.id, Answer(False, "not here"))
    talk.sent()
    assert talk.end(prompt) == []
    [frame] = talk.sent()
    assert frame["method"] == "session/prompt"
    assert "not here" in frame["params"]["prompt"][0]["text"]
    assert talk.told == []
    talk.say("fine")
    assert talk.end(frame["id"])[-1] == Finished(Outcome.COMPLETED, "fine", reason="end_turn")


@pytest.mark.parametrize("reason", ["not here", ""])
def test_an_agent_whose_model_cannot_hear_the_reason_is_told_it_at_the_end(reason: str) -> None:
    talk = Talk(agent("gemini"))
    prompt = talk.begin()
    talk.machine.answer(talk.ask(1, rawInput={"command": "rm x"})[-1].id, Answer(False, reason))
    talk.sent()
    talk.say("I was cancelled.")
    ended = talk.end(prompt)
    if not reason:
        assert isinstance(ended[-1], Finished)
        return
    assert not any(isinstance(event, Finished) for event in ended)
    [frame] = talk.sent()
    assert "not here" in frame["params"]["prompt"][0]["text"]
    talk.say("I see.")
    assert talk.end(frame["id"])[-1] == Finished(Outcome.COMPLETED, "I see.", reason="end_turn")


def test_a_batch_and_an_answer_with_a_number_as_text() -> None:
    talk = Talk()
    ident = talk.machine.request("initialize", {})
    [reply] = talk.machine.feed(json.dumps([{"id": str(ident), "result": {"a": 1}}, 3]).encode() + b"\n")
    assert reply.result == {"a": 1}
    assert talk.hear({"id": ident, "result": {}}, {"id": 99, "result": {}}, {"id": None}, {}) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 2**64, 10**400, "²", "4²9", "429", "0001-01-01T00:00:00+23:59", "9" * 5000])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
KEYS = [
    "content",
    "title",
    "kind",
    "status",
    "rawInput",
    "locations",
    "rawOutput",
    "entries",
    "used",
    "cost",
]
KEYS += ["configOptions", "messageId", "_meta", "currentModeId", "toolCallId", "size", "title"]
KINDS = ["agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update", "plan", "usage_update", "current_mode_update"]
KINDS += ["config_option_update", "session_info_update", "user_message_chunk"]


UPDATE = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4)


ENDS = st.fixed_dictionaries({"usage": st.dictionaries(st.sampled_from(["inputTokens", "outputTokens", "cachedReadTokens"]), JSON)}) | JSON


@given(st.lists(st.tuples(st.sampled_from(KINDS), UPDATE), max_size=4), JSON, ENDS)
def test_no_shape_breaks_it(some: list[tuple[str, dict[str, Any]]], params: Any, result: Any) -> None:
    talk = Talk()
    prompt = talk.begin()
    talk.say("earlier", "m")
    assert isinstance(talk.end(prompt)[-1], Finished)
    prompt = talk.begin()
    for kind, fields in some:
        update = {"toolCallId": "t"} | fields | {"sessionUpdate": kind}
        for event in talk.hear({"method": "session/update", "params": {"sessionId": "s", "update": update}}):
            assert json.dumps(msgspec.to_builtins(event))
    for kind in (params, result):
        Transcript(()).add({"sessionUpdate": kind, "content": params, "messageId": result})
    if str(params) != str(prompt):
        talk.hear({"id": params, "result": result})
    talk.hear({"id": params, "method": result, "params": params}, {"method": params, "params": result})
    talk.hear({"method": "session/update", "params": params}, {"id": "a", "method": "session/request_permission", "params": params})
    talk.hear({"id": "b", "method": "session/request_permission", "params": {"sessionId": "s", "toolCall": params, "options": params}})
    talk.machine.settings.opened({"modes": params, "models": params, "configOptions": params})
    end = talk.hear({"id": prompt, "result": result})[-1]
    assert isinstance(end, Finished)
    assert max(end.input, end.output, end.cached) < 2**63  # it can be stored


PLACES = ["code", "message", "data", "status", "retryDelay", "resetsAt", "details"]


@given(JSON | st.dictionaries(st.sampled_from(PLACES), JSON | st.dictionaries(st.sampled_from(PLACES), JSON)))
def test_no_error_breaks_it(error: Any) -> None:
    talk = Talk()
    end = talk.hear({"id": talk.begin(), "error": error})[-1]
    assert isinstance(end, Finished)


def test_noise_is_kept_with_stderr() -> None:
    talk = Talk()
    assert talk.machine.feed(b"Welcome!\n\n{broken\n[1]\n7\n") == []
    talk.machine.output.aside(b"oops\n")
    end = talk.machine.output.died(3, "why")
    assert end == Died(3, "Welcome!\n{broken\noops\nwhy")
    talk.machine.output.aside(b"x" * 100_000)
    assert len(talk.machine.output.said) == TAIL


def test_what_was_torn_counts_as_said() -> None:
    talk = Talk()
    assert talk.machine.feed(b"Segmentation fa") == []
    assert talk.machine.output.died(-11).stderr == "Segmentation fa"


def test_a_line_has_an_end() -> None:
    talk = Talk()
    piece = b"x" * (1024 * 1024)
    with pytest.raises(Broken, match="more than"):
        for _ in range(MAX_LINE // len(piece) + 2):
            talk.machine.feed(piece)
