"""The driver port: how Aegis talks to the program inside a sandbox.

A driver is a pure state machine from the program's frames to `DriverEvent`s under a thin process shell. It never reads a
screen. One `Conversation` is one session of one instance and one process in the sandbox; turns follow each other in it.

The order of a turn's events is: `Accepted` (the program has the messages), then any of the others, then exactly one
`Finished`. If the process dies, `events` ends with `Died` instead. `Record` is a message that belongs to the conversation's
memory: the program goes on only after `committed` says that it is on disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from aegis.core.events import Fact, Outcome

if TYPE_CHECKING:
    from aegis.sandboxes.link import Link


class Capabilities(msgspec.Struct, frozen=True):
    """What a program can do."""

    resume: bool = False
    fork: bool = False
    mid_turn_input: bool = False
    permission_requests: bool = False
    images: bool = False


class AgentLimits(msgspec.Struct, frozen=True):
    """Bounds of one turn. Zero or less is not allowed."""

    rounds: int = 50
    turn_seconds: float = 3600.0
    tool_seconds: float = 120.0
    context_tokens: int = 120_000
    max_tokens: int = 8192


class ConversationSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversation is started with. `history` are the recorded messages so far, oldest first."""

    session: str
    model: str  # as the broker knows it, "provider/model"
    dialect: str  # "anthropic" or "openai"
    system: str | None = None
    history: list[dict[str, Any]] = []
    permission: str = "write"  # "read" or "write"
    limits: AgentLimits = AgentLimits()
    env: dict[str, str] = {}


class Message(msgspec.Struct, frozen=True):
    """A message for the program, by our message id."""

    id: str
    text: str


class Accepted(msgspec.Struct, frozen=True):
    """The program has these messages."""

    ids: list[str]


class Acknowledged(msgspec.Struct, frozen=True):
    """A model call that included these messages has been made."""

    ids: list[str]


class Record(msgspec.Struct, frozen=True):
    """A message of the conversation's memory, in the neutral form of `aegis.tether.frames`. `n` counts within the process."""

    n: int
    message: dict[str, Any]
    facts: list[Fact]  # what subscribers are told in the same transaction


class Happened(msgspec.Struct, frozen=True):
    """A fact of the turn that is not part of the memory (deltas, presence, usage)."""

    fact: Fact


class Finished(msgspec.Struct, frozen=True):
    """The program ended the turn."""

    outcome: Outcome
    text: str = ""
    error: dict[str, Any] | None = None
    rounds: int = 0


class Died(msgspec.Struct, frozen=True):
    """The process is gone. `exit` is negative for a signal."""

    exit: int | None
    stderr: str


DriverEvent = Accepted | Acknowledged | Record | Happened | Finished | Died


class Conversation(Protocol):
    """A started session."""

    async def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> None:
        """Begin turn `turn`. With `continues` the program goes on with what its history holds; `messages` may be empty."""
        ...

    def events(self) -> AsyncIterator[DriverEvent]:
        """Everything the program says, until it dies or is closed."""
        ...

    async def committed(self, n: int) -> None:
        """Tell the program that record `n` is on disk."""
        ...

    async def interrupt(self) -> None:
        """Cut the running turn; it ends with `Finished(cancelled)`. Nothing happens between turns."""
        ...

    async def close(self) -> None:
        """End the process. Idempotent."""
        ...


class Driver(Protocol):
    """One kind of program."""

    name: str
    capabilities: Capabilities

    async def start(self, link: Link, spec: ConversationSpec) -> Conversation:
        """Start the program in the sandbox behind `link`.

        Raises AegisError(FAILED) with `exit` and `stderr` in its data when it dies before it is ready.
        """
        ...
