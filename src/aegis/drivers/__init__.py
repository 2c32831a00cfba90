"""The driver port: how Aegis talks to the program inside a sandbox.

A driver is a pure state machine from the program's frames to `DriverEvent`s under a thin process shell. It never reads a
screen. One `Conversation` is one session of one instance and one process in the sandbox; turns follow each other in it.

The order of a turn's events is: `Accepted` (the program has the messages), then any of the others, then exactly one
`Finished`. A turn that the program begins by itself starts with `Began` instead of `Accepted`. If the process dies, `events`
ends with `Died` instead. Between turns only `Happened` with a fact about the session, `Noted`, `Busy`, `Began` and `Died` come.

There are two ways to keep a conversation. Aegis's own agent is started with all of it (`history`) and says each new message
as a `Record`, which it acts on only after `committed` says that it is on disk. A foreign program keeps its own files in the
HOME of the instance: it is resumed by its own name for the session (`ConversationSpec.resume`), which `Conversation.opened`
told when it was there first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from aegis.core.dialects import Dialect
from aegis.core.envelopes import Image
from aegis.core.events import Fact, Location, Outcome, ToolKind
from aegis.sandboxes import Mount

if TYPE_CHECKING:
    from aegis.sandboxes.link import Link

#: What an agent may do; see `aegis.services.agents.permissions`.
Permission = Literal["read", "write", "full"]


class Capabilities(msgspec.Struct, frozen=True):
    """What a program can do."""

    resume: bool = False
    fork: bool = False
    mid_turn_input: bool = False  # its conversations are `Listening`
    permission_requests: bool = False
    images: bool = False
    switch_model: bool = False  # in a running session, without starting the program anew
    modes: tuple[str, ...] = ()  # empty: it has none, or tells them only when it runs
    unasking: tuple[str, ...] = ()  # those modes in which it changes or runs something without asking for leave
    efforts: tuple[str, ...] = ()  # empty: it cannot be told how hard to think
    forgets_failed: bool = False  # what it was told is not in its conversation when the model call failed that was to answer it
    tells_retries: bool = False  # it tells when it tries a failed model call again
    keeps_memory: bool = True  # it keeps the conversation itself; False: it is started with `history` and says `Record`s


class AgentLimits(msgspec.Struct, frozen=True):
    """Bounds of one turn. Zero or less is not allowed."""

    rounds: int = 50
    turn_seconds: float = 3600.0
    tool_seconds: float = 120.0
    context_tokens: int = 120_000
    max_tokens: int = 8192


class McpServer(msgspec.Struct, frozen=True, kw_only=True):
    """An MCP server that the program is to use: a command inside the sandbox, or a URL on its loopback."""

    name: str
    command: list[str] = []
    env: dict[str, str] = {}
    url: str = ""
    headers: dict[str, str] = {}


class Message(msgspec.Struct, frozen=True):
    """A message for the program, by our message id."""

    id: str
    text: str
    images: list[Image] = []


class ConversationSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversation is started with. `history` are the recorded messages so far, oldest first; paths are those inside."""

    session: str
    model: str  # as the broker knows it, "provider/model"
    dialect: Dialect  # the one to speak to the endpoint
    system: str | None = None
    history: list[dict[str, Any]] = []  # pictures in it come with their data, the newest at least
    permission: Permission = "write"
    #: With "ask" a person answers before anything is changed or run, so the program must ask; with "auto" it need not.
    approvals: str = "auto"
    limits: AgentLimits = AgentLimits()
    env: dict[str, str] = {}
    #: Where the program finds its model: `http://127.0.0.1:PORT/s/KEY`, without a slash at its end. What follows is as at the
    #: provider: `/v1/messages`, `/v1/chat/completions`, `/v1beta/models/...`. Everything under it belongs to this session.
    endpoint: str = ""
    token: str = ""  # what it presents there as its key; worth nothing anywhere else
    cwd: str = "/workspace"
    effort: str | None = None
    mode: str | None = None
    resume: str | None = None  # the program's own name of the session to go on with
    fork: bool = False  # go on with a copy of it instead
    fresh_id: str = ""  # a UUID, for programs that let their host name a session
    #: Messages of a turn that was cut short, when nobody knows whether the program has them: see `Opened.known`.
    pending: list[Message] = []
    mcp: list[McpServer] = []


class Opened(msgspec.Struct, frozen=True):
    """The session as the program opened it. `known` are the ids among `ConversationSpec.pending` that its transcript already holds."""

    program_session: str = ""
    version: str = ""
    resumed: bool = False
    model: str = ""
    mode: str = ""
    known: tuple[str, ...] = ()


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
    """A fact of the turn that is not part of the memory (deltas, presence, usage), or, between turns, of the session."""

    fact: Fact


class Noted(msgspec.Struct, frozen=True):
    """Something for who looks into the log of the instance: a server of tools did not start, a program beside it died."""

    text: str


class Began(msgspec.Struct, frozen=True):
    """The program began a turn that nobody asked for: work in the background has ended, and it goes on with the result."""


class Busy(msgspec.Struct, frozen=True):
    """Whether the program works in the background between turns; while it does, its sandbox must not be frozen."""

    active: bool


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The program asks for leave to use a tool and waits. `id` is the driver's own; answer it with `Conversation.answer`.

    With `question` it wants something from a person (a choice, a plan to be accepted) that no rule can answer.
    """

    id: str
    tool: str
    input: dict[str, Any]
    kind: ToolKind = "other"
    title: str = ""
    call_id: str | None = None
    locations: list[Location] = []
    question: bool = False
    #: What the tool does is the program's word alone; else it follows from the name of a tool that Aegis knows.
    claimed: bool = False


class Withdrawn(msgspec.Struct, frozen=True):
    """The program does not wait for the answer to this request any more."""

    id: str


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request. `reason` is told to the model when it is no; `input` replaces the tool's, where the program can."""

    allow: bool
    reason: str = ""
    input: dict[str, Any] | None = None


class Finished(msgspec.Struct, frozen=True):
    """The program ended the turn.

    `error` is `AegisError.to_dict()`; with `kind` `limit` a provider's limit ended it, and `data.resets_at` is when (wall seconds),
    where that is known. `reason` is the program's own word. The totals are the program's own report: the broker knows better.
    """

    outcome: Outcome
    text: str = ""
    error: dict[str, Any] | None = None
    rounds: int = 0
    reason: str = ""
    input: int = 0
    output: int = 0
    cached: int = 0
    cost_usd: float | None = None


class Died(msgspec.Struct, frozen=True):
    """The process is gone. `exit` is negative for a signal."""

    exit: int | None
    stderr: str


DriverEvent = Accepted | Acknowledged | Record | Happened | Noted | Began | Busy | Asked | Withdrawn | Finished | Died


class Conversation(Protocol):
    """A started session."""

    opened: Opened

    async def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> None:
        """Begin turn `turn`. With `continues` the program goes on with what it has of a turn that was cut; `messages` may be empty."""
        ...

    def events(self) -> AsyncIterator[DriverEvent]:
        """Everything the program says, until it dies or is closed. To be iterated once; the program waits when it is not read."""
        ...

    async def committed(self, n: int) -> None:
        """Tell the program that record `n` is on disk."""
        ...

    async def answer(self, request: str, answer: Answer) -> None:
        """Answer what it asked; nothing happens for a request that it withdrew."""
        ...

    async def configure(self, *, model: str | None = None, mode: str | None = None, effort: str | None = None) -> None:
        """Change what it runs with from the next model call on.

        Raises AegisError: CONFLICT where the program can only be started with it, NOT_FOUND with the nearest name for a mode it has not.
        """
        ...

    async def interrupt(self) -> None:
        """Cut the running turn; it ends with `Finished(cancelled)`. Nothing happens between turns."""
        ...

    async def close(self) -> None:
        """End the process and all it started. Idempotent."""
        ...


class Listening(Conversation, Protocol):
    """A conversation that takes messages in the middle of a turn."""

    async def add(self, turn: str, messages: list[Message]) -> None:
        """Hand further messages to the turn that runs; the program reads them before its next model call.

        That it has them it says as with the first ones. Those that it does not confirm before `Finished` it never had, and never takes
        up later: nothing happens for a turn that is over.
        """
        ...


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """A program found on this machine. `mounts` must be shown inside, read-only and at the same paths, for `argv` to work there."""

    name: str
    argv: list[str]
    version: str
    path: Path  # of the program, as it was found
    mounts: tuple[Mount, ...] = ()
    warning: str = ""  # such as: another version than the one Aegis is tested with


class Driver(Protocol):
    """One kind of program."""

    name: str
    capabilities: Capabilities
    #: The dialects its program can speak to a model, the best first.
    dialects: tuple[Dialect, ...]

    async def locate(self) -> Installation | None:
        """Find the program; None when there is nothing to be found, because Aegis brings it along.

        Raises AegisError(NOT_FOUND) whose hint is the command that installs it, UNAVAILABLE when what is there does not work here.
        """
        ...

    async def start(self, link: Link, spec: ConversationSpec) -> Conversation:
        """Start the program in the sandbox behind `link`; what `locate` named is shown there.

        Raises AegisError(FAILED) with `exit` and `stderr` in its data when it dies before it is ready, NOT_FOUND when the session to
        resume is not there.
        """
        ...
