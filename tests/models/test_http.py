import asyncio
import json
import logging
from email.utils import formatdate
from typing import Any

import pytest
from tests.models.speaking import DIALECTS, retry_info

from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.models import Dialect, ModelRequest, ModelResponse
from aegis.models.http import MAX_ERROR, HttpProvider, Retries
from aegis.models.names import ProviderSpec

KEY = "sk-verysecret-0123456789"


class WaitingClock(ManualClock):
    """A clock whose sleeps return at once and are remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def provider(url: str, dialect: Dialect = "anthropic", **options: Any) -> HttpProvider:
    options.setdefault("clock", WaitingClock())
    return HttpProvider(
        ProviderSpec(name="mine", base_url=url, dialect=dialect, secret="MINE_KEY"), random_between=lambda low, high: high, **options
    )


def request(dialect: Dialect = "anthropic", body: bytes = b'{"model": "m"}', headers: Any = ()) -> ModelRequest:
    path = {
        "anthropic": "/v1/messages?beta=true",
        "openai": "/chat/completions",
        "responses": "/responses",
        "gemini": "/v1beta/models/m:streamGenerateContent?alt=sse",
    }[dialect]
    return ModelRequest(dialect=dialect, path=path, headers=headers, body=body, model="m")


async def text(response: ModelResponse) -> bytes:
    try:
        return b"".join([data async for data in response.body])
    finally:
        await response.aclose()


async def test_the_body_goes_up_and_comes_back_byte_for_byte(upstream: Any) -> None:
    mine = provider(upstream.url)
    body, answer = b'{ "b":1.0,\t"a": "\\u00e4\xc3\xa4" }', b'{"x" : 1.50e3}\n'
    upstream.answers = [upstream.http(200, answer, "request-id: r1", "set-cookie: a=b")]
    headers = (
        ("anthropic-beta", "x-1,y-2"),
        ("anthropic-version", "2024-01-01"),
        ("cookie", "c"),
        ("x-aegis-session", "s"),
        ("host", "evil"),
    )
    response = await mine.stream(request(body=body, headers=headers), KEY)
    assert (response.status, response.header("request-id"), await text(response)) == (200, "r1", answer)
    seen = upstream.seen[0]
    assert (seen.target, seen.body) == ("/v1/messages?beta=true", body)
    assert seen.headers["x-api-key"] == KEY
    assert seen.headers["anthropic-beta"] == "x-1,y-2"
    assert seen.headers["anthropic-version"] == "2024-01-01"
    assert not {"cookie", "x-aegis-session", "authorization"} & set(seen.headers)
    assert seen.headers["host"] in upstream.url
    await mine.close()


async def test_openai_credentials_and_connection_reuse(upstream: Any) -> None:
    mine = provider(upstream.url + "/v1/", "openai")
    assert mine.dialects == {"openai", "responses"}
    upstream.answers = [upstream.http(200)]
    for dialect in ("openai", "openai", "responses"):
        await text(await mine.stream(request(dialect), f" {KEY}\n"))  # type: ignore[arg-type]
    assert [seen.target for seen in upstream.seen] == ["/v1/chat/completions"] * 2 + ["/v1/responses"]
    assert upstream.seen[2].headers["authorization"] == f"Bearer {KEY}"
    assert upstream.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert "anthropic-version" not in upstream.seen[0].headers
    assert upstream.connections == 1
    await mine.close()


async def test_gemini_has_the_model_in_the_path_and_a_header_of_its_own(upstream: Any) -> None:
    mine = provider(upstream.url, "gemini")
    assert mine.dialects == {"gemini"}
    upstream.answers = [upstream.http(200)]
    await text(await mine.stream(request("gemini"), KEY))
    assert upstream.seen[0].target == "/v1beta/models/m:streamGenerateContent?alt=sse"
    assert upstream.seen[0].headers["x-goog-api-key"] == KEY
    assert not {"authorization", "x-api-key", "anthropic-version"} & set(upstream.seen[0].headers)
    await mine.close()


async def test_a_wait_that_stands_in_the_body_is_obeyed_and_told(upstream: Any) -> None:
    clock = WaitingClock()
    mine = provider(upstream.url, "gemini", clock=clock)
    upstream.answers = [upstream.http(429, retry_info("1.5s")), upstream.http(200)]
    assert (await mine.stream(request("gemini"), KEY)).status == 200
    assert clock.slept == [1.5]
    upstream.answers = [upstream.http(429, retry_info("34.07s"))]
    response = await mine.stream(request("gemini"), KEY)
    assert (response.status, response.header("retry-after"), await text(response)) == (429, "35", retry_info("34.07s"))
    assert len(clock.slept) == 1
    upstream.answers = [upstream.http(429, retry_info("34.07s"), "retry-after: 40")]
    assert [value for name, value in (await mine.stream(request("gemini"), KEY)).headers if name == "retry-after"] == ["40"]
    await mine.close()


async def test_a_key_that_gemini_calls_a_bad_request_is_a_rejected_key(upstream: Any) -> None:
    mine = provider(upstream.url, "gemini")
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
    upstream.answers = [upstream.http(400, json.dumps({"error": {"code": 400, "details": [info]}}).encode())]
    response = await mine.stream(request("gemini"), KEY)
    assert response.status == 400
    assert b"aegis secret set MINE_KEY" in await text(response)
    await mine.close()


async def test_no_proxy_of_the_machine_applies(upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    mine = provider(upstream.url)
    upstream.answers = [upstream.http(200)]
    response = await mine.stream(request(), None)
    assert response.status == 200
    assert "x-api-key" not in upstream.seen[0].headers
    await response.aclose()
    await mine.close()


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
async def test_failures_that_may_pass_are_tried_again(upstream: Any, status: int) -> None:
    clock = WaitingClock()
    mine = provider(upstream.url, clock=clock)
    upstream.answers = [upstream.http(status), upstream.http(status), upstream.http(200, b"done")]
    response = await mine.stream(request(), KEY)
    assert await text(response) == b"done"
    assert clock.slept == [0.5, 1.0]
    await mine.close()


async def test_after_three_repetitions_the_error_is_passed_on(upstream: Any) -> None:
    clock = WaitingClock()
    mine = provider(upstream.url, clock=clock)
    upstream.answers = [upstream.http(529, b'{"type":"error"}')]
    response = await mine.stream(request(), KEY)
    assert (response.status, await text(response)) == (529, b'{"type":"error"}')
    assert (len(upstream.seen), clock.slept) == (4, [0.5, 1.0, 2.0])
    await mine.close()


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
async def test_other_errors_are_passed_on_at_once(upstream: Any, status: int) -> None:
    mine = provider(upstream.url)
    upstream.answers = [upstream.http(status, b"no")]
    response = await mine.stream(request(), KEY)
    assert (response.status, await text(response), len(upstream.seen)) == (status, b"no", 1)
    await mine.close()


async def test_retry_after_is_obeyed_up_to_its_bound(upstream: Any) -> None:
    clock = WaitingClock()
    mine = provider(upstream.url, clock=clock)
    date = formatdate(clock.now() + 7, usegmt=True)
    upstream.answers = [
        upstream.http(429, b"", "retry-after: 20"),
        upstream.http(429, b"", f"retry-after: {date}"),
        upstream.http(429, b"", "retry-after-ms: 1500"),
        upstream.http(200),
    ]
    response = await mine.stream(request(), KEY)
    assert (response.status, clock.slept) == (200, [20.0, 7.0, 1.5])
    await response.aclose()
    upstream.answers = [upstream.http(429, b"later", "retry-after: 21")]
    response = await mine.stream(request(), KEY)
    assert (response.status, await text(response), len(clock.slept)) == (429, b"later", 3)
    await mine.close()


async def test_the_provider_may_say_whether_to_try_again(upstream: Any) -> None:
    mine = provider(upstream.url)
    upstream.answers = [upstream.http(500, b"", "x-should-retry: false")]
    assert (await mine.stream(request(), KEY)).status == 500
    assert len(upstream.seen) == 1
    upstream.answers = [upstream.http(400, b"", "x-should-retry: true"), upstream.http(200)]
    assert (await mine.stream(request(), KEY)).status == 200
    await mine.close()


async def test_a_server_that_is_not_there(unused_tcp_port: int) -> None:
    clock = WaitingClock()
    mine = provider(f"http://127.0.0.1:{unused_tcp_port}", clock=clock)
    with pytest.raises(AegisError, match="`mine`") as caught:
        await mine.stream(request(), KEY)
    assert caught.value.kind is ErrorKind.UNREACHABLE
    assert caught.value.data["sent"] is False
    assert len(clock.slept) == 3
    await mine.close()


async def test_a_connection_that_ends_before_the_answer_is_tried_again(upstream: Any) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.close()

    mine = provider(upstream.url)
    upstream.answers = [hang_up, upstream.http(200)]
    assert (await mine.stream(request(), KEY)).status == 200
    await mine.close()


async def test_an_answer_that_breaks_off_is_an_error_not_an_end(upstream: Any) -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()

    mine = provider(upstream.url)
    upstream.answers = [half]
    response = await mine.stream(request(), KEY)
    body = aiter(response.body)
    assert await anext(body) == b"abc"
    with pytest.raises(AegisError, match="broke off"):
        await anext(body)
    await response.aclose()
    await mine.close()


async def test_cancelling_ends_the_call_upstream(upstream: Any) -> None:
    started = asyncio.Event()

    async def silent(writer: asyncio.StreamWriter) -> None:
        started.set()
        await asyncio.Event().wait()

    mine = provider(upstream.url)
    upstream.answers = [silent]
    task = asyncio.ensure_future(mine.stream(request(), KEY))
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(10):
        await upstream.gone.wait()
    await mine.close()


async def test_closing_an_answer_early_ends_the_call_upstream(upstream: Any) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    mine = provider(upstream.url)
    upstream.answers = [endless]
    response = await mine.stream(request(), KEY)
    assert await anext(aiter(response.body)) == b"a"
    await response.aclose()
    async with asyncio.timeout(10):
        await upstream.gone.wait()
    await mine.close()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_key_is_in_no_error(upstream: Any, dialect: Dialect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    mine = provider(upstream.url, dialect, retries=Retries(times=0))
    quoting = b'{"error": "Incorrect API key provided: ' + KEY.encode() + b'"}'
    for status in (400, 401, 403, 500):
        upstream.answers = [upstream.http(status, quoting, f"x-request-id: {KEY}")]
        response = await mine.stream(request(dialect), KEY)
        body = await text(response)
        assert response.status == status
        assert KEY.encode() not in body
        assert KEY not in str(response.headers)
        assert status != 401 or b"aegis secret set MINE_KEY" in body
    for bad in ("a\nb" + KEY, KEY + "ä", "two words " + KEY, "", "\x00" + KEY):
        with pytest.raises(AegisError) as caught:
            await mine.stream(request(dialect), bad)
        assert KEY not in str(caught.value.to_dict())
        assert caught.value.kind is ErrorKind.USAGE
    assert KEY not in caplog.text
    await mine.close()


async def test_a_huge_error_is_cut(upstream: Any) -> None:
    mine = provider(upstream.url)
    upstream.answers = [upstream.http(400, b"x" * (3 * MAX_ERROR))]
    assert len(await text(await mine.stream(request(), KEY))) == MAX_ERROR
    await mine.close()
