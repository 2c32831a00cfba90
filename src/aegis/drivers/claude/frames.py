"""What goes over the pipes: lines cut from the stream, and the frequent frames read with as little work as possible.

Nearly all frames are deltas. They are read by a typed decoder that passes over everything else; the rest is decoded whole. The
CLI does not write a frame's `type` first, so nothing can be told from the beginning of a line.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from aegis.drivers.crowds import crowded

#: The largest frame, in bytes.
MAX_LINE: Final = 64 * 1024 * 1024


class Delta(msgspec.Struct):
    """A piece of a content block."""

    type: str = ""
    text: str = ""
    thinking: str = ""


class StreamEvent(msgspec.Struct):
    """An event of the model's stream."""

    type: str = ""
    delta: Delta | None = None


class Head(msgspec.Struct):
    """As much of any frame as tells what to do with it."""

    type: str = ""
    subtype: str = ""
    event: StreamEvent | None = None
    parent_tool_use_id: str | None = None
    estimated_tokens: int = 0


_HEAD: Final = msgspec.json.Decoder(Head)


def head(line: bytes) -> Head | None:
    """The head of a frame; None when the line is none, or has fields of other types than usual."""
    try:
        return _HEAD.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def whole(line: bytes) -> dict[str, Any] | None:
    """All of a frame; None when the line is no JSON object, or one of more values than anybody says at once."""
    if crowded(line):
        return None
    try:
        frame = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        frame = _halved(line)
    except RecursionError:
        return None
    return frame if isinstance(frame, dict) else None


def _halved(line: bytes) -> Any:
    """A frame that speaks of half a character, as JavaScript may where it cuts a text: the half becomes a question mark."""
    if b"\\ud" not in line and b"\\uD" not in line:
        return None
    try:
        return msgspec.json.decode(json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None


def line(frame: dict[str, Any]) -> bytes:
    """A frame for the program."""
    return msgspec.json.encode(frame) + b"\n"


# The frames are the program's own: nothing in them is as expected only because it mostly is.


def a_dict(value: object) -> dict[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def a_list(value: object) -> list[Any]:
    """`value` if it is an array, else an empty one."""
    return value if isinstance(value, list) else []


def a_text(value: object) -> str:
    """`value` if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def a_count(value: object) -> int:
    """`value` as a whole number that is not negative, else 0."""
    return max(0, int(value)) if isinstance(value, int | float) and value == value and abs(value) < 1e18 else 0


def texts(content: object) -> str:
    """The text of a message's or a tool result's content, which is a text or a list of blocks; a picture is named."""
    if isinstance(content, str):
        return content
    parts = []
    for block in a_list(content):
        kind = a_dict(block).get("type")
        if kind == "text":
            parts.append(a_text(block.get("text")))
        elif kind == "image":
            parts.append("[image]")
        elif kind == "tool_reference":
            parts.append(f"[tool {a_text(block.get('tool_name'))}]")
    return "\n".join(parts)
