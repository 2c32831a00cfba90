"""The nouns: an instance, what it was launched with, the states it goes through."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from aegis.core.egress import EgressRule
from aegis.drivers import AgentLimits, McpServer, Permission
from aegis.models.names import ProviderSpec
from aegis.sandboxes import Limits
from aegis.services.config.model import Allowance, SpawnRights


class State(StrEnum):
    """Where an instance is in its life. `enabled` is separate: a disabled one stays stopped until somebody starts it."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"


class MountRule(msgspec.Struct, frozen=True):
    """A host path that an instance sees; read-only unless `writable`."""

    source: str
    target: str
    writable: bool = False


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an instance is started with, again and again, until it is deleted. Holds names of secrets, never values."""

    agent: str
    kit: str | None = None
    driver: str | None = "native"  # None: a plain program, `command`
    command: list[str] = []
    model: str | None = None  # None for a plain program
    provider: ProviderSpec | None = None  # where the model is, when the project or the home declares that
    system: str | None = None
    permission: Permission = "write"
    approvals: str = "auto"  # who answers what the program asks leave for: "auto", the rules of the permission; "ask", a person
    approvals_deadline: float = 7 * 86400.0  # how long a person may take to answer, in seconds
    approvals_default: str = "reject"  # or "approve": what counts after that
    effort: str | None = None  # how hard the model is to think, in the program's own words
    mode: str | None = None  # the program's own mode to start in
    auth: str = "broker"  # or "login": the program uses a copy of its own login and speaks to its provider itself
    egress: list[str | EgressRule] = []  # rules `host:port`, on requests, or the word "packages"; they count with permission `full` alone
    mcp: list[McpServer] = []
    tools: tuple[str, ...] = ("core",)  # which families of Aegis's own verbs it has over MCP
    tool_servers: tuple[str, ...] = ()  # MCP servers that the daemon uses for it, by name
    security: tuple[str, ...] = ()  # security contexts that bind it, all of them at once
    record: str | None = None  # a file that model calls are recorded to
    replay: str | None = None  # a file that model calls are answered from
    sandbox: str
    workspace: str | None = None
    mounts: list[MountRule] = []
    secrets: list[str] = []
    exposed: list[str] = []  # secrets put into the environment inside, because a person said so
    env: dict[str, str] = {}
    limits: Limits = Limits()
    turn: AgentLimits = AgentLimits()
    pause_after: float = 60.0  # seconds of idleness until the sandbox is frozen
    stop_after: float = 300.0  # further seconds until it is stopped
    on_interrupt: str = "resume"  # or "hold"
    project: str | None = None
    spawn: SpawnRights = SpawnRights()
    origin: str | None = None  # the conversation of the parent that spawned it
    guard: str = "hold"  # what becomes of files it leaves for others to act on: "hold", "tell" or "off"
    budget: Allowance = Allowance()  # what it may use, with all that it spawns
    ephemeral: bool = False  # deleted when the program that it was made for ends, or at the next start of the daemon

    def supply(self, model: str | None) -> str:
        """Who gives `model` to this instance, as limits are kept: a login is a plan of its own, whatever the provider is called."""
        name = (model or self.model or "").partition("/")[0]
        if self.auth == "login":
            return f"the login of {self.driver}"
        return self.provider.supply if self.provider is not None and self.provider.name == name else name

    @property
    def read_only(self) -> bool:
        """Whether the workspace is read-only inside."""
        return self.permission == "read"


class Instance(msgspec.Struct):
    """A row of `instances`, kept in memory while it exists. Times are wall seconds."""

    id: str
    handle: str
    idx: int
    launch: Launch
    state: State
    reason: str
    enabled: bool
    token: str
    created_at: float
    last_active_at: float
    stopped_at: float | None = None
    parent: str | None = None  # the id of the instance that spawned it
