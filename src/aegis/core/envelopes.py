"""An envelope: a message on its way from a principal to a session of an instance."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind

#: The largest text one message may carry, in bytes of UTF-8.
MAX_TEXT: Final = 4 * 1024 * 1024
DEFAULT_SESSION: Final = "host:default"
_PART: Final = re.compile(r"[\x21-\x39\x3b-\x7e]{1,128}")  # printable ASCII without the colon


def session_key(channel: str, ident: str) -> str:
    """The session `channel:id`. Raises a usage error when a part is empty, too long or not printable ASCII without `:`.

    The colon is in neither part, so two different pairs never share a key. The key is never a file name.
    """
    for name, part in (("channel", channel), ("id", ident)):
        if not _PART.fullmatch(part):
            raise AegisError(
                ErrorKind.USAGE, f"session {name} {part[:40]!r} is not usable", "use 1 to 128 printable ASCII characters, no space, no `:`"
            )
    return f"{channel}:{ident}"


class Image(msgspec.Struct, frozen=True):
    """A picture that comes with a message."""

    media_type: str  # one of IMAGE_TYPES
    data: bytes  # as in the file; base64 in JSON


#: The kinds of picture that every provider takes.
IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
#: The most bytes of one picture, and the most pictures of one message.
MAX_IMAGE: Final = 5 * 1024 * 1024
MAX_IMAGES: Final = 8


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One message. `id` is ours; `msg_id` is the sender's own and makes a repeated send harmless."""

    id: str
    instance: str
    session: str
    sender: str
    text: str
    msg_id: str | None = None
    user: dict[str, Any] | None = None
    interrupt: bool = False
    expires: float | None = None  # wall time, seconds
    images: list[Image] = []
    #: What the sender is called in a header: `agent:HANDLE`, `queue:NAME`; empty for a person, who needs none.
    name: str = ""
    sender_session: str | None = None  # the conversation of the agent that sent it, where reports go
    task: str | None = None  # what it is about, where somebody keeps track of that
    status: str | None = None  # how that task went: `ok` or `error`; None when it is not a report
    hops: int = 0  # how many agents passed it on, one to the next, since a person or a schedule wrote last
    report: bool = False  # the final text of the turn that deals with it goes back to the sender
    report_to: str | None = None  # or to this instance, by id, as a person may want who hands work over
    accepted_at: float = 0.0  # wall time, seconds


class Receipt(msgspec.Struct, frozen=True):
    """Proof that an envelope is on disk. `duplicate` says that it already was; `warning` what was not done as the sender wanted it."""

    id: str
    seq: int
    duplicate: bool = False
    warning: str = ""
