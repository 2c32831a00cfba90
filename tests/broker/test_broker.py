import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.models import ModelRequest, ModelResponse, Usage

BODY = b'{ "model": "anthropic/claude-x",\t"messages": [], "x": 1.0 }'
START = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":10,"output_tokens":1}}}\n\n'
END = b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":5}}\n\n'


def head(served: Any, length: int, *more: str) -> bytes:
    lines = ["POST /v1/messages HTTP/1.1", "host: x", f"x-api-key: {served.client.token}", f"content-length: {length}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def error(reply: Any) -> dict[str, Any]:
    return dict(json.loads(reply.body)["error"])


async def test_a_call_goes_through_unchanged_but_for_the_model(served: Any, fake: Any) -> None:
    reply = await served.post("/v1/messages?beta=true", BODY, "anthropic-beta: a,b", "x-aegis-session: host:default")
    assert (reply.status, json.loads(reply.body)["type"]) == (200, "message")
    request = fake.seen[0]
    assert request.body == BODY.replace(b"anthropic/claude-x", b"claude-x")
    assert (request.path, request.dialect, fake.keys) == ("/v1/messages?beta=true", "anthropic", ["sk-secret-key"])
    assert dict(request.headers)["anthropic-beta"] == "a,b"
    assert "authorization" not in dict(request.headers)
    call = served.recorded[0]
    assert (call.instance, call.session, call.model, call.status, call.outcome) == (
        "inst_1",
        "host:default",
        "anthropic/claude-x",
        200,
        "completed",
    )
    assert (call.usage, call.cost_usd) == (Usage(100, 10), None)
    assert call.ms > 0
    assert served.admitted == served.recorded
    assert call.admitted


async def test_the_models_own_name_will_do(served: Any, fake: Any) -> None:
    served.client.models = lambda: ("scripted/echo", "anthropic/claude-sonnet-4-5")
    assert (await served.post("/v1/messages", b'{"model":"claude-sonnet-4-5"}')).status == 200
    assert served.recorded[0].model == "anthropic/claude-sonnet-4-5"
    assert served.recorded[0].cost_usd == pytest.approx((100 * 3 + 10 * 15) / 1e6)


async def test_another_model_is_refused_by_name(served: Any, fake: Any) -> None:
    reply = await served.post("/v1/messages", b'{"model":"anthropic/claude-opus"}')
    assert (reply.status, error(reply)["type"]) == (403, "permission_error")
    assert "`anthropic/claude-x`" in error(reply)["message"]
    assert not served.admitted
    assert (served.recorded[0].outcome, served.recorded[0].admitted) == ("refused", False)


@pytest.mark.parametrize("how", ["authorization: Bearer {}", "x-api-key: {}", "x-goog-api-key: {}", "authorization: bearer {}"])
async def test_the_token_of_the_sandbox(served: Any, how: str) -> None:
    body = b'{"model":"scripted/echo","messages":[]}'
    for token, status in ((served.client.token, 200), ("wrong", 401), ("", 401), (served.client.token + "x", 401)):
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\n{how.format(token)}\r\ncontent-length: {len(body)}\r\n\r\n"
        assert (await served.raw(head.encode() + body)).status == status
    served.client.token = ""
    assert (await served.raw(f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{how.format('')}\r\n\r\n".encode())).status == 401
    assert len(served.recorded) == 1


async def test_routes(served: Any) -> None:
    assert (await served.raw(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")).status == 200
    reader, writer = await served.connect()
    writer.write(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await served.read(reader, body=False)).status == 200
    writer.close()
    head = f"HTTP/1.1\r\nhost: x\r\nx-api-key: {served.client.token}\r\n\r\n"
    models = await served.raw(f"GET /v1/models {head}".encode())
    assert [each["id"] for each in json.loads(models.body)["data"]] == ["scripted/echo", "anthropic/claude-x"]
    for target in ("GET /v1/messages", "GET /etc/passwd", "DELETE /v1/models", "GET /v1/messages/../models"):
        reply = await served.raw(f"{target} {head}".encode())
        assert (reply.status, error(reply)["type"]) == (404, "not_found_error")
    for path in ("/v1/chat/completions", "/chat/completions"):
        assert (await served.post(path, b'{"model":"echo","messages":[]}')).status == 200
    assert (await served.post("/v1/messages/count_tokens", b'{"model":"echo","messages":[]}')).body.startswith(b'{"input_tokens":')
    assert served.recorded[-1].usage == Usage()


async def test_a_dialect_the_provider_does_not_speak(served: Any, fake: Any) -> None:
    reply = await served.post("/v1/chat/completions", b'{"model":"claude-x"}')
    assert reply.status == 400
    assert "anthropic" in error(reply)["message"]


async def test_a_missing_key_names_the_mend(served: Any, fake: Any) -> None:
    served.secrets.clear()
    reply = await served.post("/v1/messages", BODY)
    assert (reply.status, error(reply)["type"], reply.headers["x-should-retry"]) == (401, "authentication_error", "false")
    assert "aegis secret set ANTHROPIC_API_KEY" in error(reply)["message"]
    assert "aegis doctor" in error(reply)["message"]
    assert not fake.seen
    assert served.recorded[0].outcome == "refused"


async def test_a_reached_budget_is_not_an_error_that_is_tried_again(served: Any, fake: Any) -> None:
    served.refusal = AegisError(ErrorKind.LIMIT, "the budget of `a` is spent", "raise it", limit="day\r\nx: y", resets_at=1_900_000_000.5)
    reply = await served.post("/v1/messages", BODY)
    assert (reply.status, error(reply)["type"]) == (402, "budget")
    assert error(reply)["message"] == "the budget of `a` is spent; raise it"
    assert error(reply)["resets_at"] == 1_900_000_000.5
    assert reply.headers["x-aegis-resets-at"] == "1900000000"
    assert reply.headers["x-aegis-limit"] == "day x: y"
    assert not fake.seen
    assert not served.recorded[0].admitted


@pytest.mark.parametrize(
    ("kind", "status"), [(ErrorKind.DENIED, 403), (ErrorKind.CONFLICT, 400), (ErrorKind.UNAVAILABLE, 400), (ErrorKind.INTERNAL, 400)]
)
async def test_other_refusals_are_not_tried_again_either(served: Any, fake: Any, kind: ErrorKind, status: int) -> None:
    served.refusal = AegisError(kind, "no")
    reply = await served.post("/v1/messages", BODY)
    assert (reply.status, reply.headers["x-should-retry"]) == (status, "false")


async def test_a_provider_without_an_answer(served: Any, fake: Any) -> None:
    async def nothing(request: ModelRequest) -> ModelResponse:
        raise AegisError(ErrorKind.UNREACHABLE, "no answer from model provider `anthropic`", sent=False)

    fake.answer = nothing
    reply = await served.post("/v1/messages", BODY)
    assert (reply.status, error(reply)["type"]) == (502, "api_error")
    assert (served.recorded[0].outcome, served.recorded[0].usage) == ("failed", Usage())


async def test_a_providers_limit_is_passed_on_and_marked(served: Any, fake: Any, answers: Any) -> None:
    async def limited(request: ModelRequest) -> Any:
        return answers.whole(
            b'{"type":"error"}', 429, ("retry-after", "60"), ("anthropic-ratelimit-requests-limit", "5"), ("anthropic-organization-id", "o")
        )

    fake.answer = limited
    reply = await served.post("/v1/messages", BODY)
    assert (reply.status, reply.body) == (429, b'{"type":"error"}')
    assert (reply.headers["x-aegis-limit"], reply.headers["x-aegis-resets-at"]) == ("provider", str(int(served.clock.now()) + 60))
    assert reply.headers["anthropic-ratelimit-requests-limit"] == "5"
    assert "anthropic-organization-id" not in reply.headers
    assert (served.recorded[0].outcome, served.recorded[0].usage) == ("failed", Usage())


async def test_bytes_are_passed_on_as_they_arrive(served: Any, fake: Any, answers: Any) -> None:
    go_on = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        yield START
        await go_on.wait()
        yield END

    async def answer(request: ModelRequest) -> Any:
        return answers.streamed(events())

    fake.answer = answer
    reader, writer = await served.connect()
    writer.write(head(served, len(BODY)) + BODY)
    async with asyncio.timeout(20):
        await reader.readuntil(START)
        assert not served.recorded
        go_on.set()
        await reader.readuntil(b"0\r\n\r\n")
    assert served.recorded[0].usage == Usage(10, 5)
    writer.close()


async def test_a_client_that_goes_away_ends_the_call(served: Any, fake: Any, answers: Any) -> None:
    closed = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        yield START
        await asyncio.Event().wait()

    async def close() -> None:
        closed.set()

    async def answer(request: ModelRequest) -> Any:
        return answers.streamed(events(), close)

    fake.answer = answer
    reader, writer = await served.connect()
    writer.write(head(served, len(BODY)) + BODY)
    await reader.readuntil(START)
    writer.close()
    await served.ended()
    assert closed.is_set()
    assert (served.recorded[0].outcome, served.recorded[0].usage) == ("cancelled", Usage(10, 1))
    assert len(served.recorded) == 1


async def test_a_client_that_goes_away_before_the_answer(served: Any, fake: Any) -> None:
    asked = asyncio.Event()

    async def silent(request: ModelRequest) -> ModelResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    fake.answer = silent
    _, writer = await served.connect()
    writer.write(head(served, len(BODY)) + BODY)
    await asked.wait()
    writer.close()
    await served.ended()
    assert [call.outcome for call in served.recorded] == ["cancelled"]


async def test_a_daemon_that_stops_records_its_calls(served: Any, fake: Any, answers: Any) -> None:
    started = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        started.set()
        yield START
        await asyncio.Event().wait()

    async def answer(request: ModelRequest) -> Any:
        return answers.streamed(events())

    fake.answer = answer
    _, writer = await served.connect()
    writer.write(head(served, len(BODY)) + BODY)
    await started.wait()
    served.connections[0].cancel()
    await served.ended()
    assert [call.outcome for call in served.recorded] == ["cancelled"]
    writer.close()


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_a_stream_that_breaks_off_ends_with_an_error_event(served: Any, fake: Any, answers: Any, path: str) -> None:
    async def events() -> AsyncIterator[bytes]:
        yield START
        raise AegisError(ErrorKind.UNREACHABLE, "model provider broke off its answer")

    async def answer(request: ModelRequest) -> Any:
        return answers.streamed(events())

    fake.answer = answer
    fake.dialects = frozenset({"anthropic", "openai"})
    reply = await served.post(path, BODY)
    assert reply.status == 200
    last = reply.body[len(START) :]
    assert last.startswith(b"event: error\ndata: " if path == "/v1/messages" else b"data: ")
    assert last.endswith(b"\n\n")
    assert json.loads(last.partition(b"data: ")[2])["error"]["message"] == "model provider broke off its answer"
    assert served.recorded[0].outcome == "failed"


@pytest.mark.parametrize(("kind", "data"), [("application/json", b'{"type":'), ("text/event-stream", START + b'data: {"ty')])
async def test_half_an_answer_does_not_look_whole(served: Any, fake: Any, kind: str, data: bytes) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield data
        raise AegisError(ErrorKind.UNREACHABLE, "broke off")

    async def answer(request: ModelRequest) -> ModelResponse:
        return ModelResponse(200, (("content-type", kind),), half())

    fake.answer = answer
    reader, writer = await served.connect()
    writer.write(head(served, len(BODY)) + BODY)
    got = await reader.read()
    assert data in got
    assert not got.endswith(b"0\r\n\r\n")
    writer.close()
    await served.ended()
    assert [call.outcome for call in served.recorded] == ["failed"]


async def test_a_record_that_fails_harms_nobody_and_is_told(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(call: Any) -> None:
        raise OSError("disk full, and a secret")

    served.broker._record = fails
    assert (await served.post("/v1/messages", b'{"model":"echo","messages":[]}')).status == 200
    assert "could not be recorded: OSError" in caplog.text
    assert "a secret" not in caplog.text


async def test_a_defect_does_not_tell_the_key(served: Any, fake: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def defect(request: ModelRequest) -> ModelResponse:
        raise RuntimeError("broken with sk-secret-key")

    fake.answer = defect
    reply = await served.post("/v1/messages", BODY)
    assert (reply.status, error(reply)["type"]) == (500, "api_error")
    await served.ended()
    assert "RuntimeError" in caplog.text
    assert "sk-secret-key" not in caplog.text + reply.body.decode()
    assert served.recorded[0].outcome == "failed"
