"""The face of the configuration service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.services.config import editing
from aegis.services.config.bounds import budgets
from aegis.services.config.document import Place
from aegis.services.config.keys import PLACEHOLDERS, TREE, Key, find
from aegis.services.config.layers import BUILT_IN, Layer, Layers, built_in, plain
from aegis.services.config.model import AgentDefinition, BudgetDefinition, Edited, Explanation, ProjectConfig, RuleFiles, Shown, TrustState
from aegis.services.config.reading import Values, read_environment, unknown_key
from aegis.services.config.sources import Source, digest
from aegis.services.config.trust import Trust, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from aegis.core.clock import Clock
    from aegis.store import Store

PROJECT_FILE: Final = ".aegis.yaml"
PROJECT_FOLDER: Final = ".aegis"
USER_FILE: Final = "config.yaml"
USER_FOLDER: Final = "config"
#: How many layers are kept parsed.
_KEPT: Final = 64


class _Read(NamedTuple):
    stamp: object
    hash: str
    values: Values
    rules: dict[str, bytes]


class Config:
    """Reads and explains the configuration. Call it from the daemon's loop; nothing it does takes long or waits.

    Args:
        store: holds which projects are trusted.
        clock: times that.
        home: the home; its `config.yaml` is the user layer.
        environment: the daemon's own variables.
        drivers: the names that an agent's `provider` may have, asked whenever a configuration is put together.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        home: Path,
        environment: Mapping[str, str],
        drivers: Callable[[], Collection[str]] = lambda: ("native",),
    ) -> None:
        #: What the rules of a project say, by the names of their files, as lines; raises USAGE. Set by the wiring.
        self.rule_lines: Callable[[Mapping[str, bytes]], list[str]] = lambda _files: []
        self._trust = Trust(store, clock)
        self._home = home
        self._environment = environment
        self._drivers = drivers
        self._read: dict[Path, _Read] = {}

    def project_of(self, directory: Path) -> Path | None:
        """The real path of the nearest directory from `directory` upwards that holds `.aegis.yaml`; None where there is none."""
        real = directory.resolve()
        return next((place for place in (real, *real.parents) if os.path.lexists(place / PROJECT_FILE)), None)

    def load(self, project: Path | None, *, require_trust: bool = True) -> ProjectConfig:
        """Everything in effect for a project (for the home alone when None).

        Raises USAGE with `place` for anything wrong in a file, and DENIED where the project's declarations are not trusted; with
        `require_trust=False` they are taken as if they were.
        """
        if project is None:
            return self._layers(None, counts=True).config(None, None)
        project = _checked(project)
        found = self._source(self._project_source(project))
        if require_trust and not self._trust.is_trusted(project, found.hash):
            raise AegisError(
                ErrorKind.DENIED,
                f"the declarations in {project} are not trusted, so they have no effect",
                "read what they would do and accept it with `aegis config trust`",
                project=str(project),
                hash=found.hash,
            )
        return self._layers(project, counts=True).config(project, found.hash)

    def budgets(self, project: Path | None) -> list[BudgetDefinition]:
        """The budgets that a project declares, or, without one, the home. Read again only when a file changed. Raises as `load`."""
        if project is None:
            return budgets(self._source(self._user_source()).values, None, self._home)
        project = _checked(project)
        found = self._source(self._project_source(project))
        if not self._trust.is_trusted(project, found.hash):
            raise AegisError(ErrorKind.DENIED, f"the declarations in {project} are not trusted", "accept them with `aegis config trust`")
        return budgets(found.values, project, project)

    def agent(self, name: str | None, project: Path | None) -> AgentDefinition:
        """The agent of that name (the default one when None). Raises NOT_FOUND with the nearest name, and as `load`."""
        config = self.load(project)
        name = name or config.default_agent
        if name not in config.agents:
            raise unknown_name("agent", name, config.agents)
        return config.agents[name]

    def agents(self, project: Path | None) -> list[AgentDefinition]:
        """Every agent in effect, by name. Raises as `load`."""
        return list(self.load(project).agents.values())

    def show(self, project: Path | None) -> list[Shown]:
        """Every value in effect. Those of an untrusted project are not. Raises USAGE for anything wrong in a file."""
        layers = self._layers(project, counts=self._counts(project))
        found = ((key, layers.winner(key)) for key in layers.declared())
        return [Shown(key, plain(winner[1].value), winner[0].name) for key, winner in found if winner]

    def explain(self, key: str, project: Path | None) -> Explanation:
        """Why a key has the value it has. Raises NOT_FOUND for a key that does not exist, with the nearest that does."""
        known = find(key)
        if known is None:
            raise _no_key(key)
        layers = self._layers(project, counts=self._counts(project))
        winner = layers.winner(key)
        return Explanation(
            key,
            plain(winner[1].value) if winner else None,
            winner[0].name if winner else "unset",
            layers.said(key),
            known.meaning + (f" Written as {known.kind.form}."),
        )

    def trust_state(self, project: Path) -> TrustState:
        """Whether the project is trusted as it is now, and what its declarations would do. Raises USAGE for anything wrong in them."""
        project = _checked(project)
        found = self._source(self._project_source(project))
        return TrustState(
            path=str(project),
            hash=found.hash,
            trusted=self._trust.is_trusted(project, found.hash),
            summary=[*summary(self.load(project, require_trust=False)), *self.rule_lines(found.rules)],
        )

    def rules_of(self, project: str) -> RuleFiles | None:
        """The files of rules of a project, and whether they may come into force; None when it is none any more. Raises USAGE."""
        try:
            real = _checked(Path(project))
        except AegisError:
            return None
        found = self._source(self._project_source(real))
        return RuleFiles(found.hash, self._trust.is_trusted(real, found.hash), lambda: found.rules)

    async def trust(self, project: Path, hash: str) -> TrustState:
        """Accept the declarations that hash to `hash`. Raises CONFLICT when they are other ones by now."""
        state = self.trust_state(project)
        if state.hash != hash:
            raise AegisError(
                ErrorKind.CONFLICT, f"the declarations in {state.path} are not the ones shown", "run `aegis config trust` again"
            )
        await self._trust.trust(Path(state.path), hash)
        return TrustState(path=state.path, hash=hash, trusted=True, summary=state.summary)

    async def edit(
        self, project: Path | None, name: str, values: Mapping[str, Any] | None, *, new: bool = False, expect: str | None = None
    ) -> Edited:
        """Change the declaration of an agent in a project, or, without one, in the home.

        Args:
            project: its directory; it need not be a project yet when an agent is added.
            values: of keys, by their names after `agents.NAME.`; None as a value takes a key away, None in all the whole agent.
            new: it must not be declared there yet; otherwise it must be.
            expect: the hash of the layer that the change is meant for.

        What would be invalid is not written. A project stays trusted, with exactly the new content, if it was trusted before, or if
        nothing was declared in it. Raises USAGE, NOT_FOUND, CONFLICT (declared already; changed meanwhile), UNAVAILABLE.
        """
        if find(f"agents.{name}.model") is None:
            raise AegisError(ErrorKind.USAGE, f"{name[:80]!r} cannot name an agent", "use letters, digits, `_` and `-`, 63 at most")
        source = self._user_source() if project is None else self._project_source(self._place(project, new=new))
        files = source.snapshot()
        before = digest(files)
        if expect is not None and expect != before:
            raise _moved(source)
        file, path = self._entry(source, files, name, new=new)
        text = files.get(file, b"")
        content: bytes | None = None
        if values is not None or path:
            content = editing.changed(text, str(source.base / file), path, None if values is None else editing.checked(name, values))
        after = {key: value for key, value in files.items() if key != file} | ({file: content} if content is not None else {})
        agents = self._would_be(source, project, after).agents
        trusted = project is None or not files or self._trust.is_trusted(source.base, before)
        if trusted and project is not None:
            await self._trust.trust(source.base, digest(after))
        if digest(source.snapshot()) != before:
            raise _moved(source)
        if not (source.base / file).parent.is_dir():
            raise _moved(source)
        editing.replace(source.base / file, content)
        return Edited(
            name=name,
            file=str(source.base / file),
            hash=digest(after),
            trusted=trusted,
            created=file not in files,
            agent=agents[name] if values is not None else None,
        )

    def _place(self, project: Path, *, new: bool) -> Path:
        """The real directory of a project that is to be changed."""
        real = project.resolve()
        if not new:
            return _checked(real)
        if not real.is_dir():
            raise AegisError(ErrorKind.NOT_FOUND, f"{real} is not a directory", f"`mkdir -p {real}`")
        if real.is_relative_to(self._home.resolve()):
            raise AegisError(ErrorKind.DENIED, f"{real} lies in the Aegis home, which is no project", "choose another directory")
        return real

    def _entry(self, source: Source, files: dict[str, bytes], name: str, *, new: bool) -> tuple[str, tuple[str, ...]]:
        """The file in which an agent is or would be declared, and where in it."""
        declared = source.read(files).names.get(f"agents.{name}")
        if new:
            if declared is not None:
                raise AegisError(
                    ErrorKind.CONFLICT, f"the agent `{name}` is declared already, at {declared}", f"`aegis agent set {name} KEY VALUE`"
                )
            return source.main, ("agents", name)
        if declared is None:
            names = [each.partition(".")[2] for each in source.read(files).names if each.startswith("agents.")]
            raise unknown_name("agent", name, names, f"it is not declared in {source.base}; `--user` changes your own")
        overlay = f"{source.folder}/agents/{name}.yaml"
        return (overlay, ()) if declared.file == str(source.base / overlay) else (source.main, ("agents", name))

    def _would_be(self, source: Source, project: Path | None, files: dict[str, bytes]) -> ProjectConfig:
        """What would be in effect with these files in the place of a layer's. Raises USAGE for anything wrong in them."""
        values = source.read(files)
        if project is not None:
            _refuse_programs(values)
        layers = [Layer("environment", read_environment(self._environment))]
        if project is not None:
            layers.append(Layer("project", values, source.base))
        layers.append(Layer("user", values if project is None else self._source(self._user_source()).values, self._home))
        layers.append(built_in())
        return Layers(layers, self._drivers()).config(project, digest(files))

    def _counts(self, project: Path | None) -> bool:
        return project is not None and self._trust.is_trusted(_checked(project), self._source(self._project_source(_checked(project))).hash)

    def _layers(self, project: Path | None, *, counts: bool) -> Layers:
        layers = [Layer("environment", read_environment(self._environment))]
        if project is not None:
            source = self._project_source(_checked(project))
            layers.append(Layer("project" if counts else "project (not trusted)", self._source(source).values, source.base, counts))
        layers.append(Layer("user", self._source(self._user_source()).values, self._home))
        layers.append(built_in())
        return Layers(layers, self._drivers())

    def _project_source(self, project: Path) -> Source:
        return Source(project, PROJECT_FILE, PROJECT_FOLDER, self._home, rules=True)

    def _user_source(self) -> Source:
        return Source(self._home, USER_FILE, USER_FOLDER, self._home)

    def _source(self, source: Source) -> _Read:
        """What a source says, read again when a file changed."""
        stamp = source.stamp()
        known = self._read.get(source.base)
        if known is None or known.stamp != stamp:
            files = source.snapshot()
            known = _Read(stamp, digest(files), source.read(files), source.rule_files(files))
            if source.main == PROJECT_FILE:
                _refuse_programs(known.values)
            while len(self._read) >= _KEPT:
                del self._read[next(iter(self._read))]
            self._read[source.base] = known
        return known


def _moved(source: Source) -> AegisError:
    return AegisError(ErrorKind.CONFLICT, f"{source.base / source.main} was changed meanwhile", "look at it and try again")


def _refuse_programs(values: Values) -> None:
    """A project cannot say which program of the host is run, what its owner is told, nor where his key for a search is sent."""
    for name, value in values.leaves.items():
        if name.startswith(("programs.", "notify.", "web.")):
            raise value.place.error(f"a project cannot set `{name}`", f"it belongs to your own configuration: `{USER_FILE}` in the home")


def _checked(project: Path) -> Path:
    """The real path of a project. Raises NOT_FOUND for a directory that is none."""
    real = project.resolve()
    if not os.path.lexists(real / PROJECT_FILE):
        raise AegisError(ErrorKind.NOT_FOUND, f"no `{PROJECT_FILE}` in {real}", f"make it a project: write a `{PROJECT_FILE}` there")
    return real


def _no_key(key: str) -> AegisError:
    """The error for a key that `explain` was asked for and that does not exist."""
    parts = key.split(".")
    branch = TREE
    for n, part in enumerate(parts):
        deeper = branch.get(part) or next((branch[entry] for entry in PLACEHOLDERS if entry in branch), None)
        if deeper is None:
            near = unknown_key(Place(BUILT_IN), part, tuple(parts[:n]), branch)
            return AegisError(ErrorKind.NOT_FOUND, near.message.removeprefix(f"{BUILT_IN}: "), near.hint, nearest=near.data["nearest"])
        if isinstance(deeper, Key):
            break
        branch = deeper
    return AegisError(ErrorKind.NOT_FOUND, f"`{key}` is not a key", "a key ends in a value: see `aegis config show`")
