"""The asynchronous client: which events belong to a turn, and the whole of it against the real daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RealDaemon

import aegis
from aegis import Aegis, AegisError
from aegis.client.aio import Http, Instance
from aegis.core.errors import ErrorKind
from aegis.core.events import Outcome, TextDelta, TurnFinished

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], Path]


def _event(seq: int, kind: str, turn: str | None = None, **data: Any) -> dict[str, Any]:
    return {"seq": seq, "ts": 1.0, "type": kind, "data": data, "instance": "i", "session": "host:default", "turn": turn, "v": 1}


def _log(*events: dict[str, Any]) -> Callable[[BaseHTTPRequestHandler], None]:
    """A server that accepts any message as `m` and then tells `events`."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.command == "POST":
            request.rfile.read(int(request.headers["Content-Length"]))
            body = json.dumps({"id": "m", "msg_id": None, "session_id": "default", "ingress_seq": 1, "duplicate": False}).encode()
        else:
            body = b"".join(json.dumps(event).encode() + b"\n" for event in events)
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


async def _turn(path: Path) -> list[int]:
    http = Http(path)
    try:
        return [event.seq async for event in Instance(http, {"id": "i", "handle": "h"}).turn("hi")]  # type: ignore[typeddict-item]
    finally:
        await http.close()


def test_the_public_names_are_these() -> None:
    assert aegis.__all__ == ["Aegis", "AegisError", "__version__"]
    assert {name for name in dir(aegis) if not name.startswith("_")} >= {"Aegis", "AegisError"}
    with pytest.raises(AttributeError, match="nothing"):
        aegis.nothing  # noqa: B018


async def test_a_turn_is_the_one_that_answers_the_message(serve: Serve) -> None:
    path = serve(_log(
        _event(2, "turn.started", "other", in_reply_to=["x"]),
        _event(3, "turn.text.delta", "other", text="no"),
        _event(4, "turn.finished", "other", outcome="completed", in_reply_to=["x"]),
        _event(5, "turn.started", "mine", in_reply_to=["m"]),
        _event(6, "mail.injected", "mine", message_ids=["m"]),
        _event(7, "turn.text.delta", "mine", text="yes"),
        _event(8, "turn.finished", "mine", outcome="completed", in_reply_to=["m"]),
        _event(9, "turn.started", "later", in_reply_to=["y"]),
    ))  # fmt: skip
    assert await _turn(path) == [5, 6, 7, 8]


async def test_a_message_that_joins_a_running_turn_begins_there(serve: Serve) -> None:
    path = serve(_log(
        _event(2, "turn.text.delta", "t", text="before"),
        _event(3, "mail.injected", "t", message_ids=["x", "m"]),
        _event(4, "turn.text.delta", "t", text="after"),
        _event(5, "turn.finished", "t", outcome="failed", in_reply_to=["x", "m"]),
    ))  # fmt: skip
    assert await _turn(path) == [3, 4, 5]


async def test_a_turn_that_goes_on_is_followed(serve: Serve) -> None:
    path = serve(_log(
        _event(2, "turn.started", "t", in_reply_to=["m"]),
        _event(3, "turn.finished", "t", outcome="interrupted", in_reply_to=["m"], error={"will_continue": True}),
        _event(4, "turn.started", "u", in_reply_to=["m"], continues="t"),
        _event(5, "turn.finished", "u", outcome="completed", in_reply_to=["m"]),
    ))  # fmt: skip
    assert await _turn(path) == [2, 3, 4, 5]


async def test_a_message_that_cannot_be_delivered_ends_with_that(serve: Serve) -> None:
    path = serve(_log(_event(2, "mail.failed", None, message_ids=["m"], reason="closed")))
    assert await _turn(path) == [2]


async def test_a_log_that_ends_before_the_answer_is_unreachable(serve: Serve) -> None:
    with pytest.raises(AegisError) as caught:
        await _turn(serve(_log(_event(2, "turn.started", "t", in_reply_to=["m"]))))
    assert caught.value.kind is ErrorKind.UNREACHABLE


async def test_an_agent_from_start_to_delete(daemon: RealDaemon, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("hello")
    async with Aegis(daemon.home) as client:
        agent = await client.start(handle="echo", model="scripted/echo", sandbox="process", workspace=str(tmp_path))
        assert (agent.handle, agent.info["workspace"]) == ("echo", str(tmp_path.resolve()))

        events = [event async for event in agent.turn("one two")]
        assert events[0].type == "turn.started"
        last = events[-1].fact
        assert isinstance(last, TurnFinished)
        assert last.outcome is Outcome.COMPLETED
        pieces = [event.fact.text for event in events if isinstance(event.fact, TextDelta)]
        assert "one two" in last.text
        assert "".join(pieces) == last.text

        first = await agent.send("again", msg_id="mine")
        again = await agent.send("again", msg_id="mine")
        assert (again.id, again.duplicate) == (first.id, True)

        told = await agent.exec(["sh", "-c", "cat; cat note; echo err >&2; exit 3"], stdin=b"in:")
        assert (told.exit_code, told.text, told.stderr) == (3, "in:hello", b"err\n")
        assert [other.id for other in await client.instances()] == [agent.id]
        assert (await agent.pause())["state"] == "paused"
        assert (await agent.resume())["state"] == "running"
        assert (await agent.stats())["processes"] >= 1
        assert (await agent.transcript())["messages"][0]["role"] == "user"
        kinds = [event.type async for event in client.events(instance=agent.id)]
        assert kinds[0] == "instance.created"
        await agent.delete()
        assert await client.instances() == []


async def test_a_turn_outlives_the_daemon(daemon: RealDaemon) -> None:
    async with Aegis(daemon.home) as client:
        agent = await client.start("agent", handle="py", sandbox="process", model="scripted/directives")
        events = agent.turn("[[hang 1]] [[say after all]]")
        seen = []
        async for event in events:
            seen.append(event)
            if event.type == "turn.started" and daemon.pid == (await client.status())["pid"]:
                daemon.kill()
        outcomes = [event.fact.outcome for event in seen if isinstance(event.fact, TurnFinished)]
        assert outcomes == [Outcome.INTERRUPTED, Outcome.COMPLETED]
        assert len({event.seq for event in seen}) == len(seen)


async def test_secrets_go_in_and_only_their_names_come_out(daemon: RealDaemon) -> None:
    async with Aegis(daemon.home) as client:
        await client.secrets.set("KEY", "hidden")
        assert [secret["name"] for secret in await client.secrets.all()] == ["KEY"]
        assert "hidden" not in json.dumps(await client.secrets.all())
        await client.secrets.delete("KEY")
        with pytest.raises(AegisError) as caught:
            await client.secrets.delete("KEY")
        assert caught.value.kind is ErrorKind.NOT_FOUND
