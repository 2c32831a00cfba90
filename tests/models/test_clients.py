"""The official clients against the scripted models, over real HTTP."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kit.model_server import ModelServer

from aegis.models.errors import error_body, error_event

SCRIPT = '[[think hm hm]] [[say one two]] [[call write {"path": "a", "content": "b"}]]'
SCHEMA = {"type": "object", "properties": {"file_path": {"type": "string"}, "content": {"type": "string"}}}
GIVEN = {"file_path": "a", "content": "b"}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


class TestAnthropic:
    @pytest.fixture
    def client(self, server: ModelServer) -> Iterator[Any]:
        anthropic = pytest.importorskip("anthropic", reason="the official client is not installed")
        with anthropic.Anthropic(base_url=server.url, api_key="dummy", max_retries=0) as client:
            yield client

    def test_answers(self, client: Any) -> None:
        wanted: Any = {
            "model": "m",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": SCRIPT}],
            "tools": [{"name": "Write", "input_schema": SCHEMA}],
        }
        whole = client.messages.create(**wanted)
        with client.messages.stream(**wanted) as stream:
            streamed = stream.get_final_message()
        for message in (whole, streamed):
            assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
            assert (message.content[1].text, message.content[2].input, message.stop_reason) == ("one two", GIVEN, "tool_use")
            assert message.usage.output_tokens > 1
        assert client.messages.count_tokens(model="m", messages=wanted["messages"]).input_tokens > 1

    def test_errors(self, client: Any, server: ModelServer) -> None:
        anthropic = sys.modules["anthropic"]
        server.fault(status=429)
        with pytest.raises(anthropic.RateLimitError):
            client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
        server.fault(status=200, content_type="text/event-stream", body=error_event("anthropic", "broke"))
        with (
            pytest.raises(anthropic.APIStatusError, match="broke"),
            client.messages.stream(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}]) as stream,
        ):
            stream.get_final_message()


class TestOpenAI:
    @pytest.fixture
    def client(self, server: ModelServer) -> Iterator[Any]:
        openai = pytest.importorskip("openai", reason="the official client is not installed")
        with openai.OpenAI(base_url=server.url + "/v1", api_key="dummy", max_retries=0) as client:
            yield client

    def test_chat(self, client: Any) -> None:
        wanted: Any = {
            "model": "m",
            "messages": [{"role": "user", "content": SCRIPT}],
            "tools": [{"type": "function", "function": {"name": "Write", "parameters": SCHEMA}}],
        }
        whole = client.chat.completions.create(**wanted)
        with client.chat.completions.stream(**wanted, stream_options={"include_usage": True}) as stream:
            streamed = stream.get_final_completion()
        for completion in (whole, streamed):
            message = completion.choices[0].message
            assert message.content == "one two"
            assert json.loads(message.tool_calls[0].function.arguments) == GIVEN
            assert completion.usage.completion_tokens > 1

    def test_responses(self, client: Any) -> None:
        wanted: Any = {
            "model": "m",
            "input": SCRIPT,
            "tools": [{"type": "function", "name": "Write", "parameters": SCHEMA, "strict": False}],
        }
        whole = client.responses.create(**wanted)
        with client.responses.stream(**wanted) as stream:
            events = list(stream)
            streamed = stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "one two"
        for response in (whole, streamed):
            assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
            assert response.output_text == "one two"
            assert json.loads(response.output[2].arguments) == GIVEN
            assert response.usage.output_tokens_details.reasoning_tokens > 0
        # what came back is what goes up in the next request
        again = [{"role": "user", "content": SCRIPT}, *(item.model_dump(exclude_none=True) for item in whole.output)]
        again.append({"type": "function_call_output", "call_id": whole.output[2].call_id, "output": "written"})
        assert client.responses.create(model="m", input=again).output_text == "done"

    def test_errors(self, client: Any, server: ModelServer) -> None:
        openai = sys.modules["openai"]
        server.fault(status=400, body=error_body("responses", "no more", status=400, type="budget"))
        with pytest.raises(openai.BadRequestError, match="no more") as caught:
            client.responses.create(model="m", input="x")
        assert caught.value.code == "budget"
        for dialect in ("openai", "responses"):
            server.fault(status=200, content_type="text/event-stream", body=error_event(dialect, "broke"))  # type: ignore[arg-type]
            with pytest.raises(openai.APIError, match="broke"):
                if dialect == "openai":
                    list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True))
                else:
                    list(client.responses.create(model="m", input="x", stream=True))


class TestGemini:
    @pytest.fixture
    def client(self, server: ModelServer) -> Iterator[Any]:
        genai = pytest.importorskip("google.genai", reason="the official client is not installed")
        client = genai.Client(api_key="dummy", http_options={"base_url": server.url})
        yield client
        client.close()

    def test_answers(self, client: Any, server: ModelServer) -> None:
        tools = [{"function_declarations": [{"name": "write_file", "parameters_json_schema": SCHEMA}]}]
        wanted: Any = {"model": "m", "contents": SCRIPT, "config": {"tools": tools, "automatic_function_calling": {"disable": True}}}
        whole = client.models.generate_content(**wanted)
        chunks = list(client.models.generate_content_stream(**wanted))
        parts = [part for chunk in chunks for part in chunk.candidates[0].content.parts]
        assert "".join(part.text or "" for part in parts if not part.thought) == "one two"
        assert [part.text for part in whole.candidates[0].content.parts if part.thought] == ["hm hm"]
        for calls in (whole.function_calls, [part.function_call for part in parts if part.function_call]):
            assert [(call.name, call.args) for call in calls] == [("write_file", GIVEN)]
        for usage in (whole.usage_metadata, chunks[-1].usage_metadata):
            assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count + usage.thoughts_token_count
        assert client.models.count_tokens(model="m", contents="hello").total_tokens > 1
        assert {request.model for request in server.requests} == {"m"}

    def test_errors(self, client: Any, server: ModelServer) -> None:
        errors = pytest.importorskip("google.genai.errors", reason="the official client is not installed")
        server.fault(status=400, body=error_body("gemini", "no more", status=400, type="budget"))
        with pytest.raises(errors.ClientError, match="no more"):
            client.models.generate_content(model="m", contents="x")
        server.fault(status=200, content_type="text/event-stream", body=error_event("gemini", "broke"))
        with pytest.raises(errors.APIError, match="broke"):
            list(client.models.generate_content_stream(model="m", contents="x"))
