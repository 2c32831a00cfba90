"""Reading what the broker needs from a request's body, and changing the model in it and nothing else.

The rest of the body keeps its bytes: providers' caches and signatures depend on them. The value of `model` is found by
letting msgspec read the top level with every value left raw (at C speed, which also checks that all of it is JSON), then
walking key by key, each raw value telling how far to jump.

What two parsers could read differently is refused, because the provider must see the model that was checked: a key that
stands twice, a key that is `model` but for the case, a list of `models` to fall back on.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind

#: More top-level keys than any API has.
_MOST_KEYS: Final = 1000
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_KEY: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.S)
#: What the answer may be at most, in the words of three dialects.
_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_ANY: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Asked(msgspec.Struct, frozen=True):
    """What a body asks for. `start` and `end` are where the value of `model` stands, its quotes included; 0 where it has none."""

    model: str
    stream: bool
    max_tokens: int | None
    start: int
    end: int


def read(body: bytes) -> Asked:
    """Read a body. Raises AegisError(USAGE) when it is not one JSON object with a `model`, or is ambiguous about it."""
    values = _values(body)
    if "model" not in values:
        raise _bad("the body names no `model`")
    for key in values:
        if key != "model" and key.lower() in ("model", "models"):
            raise _bad(f"the key `{key}` is not accepted beside `model`")
    model = _decoded(values["model"])
    if not isinstance(model, str):
        raise _bad("`model` is not a string")
    start, end = _span(body, values)
    if _decoded(values.get("background")) is True:
        raise _bad("`background` is not accepted: what such an answer uses would be told to nobody")
    limit = next((_decoded(values[key]) for key in _LIMITS if key in values), None)
    return Asked(model, _decoded(values.get("stream")) is True, limit if type(limit) is int else None, start, end)


def read_without_model(body: bytes, model: str, *, stream: bool) -> Asked:
    """Read a body whose model stands in the path. Raises AegisError(USAGE) when it is not one JSON object, or names a model too."""
    values = _values(body)
    for key in values:
        if key.lower() in ("model", "models"):
            raise _bad(f"the key `{key}` is not accepted: the path names the model")
    try:
        config = msgspec.json.decode(values.get("generationConfig", b"{}"), type=_Generation)
    except (msgspec.MsgspecError, RecursionError):
        config = _Generation()
    return Asked(model, stream, config.max, 0, 0)


def with_model(body: bytes, asked: Asked, model: str) -> bytes:
    """`body` with `model` in the place of the one it asked for, all other bytes as they were."""
    if not asked.end:
        return body
    return b"".join((body[: asked.start], msgspec.json.encode(model), body[asked.end :]))


class _Generation(msgspec.Struct):
    max: int | None = msgspec.field(default=None, name="maxOutputTokens")


def _values(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        values = _ANY.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _bad(f"the body is not a JSON object: {str(error)[:200]}") from None
    if len(values) > _MOST_KEYS:
        raise _bad("the body has too many keys")
    return values


def _span(body: bytes, values: dict[str, msgspec.Raw]) -> tuple[int, int]:
    """Where the value of `model` stands. The body is valid JSON already; only a repeated key can throw this walk off."""
    found = (0, 0)
    seen: set[str] = set()
    position = _skip(body, 0) + 1  # the opening brace
    while body[(position := _skip(body, position)) : position + 1] == b'"':
        match = _KEY.match(body, position)
        assert match is not None  # valid JSON
        key = msgspec.json.decode(match[0], type=str)
        start = _skip(body, _skip(body, match.end()) + 1)  # past the colon
        value = memoryview(values[key])
        end = start + len(value)
        after = _skip(body, end)
        if key in seen or not body.startswith(value, start) or body[after : after + 1] not in (b",", b"}"):
            raise _bad(f"the key `{key[:40]}` stands twice in the body")
        seen.add(key)
        if key == "model":
            found = (start, end)
        position = after + 1
    return found


def _skip(body: bytes, position: int) -> int:
    match = _SPACE.match(body, position)
    return match.end() if match else position


def _decoded(raw: msgspec.Raw | None) -> Any:
    """A small value; a large one can be none of those that are looked at."""
    return msgspec.json.decode(raw) if raw is not None and len(memoryview(raw)) <= 4096 else None


def _bad(message: str) -> AegisError:
    return AegisError(ErrorKind.USAGE, message)
