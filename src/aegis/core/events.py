"""The closed vocabulary of what can happen.

A *fact* is a typed struct; an *event* is a fact with its number, time and place. Durable facts are on disk before anybody
sees them. Ephemeral ones (deltas, presence) share the same numbers, live in a bounded ring in memory, and are superseded
by a durable fact that holds the whole text.

The JSON of an event is flat: `{"v":1,"seq":7,"ts":...,"type":"turn.text","instance":...,"session":...,"turn":...,"data":{...}}`.
Golden files in `tests/golden/events` pin it. A field may be added with a default; none is ever renamed or removed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Final

import msgspec

VERSION: Final = 1


class Outcome(StrEnum):
    """How a turn ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"  # somebody interrupted it
    LIMITED = "limited"  # a budget or a provider's limit
    INTERRUPTED = "interrupted"  # the daemon or the sandbox died under it


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of all facts. `type` names it on the wire; `ephemeral` says whether it is kept."""

    type: ClassVar[str]
    ephemeral: ClassVar[bool] = False


class InstanceCreated(Fact, frozen=True):
    """A handle now names an instance."""

    type: ClassVar[str] = "instance.created"
    handle: str
    agent: str
    sandbox: str
    workspace: str | None = None


class InstanceState(Fact, frozen=True):
    """An instance moved from one state to another. `reason` is for people; `stderr` the tail of what a dying program said."""

    type: ClassVar[str] = "instance.state"
    state: str
    previous: str
    reason: str = ""
    stderr: str = ""


class InstanceDeleted(Fact, frozen=True):
    """The instance and all it kept are gone; its handle is free."""

    type: ClassVar[str] = "instance.deleted"
    handle: str


class InstanceExec(Fact, frozen=True):
    """Somebody ran a program in an instance's sandbox."""

    type: ClassVar[str] = "instance.exec"
    exec_id: str
    argv: list[str]
    principal: str


class MailAccepted(Fact, frozen=True):
    """An envelope is on disk; from here on it cannot be lost."""

    type: ClassVar[str] = "mail.accepted"
    message_id: str
    sender: str
    text: str
    msg_id: str | None = None
    user: dict[str, Any] | None = None


class MailInjected(Fact, frozen=True):
    """The program confirmed that it has the messages."""

    type: ClassVar[str] = "mail.injected"
    message_ids: list[str]
    msg_ids: list[str] = []  # the senders' own, where they gave any


class MailAcknowledged(Fact, frozen=True):
    """A model call that included the messages has been made."""

    type: ClassVar[str] = "mail.acknowledged"
    message_ids: list[str]


class MailFailed(Fact, frozen=True):
    """The messages will not be delivered."""

    type: ClassVar[str] = "mail.failed"
    message_ids: list[str]
    reason: str


class TurnStarted(Fact, frozen=True):
    """A turn began. `in_reply_to` are the messages it answers, by message id; `continues` the turn that was cut short."""

    type: ClassVar[str] = "turn.started"
    in_reply_to: list[str]
    continues: str | None = None


class TurnPresence(Fact, frozen=True):
    """What the agent is doing: `thinking`, `tool: NAME`, `waiting`, `idle`."""

    type: ClassVar[str] = "turn.presence"
    ephemeral: ClassVar[bool] = True
    state: str


class TextDelta(Fact, frozen=True):
    """A piece of the answer as it arrives."""

    type: ClassVar[str] = "turn.text.delta"
    ephemeral: ClassVar[bool] = True
    text: str


class ThinkingDelta(Fact, frozen=True):
    """A piece of the reasoning as it arrives."""

    type: ClassVar[str] = "turn.thinking.delta"
    ephemeral: ClassVar[bool] = True
    text: str


class Text(Fact, frozen=True):
    """One whole text of the agent within a turn."""

    type: ClassVar[str] = "turn.text"
    text: str


class Thinking(Fact, frozen=True):
    """One whole piece of reasoning."""

    type: ClassVar[str] = "turn.thinking"
    text: str


class ToolCall(Fact, frozen=True):
    """The agent is about to use a tool. On disk before the tool runs."""

    type: ClassVar[str] = "turn.tool.call"
    call_id: str
    name: str
    input: dict[str, Any]


class ToolResult(Fact, frozen=True):
    """What a tool gave back. `ms` is its running time in milliseconds."""

    type: ClassVar[str] = "turn.tool.result"
    call_id: str
    name: str
    ok: bool
    output: str
    truncated: bool = False
    ms: float = 0.0


class Usage(Fact, frozen=True):
    """Tokens of one model call. `input` counts all of the prompt, the cached share included. `cost_usd` is None when unknown."""

    type: ClassVar[str] = "turn.usage"
    model: str
    input: int
    output: int
    cached: int = 0
    cache_written: int = 0
    cost_usd: float | None = None
    ms: float = 0.0


class TurnFinished(Fact, frozen=True):
    """The one end of a turn, on every path."""

    type: ClassVar[str] = "turn.finished"
    outcome: Outcome
    in_reply_to: list[str]
    text: str = ""
    error: dict[str, Any] | None = None
    reply_to: list[str] = []  # the senders' own msg_ids, where they gave any
    input: int = 0
    output: int = 0
    cached: int = 0
    cost_usd: float | None = None
    rounds: int = 0
    ms: float = 0.0


FACTS: Final[dict[str, type[Fact]]] = {
    fact.type: fact
    for fact in (
        InstanceCreated, InstanceState, InstanceDeleted, InstanceExec,
        MailAccepted, MailInjected, MailAcknowledged, MailFailed,
        TurnStarted, TurnPresence, TextDelta, ThinkingDelta, Text, Thinking, ToolCall, ToolResult, Usage, TurnFinished,
    )
}  # fmt: skip


class Event(msgspec.Struct, frozen=True):
    """A fact that happened. `seq` grows over the whole home and is never reused; `ts` is wall time in seconds."""

    seq: int
    ts: float
    type: str
    data: msgspec.Raw
    instance: str | None = None
    session: str | None = None
    turn: str | None = None
    v: int = VERSION

    @property
    def fact(self) -> Fact:
        """The typed fact. Raises KeyError for a type this version does not know."""
        return msgspec.json.decode(self.data, type=FACTS[self.type])

    def to_json(self) -> bytes:
        """The event as one JSON object, without a newline."""
        return msgspec.json.encode(self)
