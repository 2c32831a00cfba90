"""What a request says, read from either dialect into one form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aegis.models import Dialect

#: What programs wrap around a person's words.
_WRAPPED: Final = re.compile(r"<(system-reminder|session_context|environment_context)>.*?</\1>", re.S)


#: How programs tell the model that it was cut off.
_INTERRUPTION: Final = re.compile(r"\b(?:was|were|been|got) interrupted\b|\[(?:Request )?interrupted", re.I)


def tells_of_interruption(text: str) -> bool:
    """Whether a text says that the work was cut off."""
    return _INTERRUPTION.search(text[:2000]) is not None


class User(msgspec.Struct, frozen=True):
    """One text of the user."""

    text: str


class Said(msgspec.Struct, frozen=True):
    """One text of the model."""

    text: str


class Use(msgspec.Struct, frozen=True):
    """The model called a tool."""

    id: str
    name: str
    input: dict[str, Any]


class Result(msgspec.Struct, frozen=True):
    """What the tool gave back; `ok` is False where the program marked it as an error."""

    id: str
    text: str
    ok: bool = True


Item = User | Said | Use | Result


class Tool(msgspec.Struct, frozen=True):
    """A tool on offer: the names of its arguments, and which must be there."""

    properties: tuple[str, ...]
    required: tuple[str, ...]


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A request, oldest item first."""

    dialect: Dialect
    model: str
    stream: bool
    include_usage: bool
    tools: dict[str, Tool]
    items: list[Item]
    size: int  # bytes of the body


def read(dialect: Dialect, body: bytes) -> Conversation:
    """Read a request. Raises AegisError(USAGE) when there is no list of messages in it; odd parts are passed over."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise AegisError(ErrorKind.USAGE, f"the body is not JSON: {str(error)[:200]}") from None
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, list):
        raise AegisError(ErrorKind.USAGE, "`messages` is missing or not a list")
    options = data.get("stream_options")
    return Conversation(
        dialect=dialect,
        model=str(data.get("model", "")),
        stream=data.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        tools=dict(_tools(dialect, data.get("tools"))),
        items=[item for message in messages if isinstance(message, dict) for item in _items(dialect, message)],
        size=len(body),
    )


def _tools(dialect: Dialect, offered: Any) -> Iterator[tuple[str, Tool]]:
    for each in offered if isinstance(offered, list) else []:
        about = each.get("function") if dialect == "openai" and isinstance(each, dict) else each
        if not isinstance(about, dict) or not isinstance(about.get("name"), str):
            continue
        schema = about.get("parameters" if dialect == "openai" else "input_schema")
        schema = schema if isinstance(schema, dict) else {}
        properties, required = schema.get("properties"), schema.get("required")
        yield (
            about["name"],
            Tool(
                tuple(properties) if isinstance(properties, dict) else (),
                tuple(name for name in required if isinstance(name, str)) if isinstance(required, list) else (),
            ),
        )


def _items(dialect: Dialect, message: dict[str, Any]) -> Iterator[Item]:
    role = message.get("role")
    if role == "tool":
        yield Result(str(message.get("tool_call_id", "")), _text(message.get("content")))
        return
    if role not in ("user", "assistant"):
        return
    content = message.get("content")
    for block in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        if not isinstance(block, dict):
            continue
        kind = block.get("type")
        if kind == "tool_use":
            given = block.get("input")
            yield Use(str(block.get("id", "")), str(block.get("name", "")), given if isinstance(given, dict) else {})
        elif kind == "tool_result":
            yield Result(str(block.get("tool_use_id", "")), _text(block.get("content")), block.get("is_error") is not True)
        elif kind == "text" and isinstance(block.get("text"), str):
            text = block["text"]
            text = _WRAPPED.sub("", text).strip() if "</" in text else text.strip()
            if text:
                yield User(text) if role == "user" else Said(text)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield Use(str(call.get("id", "")), str(function.get("name", "")), _arguments(function.get("arguments")))


def _arguments(text: Any) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text) if isinstance(text, str) else {}
    except (msgspec.DecodeError, RecursionError):
        value = {}
    return value if isinstance(value, dict) else {}


def _text(content: Any) -> str:
    """The text of a tool's result: a string, or the text blocks of a list."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(block["text"] for block in content if isinstance(block, dict) and isinstance(block.get("text"), str))
