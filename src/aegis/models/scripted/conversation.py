"""What a request says, in one form for all dialects. `reading` makes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from aegis.models import Dialect

#: How programs tell the model that it was cut off.
_INTERRUPTION: Final = re.compile(r"\b(?:was|were|been|got) interrupted\b|\[(?:Request )?interrupted", re.I)


def tells_of_interruption(text: str) -> bool:
    """Whether a text says that the work was cut off."""
    return _INTERRUPTION.search(text[:2000]) is not None


class User(msgspec.Struct, frozen=True):
    """One text of the user. Programs put several into one message; `message` is the number of that message."""

    text: str
    message: int = 0


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


class Image(msgspec.Struct, frozen=True):
    """A picture in a message of the user. `size` is how many bytes of the body it takes."""

    media_type: str
    message: int
    size: int = 0


class Tool(msgspec.Struct, frozen=True):
    """A tool on offer: the schemas of its arguments by name, and which must be there."""

    properties: dict[str, Any]
    required: tuple[str, ...]
    namespace: str = ""  # Responses: the tool is called by the name that follows `namespace.`


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A request, oldest item first."""

    dialect: Dialect
    model: str
    stream: bool
    include_usage: bool
    tools: dict[str, Tool]
    items: list[Item]
    images: list[Image]
    system: str  # the first part of the instructions
    schema: dict[str, Any] | None  # what the answer must look like
    size: int  # bytes of the body, with a fixed figure for each picture
