"""From what a person asked for to a complete `Launch`: definition, flags, what this machine offers.

Everything that can be refused is refused here, before an instance exists: unknown names, a workspace that is not one, a secret that
is not stored, a sandbox that does not work here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.models.names import SCRIPTED, SCRIPTS, ModelName, ProviderSpec, merge, parse
from aegis.sandboxes import Limits
from aegis.services.agents.model import Launch, MountRule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from aegis.services.config import AgentDefinition, ProjectConfig

#: Which model an agent gets when nobody names one: the first whose secret it was given or, given none, is stored; else the offline one.
DEFAULT_MODELS: Final = (("ANTHROPIC_API_KEY", "anthropic/claude-sonnet-4-5"), ("OPENAI_API_KEY", "openai/gpt-4o"))
OFFLINE_MODEL: Final = "scripted/echo"
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
    model: str | None = None
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
    """

    def __init__(
        self,
        *,
        home: Path,
        definitions: Definitions,
        kinds: Collection[str],
        strongest: Callable[[], Awaitable[str | None]],
        stored: Callable[[], Awaitable[Collection[str]]],
    ) -> None:
        self._home = home.resolve()
        self._definitions = definitions
        self._kinds = kinds
        self._strongest = strongest
        self._stored = stored

    async def resolve(self, request: StartRequest) -> Launch:
        """The launch that a request means. Raises AegisError (USAGE, NOT_FOUND, DENIED, UNAVAILABLE) naming what is wrong."""
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
        program = bool(request.command)
        stored = await self._stored()
        secrets, exposed = _secrets(stored, [*definition.secrets, *(f"{n}:env" for n in definition.exposed), *request.secrets])
        permission = self._permission(request, definition)
        sandbox = await self._sandbox(request.sandbox or definition.sandbox)
        if sandbox == "process" and permission == "read":
            raise AegisError(
                ErrorKind.DENIED,
                "the sandbox `process` has no boundary, so it cannot keep an agent with permission `read` from writing",
                "choose a sandbox with a boundary (see `aegis doctor`), or give it permission `write`",
            )
        model = None if program else self._model(request, definition, config, secrets or stored)
        workspace = request.workspace or (None if program else definition.workspace)
        return Launch(
            agent=request.command[0] if program else definition.name,
            kit=None if program else request.kit,
            driver=None if program else definition.provider,
            command=request.command,
            model=str(model) if model else None,
            provider=declared(config).get(model.provider) if model else None,
            system=request.system or definition.system,
            permission=permission,
            sandbox=sandbox,
            workspace=self._workspace(workspace),
            mounts=[self._mount(m) for m in request.mounts]
            + [MountRule(m.source, m.target or m.source, m.writable) for m in definition.mounts],
            secrets=secrets,
            exposed=exposed,
            env=_environment({**definition.env, **request.env}),
            limits=_limits(request, definition.limits),
            turn=definition.turn,
            pause_after=definition.pause_after,
            stop_after=definition.stop_after,
            on_interrupt=definition.on_interrupt,
            project=str(project) if project else None,
            ephemeral=request.ephemeral,
        )

    async def merge_secrets(self, launch: Launch, more: list[str]) -> Launch:
        """The same launch with further secrets, as `instance start --name H --secret NAME` asks for."""
        if not more:
            return launch
        secrets, exposed = _secrets(await self._stored(), [*launch.secrets, *(f"{n}:env" for n in launch.exposed), *more])
        return msgspec.structs.replace(launch, secrets=secrets, exposed=exposed)

    def _model(self, request: StartRequest, definition: AgentDefinition, config: ProjectConfig, available: Collection[str]) -> ModelName:
        wanted = request.model or definition.model
        if wanted is None:
            wanted = next((model for secret, model in DEFAULT_MODELS if secret in available), OFFLINE_MODEL)
        wanted = config.models.get(wanted, wanted)
        if "/" not in wanted:
            known = [*config.models, *(model for _, model in DEFAULT_MODELS), OFFLINE_MODEL]
            raise unknown_name("model", wanted, known, "write `provider/model`")
        name = parse(wanted, (*merge(declared(config)), SCRIPTED))
        if name.provider == SCRIPTED and name.model not in SCRIPTS:
            raise unknown_name("scripted model", str(name), [f"{SCRIPTED}/{script}" for script in SCRIPTS])
        return name

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

    def _permission(self, request: StartRequest, definition: AgentDefinition) -> str:
        wanted = "read" if request.read_only else request.permission or definition.permission
        if wanted not in ("read", "write"):
            raise unknown_name("permission", wanted, ("read", "write"))
        return wanted


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
