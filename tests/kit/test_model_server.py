import asyncio
import gzip
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.kit.model_server import ModelServer


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture
def client(server: ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as client:
        yield client


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "some-model", "messages": [{"role": "user", "content": text}], **more}


def test_what_came_in_is_told(server: ModelServer, client: httpx.Client) -> None:
    body = asking("hello", tools=[{"name": "Write", "input_schema": {}}])
    answer = client.post("/s/S2V5/v1/messages?beta=true", json=body, headers={"X-Api-Key": "dummy"})
    assert answer.json()["content"][0]["text"] == "echo: hello"
    assert answer.json()["model"] == "some-model"
    [request] = server.calls
    assert (request.path, request.query, request.session) == ("/v1/messages", "beta=true", "S2V5")
    assert (request.dialect, request.model, request.tools) == ("anthropic", "some-model", ["Write"])
    assert (request.body, request.headers["x-api-key"], request.status) == (body, "dummy", 200)
    server.until(lambda: request.ended is not None)
    assert not request.disconnected
    assert request.first is not None
    assert request.started <= request.first <= (request.ended or 0)


def test_the_model_may_be_a_script(server: ModelServer, client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=asking("[[say no]]") | {"model": "echo"})
    assert answer.json()["choices"][0]["message"]["content"] == "echo: [[say no]]"


def test_side_requests_are_no_calls(server: ModelServer, client: httpx.Client) -> None:
    schema = {"generationConfig": {"responseMimeType": "application/json"}}
    client.post("/v1beta/models/router:generateContent", json={"contents": [{"parts": [{"text": "x"}]}], **schema})
    client.post("/v1beta/models/m:countTokens", json={"contents": []})
    client.post("/v1/messages", json=asking("[[say hi]]", system="You are a title generator"))
    assert client.get("/v1beta/models").json()["models"]
    assert client.get("/v1/models").json()["data"]
    assert client.head("/").status_code == 200
    assert client.post("/telemetry", json={}).status_code == 404
    assert (len(server.requests), server.calls) == (7, [])
    server.fault(status=500)
    assert client.post("/v1/messages", json=asking("hi", system="You are a title generator")).status_code == 200
    assert client.post("/v1/messages", json=asking("hi")).status_code == 500


def test_compressed_bodies(server: ModelServer, client: httpx.Client) -> None:
    body = gzip.compress(json.dumps({"model": "m", "input": "packed"}).encode())
    answer = client.post("/v1/responses", content=body, headers={"content-encoding": "gzip"})
    assert answer.json()["output"][0]["content"][0]["text"] == "echo: packed"


@pytest.mark.parametrize("script", ["[[hang 1000]]", "[[say x]] [[hang 1000]]"])
def test_a_client_that_goes_away_is_seen(server: ModelServer, script: str) -> None:
    def leave() -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as client:
            with client.stream("POST", "/v1/messages", json=asking(script, stream=True)) as answer:
                for line in answer.iter_lines():
                    if '"text_delta"' in line:
                        return

    async def leave_early() -> None:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:
            task = asyncio.ensure_future(client.post("/v1/messages", json=asking(script, stream=True)))
            await server.when(lambda: server.requests)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    if script.startswith("[[hang"):
        asyncio.run(leave_early())
    else:
        leave()
    server.until(lambda: server.requests[0].ended)
    assert server.requests[0].disconnected


def test_faults_happen_in_their_order_and_then_no_more(server: ModelServer, client: httpx.Client) -> None:
    server.fault(status=429, headers={"retry-after": "7"})
    server.fault(times=2, status=500, body=b"oops", content_type="text/plain")
    server.fault(content_type="text/html")
    server.fault(status=401, when=lambda request: request.model == "other")
    answers = [client.post("/v1/messages", json=asking("hello")) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [429, 500, 500, 200, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert answers[0].json()["error"]["type"] == "rate_limit_error"
    assert (answers[1].text, answers[1].headers["content-type"]) == ("oops", "text/plain")
    assert answers[3].headers["content-type"] == "text/html"
    assert answers[4].json()["content"][0]["text"] == "echo: hello"
    assert client.post("/v1/messages", json=asking("hello") | {"model": "other"}).status_code == 401


def test_half_a_stream(server: ModelServer, client: httpx.Client) -> None:
    server.fault(cut_after=3)
    lines = []
    with pytest.raises(httpx.RemoteProtocolError), client.stream("POST", "/v1/messages", json=asking("hello", stream=True)) as answer:
        lines += answer.iter_lines()
    server.until(lambda: server.requests[0].ended)
    assert not server.requests[0].disconnected
    assert client.post("/v1/messages", json=asking("hello")).status_code == 200


def test_a_hang_lasts_until_the_client_goes(server: ModelServer) -> None:
    server.fault(hang=True)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + "/v1/messages", json=asking("hello"), timeout=httpx.Timeout(20, read=0.05), trust_env=False)
    server.until(lambda: server.requests[0].disconnected)


def test_one_connection_serves_many_requests(server: ModelServer, client: httpx.Client) -> None:
    for number in range(50):
        stream = bool(number % 2)
        assert f"echo: {number}" in client.post("/v1/messages", json=asking(str(number), stream=stream)).text.replace('"text":"', "")
    assert all(not request.disconnected for request in server.requests)


def test_a_stream_comes_as_it_is_made(server: ModelServer, client: httpx.Client) -> None:
    with client.stream("POST", "/v1/messages", json=asking("[[say x]] [[hang 1000]]", stream=True)) as answer:
        assert any("text_delta" in line for line in answer.iter_lines())


def test_a_program_that_runs_in_circles_is_stopped() -> None:
    with pytest.raises(AssertionError, match="more than 3 requests"):
        with ModelServer(limit=3) as server:
            for _ in range(5):
                last = httpx.post(server.url + "/v1/messages", json=asking("hello"), trust_env=False)
            assert last.status_code == 400


def test_waiting_is_bounded_and_tells_what_came(server: ModelServer, client: httpx.Client) -> None:
    client.post("/v1/messages", json=asking("hello"))
    with pytest.raises(AssertionError, match="POST /v1/messages 200"):
        server.until(lambda: False, timeout=0.01)


def test_waiting_ends_when_something_happens(server: ModelServer) -> None:
    thread = threading.Thread(target=lambda: httpx.post(server.url + "/v1/messages", json=asking("hello"), trust_env=False))
    thread.start()
    server.until(lambda: any(request.ended for request in server.calls))
    thread.join()


def test_leaving_ends_open_requests() -> None:
    def ask(url: str) -> None:
        with pytest.raises(httpx.HTTPError):
            httpx.post(url + "/v1/messages", json=asking("[[hang 1000]]"), timeout=50, trust_env=False)

    with ModelServer() as server:
        thread = threading.Thread(target=ask, args=(server.url,))
        thread.start()
        server.until(lambda: server.requests)
    thread.join()
    assert server.requests[0].ended is not None
