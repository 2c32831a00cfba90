import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.speaking import DIALECTS

from aegis.models import Dialect, Usage
from aegis.models.usage import MAX_JSON, MAX_LINE, observe

SSE = "text/event-stream; charset=utf-8"


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e.get('type', 'x')}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


ANTHROPIC = sse(
    {"type": "message_start", "message": {"usage": {"input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20,
     "cache_creation": {"ephemeral_5m_input_tokens": 12, "ephemeral_1h_input_tokens": 8}, "output_tokens": 1}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 'a lie: "usage": {"output_tokens": 9999}'}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 42}},
)  # fmt: skip
OPENAI = (
    sse(
        {"choices": [{"delta": {"content": "x"}}], "usage": None},
        {"choices": [], "usage": {"prompt_tokens": 50, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 30}}},
    )
    + b"data: [DONE]\n\n"
)

RESPONSES = sse(
    {"type": "response.created", "response": {"status": "in_progress", "usage": None}},
    {"type": "response.output_text.delta", "delta": 'a lie: "usage": {"input_tokens": 9999}'},
    {"type": "response.completed", "response": {"output": [{"text": "x" * 400_000}], "usage": {
        "input_tokens": 50, "input_tokens_details": {"cached_tokens": 30}, "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 5}}}},
)  # fmt: skip
GEMINI = b"".join(
    b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n"
    for chunk in (
        {"candidates": [{"content": {"parts": [{"text": '"usageMetadata": {"promptTokenCount": 9999}'}]}}], "usageMetadata": {"promptTokenCount": 40}},
        {"candidates": [{"content": {"parts": [{"text": "y" * 400_000}]}}]},
        {"usageMetadata": {"promptTokenCount": 50, "cachedContentTokenCount": 30, "candidatesTokenCount": 4, "thoughtsTokenCount": 5,
                           "toolUsePromptTokenCount": 1, "totalTokenCount": 60}},
    )
)  # fmt: skip


@given(cut=st.integers(1, 40))
def test_streams_cut_anywhere(cut: int) -> None:
    cases: list[tuple[Dialect, bytes, Usage]] = [
        ("anthropic", ANTHROPIC, Usage(125, 42, 100, 20, 8)),
        ("openai", OPENAI, Usage(50, 7, 30)),
        ("responses", RESPONSES.replace(b"x" * 400_000, b""), Usage(50, 9, 30)),
        ("gemini", GEMINI.replace(b"y" * 400_000, b""), Usage(51, 9, 30)),
        ("anthropic", ANTHROPIC.replace(b"\n", b"\r\n"), Usage(125, 42, 100, 20, 8)),
    ]
    for dialect, data, expected in cases:
        observer = observe(dialect, SSE)
        for start in range(0, len(data), cut):
            observer.feed(data[start : start + cut])
        assert observer.usage() == expected


def test_usage_beside_much_content_is_found() -> None:
    for dialect, data, expected in (("responses", RESPONSES, Usage(50, 9, 30)), ("gemini", GEMINI, Usage(51, 9, 30))):
        observer = observe(dialect, SSE)  # type: ignore[arg-type]
        for start in range(0, len(data), 10_000):
            observer.feed(data[start : start + 10_000])
        assert observer.usage() == expected


def test_a_stream_cut_short_tells_what_it_told() -> None:
    observer = observe("anthropic", SSE)
    observer.feed(ANTHROPIC[: ANTHROPIC.index(b"event: message_delta")])
    assert observer.usage() == Usage(125, 1, 100, 20, 8)
    for dialect in DIALECTS:
        assert observe(dialect, SSE).usage() is None
    observer = observe("gemini", SSE)
    observer.feed(GEMINI[: GEMINI.index(b"\r\n")])
    assert observer.usage() == Usage(40)


def test_a_later_total_replaces_an_earlier_one() -> None:
    observer = observe("anthropic", SSE)
    observer.feed(sse({"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}},
                      {"type": "message_delta", "usage": {"input_tokens": 9, "output_tokens": 3}}))  # fmt: skip
    assert observer.usage() == Usage(9, 3)


def test_whole_answers() -> None:
    observer = observe("anthropic", "application/json")
    observer.feed(b'{"type":"message","usage":{"input_tokens":3,"output_')
    observer.feed(b'tokens":4,"cache_read_input_tokens":10}}')
    assert observer.usage() == Usage(13, 4, 10)
    observer = observe("openai", "application/json")
    observer.feed(b'{"object":"chat.completion","usage":{"prompt_tokens":3,"completion_tokens":4}}')
    assert observer.usage() == Usage(3, 4)
    observer = observe("responses", "application/json")
    observer.feed(b'{"object":"response","usage":{"input_tokens":3,"output_tokens":4,"input_tokens_details":{"cached_tokens":9}}}')
    assert observer.usage() == Usage(3, 4, 3)
    for body in (b'{"usageMetadata":{"promptTokenCount":3,"thoughtsTokenCount":4}}', b'[{"usageMetadata":{"promptTokenCount":1}},\n'
                 b'{"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":1,"thoughtsTokenCount":3}}]'):  # fmt: skip
        observer = observe("gemini", "application/json")
        observer.feed(body)
        assert observer.usage() == Usage(3, 4)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(
    junk=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(
                [
                    b'data: {"usage":',
                    b"\n",
                    b'{"usage":{"prompt_tokens":-5}}\n',
                    b'data: {"type":"message_delta","usage":{"output_tokens":"x"}}\n',
                    b'data: {"usageMetadata":{"promptTokenCount":-1,"thoughtsTokenCount":-2}}\n',
                    b'data: {"response":{"usage":{"input_tokens":-1,"output_tokens":-2}}}\n',
                    b'data: [{"usageMetadata":{}}]\n',
                ]
            ),
        )
    )
)
def test_junk_tells_nothing_and_harms_nothing(dialect: Dialect, junk: list[bytes]) -> None:
    for kind in (SSE, "application/json", None):
        observer = observe(dialect, kind)
        for data in junk:
            observer.feed(data)
        usage = observer.usage()
        assert usage is None or (usage.input >= 0 and usage.output >= 0)


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
@pytest.mark.parametrize("kind", [SSE, "application/json"])
def test_memory_is_bounded_whatever_comes(kind: str, dialect: Dialect) -> None:
    observer = observe(dialect, kind)
    block = b'{"usage":' * 10_000
    tracemalloc.start()
    try:
        for _ in range(800):
            observer.feed(block)
        assert tracemalloc.get_traced_memory()[1] < 2 * max(MAX_LINE, MAX_JSON) + 1_000_000
    finally:
        tracemalloc.stop()
    observer.feed(b"\n" + (ANTHROPIC if dialect == "anthropic" else GEMINI))
    assert observer.usage() == (None if kind != SSE else Usage(125, 42, 100, 20, 8) if dialect == "anthropic" else Usage(51, 9, 30))
