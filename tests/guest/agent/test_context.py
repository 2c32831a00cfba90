"""What a request holds: always the newest message, pairs never split, within the budget, memory untouched."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.guest.agent.context import BLOCK, CLIP, clip, cost, fit, tokens
from aegis.guest.agent.memory import paired

Message = dict[str, Any]


def user(text: str, ident: str = "m") -> Message:
    return {"role": "user", "content": [{"type": "text", "text": text}], "ids": [ident]}


def said(text: str, *calls: tuple[str, str], thinking: str = "") -> Message:
    blocks: list[dict[str, Any]] = [{"type": "thinking", "text": thinking, "signature": "s"}] if thinking else []
    blocks += [{"type": "text", "text": text}] if text else []
    blocks += [{"type": "tool_call", "id": i, "name": "write", "input": {"path": "p", "content": c}} for i, c in calls]
    return {"role": "assistant", "content": blocks}


def results(*pairs: tuple[str, str]) -> Message:
    return {"role": "tool", "content": [{"type": "tool_result", "id": i, "name": "write", "ok": True, "output": o} for i, o in pairs]}


sizes = st.one_of(st.text(max_size=30), st.integers(0, 20_000).map(lambda n: "word " * (n // 5)), st.text("äぁ", min_size=0, max_size=3000))


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    """Memories as they come about, whole or cut at any place."""
    out: list[Message] = []
    count = 0
    for turn in range(draw(st.integers(1, 5))):
        out.append(user(draw(sizes), f"m{turn}"))
        for _ in range(draw(st.integers(0, 4))):
            calls = [f"c{count + i}" for i in range(draw(st.integers(1, 3)))]
            count += len(calls)
            out.append(said(draw(sizes), *[(c, draw(sizes)) for c in calls], thinking=draw(st.text(max_size=200))))
            out.append(results(*[(c, draw(sizes)) for c in calls]))
        if draw(st.booleans()):
            out.append(said("answer"))
    return out[: draw(st.integers(1, len(out)))]


@settings(max_examples=300, deadline=None)
@given(histories(), st.integers(0, 30_000))
def test_invariants(history: list[Message], extra: int) -> None:
    before = copy.deepcopy(history)
    whole = paired(history)
    most_blocks = sum(len(m["content"]) for m in whole)
    budget = extra + most_blocks * (BLOCK + CLIP) + 100
    sent = fit(history, budget)
    assert history == before
    assert cost(sent) <= budget
    newest = whole[-1]
    assert sent[-1]["role"] == newest["role"]
    assert [b.get("id") for b in sent[-1]["content"] if b["type"] in ("tool_call", "tool_result")] == [
        b.get("id") for b in newest["content"] if b["type"] in ("tool_call", "tool_result")
    ]
    assert sent[0]["role"] == "user"
    assert paired(sent) == sent  # answered pairs, alternating roles, nothing left to mend
    if cost(whole) <= budget and not any(b["type"] == "thinking" for m in whole for b in m["content"]):
        assert sent == whole


@given(st.text(max_size=500), st.integers(CLIP, 400))
def test_clip(text: str, limit: int) -> None:
    cut = clip(text, limit)
    assert len(cut) <= limit
    assert cut == text or "characters left out" in cut


def test_oversized_newest_user_text_is_cut_not_dropped() -> None:
    sent = fit([user("old"), said("ok"), user("begin " + "x" * 1_000_000 + " end")], 1000)
    assert len(sent) == 1
    text = sent[0]["content"][0]["text"]
    assert text.startswith("begin")
    assert text.endswith("end")
    assert tokens(text) <= 1000


def test_a_long_turn_keeps_its_question_and_its_newest_steps() -> None:
    history = [user("old", "m0"), said("answer"), user("the task", "m1")]
    for i in range(50):
        history += [said("", (f"c{i}", "x" * 400)), results((f"c{i}", "y" * 400))]
    sent = fit(history, 2000)
    assert sent[0]["content"][0]["text"] == "the task"
    assert "earlier steps" in sent[0]["content"][1]["text"]
    assert sent[-1]["content"][0]["id"] == "c49"
    assert "answer" not in str(sent)
    assert len(sent) > 5


def test_older_turns_go_whole_and_without_thinking() -> None:
    history = [user("a" * 4000), said("b"), user("c"), said("d", thinking="deep")]
    history += [user("e", "m2"), said("f", ("c1", "x"), thinking="now"), results(("c1", "r"))]
    sent = fit(history, 600)
    assert [m["content"][-1].get("text") for m in sent[:3]] == ["c", "d", "e"]
    assert "deep" not in str(sent)
    assert "now" in str(sent)


def test_repair() -> None:
    broken = [said("stray"), results(("none", "x")), user("go"), said("", ("a", ""), ("b", "")), results(("a", "done")), user("more", "m2")]
    mended = paired(broken)
    assert [m["role"] for m in mended] == ["user", "assistant", "tool", "user"]
    assert [b["id"] for b in mended[2]["content"]] == ["a", "b"]
    assert not mended[2]["content"][1]["ok"]
    assert paired([user("1", "a"), user("2", "b")]) == [
        {"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}], "ids": ["a", "b"]}
    ]
    assert fit([], 100) == []
