"""The nouns of the model broker: who calls, what a call is, and what it is spoken over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.models import Dialect, Usage


class ByteChannel(Protocol):
    """What the broker needs of a tether channel."""

    async def read(self) -> bytes:
        """The next bytes; empty when the other end has ended or closed."""
        ...

    async def write(self, data: bytes) -> None:
        """Send, waiting for credit."""
        ...

    async def eof(self) -> None:
        """Say that nothing more will be written."""
        ...

    async def close(self, **info: Any) -> None:
        """End the channel for both."""
        ...


def as_named(name: str | None) -> str | None:
    """The session a program named, unchecked."""
    return name


@dataclass(kw_only=True)
class BrokerClient:
    """An instance as the broker sees it: the principal of every call on its tether. The wiring may change it while it lives.

    `token` is what programs inside must present; it opens nothing outside the sandbox. `models` are full names that may be
    used besides `model`. `session_of` turns the `x-aegis-session` header (None when absent) into a session of this
    instance, or None; what it returns is what is recorded.
    """

    instance: str
    token: str
    model: str
    models: tuple[str, ...] = ()
    session_of: Callable[[str | None], str | None] = as_named


Outcome = Literal["running", "completed", "failed", "refused", "cancelled"]


class Call(msgspec.Struct, kw_only=True):
    """One model call. Made when it is asked for, handed to `admit`, filled in, handed to `record` exactly once.

    A call for another model than the instance's own is recorded without having been handed to `admit`.

    `refused`: Aegis said no and nothing left the machine. `failed`: the provider gave an error or broke off. `cancelled`:
    the program went away; its usage is what had been told by then. `usage` and `cost_usd` are None when unknown, which is not
    the same as nothing.
    """

    id: str
    instance: str
    session: str | None
    model: str  # full name
    dialect: Dialect
    path: str
    stream: bool
    input_estimate: int  # tokens, by length of the body; for reservations
    max_tokens: int | None  # what the program allowed the answer
    started_at: float  # wall time, seconds
    outcome: Outcome = "running"
    admitted: bool = False  # `admit` was asked and agreed
    status: int = 0  # the HTTP status the program got
    usage: Usage | None = None
    cost_usd: float | None = None
    ms: float = 0.0  # from the complete request to the last byte
    first_byte_ms: float | None = None  # to the first byte of the answer's body
    error: str = ""  # for people; never a credential
