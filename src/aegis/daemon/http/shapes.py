"""The shapes of the answers that no struct of a service has: what the OpenAPI document says of them.

An answer has exactly these keys; those that may be missing are marked. Times are wall time in seconds since the epoch.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from aegis.core.egress import EgressRule
from aegis.core.errors import ErrorKind
from aegis.core.events import Event
from aegis.services.agents.returning import Returned
from aegis.services.budgets.model import BudgetBrief
from aegis.services.config import Shown
from aegis.services.config.model import SpawnRights

#: A number that keeps a cursor: the place of something in the log.
Seq = int


class Error(TypedDict):
    """Why something was refused or failed: a text for people, its kind, what to do next, and further facts for programs."""

    error: str
    kind: ErrorKind
    hint: NotRequired[str]
    data: NotRequired[dict[str, Any]]


class Status(TypedDict):
    """What the daemon says of itself. `head` is the newest number of the log, `instances` counts them by state.

    `disabled` counts those that stay stopped, `put_aside` those of them that this daemon disabled because it was started so, and
    `hindered` those that are known not to start. `restored` is every instance, where that was asked for.
    """

    status: Literal["running"]
    version: str
    pid: int
    home: str
    started_at: float
    uptime_s: float
    backend: str | None
    head: Seq
    instances: dict[str, int]
    disabled: int
    put_aside: int
    hindered: int
    restored: NotRequired[list[Returned]]
    capabilities: dict[str, Any]
    listen: list[str]


class Stopping(TypedDict):
    """The daemon is about to end."""

    status: Literal["stopping"]


class Deleted(TypedDict):
    """It is gone. `also` are the handles of those below an instance that went with it."""

    status: Literal["deleted"]
    also: NotRequired[list[str]]


class Backup(TypedDict):
    """A copy of the database that was written."""

    path: str
    bytes: int


class Check(TypedDict):
    """One finding of the examination. `mend` is the command that helps, empty where nothing is wrong."""

    name: str
    ok: bool
    detail: str
    mend: str


class SandboxCheck(TypedDict):
    """Whether a sandbox works here. The strongest that does is taken; `boundary` says in words what it keeps apart."""

    name: str
    ok: bool
    strength: int
    boundary: str
    detail: str
    mend: str


class ProgramCheck(TypedDict):
    """Whether an agent program is here. With `skipped` it is not installed, with `fault` its data file is wrong."""

    name: str
    ok: bool
    detail: str
    mend: str
    skipped: NotRequired[bool]
    fault: NotRequired[bool]
    path: NotRequired[str | None]
    version: NotRequired[str | None]
    dialects: NotRequired[list[str]]
    capabilities: NotRequired[dict[str, Any]]
    warning: NotRequired[str]
    pinned: NotRequired[str]
    install: NotRequired[str]


class ConformanceCheck(TypedDict):
    """One test of a sandbox, run just now. `skipped` says why it was not run; empty for one that was."""

    name: str
    ok: bool
    detail: str
    skipped: str


class Examination(TypedDict):
    """What works on this machine, what does not, and the command that mends it."""

    checks: list[Check]
    sandboxes: list[SandboxCheck]
    programs: list[ProgramCheck]
    models: list[Check]
    instances: list[Check]  # those that could not be started, or are not quite as they were
    conformance: NotRequired[list[ConformanceCheck]]


class EventPage(TypedDict):
    """Events after a cursor. `evicted` is the highest number at which a piece that is not kept is gone; 0 when none is."""

    events: list[Event]
    next_seq: Seq
    evicted: Seq


class Connection(TypedDict):
    """A connection that a program in a sandbox asked for: the address it went to, the bytes each way, and how long it lasted.

    `ms` is None while it is open, and for ever when the daemon died under it. Where requests are looked at, each is an entry of its
    own, with `method`, `path` (without the query) and the `status` of the answer.
    """

    id: int
    ts: float
    instance: str
    handle: str | None
    host: str
    port: int
    address: str | None
    allowed: bool
    reason: str
    sent: int
    received: int
    ms: float | None
    method: str | None
    path: str | None
    status: int | None


class ConnectionPage(TypedDict):
    """Connections, and what a person should know of where an instance's packages come from."""

    connections: list[Connection]
    warnings: list[str]


class EgressVerdict(TypedDict):
    """What would be said to a connection, or, with `method` and `path`, to a request, and why.

    `inspected`: requests to that place are looked at one by one.
    """

    host: str
    port: int
    method: str
    path: str
    allowed: bool
    reason: str
    rule: str
    hint: str
    addresses: list[str]
    problem: str
    inspected: bool


class ConfigValues(TypedDict):
    """Every key that has a value, and where it comes from."""

    values: list[Shown]


class Trusted(TypedDict):
    """The project's declarations take effect."""

    trusted: bool


class Mount(TypedDict):
    """A path of this machine that is shown inside."""

    source: str
    target: str
    writable: bool


class Context(TypedDict):
    """How full the model's context is, in tokens; None where nobody knows."""

    used: int | None
    size: int | None


class SessionInfo(TypedDict):
    """One conversation of an instance."""

    session: str
    turns: int
    busy: bool
    queued: int
    title: str | None
    model: str | None
    mode: str | None
    effort: str | None
    context: Context
    fork_of: str | None
    program_session: str | None


class LimitValues(TypedDict):
    """What an instance may use at most; None for no limit."""

    memory_mb: float | None
    cpus: float | None
    pids: int | None


class Enforced(TypedDict):
    """Whether a limit is enforced here, and by what or why not."""

    ok: bool
    detail: str


class Totals(TypedDict):
    """Tokens and money of the model calls that an instance made; `cost_usd` is None where a price is not known."""

    calls: int
    input: int
    output: int
    cached: int
    cost_usd: float | None


class InstanceInfo(TypedDict):
    """An instance as it is now. `parent` spawned it, and it spawned `children`, by handle."""

    id: str
    handle: str
    agent: str
    kit: str | None
    driver: str | None
    command: list[str]
    model: str | None
    effort: str | None
    mode: str | None
    auth: str
    warnings: list[str]
    state: str
    reason: str
    activity: str
    activity_until: float | None
    activity_note: str
    modes: list[str]
    efforts: list[str]
    enabled: bool
    sandbox: str
    boundary: str
    permission: str
    approvals: str
    open_approvals: int
    egress: list[str | EgressRule]
    workspace: str | None
    read_only: bool
    mounts: list[Mount]
    secret_keys: list[str]
    exposed_secrets: list[str]
    env_keys: list[str]
    limits: LimitValues
    enforced: dict[str, Enforced]
    project: str | None
    parent: str | None
    children: list[str]
    spawn: SpawnRights
    created_at: float
    last_active_at: float
    stopped_at: float | None
    sessions: list[SessionInfo]
    usage: Totals
    budgets: list[BudgetBrief]


class SessionUsage(TypedDict):
    """What one conversation has used."""

    session: str
    turns: int
    tools: int
    tool_errors: int
    seconds: float
    calls: int
    input: int
    output: int
    cached: int
    cost_usd: float | None


class UsageInfo(TypedDict):
    """Turns, tools, seconds, model calls, tokens and money. `sessions` are the same by session, of an instance as a whole only."""

    turns: int
    tools: int
    tool_errors: int
    seconds: float
    calls: int
    input: int
    output: int
    cached: int
    cost_usd: float | None
    sessions: NotRequired[list[SessionUsage]]


class LogLine(TypedDict):
    """One line that a program of an instance, or Aegis about it, wrote."""

    ts: float
    stream: str
    text: str
    source: str


class ExecLine(TypedDict):
    """One line of a program's life: first `exec_id` and `started_at`, then output, last `done` with the `exit_code`.

    Output is `line` with `stream`, or with `raw` pieces `d` in base64 of the stream `s` (1 or 2).
    """

    exec_id: NotRequired[str]
    started_at: NotRequired[float]
    ts: NotRequired[float]
    stream: NotRequired[str]
    line: NotRequired[str]
    source: NotRequired[str]
    instance_id: NotRequired[str]
    s: NotRequired[int]
    d: NotRequired[str]
    exit_code: NotRequired[int | None]
    done: NotRequired[bool]
    error: NotRequired[str]
    kind: NotRequired[str]
    hint: NotRequired[str]
    data: NotRequired[dict[str, Any]]


class Written(TypedDict):
    """How many bytes of the input the program was given."""

    written: int


class FrameReceipt(TypedDict):
    """A frame was taken. With a message: its `id`, and whether it was there before; `ingress_seq` is its place in the log."""

    msg_id: str | None
    session_id: str
    ingress_seq: Seq
    id: NotRequired[str]
    duplicate: NotRequired[bool]
    cancelled: NotRequired[bool]


class FrameSession(TypedDict):
    """The session of a frame."""

    channel: str
    id: str


class Frame(TypedDict):
    """One frame of the tether. The types and their payloads stand in the documentation of messages."""

    v: Literal[1]
    type: str
    ts: str
    session: FrameSession
    seq: Seq
    payload: dict[str, Any]
    turn: NotRequired[str]
    msg_id: NotRequired[str]


class FramePage(TypedDict):
    """Frames after a cursor. `timed_out` says that none came in time."""

    frames: list[Frame]
    next_seq: Seq
    timed_out: bool
    evicted: Seq


class Message(TypedDict):
    """One message of a conversation. `parent` is the call of the tool that a sub-agent worked for, `ids` are the envelopes in it."""

    n: int
    ts: float
    turn: str | None
    role: Literal["user", "assistant", "tool"]
    content: list[dict[str, Any]]
    parent: NotRequired[str]
    ids: NotRequired[list[str]]


class Transcript(TypedDict):
    """The conversation of a session. `next` is the cursor for the rest; None when this is all."""

    session: str
    messages: list[Message]
    next: int | None


class MailInfo(TypedDict):
    """A message to an instance and how far it came. In lists `text` is its beginning; `size` is the number of its characters.

    `name` is what an agent that sent it is called, empty for a person. `status` is that of a report on `task`.
    """

    id: str
    seq: Seq
    instance: str
    handle: str | None
    session: str
    sender: str
    name: str
    msg_id: str | None
    task: str | None
    status: str | None
    hops: int
    report: bool
    expires: float | None
    size: int
    text: str
    state: str
    turn: str | None
    accepted_at: float
    injected_at: float | None
    acknowledged_at: float | None
    done_at: float | None
    reason: str | None


class PolicyBounds(TypedDict):
    """What a permit asks for besides: a rate as calls and seconds, so many at a time, bytes of a result."""

    rate: dict[str, float] | None
    concurrent: int | None
    max_result: int | None


class Policy(TypedDict):
    """A rule. `effect` is `permit`, `forbid` or `ask`; `actions` is null for all; `context` is the security context it was made of."""

    id: str
    effect: Literal["permit", "forbid", "ask"]
    source: str
    place: str
    actions: list[str] | None
    says: str
    context: str | None
    obligations: PolicyBounds
    text: str
    built_in: bool


class SecurityContextInfo(TypedDict):
    """A security context that there is."""

    name: str
    description: str
    place: str


class PolicyProblem(TypedDict):
    """Why files of rules are not in force as they are now. With `kept` false agents may do nothing until it is mended."""

    source: str
    problem: str
    hint: str
    kept: bool


class Policies(TypedDict):
    """The rules in force. `folder` is where those of the home are."""

    policies: list[Policy]
    contexts: list[SecurityContextInfo]
    problems: list[PolicyProblem]
    folder: str


class PolicySchema(TypedDict):
    """Texts: the schema of rules, and the rules that are built in."""

    schema: str
    built_in: str


class CheckedPolicies(TypedDict):
    """The rules that a text is, and the name of the security context that it is, if so."""

    policies: list[Policy]
    context: str | None


class PolicyCase(TypedDict):
    """A case and what came of it; `rule` is the one that was to decide."""

    name: str
    ok: bool
    expect: str
    verdict: str
    rule: str | None
    policies: list[str]
    reason: str


class PolicyCases(TypedDict):
    """Every case of a file."""

    cases: list[PolicyCase]


class PolicyPart(TypedDict):
    """What is said of one thing that is touched, for one instance."""

    instance: str
    about: str
    verdict: str
    reason: str
    policies: list[str]


class PolicyExplanation(TypedDict):
    """The verdict, the rules that gave it, and in lines what would change it."""

    verdict: Literal["allow", "deny", "ask"]
    reason: str
    policies: list[str]
    parts: list[PolicyPart]
    obligations: PolicyBounds
    change: list[str]


class PolicyChange(TypedDict):
    """A record whose verdict would be another one."""

    id: int
    ts: float
    handle: str
    action: str
    resource: str
    before: str
    after: str
    reason: str
    policies: list[str]


class PolicySimulation(TypedDict):
    """How many records there are, how many of them could be asked again, and those that would be decided otherwise, the first 200."""

    records: int
    replayed: int
    gone: int
    incomplete: int
    changed: int
    changes: list[PolicyChange]


class PolicyDraft(TypedDict):
    """Rules for what was denied, as texts; by the id of a rule how often it forbade, which no permit changes."""

    denials: int
    rules: list[str]
    forbidden: dict[str, int]
