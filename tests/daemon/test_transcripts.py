"""The conversation of a program that keeps its own files, as messages: from its events, and through the real daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.conftest import RealDaemon
from tests.programs.conftest import Lab
from tests.programs.faking import Faked, install

from aegis import Aegis
from aegis.core import events as e
from aegis.daemon.http.transcripts import SAYING, said


def _event(seq: int, fact: e.Fact, turn: str | None = "t") -> e.Event:
    data = msgspec.Raw(msgspec.json.encode(fact))
    return e.Event(seq=seq, ts=float(seq), type=fact.type, data=data, instance="i", session="host:default", turn=turn)


def test_each_event_that_says_something_is_a_message() -> None:
    found = said([
        _event(1, e.MailAccepted("m", "person:ann", "do it"), None),
        _event(2, e.TurnStarted(["m"])),
        _event(3, e.Thinking("hmm")),
        _event(4, e.ToolCall("c", "Task", {"x": 1})),
        _event(5, e.Text("inner", parent="c")),
        _event(6, e.ToolResult("c", "Task", False, "no")),
        _event(7, e.Text("done")),
        _event(8, e.TurnFinished(e.Outcome.COMPLETED, ["m"])),
    ])  # fmt: skip
    assert [(item["n"], item["role"], item["turn"], item["content"][0]["type"]) for item in found] == [
        (1, "user", None, "text"),
        (3, "assistant", "t", "thinking"),
        (4, "assistant", "t", "tool_call"),
        (5, "assistant", "t", "text"),
        (6, "user", "t", "tool_result"),
        (7, "assistant", "t", "text"),
    ]
    assert found[2]["content"] == [{"type": "tool_call", "id": "c", "name": "Task", "input": {"x": 1}}]
    assert found[4]["content"] == [{"type": "tool_result", "id": "c", "name": "Task", "ok": False, "output": "no"}]
    assert [item.get("parent") for item in found] == [None, None, None, "c", None, None]


def test_nothing_else_is_asked_of_the_log() -> None:
    assert set(SAYING) == {"mail.accepted", "turn.text", "turn.thinking", "turn.tool.call", "turn.tool.result"}


@pytest.fixture
def faked(short_home: Path, tmp_path: Path) -> Iterator[Faked]:
    """A home with a program of a person's own data file."""
    real = RealDaemon(short_home)
    yield install(real, "mine", tmp_path / "bin", lambda: Lab("mine", real, None, tmp_path / "work"))  # type: ignore[arg-type]
    real.down()


def test_a_program_has_one_by_session_and_page(faked: Faked, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    client = faked.lab.client
    faked.lab.start(sandbox="process", model="scripted/echo")
    faked.lab.ask("say:one")
    faked.lab.ask("say:elsewhere", session=("host", "two"))
    faked.lab.ask("say:three")

    def texts(whole: Any) -> list[str]:
        return [item["content"][0]["text"] for item in whole["messages"]]

    assert texts(client.mail.transcript("a")) == ["say:one", "one", "say:three", "three"]
    assert texts(client.mail.transcript("a", ("host", "two"))) == ["say:elsewhere", "elsewhere"]
    assert texts(client.mail.transcript("a", ("host", "none"))) == []

    async def rest() -> Any:
        async with Aegis(faked.lab.real.home) as aegis:
            return await (await aegis.instance("a")).transcript()

    assert texts(asyncio.run(rest())) == ["say:one", "one", "say:three", "three"]
