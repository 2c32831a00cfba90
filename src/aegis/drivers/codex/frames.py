"""What goes over the pipes: the frequent frames read with as little work as possible, the rest as a whole."""

from __future__ import annotations

from typing import Any, Final

import msgspec

#: The largest frame, in bytes.
MAX_LINE: Final = 64 * 1024 * 1024
#: Notifications that carry a piece of text -> whether it is a thought.
DELTAS: Final = {
    "item/agentMessage/delta": False,
    "item/reasoning/summaryTextDelta": True,
    "item/reasoning/textDelta": True,
}


class Piece(msgspec.Struct, rename="camel"):
    """A piece of an item's text."""

    delta: str = ""
    item_id: str = ""
    thread_id: str = ""
    turn_id: str = ""


class Head(msgspec.Struct):
    """As much of a frame as tells whether it is a piece of text."""

    method: str = ""
    params: Piece | None = None


_HEAD: Final = msgspec.json.Decoder(Head)


def piece(line: bytes) -> tuple[bool, Piece] | None:
    """A piece of text, and whether it is a thought; None for every other frame."""
    try:
        head = _HEAD.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    thought = DELTAS.get(head.method)
    return None if thought is None or head.params is None else (thought, head.params)


def request(ident: int, method: str, params: dict[str, Any]) -> bytes:
    """A request of ours."""
    return msgspec.json.encode({"id": ident, "method": method, "params": params}) + b"\n"


def notice(method: str) -> bytes:
    """A notification of ours."""
    return msgspec.json.encode({"method": method}) + b"\n"


def reply(ident: int | str, result: dict[str, Any]) -> bytes:
    """The answer to a request of the program."""
    return msgspec.json.encode({"id": ident, "result": result}) + b"\n"


def refusal(ident: int | str, message: str) -> bytes:
    """The answer to a request that means nothing here; without one the program would wait."""
    return msgspec.json.encode({"id": ident, "error": {"code": -32601, "message": message}}) + b"\n"
