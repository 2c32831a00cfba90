"""The nouns of the model broker: who calls, what a call is, and what it is spoken over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.models import Dialect, Usage
    from aegis.services.broker.recording import Recorder
    from aegis.services.broker.replaying import Player


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


def none_else() -> tuple[str, ...]:
    """No further models."""
    return ()


class LimitHit(msgspec.Struct, frozen=True):
    """A provider gives no more for now. `resets_at` is wall time, seconds; None where it does not say."""

    provider: str
    resets_at: float | None
    message: str


@dataclass(kw_only=True)
class BrokerClient:
    """An instance as the broker sees it: the principal of every call on its tether. The wiring may change it while it lives.

    `token` is what programs inside must present; it opens nothing outside the sandbox. `models` gives the full names that may
    be used besides `model`. `session_of` turns the session that a request names (None when it names none) into a session of
    this instance, or None; what it returns is what is recorded. With `replay` no provider is asked; `record` keeps what one
    answered.
    """

    instance: str
    token: str
    model: str
    models: Callable[[], tuple[str, ...]] = none_else
    session_of: Callable[[str | None], str | None] = as_named
    record: Recorder | None = None
    replay: Player | None = None

    @property
    def allowed(self) -> list[str]:
        """Every model it may use, its own first."""
        return list(dict.fromkeys((self.model, *self.models())))


Outcome = Literal["running", "completed", "failed", "refused", "cancelled"]
Source = Literal["broker", "replayed", "program"]


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
    path: str  # at the provider; `{model}` stands for the model where the path names it
    stream: bool
    counts_only: bool = False  # asked for the number of tokens of a prompt: no turn of the model's
    source: Source = "broker"  # `replayed`: answered from a recording, so that nothing was used
    input_estimate: int  # tokens, by length of the body; for reservations
    max_tokens: int | None  # what the program allowed the answer
    started_at: float  # wall time, seconds
    outcome: Outcome = "running"
    admitted: bool = False  # `admit` was asked and agreed
    audit: int | None = None  # the row of the audit record that says so
    status: int = 0  # the HTTP status the program got
    usage: Usage | None = None
    cost_usd: float | None = None
    ms: float = 0.0  # from the complete request to the last byte
    first_byte_ms: float | None = None  # to the first byte of the answer's body
    limit: LimitHit | None = None  # the provider's, which this call met
    given_up: str = ""  # why nothing more is tried, for people; empty while the program may try again
    error: str = ""  # for people; never a credential
    received: int = 0  # bytes of the answer's body that have come
    pieces: int = 0  # events of a streamed answer that have come, each at least a token as a rule
