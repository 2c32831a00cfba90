"""The editor's protocol without an editor: lines, updates, prompts, questions."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from acp.schema import SessionNotification

from aegis.cli.acp import asking, prompts
from aegis.cli.acp.offers import Offer
from aegis.cli.acp.places import Places
from aegis.cli.acp.telling import Telling
from aegis.cli.acp.wire import MAX_LINE, Answer, Notice, Request, Wire
from aegis.core import events as e
from aegis.core.errors import AegisError, ErrorKind

INFO: Any = {"workspace": "/srv/shop", "sandbox": "bwrap", "sessions": [], "model": "p/m", "mode": None, "effort": None}


def telling(*facts: e.Fact, turn: str = "t", into: Telling | None = None) -> list[dict[str, Any]]:
    """The updates of facts, each of which the SDK's models accept."""
    found: list[dict[str, Any]] = []
    one = into or Telling(Places(INFO))
    for seq, fact in enumerate(facts):
        event = e.Event(seq=seq, ts=1.0, type=fact.type, data=msgspec.Raw(msgspec.json.encode(fact)), session="acp:x", turn=turn)
        found += one.of(event)
    for update in found:
        SessionNotification.model_validate({"sessionId": "s", "update": update})
    return found


def said(updates: list[dict[str, Any]], kind: str = "agent_message_chunk") -> list[str]:
    return [update["content"]["text"] for update in updates if update["sessionUpdate"] == kind]


def test_lines_in_any_pieces() -> None:
    wire = Wire()
    lines = b'{"id":1,"method":"a"}\n\n{"method":"b","params":{"x":1}}\n{"id":7,"result":{"y":2}}\n{"id":8,"error":{}}\n'
    found = [message for byte in lines for message in wire.feed(bytes([byte]))]
    assert found == [Request(1, "a", {}), Notice("b", {"x": 1}), Answer(7, {"y": 2}), Answer(8, None)]
    assert wire.take() == b""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"x", -32700),
        (b"[]", -32600),
        (b'{"id":1}', -32600),
        (b'{"id":[],"method":"a"}', -32600),
        (b'{"id":1,"method":"a","params":[]}', -32602),
    ],
)
def test_what_is_no_message_is_answered(line: bytes, code: int) -> None:
    wire = Wire()
    assert wire.feed(line + b'\n{"id":2,"method":"a"}\n') == [Request(2, "a", {})]
    assert json.loads(wire.take())["error"]["code"] == code


def test_a_line_without_end_is_dropped_whole() -> None:
    wire = Wire()
    piece = b" " * (8 << 20)
    for _ in range(MAX_LINE // len(piece) + 2):
        wire.feed(piece)
    assert wire.feed(b'rest\n{"id":2,"method":"a"}\n') == [Request(2, "a", {})]
    assert wire.take().count(b"\n") == 1


def test_errors_say_what_to_do_next() -> None:
    wire = Wire()
    wire.fail(1, AegisError(ErrorKind.NOT_FOUND, "no agent `x`", "did you mean `y`?"))
    told = json.loads(wire.take())["error"]
    assert (told["code"], told["message"]) == (-32002, "no agent `x`. did you mean `y`?")
    wire.respond(1, {"a": "\udc80"})
    assert json.loads(wire.take())["result"] == {"a": "\udc80"}


def test_a_text_is_told_once() -> None:
    """In pieces, whole, or whole after pieces of which some are missing."""
    assert said(telling(e.TextDelta("ab"), e.TextDelta("cd"), e.Text("abcd"))) == ["ab", "cd"]
    assert said(telling(e.TextDelta("ab"), e.Text("abcd"))) == ["ab", "cd"]
    assert said(telling(e.Text("abcd"))) == ["abcd"]
    assert said(telling(e.TextDelta("bc"), e.Text("abcd"))) == ["bc", "abcd"]
    assert said(telling(e.TextDelta("x", parent="p"), e.Text("x", parent="p"))) == []
    updates = telling(e.TextDelta("a"), e.Text("a"), e.TextDelta("b"), e.Text("b"))
    assert len({update["messageId"] for update in updates}) == 2
    cut = telling(e.TextDelta("cut o"), e.TurnFinished(e.Outcome.INTERRUPTED, ["m"]), e.TurnStarted(["m"]), e.Text("again"))
    assert said(cut) == ["cut o", "again"]


def test_tools() -> None:
    write = e.ToolCall("1", "write", {"path": "/workspace/a.py"}, "edit", "a.py")
    diffs = [e.Diff("/workspace/a.py", "new", "old")]
    updates = telling(write, e.ToolProgress("1", text="on"), e.ToolResult("1", "write", True, "created", kind="edit", diffs=diffs))
    assert [update.get("status") for update in updates] == ["in_progress", "in_progress", "completed"]
    assert updates[0]["locations"] == [{"path": "/srv/shop/a.py"}]
    assert updates[2]["content"] == [{"type": "diff", "path": "/srv/shop/a.py", "newText": "new", "oldText": "old"}]
    assert telling(e.ToolResult("9", "bash", False, "````", kind="execute"))[0]["content"][0]["content"]["text"] == "`````\n````\n`````"
    (failed,) = telling(write, e.TurnFinished(e.Outcome.CANCELLED, []))[1:]
    assert failed["status"] == "failed"
    same = Telling(Places(INFO))
    again = telling(write, turn="t1", into=same) + telling(write, turn="t2", into=same)
    assert again[0]["toolCallId"] != again[1]["toolCallId"]


def test_the_rest_of_what_is_told() -> None:
    plan = e.Plan([e.PlanEntry("x", "odd", "odd"), e.PlanEntry("y", "completed", "high")])
    assert [entry["status"] for entry in telling(plan)[0]["entries"]] == ["pending", "completed"]
    assert telling(e.SessionTitle("T"))[0]["title"] == "T"
    assert telling(e.SessionContext(10)) == []
    (_, used) = telling(e.SessionContext(10, 100), e.TurnFinished(e.Outcome.COMPLETED, [], cost_usd=0.5))
    assert (used["used"], used["size"], used["cost"]["amount"]) == (10, 100, 0.5)
    mine = Telling(Places(INFO))
    mine.own.add("m1")
    mail = [e.MailAccepted("x", "person:me", "hi", msg_id="m1"), e.MailAccepted("y", "instance:i", "yo", name="agent:b", images=2)]
    assert said(telling(*mail, into=mine), "user_message_chunk") == ["agent:b: yo\n[2 pictures]"]
    assert telling(e.MailRequeued(["x"], "why")) == []


def test_places() -> None:
    places = Places(INFO)
    assert places.outside("/workspace/a") == places.outside("a") == "/srv/shop/a"
    assert places.outside("/etc/passwd") == "/etc/passwd"
    assert places.named("file:///srv/shop/a%20b.py#L3") == "/workspace/a b.py:L3"
    assert places.named("https://x/y") == "https://x/y"
    same = Places({**INFO, "sandbox": "process"})
    assert same.inside("/srv/shop/a") == "/srv/shop/a"
    assert Places({**INFO, "workspace": None}).outside("a") == "a"


def test_prompts() -> None:
    places = Places(INFO)
    uri = "file:///srv/shop/a.py"
    blocks = [
        {"type": "text", "text": "see "},
        {"type": "resource_link", "name": "a.py", "uri": uri},
        {"type": "resource", "resource": {"uri": uri, "text": "x = 1"}},
    ]
    assert (
        prompts.message(blocks, places)[0]
        == 'see [@a.py](/workspace/a.py)`/workspace/a.py`\n\n<context ref="/workspace/a.py">\nx = 1\n</context>'
    )
    for wrong in (None, [1], [{}], [{"type": "audio", "data": ""}], [{"type": "image", "data": "!"}], [{"type": "image", "data": "aGk="}]):
        with pytest.raises(AegisError) as refused:
            prompts.message(wrong, places)
        assert refused.value.kind is ErrorKind.USAGE


def item(**more: Any) -> Any:
    return {
        "id": "a1",
        "turn": "t",
        "call_id": None,
        "tool": "Bash",
        "kind": "execute",
        "title": "rm x",
        "input": {"command": "rm x"},
    } | more


def test_questions() -> None:
    one = Telling(Places(INFO))
    asked = asking.request(item(), "s", one)
    assert [option["kind"] for option in asked["options"]] == ["allow_once", "reject_once"]

    def chosen(option: str, **more: Any) -> asking.Verdict | None:
        return asking.verdict(item(**more), {"outcome": {"outcome": "selected", "optionId": option}})

    assert chosen("allow") == asking.Verdict(True)
    assert chosen("reject") == asking.Verdict(False)
    for nothing in (chosen("else"), asking.verdict(item(), None), asking.verdict(item(), {"outcome": {"outcome": "cancelled"}})):
        assert nothing is None
    question = {"questions": [{"question": "Which?", "options": [{"label": "A"}, {"label": "B"}]}]}
    assert [option["name"] for option in asking.request(item(input=question), "s", one)["options"]] == ["A", "B", "Do not answer"]
    assert chosen("answer-1", input=question) == asking.Verdict(True, {**question, "answers": {"Which?": "B"}})
    assert chosen("answer-7", input=question) is None
    assert chosen("allow", input=question) is None


def test_offers() -> None:
    offer = Offer({**INFO, "modes": ["default", "plan"], "efforts": []}, "acp:x", ["p/n"])
    assert [option["id"] for option in offer.options()] == ["model"]
    assert [choice["value"] for choice in offer.options()[0]["options"]] == ["p/m", "p/n"]
    assert offer.modes() is None
    assert offer.change(mode="plan")
    assert not offer.change(mode="plan")
    assert offer.told()["modes"]["currentModeId"] == "plan"
