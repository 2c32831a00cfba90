"""The shapes of the daemon's answers, as dictionaries with known keys.

They are what the HTTP API sends, under the same names. A newer daemon may send further keys.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

#: What can be done to an instance by one word.
Action = Literal["start", "pause", "resume", "restart", "disable"]
#: A session as `(channel, id)`.
Session = tuple[str, str]
DEFAULT_SESSION: Session = ("host", "default")
#: The types of the frames that the daemon sends.
FRAME_TYPES = (
    "user.message",
    "event.ack",
    "event.failed",
    "status.presence",
    "assistant.delta",
    "reasoning.delta",
    "reasoning.done",
    "assistant.text",
    "tool.call",
    "tool.result",
    "usage",
    "approval.requested",
    "approval.escalated",
    "approval.decided",
    "assistant.done",
)


class MountSpec(TypedDict):
    """A host path shown inside the sandbox."""

    source: str
    target: str
    writable: bool


class InstanceSpec(TypedDict, total=False):
    """What an instance is started with; everything is optional and the definition of the agent gives the rest.

    `secrets` are names (`NAME`: a broker may present it; `NAME:env`: programs inside see it). `memory_mb` is in MiB, `cpus` in
    cores. `project` is the directory whose `.aegis.yaml` applies, `workspace` one that the instance may work in. `provider` is the
    program that is the agent; `permission` is `read`, `write` or `full`, `approvals` `auto` or `ask`; `record` and `replay` are files
    of model calls.
    """

    handle: str
    kit: str
    project: str
    command: list[str]
    sandbox: str
    model: str
    workspace: str
    read_only: bool
    mounts: list[MountSpec]
    secrets: list[str]
    env: dict[str, str]
    memory_mb: int
    cpus: float
    pids: int
    system: str
    budget: list[str]
    permission: str
    ephemeral: bool
    provider: str
    effort: str
    mode: str
    approvals: str
    egress: list[str | dict[str, Any]]
    auth: str
    record: str
    replay: str


class InstanceRequest(InstanceSpec, total=False):
    """The whole request: the definition of which agent, and the rest."""

    agent: str


class InstanceInfo(TypedDict):
    """An instance as it is now. Times are RFC 3339 or seconds since the epoch."""

    id: str
    handle: str
    agent: str | None
    kit: NotRequired[str | None]
    driver: str | None
    model: str | None
    state: str
    enabled: bool
    sandbox: str
    boundary: str
    workspace: str | None
    read_only: bool
    mounts: list[MountSpec]
    secret_keys: list[str]
    exposed_secrets: list[str]
    env_keys: list[str]
    limits: dict[str, Any]
    enforced: dict[str, dict[str, Any]]
    warnings: NotRequired[list[str]]  # what a person should know of it
    created_at: str | float
    last_active_at: str | float
    stopped_at: NotRequired[str | float | None]
    reason: NotRequired[str | None]
    sessions: list[dict[str, Any]]
    usage: dict[str, Any]
    budgets: NotRequired[list[dict[str, Any]]]  # those that its calls count in, an entry for each kind of amount
    effort: NotRequired[str | None]
    mode: NotRequired[str | None]
    modes: NotRequired[list[str]]  # that its program has, where it tells them before it runs
    efforts: NotRequired[list[str]]
    auth: NotRequired[str]
    permission: NotRequired[str]
    activity: NotRequired[str]
    activity_until: NotRequired[float | None]
    parent: NotRequired[str | None]  # the handle of the one that spawned it
    children: NotRequired[list[str]]
    spawn: NotRequired[dict[str, int]]  # what it may start by itself: `depth`, `children`, `total`
    activity_note: NotRequired[str]  # what makes it look stuck, or what keeps it from being started
    approvals: NotRequired[str]
    open_approvals: NotRequired[int]
    egress: NotRequired[list[str | dict[str, Any]]]


class ImageSpec(TypedDict):
    """A picture that goes with a message: its media type, such as `image/png`, and its bytes in base64."""

    media_type: str
    data: str


class ApprovalInfo(TypedDict):
    """What an agent asks leave for, and what became of it. Times are seconds since the epoch.

    `state` is `pending`, `approved`, `rejected` or `withdrawn`. With `question` it wants a person's own answer, not a permission.
    Of a very long `input` the texts are cut. `argv` and `cwd` show a command, `risk` says what is dangerous about it; `policies` are the
    rules that want a person asked. At `deadline` it ends with `default`, `reject` or `approve`. `scope` is how far a yes goes, `once` or
    `session`; `rule` is the rule that was written with it.
    """

    id: str
    instance: str
    handle: str | None
    agent: str | None
    session: str
    turn: str
    tool: str
    kind: str
    title: str
    input: dict[str, Any]
    call_id: str | None
    question: bool
    state: str
    asked_at: float
    decided_at: float | None
    delivered_at: float | None
    principal: str
    reason: str
    edited: dict[str, Any] | None
    action: str
    resource: str
    argv: list[str]
    cwd: str
    digest: str
    risk: str
    policies: list[str]
    deadline: float | None
    default: str
    scope: str
    rule: str
    escalated_at: float | None
    escalated_by: str


class RuleProposal(TypedDict):
    """The narrowest rule that spares the same question: its name, its text, and the file that it would go to."""

    id: str
    text: str
    path: str


class Usage(TypedDict):
    """What an instance, a session or a turn has used: tokens, model calls, tools, seconds of finished turns.

    `cost_usd` is None where the price of a call is not known. `sessions` are the same by session, of an instance as a whole only.
    """

    turns: int
    tools: int
    tool_errors: int
    seconds: float
    calls: int
    input: int
    output: int
    cached: int
    cost_usd: float | None
    sessions: NotRequired[list[dict[str, Any]]]


class Stats(TypedDict):
    """What an instance uses now; bytes and seconds."""

    processes: int
    cpu_seconds: float
    rss_bytes: int
    pss_bytes: int | None


class Receipt(TypedDict):
    """Proof that a message is on disk. `id` is Aegis's own, `ingress_seq` its place in the log."""

    id: str
    msg_id: str | None
    session_id: str
    ingress_seq: int
    duplicate: bool


class Frame(TypedDict):
    """One frame of the tether, see the types in the API's documentation."""

    v: int
    type: str
    ts: str
    session: dict[str, str]
    seq: int
    payload: dict[str, Any]
    msg_id: NotRequired[str]


class FramePage(TypedDict):
    """Frames after a cursor. `evicted` is the highest number that is gone for ever, 0 when nothing is missing."""

    frames: list[Frame]
    next_seq: int
    timed_out: bool
    evicted: int


class EventPage(TypedDict):
    """Events after a cursor, as the log holds them."""

    events: list[dict[str, Any]]
    next_seq: int
    evicted: int


class Transcript(TypedDict):
    """The recorded conversation of a session."""

    session: str
    messages: list[dict[str, Any]]
    next: NotRequired[int | None]


class Mail(TypedDict):
    """A message to an instance and how far it came. In lists `text` is its beginning; `size` is the number of its characters.

    `state` is `accepted`, `injected`, `acknowledged`, `failed` or `expired`. `name` is what an agent that sent it is called.
    """

    id: str
    seq: int
    handle: str | None
    sender: str
    name: str
    session: str
    task: NotRequired[str | None]
    status: NotRequired[str | None]
    hops: NotRequired[int]
    report: NotRequired[bool]
    expires: NotRequired[float | None]
    done_at: NotRequired[float | None]
    turn: NotRequired[str | None]
    position: NotRequired[int | None]  # of a single one: how many are before it, None when it does not wait
    size: NotRequired[int]
    state: str
    accepted_at: str | float
    injected_at: NotRequired[str | float | None]
    acknowledged_at: NotRequired[str | float | None]
    reason: NotRequired[str | None]
    text: str


class Letter(TypedDict, total=False):
    """One message of a batch; `to` and `text` must be there. `session` is `channel:id`, `expires_s` seconds from now on."""

    to: str
    text: str
    session: str
    msg_id: str
    user: dict[str, Any]
    interrupt: bool
    expires_s: float
    images: list[ImageSpec]
    task: str
    report_to: str
    hold: bool


class SecretInfo(TypedDict):
    """A secret without its value, which nobody can read back."""

    name: str
    created_at: str | float
    updated_at: NotRequired[str | float]
    version: int


class Trust(TypedDict):
    """Whether a project's declarations may take effect. `hash` is what a person agrees to."""

    trusted: bool
    hash: str
    path: str
    summary: Any
