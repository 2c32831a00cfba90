"""Reading what a call really used from its answer, as the bytes pass by.

Guaranteed: memory stays under `MAX_LINE` (streams) or `MAX_JSON` (whole answers) whatever arrives; nothing raises; an
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
    if (content_type or "").lower().startswith("text/event-stream"):
        return _Stream(_AnthropicTally() if dialect == "anthropic" else _OpenAITally())
    return _Whole(_AnthropicTally() if dialect == "anthropic" else _OpenAITally())


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


_Tally = _AnthropicTally | _OpenAITally


def _look(tally: _Tally, data: Any) -> None:
    """Let the tally read one JSON text; what it cannot read tells nothing."""
    with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        tally.see(data)


class _Stream:
    """Server-sent events. Only `data:` lines that mention usage are parsed, so that deltas cost next to nothing."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._line = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> None:
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if self._line or self._skipping:
                self._keep(data[start:end])
                self._end_line(bytes(self._line))
                self._line.clear()
                self._skipping = False
            else:
                self._end_line(data[start:end])
            start = end + 1
        self._keep(data[start:])

    def _keep(self, part: bytes) -> None:
        if self._skipping or len(self._line) + len(part) > MAX_LINE:
            self._skipping = True
            self._line.clear()
        else:
            self._line += part

    def _end_line(self, line: bytes) -> None:
        if line.startswith(b"data:") and b'"usage"' in line and len(line) <= MAX_LINE:
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
