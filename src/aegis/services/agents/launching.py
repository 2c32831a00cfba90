"""From what a person asked for to a complete `Launch`: definition, flags, what this machine offers.

Everything that can be refused is refused here, before an instance exists: unknown names, a workspace that is not one, a secret that
is not stored, a sandbox that does not work here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from aegis.core.egress import EgressRule
from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.drivers import McpServer
from aegis.models.names import ModelName, ProviderSpec
from aegis.sandboxes import Limits
from aegis.services.agents import terms
from aegis.services.agents.model import Launch, MountRule
from aegis.services.budgets.reading import allowance
from aegis.services.config.model import Allowance
from aegis.services.config.reach import check_rules, check_server
from aegis.services.egress.rules import secrets_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from aegis.drivers import Driver
    from aegis.services.agents.logins import Logins
    from aegis.services.config import AgentDefinition, ProjectConfig

#: What a request can say only of an agent, not of a plain program.
_OF_AGENTS: Final = ("provider", "model", "effort", "mode", "approvals", "auth", "mcp", "record", "replay", "system", "budget")
_ENV: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MountRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A mount as a request names it."""

    source: str
    target: str = ""
    writable: bool = False


class StartRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/instances. Everything is optional; the agent's definition fills in the rest."""

    handle: str | None = None
    agent: str | None = None
    kit: str | None = None
    project: str | None = None
    command: list[str] = []
    sandbox: str | None = None
    provider: str | None = None
    model: str | None = None
    effort: str | None = None
    mode: str | None = None
    approvals: str | None = None
    auth: str | None = None
    egress: list[str | EgressRule] = []
    mcp: list[McpServer] = []
    record: str | None = None
    replay: str | None = None
    workspace: str | None = None
    read_only: bool = False
    permission: str | None = None
    mounts: list[MountRequest | str] = []
    secrets: list[str] = []
    env: dict[str, str] = {}
    memory_mb: float | None = None
    cpus: float | None = None
    vcpus: float | None = None
    pids: int | None = None
    system: str | None = None
    budget: list[str] = []
    ephemeral: bool = False


class Definitions(Protocol):
    """What launching needs of the configuration."""

    def load(self, project: Path | None, *, require_trust: bool = True) -> ProjectConfig:
        """Everything in effect for a project."""
        ...

    def agent(self, name: str | None, project: Path | None) -> AgentDefinition:
        """The definition of an agent; NOT_FOUND with the nearest name."""
        ...


class Launching:
    """Turns requests into launches.

    Args:
        home: the daemon's home; no workspace may touch it.
        definitions: the declared agents.
        kinds: names of the sandboxes there are.
        strongest: the strongest sandbox that works here, None when there is none but `process`.
        stored: names of the secrets there are.
        drivers: the programs that an agent can be, by the name of their provider.
        logins: the logins of the person whose daemon this is.
        check_recording: raises AegisError when a file holds no model calls that can be replayed.
    """

    def __init__(
        self,
        *,
        home: Path,
        definitions: Definitions,
        kinds: Collection[str],
        strongest: Callable[[], Awaitable[str | None]],
        stored: Callable[[], Awaitable[Collection[str]]],
        drivers: Mapping[str, Driver],
        logins: Logins,
        check_recording: Callable[[str], None],
    ) -> None:
        self._home = home.resolve()
        self._definitions = definitions
        self._kinds = kinds
        self._strongest = strongest
        self._stored = stored
        self._drivers = drivers
        self._logins = logins
        self._check_recording = check_recording
        #: Raises AegisError when there is no security context of a name for a project; set by the wiring.
        self.require_context: Callable[[str, str], None] = lambda _name, _project: None

    async def resolve(self, request: StartRequest) -> Launch:
        """The launch that a request means. Raises AegisError (USAGE, NOT_FOUND, DENIED, UNAVAILABLE) naming what is wrong."""
        launch = await self.draft(request)
        await self.check(launch)
        return launch

    async def check(self, launch: Launch) -> None:
        """Raise AegisError when a launch does not fit together, or not to this machine, before there is an instance that cannot start."""
        if launch.driver is not None:
            terms.check_program(launch, self._driver(launch.driver))
            terms.check_login(launch, self._logins)
        terms.check_rights(launch)
        for name in launch.security:
            self.require_context(name, launch.project or "")
        if launch.replay is not None:
            self._check_recording(launch.replay)
        if launch.driver is not None:
            await self._drivers[launch.driver].locate()

    async def draft(self, request: StartRequest, *, like: Launch | None = None) -> Launch:
        """The launch that a request means, each part of it read, not yet looked at as a whole. Raises as `resolve`.

        The model of `like`, if the program can speak to it, and its sandbox are taken where neither request nor definition names one.
        """
        project = Path(request.project) if request.project else None
        config = self._definitions.load(project)
        name = request.agent or request.kit
        if request.command and name:
            raise AegisError(
                ErrorKind.USAGE, "an instance runs an agent or a command, not both", "leave out the agent, or the command after `--`"
            )
        definition = self._definitions.agent(name, project)
        if request.kit is not None:
            self._definitions.agent(request.kit, project)
        if request.command:
            _refuse_of_agents(request)
        stored = await self._stored()
        program = bool(request.command)
        egress = _egress([*([] if program else definition.egress), *request.egress])
        named = [*definition.secrets, *(f"{n}:env" for n in definition.exposed), *request.secrets, *secrets_of(egress)]
        secrets, exposed = _secrets(stored, named)
        workspace = self._workspace(request.workspace or (None if program else definition.workspace))
        mounts = [self._mount(m) for m in request.mounts] + [
            MountRule(m.source, m.target or m.source, m.writable) for m in definition.mounts
        ]
        launch = Launch(
            agent=request.command[0] if program else definition.name,
            kit=None if program else request.kit,
            driver=None,
            command=request.command,
            system=request.system or definition.system,
            permission=terms.permission("read" if request.read_only else request.permission or definition.permission),
            egress=egress,
            sandbox=await self._sandbox(request.sandbox or definition.sandbox or (like.sandbox if like is not None else None)),
            workspace=workspace,
            mounts=mounts,
            secrets=secrets,
            exposed=exposed,
            env=_environment({**definition.env, **request.env}),
            limits=_limits(request, definition.limits),
            turn=definition.turn,
            approvals_deadline=definition.approvals_deadline,
            approvals_default=definition.approvals_default,
            pause_after=definition.pause_after,
            stop_after=definition.stop_after,
            on_interrupt=definition.on_interrupt,
            guard=definition.guard,
            spawn=definition.spawn,
            project=str(project) if project else None,
            ephemeral=request.ephemeral,
        )
        if not program:
            launch = self._of_agent(launch, request, definition, config, secrets or stored, like.model if like is not None else None)
        return launch

    def _of_agent(
        self,
        launch: Launch,
        request: StartRequest,
        definition: AgentDefinition,
        config: ProjectConfig,
        available: Collection[str],
        other: str | None,
    ) -> Launch:
        """The launch with all that only an agent has. Raises as `resolve`."""
        driver = self._driver(request.provider or definition.provider)
        auth = terms.word("auth", request.auth or definition.auth, ("broker", "login"))
        named = request.model or definition.model
        if named is None and other is not None and terms.speaks(driver, other, declared(config)):
            named = other
        model = self._model(named, config, driver, available, login=auth == "login")
        if request.record and request.replay:
            raise AegisError(ErrorKind.USAGE, "model calls are recorded or replayed, not both", "leave out one of the two")
        files = {
            what: terms.recording(what, wanted, self._home, [launch.workspace] if launch.workspace else [], launch.mounts)
            for what, wanted in (("record", request.record), ("replay", request.replay))
        }
        return msgspec.structs.replace(
            launch,
            driver=driver.name,
            model=str(model),
            provider=declared(config).get(model.provider),
            approvals=terms.word("approvals", request.approvals or definition.approvals, ("auto", "ask")),
            # The words of another program mean nothing to this one.
            effort=request.effort or (definition.effort if driver.name == definition.provider else None),
            mode=request.mode or (definition.mode if driver.name == definition.provider else None),
            auth=auth,
            mcp=list({server.name: check_server(server) for server in [*definition.mcp, *request.mcp]}.values()),
            tools=tuple(definition.tools),
            tool_servers=tuple(definition.tool_servers),
            security=(definition.security,) if definition.security else (),
            budget=_budget(request.budget, definition.budget),
            record=files["record"],
            replay=files["replay"],
        )

    def _driver(self, name: str) -> Driver:
        if name not in self._drivers:
            raise unknown_name("provider", name, self._drivers, "see `aegis doctor`")
        return self._drivers[name]

    async def merge_secrets(self, launch: Launch, more: list[str]) -> Launch:
        """The same launch with further secrets, as `instance start --name H --secret NAME` asks for."""
        if not more:
            return launch
        secrets, exposed = _secrets(await self._stored(), [*launch.secrets, *(f"{n}:env" for n in launch.exposed), *more])
        return msgspec.structs.replace(launch, secrets=secrets, exposed=exposed)

    def _model(self, wanted: str | None, config: ProjectConfig, driver: Driver, available: Collection[str], *, login: bool) -> ModelName:
        if wanted is None:
            wanted = terms.default_model(driver, available, login=login)
        return terms.model_name(wanted, config.models, declared(config), driver)

    async def _sandbox(self, wanted: str | None) -> str:
        if wanted is not None:
            if wanted not in self._kinds:
                raise unknown_name("sandbox", wanted, self._kinds, "see `aegis doctor`")
            return wanted
        strongest = await self._strongest()
        if strongest is None:
            raise AegisError(
                ErrorKind.UNAVAILABLE,
                "no sandbox with a boundary works on this machine",
                "`aegis doctor` names the command that mends it; `--sandbox process` runs without any boundary",
            )
        return strongest

    def _workspace(self, wanted: str | None) -> str | None:
        if wanted is None:
            return None
        path = Path(wanted).expanduser()
        if not path.is_absolute():
            raise AegisError(ErrorKind.USAGE, f"the workspace {wanted!r} is not an absolute path", "give the whole path")
        path = path.resolve()
        if not path.is_dir():
            raise AegisError(ErrorKind.NOT_FOUND, f"the workspace {path} is not a directory", f"`mkdir -p {path}`")
        if path == self._home or path.is_relative_to(self._home) or self._home.is_relative_to(path):
            raise AegisError(
                ErrorKind.DENIED,
                f"the workspace {path} and the Aegis home {self._home} must not contain each other",
                "choose another folder, or set AEGIS_HOME to a place outside",
            )
        return str(path)

    def _mount(self, wanted: MountRequest | str) -> MountRule:
        if isinstance(wanted, str):
            source, _, rest = wanted.partition(":")
            target, _, mode = rest.partition(":")
            if target == "rw" and not mode:
                target, mode = "", "rw"
            if mode not in ("", "ro", "rw"):
                raise AegisError(ErrorKind.USAGE, f"{mode!r} in the mount {wanted!r} is not a mode", "write PATH[:TARGET][:rw]")
            wanted = MountRequest(source, target, mode == "rw")
        path = Path(wanted.source).expanduser()
        if not path.is_absolute() or not path.exists():
            raise AegisError(ErrorKind.NOT_FOUND, f"the mount {wanted.source!r} is not an existing absolute path", "check the path")
        path = path.resolve()
        if path == self._home or path.is_relative_to(self._home) or self._home.is_relative_to(path):
            raise AegisError(
                ErrorKind.DENIED, f"the mount {path} would show the Aegis home inside a sandbox", "mount something more precise"
            )
        return MountRule(str(path), wanted.target or str(path), wanted.writable)


def _refuse_of_agents(request: StartRequest) -> None:
    """A plain program has none of the things that make an agent."""
    for name in _OF_AGENTS:
        if getattr(request, name):
            raise AegisError(
                ErrorKind.USAGE, f"`--{name}` is for agents; the command after `--` is a plain program", "leave out one of them"
            )


def _egress(rules: list[str | EgressRule]) -> list[str | EgressRule]:
    """The rules without doubles, each of which can be read."""
    check_rules(rules)
    return list(dict.fromkeys(rules))


def _secrets(stored: Collection[str], wanted: list[str]) -> tuple[list[str], list[str]]:
    """The names a launch may use, and those among them that are shown inside."""
    names: dict[str, bool] = {}
    for item in wanted:
        name, _, mode = item.partition(":")
        if name == "*":
            names.update({each: names.get(each, False) for each in stored})
            continue
        if mode not in ("", "env"):
            raise AegisError(ErrorKind.USAGE, f"{mode!r} in `--secret {item}` is not known", "write NAME, or NAME:env to show it inside")
        if name not in stored:
            raise unknown_name("secret", name, stored, f"store it: `aegis secret set {name}`")
        names[name] = names.get(name, False) or mode == "env"
    return sorted(names), sorted(name for name, shown in names.items() if shown)


def declared(config: ProjectConfig) -> dict[str, ProviderSpec]:
    """The model providers that the project or the home declares."""
    return {
        name: ProviderSpec(name=name, base_url=p.base_url, dialect=p.dialect, secret=p.secret, free=p.secret is None)
        for name, p in config.providers.items()
    }


def _budget(wanted: list[str], declared: Allowance) -> Allowance:
    """What a request asks for, no more than what is declared where that is for the whole life too."""
    asked = allowance(wanted)
    if not wanted:
        return declared
    if asked.window is not None:
        if declared.bounds:
            raise AegisError(
                ErrorKind.USAGE,
                "the agent has a budget for its whole life already",
                "leave out the window here; `aegis budget set --instance` changes it once it runs",
            )
        return asked
    fields = ("usd", "tokens", "output_tokens")
    both = {name: [value for value in (getattr(asked, name), getattr(declared, name)) if value is not None] for name in fields}
    return Allowance(**{name: min(values, default=None) for name, values in both.items()})


def _limits(request: StartRequest, declared: Limits) -> Limits:
    cpus = request.cpus if request.cpus is not None else request.vcpus
    for name, value, most in (("memory_mb", request.memory_mb, 2**40), ("cpus", cpus, 2**16), ("pids", request.pids, 2**22)):
        if value is not None and not 0 < value <= most:
            raise AegisError(ErrorKind.USAGE, f"{name}={value} is not a limit", f"give a number over zero up to {most}, or leave it out")
    changes: dict[str, Any] = {}
    if request.memory_mb is not None:
        changes["memory_bytes"] = int(request.memory_mb * 2**20)
    if cpus is not None:
        changes["cpus"] = cpus
    if request.pids is not None:
        changes["pids"] = request.pids
    return msgspec.structs.replace(declared, **changes)


def _environment(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not _ENV.fullmatch(name) or "\x00" in value:
            raise AegisError(
                ErrorKind.USAGE, f"{name!r} cannot be set in the environment", "names have letters, digits and `_`; values no NUL"
            )
        if name.startswith("AEGIS_"):
            raise AegisError(ErrorKind.USAGE, f"`{name}` is set by Aegis itself", "choose a name that does not begin with AEGIS_")
    return env
