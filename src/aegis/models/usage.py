"""Reading what a call really used from its answer, as the bytes pass by.

Guaranteed: memory stays under `MAX_LINE` (streams) or `MAX_JSON` (whole answers, and streams whose usage stands beside the
content: Responses and Gemini) whatever arrives; nothing raises; an
answer that does not tell gives None. Not done here: changing the bytes, guessing.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final, Protocol

import msgspec

from aegis.models import Dialect, Usage

#: The longest line of a stream that is looked at; usage stands in short ones. Longer lines are skipped.
MAX_LINE: Final = 256 * 1024
#: The longest unstreamed answer that is looked at.
MAX_JSON: Final = 8 * 1024 * 1024


class Observer(Protocol):
    """Watches one answer."""

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the body, cut anywhere."""
        ...

    def usage(self) -> Usage | None:
        """What has been learnt so far."""
        ...


def observe(dialect: Dialect, content_type: str | None) -> Observer:
    """An observer for an answer of this dialect and content type."""
    tally = _TALLIES[dialect]()
    if not (content_type or "").lower().startswith("text/event-stream"):
        return _Whole(tally)
    return _Stream(tally, MAX_LINE if dialect in ("anthropic", "openai") else MAX_JSON)


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = None


class _AnthropicUsage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None


class _AnthropicMessage(msgspec.Struct):
    usage: _AnthropicUsage | None = None


class _AnthropicEvent(msgspec.Struct):
    """`message_start` carries the message, `message_delta` and a whole answer carry `usage` themselves."""

    type: str = ""
    message: _AnthropicMessage | None = None
    usage: _AnthropicUsage | None = None


class _AnthropicTally:
    """Counts are running totals: a later figure replaces an earlier one, an absent one leaves it."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def see(self, data: bytes) -> None:
        event = msgspec.json.decode(data, type=_AnthropicEvent)
        if event.type not in ("message_start", "message_delta", "message"):
            return
        usage = event.message.usage if event.message else event.usage
        if usage is None:
            return
        figures = {
            "input": usage.input_tokens,
            "output": usage.output_tokens,
            "read": usage.cache_read_input_tokens,
            "written": usage.cache_creation_input_tokens,
            "written_1h": usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else None,
        }
        self._seen.update({key: value for key, value in figures.items() if value is not None and value >= 0})

    def total(self) -> Usage | None:
        seen = self._seen
        if "input" not in seen and "output" not in seen:
            return None
        read, written = seen.get("read", 0), seen.get("written", 0)
        return Usage(
            input=seen.get("input", 0) + read + written,
            output=seen.get("output", 0),
            cached=read,
            cache_written=written,
            cache_written_1h=min(written, seen.get("written_1h", 0)),
        )


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OpenAIUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _OpenAIEvent(msgspec.Struct):
    usage: _OpenAIUsage | None = None


class _OpenAITally:
    """The last chunk that carries figures counts; some servers repeat running totals in every chunk."""

    def __init__(self) -> None:
        self._total: Usage | None = None

    def see(self, data: bytes) -> None:
        usage = msgspec.json.decode(data, type=_OpenAIEvent).usage
        if usage is None or usage.prompt_tokens is None:
            return
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
        prompt = max(0, usage.prompt_tokens)
        self._total = Usage(input=prompt, output=max(0, usage.completion_tokens or 0), cached=min(prompt, max(0, cached or 0)))

    def total(self) -> Usage | None:
        return self._total


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _ResponsesUsage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None


class _Response(msgspec.Struct):
    usage: _ResponsesUsage | None = None


class _ResponsesEvent(msgspec.Struct):
    """The last events of a stream carry the response, a whole answer is one."""

    type: str = ""
    response: _Response | None = None
    usage: _ResponsesUsage | None = None


class _ResponsesTally:
    """The output counts the reasoning already."""

    def __init__(self) -> None:
        self._total: Usage | None = None

    def see(self, data: bytes) -> None:
        event = msgspec.json.decode(data, type=_ResponsesEvent)
        usage = event.response.usage if event.response else event.usage
        if usage is None or usage.input_tokens is None:
            return
        cached = usage.input_tokens_details.cached_tokens if usage.input_tokens_details else None
        prompt = max(0, usage.input_tokens)
        self._total = Usage(input=prompt, output=max(0, usage.output_tokens or 0), cached=min(prompt, max(0, cached or 0)))

    def total(self) -> Usage | None:
        return self._total


class _GeminiUsage(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None


class _GeminiEvent(msgspec.Struct, rename="camel"):
    usage_metadata: _GeminiUsage | None = None


class _GeminiTally:
    """Every chunk carries running totals; an absent figure leaves the earlier one. Thoughts are paid as output."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def see(self, data: bytes) -> None:
        events = msgspec.json.decode(data, type=_GeminiEvent | list[_GeminiEvent])  # a stream that is not one of events is a list
        for event in events if isinstance(events, list) else [events]:
            if event.usage_metadata is not None:
                figures = msgspec.structs.asdict(event.usage_metadata)
                self._seen.update({name: count for name, count in figures.items() if count is not None and count >= 0})

    def total(self) -> Usage | None:
        seen = self._seen
        if "prompt_token_count" not in seen:
            return None
        prompt = seen["prompt_token_count"] + seen.get("tool_use_prompt_token_count", 0)
        return Usage(
            input=prompt,
            output=seen.get("candidates_token_count", 0) + seen.get("thoughts_token_count", 0),
            cached=min(prompt, seen.get("cached_content_token_count", 0)),
        )


_Tally = _AnthropicTally | _OpenAITally | _ResponsesTally | _GeminiTally
_TALLIES: Final[dict[Dialect, type[_Tally]]] = {
    "anthropic": _AnthropicTally,
    "openai": _OpenAITally,
    "responses": _ResponsesTally,
    "gemini": _GeminiTally,
}


def _look(tally: _Tally, data: Any) -> None:
    """Let the tally read one JSON text; what it cannot read tells nothing."""
    with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        tally.see(data)


class _Stream:
    """Server-sent events. Only `data:` lines that mention usage are parsed, so that deltas cost next to nothing."""

    def __init__(self, tally: _Tally, longest: int) -> None:
        self._tally = tally
        self._longest = longest
        self._line = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> None:
        start = 0
        if self._line or self._skipping:
            end = data.find(b"\n")
            self._keep(data if end < 0 else data[:end])
            if end < 0:
                return
            self._end_line(bytes(self._line))
            self._line.clear()
            self._skipping = False
            start = end + 1
        last = data.rfind(b"\n", start) + 1
        if last:
            # One search for all of the lines: most pieces speak of no usage at all.
            if data.find(b'"usage', start, last) >= 0:
                for line in data[start:last].split(b"\n"):
                    self._end_line(line)
            start = last
        self._keep(data[start:])

    def _keep(self, part: bytes) -> None:
        if self._skipping or len(self._line) + len(part) > self._longest:
            self._skipping = True
            self._line.clear()
        else:
            self._line += part

    def _end_line(self, line: bytes) -> None:
        if line.startswith(b"data:") and (b'"usage"' in line or b'"usageMetadata"' in line) and len(line) <= self._longest:
            _look(self._tally, line[5:])

    def usage(self) -> Usage | None:
        if self._line.startswith(b"data:"):  # a stream cut off without its last newline
            self._end_line(bytes(self._line))
        return self._tally.total()


class _Whole:
    """One JSON object, read when all of it is there."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._body = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> None:
        if self._too_long or len(self._body) + len(data) > MAX_JSON:
            self._too_long = True
            self._body = bytearray()
        else:
            self._body += data

    def usage(self) -> Usage | None:
        if self._body:
            _look(self._tally, self._body)
        return self._tally.total()
