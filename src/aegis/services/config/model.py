"""The nouns of the configuration: what an agent, a provider and a whole project declare, typed and complete.

Plain data, ready for JSON. Paths are absolute, model aliases are resolved, durations are seconds and sizes bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from aegis.core.dialects import Dialect
from aegis.core.egress import EgressRule
from aegis.drivers import AgentLimits, McpServer
from aegis.sandboxes import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class RuleFiles(NamedTuple):
    """The files of rules of one place, by name. `stamp` changes whenever one of them does; `trusted`: they may come into force."""

    stamp: object
    trusted: bool
    files: Callable[[], Mapping[str, bytes]]


class SpawnRights(msgspec.Struct, frozen=True):
    """What an agent may start by itself: generations below it, children of its own, and descendants, all that exist counted.

    A zero anywhere means that it may start none.
    """

    depth: int = 2
    children: int = 8
    total: int = 32


class MountDefinition(msgspec.Struct, frozen=True):
    """A host path that an agent sees; at the same path inside unless `target` says another, read-only unless `writable`."""

    source: str
    target: str | None = None
    writable: bool = False


class SecretUse(msgspec.Struct, frozen=True):
    """A secret that an agent's work needs. `exposed` puts it into the environment inside; otherwise it stays with the daemon."""

    name: str
    exposed: bool = False


class Allowance(msgspec.Struct, frozen=True):
    """What one instance may use with all that it spawned: micro-dollars, tokens, tokens of answers; in so many seconds, or ever."""

    usd: int | None = None
    tokens: int | None = None
    output_tokens: int | None = None
    window: float | None = None

    @property
    def bounds(self) -> bool:
        """Whether it bounds anything."""
        return self.usd is not None or self.tokens is not None or self.output_tokens is not None


class BudgetDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A declared budget: what may be used in its scope. Money is in micro-dollars, the window in seconds, None for the whole life."""

    name: str
    source: str  # the place of its declaration
    scope: str
    agent: str | None = None  # only of this agent
    project: str | None = None  # only in this project, by its directory
    usd: int | None = None
    tokens: int | None = None
    output_tokens: int | None = None
    window: float | None = None
    warn: float = 0.8
    unpriced: str = "dearest"
    declared_in: str | None = None  # the directory of the project whose files declare it; None for the home's


class AgentDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A declared agent. `model` and `sandbox` are None where nobody chose: the daemon then takes what this machine offers."""

    name: str
    source: str  # the place of its declaration, or "built in"
    provider: str  # the driver
    model: str | None
    sandbox: str | None
    permission: str
    approvals: str
    approvals_deadline: float
    approvals_default: str
    effort: str | None
    mode: str | None
    auth: str
    egress: list[str | EgressRule]
    mcp: list[McpServer]
    tools: list[str]  # families of Aegis's own tools
    workspace: str | None
    system: str | None
    mounts: list[MountDefinition]
    secrets: list[str]
    exposed: list[str]  # the ones among `secrets` that are put into the environment inside
    env: dict[str, str]
    limits: Limits
    turn: AgentLimits
    pause_after: float
    stop_after: float
    on_interrupt: str
    guard: str = "hold"
    spawn: SpawnRights = SpawnRights()
    budget: Allowance = Allowance()
    tool_servers: list[str] = []  # names of MCP servers that the daemon uses for it
    security: str | None = None  # the security context that binds it


class ToolServer(msgspec.Struct, frozen=True, kw_only=True):
    """A declared MCP server that the daemon uses for agents: a command in a sandbox of its own, or an address.

    `origin` is the layer that declares it: `home`, `project` or `.mcp.json`. `secrets` are names; those among them that are `exposed`
    are in the environment of the command. A header may hold `{secret:NAME}`. `timeout` is that of one call, in seconds.
    """

    name: str
    source: str  # the place of its declaration
    origin: str
    command: list[str] = []
    env: dict[str, str] = {}
    secrets: list[str] = []
    exposed: list[str] = []
    url: str = ""
    headers: dict[str, str] = {}
    egress: list[str] = []
    workspace: str = "none"
    mounts: list[MountDefinition] = []
    sandbox: str | None = None
    timeout: float = 60.0


class ProviderDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A declared model provider: where it is, which dialect it speaks, which secret proves us to it."""

    name: str
    source: str
    base_url: str
    dialect: Dialect
    secret: str | None = None


class NotifyDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants to be told, and how. `quiet` holds ranges such as `22:00-07:00`; `again` is in seconds."""

    on: list[str] = []
    bell: bool = True
    desktop: bool = False
    command: list[str] = []
    quiet: list[str] = []
    again: float = 600.0


class WebDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """Where `web.search` asks, and the name of the secret that is its key."""

    search_url: str | None = None
    search_secret: str | None = None


class ProjectConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in effect for a project, or, without one, for the home alone."""

    project: str | None
    hash: str | None  # of the project's files; None without a project
    default_agent: str
    agents: dict[str, AgentDefinition]
    models: dict[str, str]  # alias -> provider/model
    providers: dict[str, ProviderDefinition]
    programs: dict[str, str] = {}  # name of a driver -> where its program is; from the home alone
    notify: NotifyDefinition = NotifyDefinition()  # from the home alone
    web: WebDefinition = WebDefinition()  # from the home alone
    tool_servers: dict[str, ToolServer] = {}
    budgets: list[BudgetDefinition] = []  # the home's, then the project's


class TrustState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a project's declarations take effect, and in `summary`, line by line, what they would do."""

    path: str
    hash: str
    trusted: bool
    summary: list[str]


class Edited(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the declaration of an agent that was made.

    `hash` is that of all files of the layer now; `trusted` says whether they are in force; `agent` is None for one that was removed.
    """

    name: str
    file: str
    hash: str
    trusted: bool
    created: bool  # the file is new
    agent: AgentDefinition | None


class Shown(msgspec.Struct, frozen=True):
    """One value in effect and the layer it comes from."""

    key: str
    value: Any
    source: str


class LayerValue(msgspec.Struct, frozen=True):
    """What one layer says about a key, and where."""

    source: str
    value: Any
    place: str


class Explanation(msgspec.Struct, frozen=True):
    """Why a key has the value it has: `layers` from the strongest to the weakest, the first one that counts wins."""

    key: str
    value: Any
    source: str
    layers: list[LayerValue]
    meaning: str
