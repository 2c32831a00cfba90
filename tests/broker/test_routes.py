"""Where a request goes: sessions in the path, four dialects, and which models there are."""

import base64
import json
from typing import Any

import pytest

from aegis.models import ModelRequest, ModelResponse, Usage

PATHS = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
    "gemini": "/v1beta/models/scripted/echo:generateContent",
}
BODIES = {
    "anthropic": {"model": "scripted/echo", "messages": [{"role": "user", "content": "hi"}]},
    "openai": {"model": "scripted/echo", "messages": [{"role": "user", "content": "hi"}]},
    "responses": {"model": "scripted/echo", "input": "hi"},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}


def key(session: str) -> str:
    return base64.urlsafe_b64encode(session.encode()).decode().rstrip("=")


def message(reply: Any) -> str:
    return str(json.loads(reply.body)["error"]["message"])


@pytest.mark.parametrize("dialect", PATHS)
async def test_each_dialect_is_answered_and_recorded(served: Any, dialect: str) -> None:
    reply = await served.post(PATHS[dialect], json.dumps(BODIES[dialect]).encode())
    assert reply.status == 200
    assert b"echo: hi" in reply.body
    call = served.recorded[0]
    assert (call.dialect, call.model, call.outcome, call.stream, call.source) == (dialect, "scripted/echo", "completed", False, "broker")
    assert call.usage.output > 0


@pytest.mark.parametrize("dialect", PATHS)
async def test_a_session_stands_before_the_path(served: Any, dialect: str) -> None:
    for session in ("host:default", "web:a/b?c", "x:" + "y" * 128):
        reply = await served.post(f"/s/{key(session)}{PATHS[dialect]}", json.dumps(BODIES[dialect]).encode(), "x-aegis-session: host:other")
        assert reply.status == 200
        assert served.recorded[-1].session == session
    await served.post(PATHS[dialect], json.dumps(BODIES[dialect]).encode(), "x-aegis-session: host:other")
    assert served.recorded[-1].session == "host:other"


@pytest.mark.parametrize("session", ["", "!", "a", key("a b"), key("a\n"), key("ä"), "x" * 2000, "aGk=", "%41%41"])
async def test_a_malformed_session_is_an_error_that_says_so(served: Any, session: str) -> None:
    reply = await served.post(f"/s/{session}/v1/messages", json.dumps(BODIES["anthropic"]).encode())
    assert (reply.status, reply.headers["x-should-retry"]) == (404, "false")
    assert "names no session" in message(reply)
    assert (await served.post(f"/s/{session}/v1/messages", b"{}", token="wrong")).status == 401
    assert not served.recorded


async def test_a_program_may_look_whether_its_base_url_is_alive(served: Any) -> None:
    for path in ("/", f"/s/{key('host:default')}", f"/s/{key('host:default')}/"):
        for method in ("GET", "HEAD"):
            reader, writer = await served.connect()
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert (await served.read(reader, body=method == "GET")).status == 200
            writer.close()


async def test_models_in_the_shape_of_each_dialect(served: Any) -> None:
    names = ["scripted/echo", "anthropic/claude-x"]
    openai = json.loads((await served.get("/v1/models")).body)
    assert (openai["object"], [each["id"] for each in openai["data"]]) == ("list", names)
    anthropic = json.loads((await served.get(f"/s/{key('a:b')}/v1/models", "anthropic-version: 2023-06-01")).body)
    assert ([each["id"] for each in anthropic["data"]], anthropic["has_more"], anthropic["last_id"]) == (names, False, names[-1])
    for path, header in (("/v1beta/models?pageSize=10", "x: y"), ("/v1/models", f"x-goog-api-key: {served.client.token}")):
        gemini = json.loads((await served.get(path, header)).body)
        assert [each["name"] for each in gemini["models"]] == [f"models/{name}" for name in names]
    assert json.loads((await served.get("/v1/models/echo")).body)["id"] == "scripted/echo"
    assert json.loads((await served.get("/v1beta/models/anthropic/claude-x")).body)["name"] == "models/anthropic/claude-x"
    missing = await served.get("/v1beta/models/other")
    assert (missing.status, json.loads(missing.body)["error"]["status"]) == (404, "NOT_FOUND")
    assert "`scripted/echo`" in message(missing)


@pytest.mark.parametrize("method", ["streamGenerateContent", "generateContent", "countTokens"])
async def test_gemini_names_its_model_in_the_path_and_keeps_its_body(served: Any, fake: Any, answers: Any, method: str) -> None:
    fake.name, fake.dialects = "gemini", frozenset({"gemini"})
    served.providers["gemini"] = fake
    served.client.model = "gemini/gemini-2.5-flash"
    seen: list[ModelRequest] = []

    async def answer(request: ModelRequest) -> ModelResponse:
        seen.append(request)
        return answers.whole(b'{"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":2}}')  # type: ignore[no-any-return]

    fake.answer = answer
    body = b'{ "contents": [],\t"generationConfig": {"maxOutputTokens": 17} }'
    token = served.client.token
    for name in ("gemini-2.5-flash", "gemini/gemini-2.5-flash", "gemini%2Fgemini-2.5-flash"):
        target = f"/v1beta/models/{name}:{method}?alt=sse&key={token}&fields=candidates&access_token=x"
        head = f"POST {target} HTTP/1.1\r\nhost: x\r\nx-goog-api-client: y\r\ncontent-length: {len(body)}\r\n\r\n"
        assert (await served.raw(head.encode() + body)).status == 200
    assert {request.body for request in seen} == {body}
    query = "?alt=sse" if method == "streamGenerateContent" else ""
    assert {request.path for request in seen} == {f"/v1beta/models/gemini-2.5-flash:{method}{query}"}
    assert {request.model for request in seen} == {"gemini-2.5-flash"}
    assert token not in str(seen)
    call = served.recorded[0]
    assert (call.model, call.max_tokens, call.stream) == ("gemini/gemini-2.5-flash", 17, method == "streamGenerateContent")
    assert (call.counts_only, call.usage) == (method == "countTokens", Usage() if method == "countTokens" else Usage(7, 2))
    assert call.admitted


async def test_the_token_in_the_query_must_be_the_right_one(served: Any) -> None:
    body = json.dumps(BODIES["gemini"]).encode()
    for given, status in ((served.client.token, 200), ("wrong", 401), ("", 401)):
        head = f"POST {PATHS['gemini']}?key={given} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        reply = await served.raw(head.encode() + body)
        assert reply.status == status
        assert status == 200 or json.loads(reply.body)["error"]["status"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("dialect", PATHS)
async def test_another_model_is_refused_once_and_the_allowed_ones_named(served: Any, dialect: str) -> None:
    body = {**BODIES[dialect]}
    if dialect != "gemini":
        body["model"] = "some-small-model"
    path = PATHS[dialect].replace("scripted/echo", "some-small-model")
    reply = await served.post(path, json.dumps(body).encode())
    assert (reply.status, reply.headers["x-should-retry"]) == (403, "false")
    assert "`some-small-model`" in message(reply)
    assert "`scripted/echo`, `anthropic/claude-x`" in message(reply)
    assert [call.outcome for call in served.recorded] == ["refused"]


async def test_a_model_is_allowed_from_when_a_session_was_switched_to_it(served: Any) -> None:
    switched: list[str] = []
    served.client.models = lambda: tuple(switched)
    body = b'{"model":"directives","messages":[]}'
    assert (await served.post("/v1/messages", body)).status == 403
    switched.append("scripted/directives")
    assert (await served.post("/v1/messages", body)).status == 200


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/responses", b'{"model":"echo","input":"x","background":true}', "`background`"),
        ("/v1beta/models/echo:generateContent", b'{"model":"models/other","contents":[]}', "the path names the model"),
        ("/v1beta/models/echo:generateContent", b"[]", "not a JSON object"),
        ("/v1beta/models/echo:batchGenerateContent", b"{}", "there is no POST"),
        ("/v1beta/models/:generateContent", b"{}", "there is no POST"),
        ("/v1/completions", b"{}", "there is no POST"),
    ],
)
async def test_what_is_not_accepted(served: Any, path: str, body: bytes, words: str) -> None:
    reply = await served.post(path, body)
    assert (reply.status, reply.headers["x-should-retry"]) in ((400, "false"), (404, "false"))
    assert words in message(reply)
    assert not served.recorded


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("dialect", PATHS)
async def test_a_compressed_body_is_refused_in_the_dialect(served: Any, dialect: str, encoding: str) -> None:
    reply = await served.post(f"/s/{key('a:b')}{PATHS[dialect]}", b"x", f"content-encoding: {encoding}")
    assert reply.status == 415
    told = json.loads(reply.body)
    assert "compressed" in told["error"]["message"]
    assert told.get("type") == ("error" if dialect == "anthropic" else None)
    assert ("details" in told["error"]) == (dialect == "gemini")


async def test_a_body_of_twenty_megabytes(served: Any, fake: Any) -> None:
    body = b'{"model":"claude-x","messages":[{"role":"user","content":"' + b"y" * 20_000_000 + b'"}]}'
    assert (await served.post("/v1/messages", body)).status == 200
    assert fake.seen[0].body == body
