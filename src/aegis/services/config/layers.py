"""Layers of values, the strongest first, and the typed declarations that come out of them.

A value of an agent is looked for in every layer under `agents.NAME`, then in every layer under `defaults`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, unknown_name
from aegis.drivers import AgentLimits
from aegis.models.names import FAMILIES
from aegis.sandboxes import Limits
from aegis.services.config.bounds import budgets, micro_dollars
from aegis.services.config.document import Place
from aegis.services.config.keys import KEYS
from aegis.services.config.kinds import MODEL
from aegis.services.config.model import (
    AgentDefinition,
    Allowance,
    BudgetDefinition,
    LayerValue,
    MountDefinition,
    NotifyDefinition,
    ProjectConfig,
    ProviderDefinition,
    SpawnRights,
    ToolServer,
    WebDefinition,
)
from aegis.services.config.reach import check_tool_server
from aegis.services.config.reading import Value, Values

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

BUILT_IN: Final = "built in"
#: The agent that is always there.
BUILT_IN_AGENT: Final = "agent"


#: The groups of keys in the order in which they are shown.
_GROUPS: Final = (
    "version",
    "default_agent",
    "defaults",
    "agents",
    "models",
    "providers",
    "tool_servers",
    "programs",
    "notify",
    "web",
    "budgets",
)


@dataclass(frozen=True, slots=True)
class Layer:
    """Where values come from. `base` is what its relative paths are relative to; one that is not `counts` is only shown."""

    name: str
    values: Values
    base: Path | None = None
    counts: bool = True


def built_in() -> Layer:
    """The weakest layer: the defaults of the table and the agent that is always there."""
    place = Place(BUILT_IN)
    leaves = {key.name: Value(key.default, place) for key in KEYS if key.default is not None}
    return Layer("default", Values(leaves, {f"agents.{BUILT_IN_AGENT}": place}))


class Layers:
    """Layers in order of strength; `drivers` are the providers that there are for an agent."""

    def __init__(self, layers: list[Layer], drivers: Collection[str]) -> None:
        self._drivers = drivers
        self._all = layers
        self._layers = [layer for layer in layers if layer.counts]

    def winner(self, key: str) -> tuple[Layer, Value] | None:
        """The strongest layer that says something about a concrete key, and what."""
        for name in _names(key):
            for layer in self._layers:
                if name in layer.values.leaves:
                    return layer, layer.values.leaves[name]
        return None

    def said(self, key: str) -> list[LayerValue]:
        """What every layer says about a key, the strongest first, those that do not count included."""
        return [
            LayerValue(layer.name, plain(layer.values.leaves[name].value), str(layer.values.leaves[name].place))
            for name in _names(key)
            for layer in self._all
            if name in layer.values.leaves
        ]

    def declared(self) -> Iterator[str]:
        """Every concrete key that a counting layer says something about, group by group."""
        seen: set[str] = set()
        for layer in reversed(self._layers):
            seen.update(layer.values.leaves)
        order = {group: n for n, group in enumerate(_GROUPS)}
        yield from sorted(seen, key=lambda key: (order[key.split(".")[0]], key))

    def names(self, group: str) -> dict[str, Place]:
        """The declared names of a group (`agents`, `models`, `providers`, `programs`) and where the strongest layer declares each."""
        found: dict[str, Place] = {}
        for layer in self._layers:
            for name, place in layer.values.names.items():
                head, _, entry = name.partition(".")
                if head == group:
                    found.setdefault(entry, place)
        return dict(sorted(found.items()))

    def config(self, project: Path | None, digest: str | None) -> ProjectConfig:
        """The typed whole. Raises a usage error for names that refer to nothing."""
        models = {alias: self._model(alias, place) for alias, place in self.names("models").items()}
        agents = {name: self._agent(name, place, models) for name, place in self.names("agents").items()}
        default = self._value("default_agent")
        if default.value not in agents:
            near = unknown_name("agent", default.value, agents)
            raise default.place.error(near.message, near.hint, nearest=near.data["nearest"])
        return ProjectConfig(
            project=str(project) if project else None,
            hash=digest,
            default_agent=default.value,
            agents=agents,
            models=models,
            providers={name: self._provider(name, place) for name, place in self.names("providers").items()},
            tool_servers={name: self._tool_server(name, place) for name, place in self.names("tool_servers").items()},
            programs={name: path for name, place in self.names("programs").items() if (path := self._program(name, place))},
            web=WebDefinition(**{key: self._value(f"web.{key}").value for key in WebDefinition.__struct_fields__}),
            budgets=self.budgets(),
            notify=NotifyDefinition(**{key: self._value(f"notify.{key}").value for key in NotifyDefinition.__struct_fields__}),
        )

    def _value(self, key: str) -> Value:
        found = self.winner(key)
        return found[1] if found else Value(None, Place(BUILT_IN))

    def _model(self, alias: str, place: Place) -> str:
        value = self._value(f"models.{alias}.model").value
        if value is None:
            raise place.error(f"the model alias `{alias}` has no `model`", "write `model: provider/model`")
        return str(value)

    def _provider(self, name: str, place: Place) -> ProviderDefinition:
        of = {key: self._value(f"providers.{name}.{key}").value for key in ("base_url", "dialect", "secret")}
        for key in ("base_url", "dialect"):
            if of[key] is None:
                raise place.error(f"the provider `{name}` has no `{key}`", "a provider needs `base_url` and `dialect`")
        return ProviderDefinition(name=name, source=str(place), **of)

    def _tool_server(self, name: str, place: Place) -> ToolServer:
        """A server as one layer declares it: nothing of it comes from a weaker one, so that no project adds to what the home says."""
        layer = next(one for one in self._layers if f"tool_servers.{name}" in one.values.names)
        prefix = f"tool_servers.{name}."
        said = {key.removeprefix(prefix): value for key, value in layer.values.leaves.items() if key.startswith(prefix)}
        env = {key.removeprefix("env."): value.value for key, value in said.items() if key.startswith("env.")}
        of = {key: value.value for key, value in said.items() if not key.startswith("env.")}
        uses = of.pop("secrets", [])
        mounts = [
            MountDefinition(absolute(layer, mount.source, said["mounts"].place), mount.target, mount.writable)
            for mount in of.pop("mounts", [])
        ]
        server = ToolServer(
            name=name,
            source=str(place),
            origin="project" if layer.name.startswith("project") else "home",
            env=env,
            secrets=[use.name for use in uses],
            exposed=[use.name for use in uses if use.exposed],
            mounts=mounts,
            **of,
        )
        try:
            return check_tool_server(server)
        except AegisError as error:
            raise place.error(error.message, error.hint) from error

    def _program(self, name: str, place: Place) -> str | None:
        self._driver(name, place)
        return self._path(f"programs.{name}.path")

    def _driver(self, name: str, place: Place) -> str:
        if name not in self._drivers:
            near = unknown_name("provider", name, self._drivers)
            raise place.error(near.message, near.hint, nearest=near.data["nearest"])
        return name

    def _agent(self, name: str, place: Place, models: dict[str, str]) -> AgentDefinition:
        def value(key: str) -> Any:
            return self._value(f"agents.{name}.{key}").value

        uses = value("secrets")
        return AgentDefinition(
            name=name,
            source=str(place),
            provider=self._driver(*self._value(f"agents.{name}.provider")),
            model=self._resolved(f"agents.{name}.model", models),
            sandbox=value("sandbox"),
            permission=value("permission"),
            approvals=value("approvals"),
            approvals_deadline=value("approvals_deadline"),
            approvals_default=value("approvals_default"),
            effort=value("effort"),
            mode=value("mode"),
            auth=value("auth"),
            egress=value("egress"),
            mcp=value("mcp"),
            tools=value("tools"),
            tool_servers=value("tool_servers"),
            security=value("security"),
            workspace=self._path(f"agents.{name}.workspace"),
            system=value("system"),
            mounts=self._mounts(f"agents.{name}.mounts"),
            secrets=[use.name for use in uses],
            exposed=[use.name for use in uses if use.exposed],
            env=self._env(name),
            limits=Limits(
                memory_bytes=value("limits.memory"), cpus=value("limits.cpus"), pids=value("limits.pids"), required=value("limits.required")
            ),
            turn=AgentLimits(
                rounds=value("limits.rounds"),
                turn_seconds=value("limits.turn"),
                tool_seconds=value("limits.tool"),
                context_tokens=value("context_tokens"),
                max_tokens=value("max_tokens"),
            ),
            pause_after=value("idle.pause"),
            stop_after=value("idle.stop"),
            on_interrupt=value("on_interrupt"),
            guard=value("guard"),
            budget=self._allowance(name),
            spawn=SpawnRights(**{name: value(f"spawn.{name}") for name in ("depth", "children", "total")}),
        )

    def _resolved(self, key: str, models: dict[str, str]) -> str | None:
        value, place = self._value(key)
        model: str | None = value
        if model is None or MODEL.fullmatch(model):
            return model
        if model in FAMILIES and model not in models:
            return FAMILIES[model]
        if model not in models:
            near = unknown_name("model alias", model, [*models, *FAMILIES], "write `provider/model`, or declare it under `models`")
            raise place.error(near.message, near.hint, nearest=near.data["nearest"])
        return models[model]

    def _allowance(self, agent: str) -> Allowance:
        """What each instance of an agent may use."""
        usd, tokens, output = (self._least(f"agents.{agent}.limits.{key}") for key in ("usd", "tokens", "output_tokens"))
        return Allowance(micro_dollars(usd) if usd is not None else None, tokens, output)

    def _least(self, key: str) -> Any:
        """The least that any layer says of a key, so that none loosens what another bounds."""
        said = []
        for layer in self._layers:
            found = next((layer.values.leaves[name].value for name in _names(key) if name in layer.values.leaves), None)
            if found is not None:
                said.append(found)
        return min(said, default=None)

    def budgets(self) -> list[BudgetDefinition]:
        """The budgets of all layers, the home's first; none takes the place of another."""
        found = []
        for layer in reversed(self._layers):
            if layer.base is not None:
                project = layer.base if layer.name.startswith("project") else None
                found += budgets(layer.values, project, layer.base)
        return found

    def _env(self, name: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for prefix in (f"agents.{name}.env.", "defaults.env."):
            for layer in self._layers:
                for key, value in layer.values.leaves.items():
                    if key.startswith(prefix):
                        found.setdefault(key.removeprefix(prefix), value.value)
        return dict(sorted(found.items()))

    def _path(self, key: str) -> str | None:
        found = self.winner(key)
        return absolute(found[0], found[1].value, found[1].place) if found else None

    def _mounts(self, key: str) -> list[MountDefinition]:
        found = self.winner(key)
        if found is None:
            return []
        layer, (mounts, place) = found
        return [MountDefinition(absolute(layer, mount.source, place), mount.target, mount.writable) for mount in mounts]


def absolute(layer: Layer, path: str, place: Place) -> str:
    """A path as the layer means it: `~` is the home directory, a relative one lies in the layer's base."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise place.error(f"`{path}` names a home directory that does not exist") from error
    if not expanded.is_absolute() and layer.base is None:
        raise place.error(f"`{path}` is relative", "write an absolute path")
    return str((layer.base / expanded if layer.base else expanded).resolve())


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    return msgspec.to_builtins(value)


def _names(key: str) -> list[str]:
    """The keys that a value is looked for under, in order."""
    head, _, rest = key.partition(".")
    if head != "agents":
        return [key]
    return [key, f"defaults.{rest.partition('.')[2]}"]
