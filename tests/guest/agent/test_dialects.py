"""The dialects against the official SDKs: our bodies are what their types demand, and the fake server is one they understand."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import pytest
from model_server import ModelServer, Say, call, text, thinking

from aegis.guest.agent import tools
from aegis.guest.agent.context import fit
from aegis.guest.agent.dialects import Call, StreamError, dialect, whole

HISTORY = [
    {"role": "user", "content": [{"type": "text", "text": word} for word in ("go", "on", " ")], "ids": ["m1"]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "text": "hm", "signature": "sig"},
            {"type": "thinking", "text": "", "redacted": "xyz"},
            {"type": "thinking", "text": "from elsewhere"},
            {"type": "text", "text": "Let me see."},
            {"type": "tool_call", "id": "c1", "name": "list", "input": {}},
            {"type": "tool_call", "id": "c2", "name": "read", "input": {"path": "ä"}},
        ],
    },
    {
        "role": "tool",
        "content": [
            {"type": "tool_result", "id": "c1", "name": "list", "ok": True, "output": "", "truncated": False},
            {"type": "tool_result", "id": "c2", "name": "read", "ok": False, "output": "error", "truncated": False},
        ],
    },
    {"role": "user", "content": [{"type": "text", "text": "go on"}]},
]


def body(name: str, model: str = "openai/x", messages: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    history = fit(HISTORY, 10_000) if messages is None else messages
    return dialect(name).body(model=model, system="be good", messages=history, tools=tools.offered("write"), max_tokens=100)


def plain(value: Any) -> Any:
    """Validated data with all its lazy parts read."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain(v) for v in value]
    return value


def validated(kind: Any, value: Any) -> Any:
    pydantic = pytest.importorskip("pydantic")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = pydantic.TypeAdapter(kind)  # its lazy parts need it while they are read
        return plain(adapter.validate_python(value))


def test_anthropic_body() -> None:
    pytest.importorskip("anthropic", reason="the official SDK is not installed")
    from anthropic.types.message_create_params import MessageCreateParamsStreaming

    made = body("anthropic")
    assert validated(MessageCreateParamsStreaming, made) == made
    assert [m["role"] for m in made["messages"]] == ["user", "assistant", "user"]
    assert [b["type"] for b in made["messages"][1]["content"]] == ["thinking", "redacted_thinking", "text", "tool_use", "tool_use"]
    last = made["messages"][2]["content"]
    assert [b["type"] for b in last] == ["tool_result", "tool_result", "text"]
    assert [b["is_error"] for b in last[:2]] == [False, True]
    assert last[0]["content"] == "(no output)"
    assert last[2]["cache_control"] == made["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert len(made["messages"][0]["content"]) == 2


def test_openai_body() -> None:
    pytest.importorskip("openai", reason="the official SDK is not installed")
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

    made = body("openai")
    assert validated(CompletionCreateParamsStreaming, made) == made
    assert [m["role"] for m in made["messages"]] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert made["messages"][2]["tool_calls"][1]["function"] == {"name": "read", "arguments": '{"path":"ä"}'}
    assert made["stream_options"] == {"include_usage": True}
    assert made["max_completion_tokens"] == 100
    other = body("openai", "ollama/x")
    assert other["max_tokens"] == 100
    assert "max_completion_tokens" not in other


def test_the_body_does_not_change_memory() -> None:
    before = repr(HISTORY)
    body("anthropic")
    body("openai")
    assert repr(HISTORY) == before


def test_the_fake_server_speaks_anthropic(server: ModelServer) -> None:
    anthropic = pytest.importorskip("anthropic", reason="the official SDK is not installed")
    server.script = [Say([thinking("hm", "s1"), text("Hello ü"), call("read", {"path": "a"})])]
    with (
        anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0) as client,
        client.messages.stream(model="x", max_tokens=10, messages=[{"role": "user", "content": "hi"}]) as stream,
    ):
        message = stream.get_final_message()
    assert [b.type for b in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[0].signature == "s1"
    assert message.content[1].text == "Hello ü"
    assert message.content[2].input == {"path": "a"}
    assert message.usage.input_tokens == 11


def test_the_fake_server_speaks_openai(server: ModelServer) -> None:
    openai = pytest.importorskip("openai", reason="the official SDK is not installed")
    server.script = [Say([text("Hello ü"), call("read", {"path": "a"})])]
    with openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0) as client:
        chunks = list(client.chat.completions.create(model="x", messages=[{"role": "user", "content": "hi"}], stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello ü"
    assert chunks[-1].usage.prompt_tokens == 11


def test_openai_oddities() -> None:
    reply = dialect("openai").reply()
    reply.feed({"choices": [{"delta": {"reasoning": "r"}}]})
    reply.feed({"choices": [{"delta": {"tool_calls": [{"id": "a", "function": {"name": "list", "arguments": {}}}]}}]})
    reply.feed({"choices": [{"delta": {"tool_calls": [{"function": {"name": "list", "arguments": ""}}]}, "finish_reason": "stop"}]})
    reply.feed({"choices": [], "usage": None})
    assert not reply.over
    reply.feed({"done": True})
    assert reply.over
    assert reply.finished
    thought, called = reply.parts()
    assert thought == {"type": "thinking", "text": "r"}
    assert isinstance(called, Call)
    assert (called.id, called.name, called.input, called.problem) == ("a", "list", {}, "")
    with pytest.raises(StreamError, match="boom"):
        reply.feed({"error": "boom"})


def test_anthropic_oddities() -> None:
    reply = dialect("anthropic").reply()
    start = {"type": "content_block_start"}
    assert reply.feed({"type": "invented"}) == []
    reply.feed({**start, "index": 0, "content_block": {"type": "server_thing", "id": "s"}})
    reply.feed({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}})
    reply.feed({"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta"}})
    reply.feed({**start, "index": 1, "content_block": {"type": "redacted_thinking", "data": "enc"}})
    reply.feed({**start, "index": 2, "content_block": {"type": "tool_use", "id": "t", "name": "read", "input": {"path": "whole"}}})
    reply.feed({**start, "index": 3, "content_block": {"type": "thinking", "thinking": "not finished"}})
    redacted, called = reply.parts()
    assert redacted == {"type": "thinking", "text": "", "redacted": "enc"}
    assert isinstance(called, Call)
    assert called.input == {"path": "whole"}
    assert not reply.finished


def test_unknown_dialect() -> None:
    with pytest.raises(ValueError, match="unknown dialect"):
        dialect("morse")


def test_whole() -> None:
    assert whole("a\ud83d\ude00b") == "a\U0001f600b"
    assert whole("\ude00") == "\ufffd"
