"""The rules in force: those that are built in, those of the home, those of each project, and what became of their files.

Files are looked at on a decision, at most once a second, and read again when one changed. A set that is bad as a whole, or of a project
that nobody trusts as it is now, does not come into force: the one before stays. Where there is none before, agents may do nothing until
it is mended, for a rule that forbids could be in it.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.text import one_line
from aegis.services.config.document import Place
from aegis.services.config.model import RuleFiles
from aegis.services.gate import contexts, rules
from aegis.services.gate.reading import MAX_BYTES
from aegis.services.gate.shards import Shards

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from aegis.services.gate.contexts import Context
    from aegis.services.gate.rules import Rule

HOME: Final = "home"
MAX_FILES: Final = 256
MAX_TOTAL: Final = 4 * MAX_BYTES
#: Files are looked at no more often than this, in seconds.
EVERY: Final = 1.0
#: How many projects are remembered.
_KEPT: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.(?:cedar|yaml)")

_log = logging.getLogger(__name__)


@dataclass
class Layer:
    """One place with rules. `problem` says why its files as they are now are not in force."""

    source: str
    rules: list[Rule] = field(default_factory=list)
    contexts: dict[str, Context] = field(default_factory=dict)
    problem: str | None = None
    hint: str = ""
    #: There never was a good set: nobody knows what these rules forbid.
    blind: bool = False
    stamp: object = None
    loaded: bool = False


class InForce(NamedTuple):
    """What counts for an instance: its rules, the contexts that there are, and why it may do nothing at all, if so."""

    shards: Shards
    contexts: dict[str, Context]
    blind: str


class Policies:
    """Every layer of rules.

    Args:
        monotonic: the time in seconds, for how often files are looked at.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        #: The folder of the home's rules, and the files of a project's; set by the wiring.
        self.folder: Path | None = None
        self.projects: Callable[[str], RuleFiles | None] = lambda _project: None
        #: Counts up with each change of what is in force.
        self.version = 0
        self._home = Layer(HOME)
        self._layers: dict[str, Layer] = {}
        self._looked = float("-inf")
        self._fresh: set[str] = set()
        self._read: dict[str, tuple[bytes, list[Rule], Context | None]] = {}
        self._in_force: dict[str, InForce] = {}

    def of(self, project: str) -> InForce:
        """What counts for instances of a project; for `""` what counts for everybody else."""
        self._look(project)
        found = self._in_force.get(project)
        if found is None:
            layers = self.layers(project)
            blind = next((layer for layer in layers if layer.blind), None)
            found = self._in_force[project] = InForce(
                Shards([*rules.built_in(), *(rule for layer in layers for rule in layer.rules)]),
                {name: context for layer in reversed(layers) for name, context in layer.contexts.items()},
                f"the rules cannot be read: {blind.problem}" if blind is not None else "",
            )
        return found

    def built_in(self) -> Shards:
        """The rules that hold whatever anybody wrote."""
        found = self._in_force.get("\0")
        if found is None:
            found = self._in_force["\0"] = InForce(Shards(rules.built_in()), {}, "")
        return found.shards

    def layers(self, project: str = "") -> list[Layer]:
        """The home's, and that of a project."""
        return [self._home, self._layers[project]] if project and project in self._layers else [self._home]

    def known(self) -> list[Layer]:
        """Every layer that was read so far."""
        return [self._home, *self._layers.values()]

    def rules(self, project: str = "") -> list[Rule]:
        """Every rule in force for a project, those that are built in first."""
        return [*rules.built_in(), *(rule for layer in self.layers(project) for rule in layer.rules)]

    def refresh(self, project: str = "") -> None:
        """Look at the files now, whenever that was done last."""
        self._looked = float("-inf")
        self._look(project)

    def require_context(self, name: str, project: str) -> None:
        """Raise NOT_FOUND with the nearest name when there is no such security context, or USAGE when its file is bad."""
        self.refresh(project)
        found = self.of(project)
        if name in found.contexts:
            return
        if problem := next((layer for layer in self.layers(project) if layer.problem), None):
            raise AegisError(ErrorKind.USAGE, f"no security context `{name}`: {problem.problem}", problem.hint or "`aegis policy list`")
        raise unknown_name("security context", name, found.contexts, "declare it in a `.yaml` file in the folder `policies` of the home")

    def _look(self, project: str) -> None:
        """Bring the layers up to date, if it is time to look or the project was not looked at since."""
        now = self._monotonic()
        if now - self._looked >= EVERY:
            self._looked = now
            self._fresh.clear()
            self._update(self._home, self._home_files)
        if project and project not in self._fresh:
            self._fresh.add(project)
            if project not in self._layers and len(self._layers) >= _KEPT:
                self._in_force.clear()
                del self._layers[next(iter(self._layers))]
            layer = self._layers.get(project)
            if layer is None:
                layer = self._layers[project] = Layer(project)
                self._changed()
            self._update(layer, lambda: self.projects(project))

    def _update(self, layer: Layer, look: Callable[[], RuleFiles | None]) -> None:
        stamp: object = None
        try:
            files = look()
            stamp = (files.stamp, files.trusted) if files is not None else ()
            if layer.loaded and stamp == layer.stamp:
                return
            texts = files.files() if files is not None else {}
            if (files is None and layer.rules and layer is not self._home) or (files and not files.trusted and (texts or layer.rules)):
                raise AegisError(
                    ErrorKind.DENIED,
                    f"the rules in {layer.source} changed, and nobody has accepted them since",
                    f"read them and accept them with `aegis config trust {layer.source}`",
                )
            found, named = self._parse(layer.source, texts)
        except AegisError as error:
            told = (error.message, error.hint)
            if (layer.problem, layer.hint) != told:
                _log.warning("rules of %s are not in force as they are now: %s", layer.source, error.message)
                layer.problem, layer.hint = told
                layer.blind = not layer.loaded or layer.blind
                self._changed()
            layer.stamp, layer.loaded = stamp, True
            return
        if layer.problem is not None:
            _log.info("rules of %s are in force again", layer.source)
        layer.rules, layer.contexts, layer.problem, layer.hint, layer.blind = found, named, None, "", False
        layer.stamp, layer.loaded = stamp, True
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._in_force.clear()

    def _parse(self, source: str, files: Mapping[str, bytes]) -> tuple[list[Rule], dict[str, Context]]:
        """All rules of a layer. What did not change since is not parsed again."""
        found: list[Rule] = []
        named: dict[str, Context] = {}
        for name in sorted(files):
            key = f"{source}\0{name}"
            known = self._read.get(key)
            if known is None or known[0] != files[name]:
                known = (files[name], *parse(files[name], name, source))
                self._read[key] = known
            found += known[1]
            context = known[2]
            if context is not None:
                if context.name in named:
                    raise context.place.error(
                        f"the security context `{context.name}` is there twice", f"the first one is at {named[context.name].place}"
                    )
                named[context.name] = context
        for key in [key for key in self._read if key.startswith(f"{source}\0") and key.partition("\0")[2] not in files]:
            del self._read[key]
        rules.unique(found)
        return found, named

    def _home_files(self) -> RuleFiles | None:
        return look(self.folder) if self.folder is not None else None


def parse(content: bytes, name: str, source: str) -> tuple[list[Rule], Context | None]:
    """What one file says. Raises USAGE and TOO_LARGE with its place."""
    if name.endswith(".cedar"):
        return rules.read(rules.decoded(content, name), name, source), None
    context = contexts.read(content, name)
    return contexts.compiled(context, source), context


def rule_lines(files: Mapping[str, bytes]) -> list[str]:
    """What the rules of a project say, each in a line. Raises USAGE for what is wrong in them."""
    lines = []
    for name in sorted(files):
        for rule in parse(files[name], name, "project")[0]:
            about = ", ".join(rule.statement.actions) if rule.statement.actions is not None else "everything"
            does = {"permit": "PERMITS", "forbid": "forbids", "ask": "has you asked about"}[rule.effect]
            said = f": {rule.ask or rule.reason or rule.doc}" if rule.ask or rule.reason or rule.doc else ""
            lines.append(one_line(f"rule {rule.id}: {does} {about}{said}", 500))
    return lines


def look(folder: Path) -> RuleFiles | None:
    """The files of rules in a folder; None when there is none. Nothing is followed: links, devices and pipes are refused."""
    try:
        info = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(info.st_mode):
        raise Place(str(folder)).error("not a folder", "links are not followed: make it a folder")
    found: dict[str, tuple[int, int, int]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.endswith(("~", ".bak", ".swp", ".md", ".txt")):
                    continue
                if (info := entry.stat(follow_symlinks=False)) and not stat.S_ISREG(info.st_mode):
                    raise Place(str(folder / entry.name)).error("not an ordinary file", "links and folders are not read as rules")
                if not _NAME.fullmatch(entry.name):
                    raise Place(repr(str(folder / entry.name))[1:-1]).error(
                        "this is not a file of rules", "name it `NAME.cedar` or `NAME.yaml`, in ASCII, or take it away"
                    )
                found[entry.name] = (info.st_mtime_ns, info.st_size, info.st_ino)
                if len(found) > MAX_FILES:
                    raise AegisError(ErrorKind.TOO_LARGE, f"{folder} holds more than {MAX_FILES} files", "remove some")
    except OSError as error:
        raise Place(str(folder)).error(f"cannot be read: {error.strerror}") from error
    for name, (_, size, _) in found.items():
        if size > MAX_BYTES:
            raise AegisError(ErrorKind.TOO_LARGE, f"{folder / name} is larger than {MAX_BYTES:,} bytes", "split it, or make it smaller")
    if sum(size for _, size, _ in found.values()) > MAX_TOTAL:
        raise AegisError(ErrorKind.TOO_LARGE, f"{folder} holds more than {MAX_TOTAL:,} bytes", "remove some")
    return RuleFiles(tuple(sorted(found.items())), True, lambda: {str(folder / name): _content(folder / name) for name in found})


def _content(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Place(str(path)).error(f"cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise AegisError(ErrorKind.TOO_LARGE, f"{path} is larger than {MAX_BYTES:,} bytes", "split it, or make it smaller")
    return content
