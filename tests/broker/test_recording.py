"""Model calls written down, and answered again from what was written."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.models import ModelRequest, ModelResponse, Usage
from aegis.services.broker import Player, Recorder
from aegis.services.broker.recording import MAX_REQUEST
from aegis.services.broker.tapes import digest

START = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":10,"output_tokens":1}}}\n\n'
END = b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":5}}\n\n'


class Tape:
    """One file, and the broker that writes to it or reads from it."""

    def __init__(self, served: Any, folder: Path) -> None:
        self.served = served
        self.home = folder / "home"
        self.home.mkdir()
        self.path = folder / "calls.jsonl"
        self.problems: list[str | None] = []
        self.open: list[Any] = []

    def record(self) -> Recorder:
        recorder = Recorder(str(self.path), self.home, self.served.clock, self.problems.append)
        self.served.client.record, self.served.client.replay = recorder, None
        self.open.append(recorder)
        return recorder

    def replay(self) -> Player:
        player = Player(str(self.path), self.home, self.served.clock)
        self.served.client.record, self.served.client.replay = None, player
        self.served.secrets.clear()
        self.served.providers.clear()
        self.open.append(player)
        return player

    async def post(self, *request: Any) -> Any:
        """A call that is over: recorded, too."""
        reply = await self.served.post(*request)
        await self.served.ended()
        return reply

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def tape(served: Any, tmp_path: Path) -> Any:
    it = Tape(served, tmp_path)
    yield it
    for file in it.open:
        file.close()


def body(text: str, **more: Any) -> bytes:
    return json.dumps({"model": "claude-x", "messages": [{"role": "user", "content": text}], **more}).encode()


def message(reply: Any) -> str:
    return str(json.loads(reply.body)["error"]["message"])


async def test_what_was_recorded_is_answered_again_without_a_provider(served: Any, fake: Any, answers: Any, tape: Tape) -> None:
    async def answer(request: ModelRequest) -> ModelResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield START[:50]
            yield START[50:] + "ä".encode()[:1]
            yield "ä".encode()[1:] + END

        return answers.streamed(pieces())  # type: ignore[no-any-return]

    fake.answer = answer
    tape.record()
    first = await tape.post("/v1/messages", body("hello"), "x-aegis-session: host:default")
    assert stat.S_IMODE(tape.path.stat().st_mode) == 0o600
    header, exchange = tape.lines()
    assert header["aegis_model_calls"] == 1
    assert (exchange["n"], exchange["session"], exchange["name"]) == (1, "host:default", "anthropic /v1/messages")
    assert exchange["usage"]["input"] == 10
    assert exchange["request"] == body("hello").decode()
    tape.replay()
    again = await tape.post("/v1/messages", body("hello"), "x-aegis-session: host:default")
    assert (again.status, again.body, again.headers["content-type"]) == (200, first.body, "text/event-stream")
    call = served.recorded[-1]
    assert (call.source, call.usage, call.cost_usd, call.outcome) == ("replayed", Usage(10, 5), 0.0, "completed")
    assert call.admitted
    assert len(fake.seen) == 1
    third = await tape.post("/v1/messages", body("hello"), "x-aegis-session: host:default")
    assert (third.status, third.headers["x-should-retry"]) == (410, "false")
    assert f"the recording {tape.path} has no answer for call 2 of session `host:default` to anthropic /v1/messages" in message(third)


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/chat/completions", "/v1/responses", "/v1beta/models/echo:streamGenerateContent?alt=sse"]
)
async def test_every_dialect_is_replayed(served: Any, tape: Tape, path: str) -> None:
    asked = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
    if "models" in path:
        asked = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    tape.record()
    first = await tape.post(path, json.dumps(asked).encode())
    assert b"echo: " in first.body
    tape.replay()
    again = await tape.post(path.replace("models/echo", "models/scripted%2Fecho"), json.dumps(asked, indent=1).encode())
    assert (again.status, again.body) == (first.status, first.body)


async def echoing(answers: Any, request: ModelRequest) -> ModelResponse:
    return answers.whole(request.body)  # type: ignore[no-any-return]


async def test_the_same_question_first_then_the_order(served: Any, fake: Any, answers: Any, tape: Tape) -> None:
    fake.answer = lambda request: echoing(answers, request)
    tape.record()
    for text in ("one", "two", "three"):
        await tape.post("/v1/messages", body(text))
    await tape.post("/v1/messages/count_tokens", body("one"))
    await tape.post("/v1/messages", body("one"), "x-aegis-session: host:other")
    tape.replay()
    got = [json.loads((await tape.post("/v1/messages", body(text))).body)["messages"][0]["content"] for text in ("two", "new", "one")]
    assert got == ["two", "one", "three"]
    assert (await tape.post("/v1/messages", body("x"), "x-aegis-session: host:none")).status == 410
    other = await tape.post("/v1/messages", body("x"), "x-aegis-session: host:other")
    assert json.loads(other.body)["messages"][0]["content"] == "one"
    assert (await tape.post("/v1/messages/count_tokens", body("x"))).status == 200


def test_what_differs_from_run_to_run_is_not_asked_for() -> None:
    def asked(day: str, place: str, ident: str, version: str) -> bytes:
        system = f"Today is {day}. The directory is {place}/w. cli {version}, session {ident}"
        data = {"model": ident, "metadata": {"user_id": ident}, "system": system, "messages": [{"id": f"toolu_{ident}", "content": "hi"}]}
        return json.dumps(data).encode()

    first = asked("2026-11-21", "/tmp/pytest-1", "0b9f6cd2-2c11-4f5e-9f0e-5a4f5d1f0a11", "2.1.328")
    second = asked("2027-01-02", "/tmp/x/y-9", "deadbeef-2c11-4f5e-9f0e-5a4f5d1f0a99", "2.1.400")
    assert digest(first) == digest(second)
    assert digest(first) != digest(first.replace(b'"hi"', b'"ho"'))
    assert digest(b'{"a":1,"b":2}') == digest(b'{ "b":2, "a":1 }')
    assert digest(b"not json\xff")


async def test_failures_are_replayed_too(served: Any, fake: Any, answers: Any, tape: Tape) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield START
        raise AegisError(ErrorKind.UNREACHABLE, "broke off")

    replies = [
        answers.whole(b'{"error":{"message":"busy"}}', 529, ("retry-after", "1")),
        answers.streamed(half()),
        AegisError(ErrorKind.UNREACHABLE, "no answer from model provider `anthropic`"),
    ]

    async def answer(request: ModelRequest) -> ModelResponse:
        reply = replies.pop(0)
        if isinstance(reply, AegisError):
            raise reply
        return reply  # type: ignore[no-any-return]

    fake.answer = answer
    tape.record()
    recorded = [await tape.post("/v1/messages", body("x")) for _ in range(3)]
    tape.replay()
    replayed = [await tape.post("/v1/messages", body("x")) for _ in range(3)]
    assert [reply.status for reply in recorded] == [reply.status for reply in replayed] == [529, 200, 502]
    assert recorded[0].body == replayed[0].body
    assert replayed[1].body.startswith(START)
    assert b"event: error" in replayed[1].body
    assert "there was no answer" in message(replayed[2])
    assert {call.cost_usd for call in served.recorded[3:]} == {0.0}


async def test_a_replayed_limit_holds_nobody(served: Any, fake: Any, answers: Any, tape: Tape) -> None:
    async def answer(request: ModelRequest) -> ModelResponse:
        return answers.whole(b'{"error":{"code":"insufficient_quota"}}', 429)  # type: ignore[no-any-return]

    fake.answer = answer
    tape.record()
    assert (await tape.post("/v1/messages", body("x"))).status == 402
    tape.replay()
    served.holds["anthropic"] = served.clock.now() + 1000
    assert (await tape.post("/v1/messages", body("x"))).status == 402
    assert len(served.limits) == 1


async def test_no_credential_is_written(served: Any, fake: Any, answers: Any, tape: Tape) -> None:
    async def quotes(request: ModelRequest) -> ModelResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"data: sk-sec"
            yield b"ret-key\n\n"

        return ModelResponse(200, (("content-type", "text/event-stream"), ("request-id", "sk-secret-key")), pieces())

    fake.answer = quotes
    tape.record()
    await tape.post("/v1/messages", body("sk-secret-key"), "authorization-x: sk-secret-key")
    text = tape.path.read_text()
    assert "sk-secret-key" not in text
    assert served.client.token not in text
    assert text.count("[key]") == 3


async def test_long_requests_are_kept_as_digests(served: Any, fake: Any, answers: Any, tape: Tape) -> None:
    fake.answer = lambda request: echoing(answers, request)
    tape.record()
    await tape.post("/v1/messages", body("y" * MAX_REQUEST))
    assert "request" not in tape.lines()[1]
    tape.replay()
    assert (await tape.post("/v1/messages", body("y" * MAX_REQUEST))).status == 200


async def test_a_recording_is_gone_on_with(served: Any, fake: Any, tape: Tape) -> None:
    tape.record()
    await tape.post("/v1/messages", body("one"))
    with tape.path.open("a") as file:
        file.write('{"n":99,"half a li')  # the daemon died here
    tape.record()
    await asyncio.gather(*(tape.post("/v1/messages", body(text)) for text in ("two", "three")))
    assert [line["n"] for line in tape.lines()[1:]] in ([1, 2, 3], [1, 3, 2])
    assert tape.problems == []


async def test_a_full_disk_breaks_no_call_and_is_told_once(served: Any, fake: Any, tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = tape.record()
    await tape.post("/v1/messages", body("one"))
    size = tape.path.stat().st_size
    write = os.write

    def full(fd: int, data: Any) -> int:
        if fd != recorder._fd:
            return write(fd, data)
        if tape.path.stat().st_size > size:
            raise OSError(28, "No space left on device")
        return write(fd, data[:5])

    monkeypatch.setattr(os, "write", full)
    for _ in range(2):
        assert (await tape.post("/v1/messages", body("two"))).status == 200
    monkeypatch.undo()
    assert tape.problems == [f"model calls cannot be recorded in {tape.path}: No space left on device"]
    assert tape.path.stat().st_size == size
    assert (await tape.post("/v1/messages", body("three"))).status == 200
    assert tape.problems[1:] == [None]
    assert [line["n"] for line in tape.lines()[1:]] == [1, 4]


@pytest.mark.parametrize("what", ["home", "folder", "device", "link", "link to the home", "other file", "relative", "nowhere"])
async def test_what_may_not_be_a_recording(served: Any, fake: Any, tape: Tape, what: str) -> None:
    folder = tape.path.parent
    inside = tape.home / "store.db"
    inside.write_text("precious")
    bashrc = folder / "bashrc"
    bashrc.write_text("precious\n")
    (folder / "link").symlink_to(bashrc)
    (folder / "way").symlink_to(tape.home)
    path = {
        "home": str(inside),
        "folder": str(folder),
        "device": "/dev/null",
        "link": str(folder / "link"),
        "link to the home": str(folder / "way" / "new"),
        "other file": str(bashrc),
        "relative": "calls.jsonl",
        "nowhere": str(folder / "no" / "calls.jsonl"),
    }[what]
    tape.path = path  # type: ignore[assignment]
    recorder = tape.record()
    with pytest.raises(AegisError, match=path):
        await recorder.open()
    assert (await tape.post("/v1/messages", body("one"))).status == 200
    assert len(tape.problems) == 1
    tape.replay()
    reply = await tape.post("/v1/messages", body("one"))
    assert (reply.status, reply.headers["x-should-retry"]) == (410, "false")
    assert path in message(reply)
    assert (inside.read_text(), bashrc.read_text()) == ("precious", "precious\n")


HEADER = '{"aegis_model_calls":1}\n'
GOOD = {"n": 1, "name": "anthropic /v1/messages", "model": "anthropic/claude-x", "digest": "x", "status": 200, "pieces": [[0, "{}", None]]}


def line(**more: Any) -> str:
    return json.dumps({**GOOD, **more}) + "\n"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 1),
        ("{}\n", 1),
        ("[" * 100_000, 1),
        ('{"aegis_model_calls":2}\n', 1),
        ('{"aegis_model_calls":1,"timing":"slow"}\n', 1),
        (HEADER + line() + "nonsense\n", 3),
        (HEADER + line()[:-20], 2),
        (HEADER + line(status=7), 2),
        (HEADER + line(status="200"), 2),
        (HEADER + line(headers=[["content-type", "x\r\nset-cookie: y"]]), 2),
        (HEADER + line(headers=[["bad name", "x"]]), 2),
        (HEADER + line(pieces=[["x"]]), 2),
        (HEADER + line(pieces=[[0, None, "no base64!"]]), 2),
        (HEADER + line(usage=[]), 2),
    ],
)
async def test_a_damaged_file_is_told_with_its_line(served: Any, fake: Any, tape: Tape, text: str, number: int) -> None:
    tape.path.write_text(text)
    tape.replay()
    for _ in range(2):
        reply = await tape.post("/v1/messages", body("one"))
        assert (reply.status, reply.headers["x-should-retry"]) == (410, "false")
        assert f"{tape.path}:{number}: " in message(reply)
    tape.path.write_text(HEADER + line())
    assert (await tape.post("/v1/messages", body("one"))).body == b"{}"


async def test_recorded_timing_on_request(served: Any, fake: Any, tape: Tape) -> None:
    tape.path.write_text('{"aegis_model_calls":1,"timing":"recorded"}\n' + line(pieces=[[0, "a", None], [2500, "b", None]]))
    tape.replay()
    reply = asyncio.ensure_future(served.post("/v1/messages", body("one")))
    async with asyncio.timeout(20):
        while not served.clock._sleepers:
            await asyncio.sleep(0)
    assert not reply.done()
    await served.clock.advance(2.5)
    assert (await reply).body == b"ab"
