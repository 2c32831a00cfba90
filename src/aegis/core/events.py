"""The closed vocabulary of what can happen.

A *fact* is a typed struct; an *event* is a fact with its number, time and place. Durable facts are on disk before anybody
sees them. Ephemeral ones (deltas, presence) share the same numbers, live in a bounded ring in memory, and are superseded
by a durable fact that holds the whole text.

The JSON of an event is flat: `{"v":1,"seq":7,"ts":...,"type":"turn.text","instance":...,"session":...,"turn":...,"data":{...}}`.
Golden files in `tests/golden/events` pin it. A field may be added with a default; none is ever renamed or removed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Final, Literal

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
    parent: str | None = None  # the instance that spawned it, by id


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


class InstanceActivity(Fact, frozen=True):
    """What an instance is about, in one word for people: `starting`, `working`, `needs-you`, `idle`, `limited`, `failed`, `unknown`.

    `until` is when a limit ends (wall time, seconds), where somebody told it. `note` is for people: what makes it look stuck, or what
    keeps it from being started.
    """

    type: ClassVar[str] = "instance.activity"
    ephemeral: ClassVar[bool] = True
    activity: str
    until: float | None = None
    note: str = ""


class InstanceLimited(Fact, frozen=True):
    """The model's provider gives no more for now. Work goes on by itself at `until`, wall time in seconds."""

    type: ClassVar[str] = "instance.limited"
    provider: str
    until: float
    reason: str = ""
    told: bool = True  # the provider named the time; else it is our guess


class InstanceEgress(Fact, frozen=True):
    """A program in the sandbox asked for a connection to the outside, and what was said to it.

    `method` and `path`, without its query, are those of a request that was looked at; empty for a connection.
    """

    type: ClassVar[str] = "instance.egress"
    host: str
    port: int
    allowed: bool
    reason: str = ""
    method: str = ""
    path: str = ""


class InstanceExec(Fact, frozen=True):
    """Somebody ran a program in an instance's sandbox."""

    type: ClassVar[str] = "instance.exec"
    exec_id: str
    argv: list[str]
    principal: str


class InstanceHeld(Fact, frozen=True):
    """Something that an agent left in its workspace for other programs of the person to act on; `path` is relative to the workspace.

    `state` is `held` (it was taken out), `told` (it stands there), `failed` (it could not be taken out), `released` or `dropped` (a
    person decided). `rule` is its class; `restored` says that what was there before is back.
    """

    type: ClassVar[str] = "instance.held"
    held_id: str
    path: str
    rule: str
    state: str
    reason: str = ""
    restored: bool = False


class MailAccepted(Fact, frozen=True):
    """An envelope is on disk; from here on it cannot be lost. `images` counts the pictures that came with the text."""

    type: ClassVar[str] = "mail.accepted"
    message_id: str
    sender: str
    text: str
    msg_id: str | None = None
    user: dict[str, Any] | None = None
    images: int = 0
    name: str = ""  # what the sender is called: `agent:HANDLE`, `queue:NAME`
    task: str | None = None
    status: str | None = None
    hops: int = 0


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


class MailRequeued(Fact, frozen=True):
    """The messages wait again: the turn they were meant for ended before its program had them, or somebody had them tried again."""

    type: ClassVar[str] = "mail.requeued"
    message_ids: list[str]
    reason: str


class SessionOpened(Fact, frozen=True):
    """A session runs in a program. `program_session` is the program's own name for it, by which it is resumed after its death."""

    type: ClassVar[str] = "session.opened"
    program: str
    program_session: str
    version: str = ""
    resumed: bool = False
    forked_from: str | None = None


class SessionSettings(Fact, frozen=True):
    """What a session runs with now: those that are known or were changed, by whomever."""

    type: ClassVar[str] = "session.settings"
    model: str | None = None
    mode: str | None = None
    effort: str | None = None


class SessionTitle(Fact, frozen=True):
    """The program gave the session a title."""

    type: ClassVar[str] = "session.title"
    title: str


class SessionContext(Fact, frozen=True):
    """How full the model's context is, in tokens; `size` is 0 when nobody knows the most it takes."""

    type: ClassVar[str] = "session.context"
    used: int
    size: int = 0


class SessionCompacted(Fact, frozen=True):
    """The program shortened the conversation. Tokens before and after, 0 when it did not say."""

    type: ClassVar[str] = "session.compacted"
    trigger: str  # "auto" or "manual"
    before: int = 0
    after: int = 0


class TurnStarted(Fact, frozen=True):
    """A turn began. `in_reply_to` are the messages it answers, by message id; `continues` the turn that was cut short.

    `origin` is `mail`, or `program` when the program began by itself (work in the background that has ended).
    """

    type: ClassVar[str] = "turn.started"
    in_reply_to: list[str]
    continues: str | None = None
    origin: str = "mail"


class TurnPresence(Fact, frozen=True):
    """What the agent is doing: `thinking`, `tool: NAME`, `waiting`, `idle`."""

    type: ClassVar[str] = "turn.presence"
    ephemeral: ClassVar[bool] = True
    state: str


class TextDelta(Fact, frozen=True):
    """A piece of the answer as it arrives. `parent` is the call of the tool that a sub-agent works for."""

    type: ClassVar[str] = "turn.text.delta"
    ephemeral: ClassVar[bool] = True
    text: str
    parent: str | None = None


class ThinkingDelta(Fact, frozen=True):
    """A piece of the reasoning as it arrives."""

    type: ClassVar[str] = "turn.thinking.delta"
    ephemeral: ClassVar[bool] = True
    text: str
    parent: str | None = None


class Text(Fact, frozen=True):
    """One whole text of the agent within a turn. `model` wrote it, where the program says so."""

    type: ClassVar[str] = "turn.text"
    text: str
    parent: str | None = None
    model: str = ""


class Thinking(Fact, frozen=True):
    """One whole piece of reasoning. The text is empty where the provider hides it; `tokens` is then its estimated length."""

    type: ClassVar[str] = "turn.thinking"
    text: str
    parent: str | None = None
    model: str = ""
    tokens: int = 0


class Location(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place that a tool touches: a path as it is inside, and a line counted from 1."""

    path: str
    line: int | None = None


class Diff(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tool changed in a file: the text before (None for a new file) and after, each cut at `MAX_DIFF` characters."""

    path: str
    new: str
    old: str | None = None
    truncated: bool = False


#: The most characters of one side of a diff that an event carries.
MAX_DIFF: Final = 100_000

#: What tools do, whatever they are called. `think` is a sub-agent or a note to itself.
ToolKind = Literal["read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other"]


class ToolCall(Fact, frozen=True):
    """The agent is about to use a tool. With Aegis's own agent it is on disk before the tool runs."""

    type: ClassVar[str] = "turn.tool.call"
    call_id: str
    name: str
    input: dict[str, Any]
    kind: ToolKind = "other"
    title: str = ""  # one line for people, such as the command
    locations: list[Location] = []
    parent: str | None = None


class ToolProgress(Fact, frozen=True):
    """A tool at work: more of its output, or what it is about by now."""

    type: ClassVar[str] = "turn.tool.progress"
    ephemeral: ClassVar[bool] = True
    call_id: str
    text: str = ""
    title: str = ""
    parent: str | None = None


class ToolResult(Fact, frozen=True):
    """What a tool gave back. `ms` is its running time in milliseconds."""

    type: ClassVar[str] = "turn.tool.result"
    call_id: str
    name: str
    ok: bool
    output: str
    truncated: bool = False
    ms: float = 0.0
    kind: ToolKind = "other"
    diffs: list[Diff] = []
    parent: str | None = None


class PlanEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of a plan. `status` is `pending`, `in_progress` or `completed`; `priority` `high`, `medium` or `low`."""

    content: str
    status: str = "pending"
    priority: str = "medium"


class Plan(Fact, frozen=True):
    """What the agent means to do: always all of it."""

    type: ClassVar[str] = "turn.plan"
    entries: list[PlanEntry]
    parent: str | None = None


class Retrying(Fact, frozen=True):
    """A model call failed and the program tries it again after `delay` seconds."""

    type: ClassVar[str] = "turn.retrying"
    ephemeral: ClassVar[bool] = True
    attempt: int
    delay: float = 0.0
    status: int = 0
    reason: str = ""


class ApprovalRequested(Fact, frozen=True):
    """The agent asks for leave to use a tool, or a rule wants a person asked, and a person is to answer.

    `action` and `resource` are what the gate was asked, empty for a tool of the program's own; `risk` says what is dangerous about it.
    At `deadline` (wall seconds) it ends with `default`: `reject` or `approve`. `digest` is that of the exact call.
    """

    type: ClassVar[str] = "approval.requested"
    approval_id: str
    tool: str
    input: dict[str, Any]
    kind: ToolKind = "other"
    title: str = ""
    call_id: str | None = None
    action: str = ""
    resource: str = ""
    argv: list[str] = []
    cwd: str = ""
    digest: str = ""
    risk: str = ""
    deadline: float | None = None
    default: str = "reject"


class ApprovalEscalated(Fact, frozen=True):
    """Somebody wants a request answered that still waits: people are told again. `deadline` is the one that counts from now on."""

    type: ClassVar[str] = "approval.escalated"
    approval_id: str
    principal: str
    title: str
    risk: str = ""
    deadline: float | None = None
    reason: str = ""


class ApprovalDecided(Fact, frozen=True):
    """The answer: `verdict` is `approved`, `rejected`, or `withdrawn` when the agent does not want it any more.

    `scope` is how far a yes goes: `once`, `session` for the same call again, `rule` with a rule that was written.
    """

    type: ClassVar[str] = "approval.decided"
    approval_id: str
    verdict: str
    principal: str
    reason: str = ""
    scope: str = "once"


class TurnStuck(Fact, frozen=True):
    """The agent seems to go round in circles: `tool` with the same input `count` times in a row, or no sign of life for `seconds`."""

    type: ClassVar[str] = "turn.stuck"
    reason: str
    tool: str = ""
    count: int = 0
    seconds: float = 0.0


class Attention(Fact, frozen=True):
    """A person is told that an instance wants him, or that it is done: `kind` is `needs-you`, `done`, `failed`, `limited` or `stuck`.

    `bell` says whether who looks on at a terminal rings for it.
    """

    type: ClassVar[str] = "attention.raised"
    kind: str
    text: str
    handle: str
    bell: bool = True


class BudgetWarned(Fact, frozen=True):
    """So much of a budget is used that a person is told, once until it is less again. `level` is the part of the cap that was crossed.

    `kind` is `usd`, `tokens` or `output_tokens`; amounts are micro-dollars or tokens, `window` seconds, None for the whole life.
    `subject` is the place for people: a handle, a directory, the name of an agent; empty for the home.
    """

    type: ClassVar[str] = "budget.warned"
    name: str
    scope: str
    subject: str
    kind: str
    spent: int
    limit: int
    window: float | None = None
    level: float = 0.8


class Usage(Fact, frozen=True):
    """Tokens of one model call. `input` counts all of the prompt, the cached share included. `cost_usd` is None when unknown.

    `source` is `broker`, which saw the call, or `program`, which only told of it (its own login: nothing else knows).
    """

    type: ClassVar[str] = "turn.usage"
    model: str
    input: int
    output: int
    cached: int = 0
    cache_written: int = 0
    cost_usd: float | None = None
    ms: float = 0.0
    source: str = "broker"


class TurnFinished(Fact, frozen=True):
    """The one end of a turn, on every path. `reason` is the program's own word for it, such as `end_turn` or `max_tokens`."""

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
    reason: str = ""


class ToolsChanged(Fact, frozen=True):
    """A server of tools has other definitions than those that were accepted; these tools are not offered until a person has looked.

    `project` is the directory whose declaration it is, None for one of the home. What was `removed` is only told.
    """

    type: ClassVar[str] = "tools.changed"
    server: str
    project: str | None = None
    changed: list[str] = []
    added: list[str] = []
    removed: list[str] = []


FACTS: Final[dict[str, type[Fact]]] = {
    fact.type: fact
    for fact in (
        InstanceCreated, InstanceState, InstanceDeleted, InstanceActivity, InstanceLimited, InstanceEgress, InstanceExec, InstanceHeld,
        MailAccepted, MailInjected, MailAcknowledged, MailFailed, MailRequeued,
        SessionOpened, SessionSettings, SessionTitle, SessionContext, SessionCompacted,
        TurnStarted, TurnPresence, TextDelta, ThinkingDelta, Text, Thinking, ToolCall, ToolProgress, ToolResult, Plan, Retrying, Usage,
        ApprovalRequested, ApprovalEscalated, ApprovalDecided, TurnStuck, Attention, BudgetWarned, TurnFinished,
        ToolsChanged,
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
