"""The data file of an agent: what must be known of a program that speaks the Agent Client Protocol.

A file is TOML; docs/agents-acp.md says what each key is for. Everything but `name`, `title`, `dialects` and `program.command`
has a default that suits an agent which keeps to the protocol. A key that does not exist is an error that names the file, the
place and the nearest key that does.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from aegis.core.dialects import Dialect
from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers.acp import templates

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
_RULE: Final = re.compile(r"[a-z0-9*.-]{1,253}:[0-9]{1,5}")
#: The largest data file, in bytes, and the most files of a folder.
_MOST: Final = 256 * 1024
MOST_FILES: Final = 100


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """The program: names to look for on PATH, its arguments, and its versions."""

    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    version_args: tuple[str, ...] = ("--version",)
    pinned: str = ""  # the version this file was tried with
    oldest: str = ""
    install: str = ""  # the command that installs it


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """The program's own login: where it is, and what replaces the parts of the file that name `{endpoint}` or `{token}` with it."""

    files: tuple[str, ...] = ()  # below a person's HOME, the first one is the login itself; empty: `auth: login` is refused
    egress: tuple[str, ...] = ()  # the rules `host:port` that it needs
    members: dict[str, tuple[str, ...]] = {}  # of a file that holds other things too: the members of its JSON object that are copied
    args: tuple[str, ...] | None = None
    environment: dict[str, Any] = {}
    method: str = ""  # the id to `authenticate` with when the program asks for that and its environment suffices
    hint: str = ""  # how a person logs in


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """How the model is switched in a running session; at the start it is given by arguments, environment or files."""

    switch: Literal["none", "set_model", "set_config_option"] = "none"
    value: str = "{model}"  # the program's name for it
    option: str = "model"  # the id of the configuration option


class Modes(msgspec.Struct, frozen=True, kw_only=True):
    """The program's modes, and which one to start in for each permission; empty: the one it starts in by itself."""

    known: tuple[str, ...] = ()
    read: str = ""
    write: str = ""
    full: str = ""
    option: str = ""  # the id of a configuration option to set, in the place of `session/set_mode`
    unasking: tuple[str, ...] = ()  # those in which it changes or runs something without asking for leave


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How hard it thinks: the words it knows, and the configuration option that takes them (empty: only at the start)."""

    known: tuple[str, ...] = ()
    option: str = ""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """How to read what it says about its tools."""

    #: Where a tool's name stands: the first `title` of a call, the `id` before its first "__", or nowhere (the kind then).
    name: Literal["title", "id", "kind"] = "title"
    pending_is_partial: bool = False  # the input of a call that is still `pending` is not whole
    kinds: dict[str, str] = {}  # name of a tool -> kind, where the program's own is wrong
    questions: tuple[str, ...] = ()  # tools that ask a person something that no rule can answer


class Rename(msgspec.Struct, frozen=True, kw_only=True):
    """A file below HOME to be renamed before a session is loaded; `{short}` is the first eight characters of its id.

    Of several that match, the largest gets the new name; the others are set aside with `.superseded` behind it.
    """

    directory: str
    match: str
    to: str


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """How a session is gone on with after the end of its process."""

    how: Literal["load", "resume", "none"] = "load"
    drain_seconds: float = 0.0  # the history may come for so long after the response ...
    drain_until: str = ""  # ... or until an update of this kind
    ignore: tuple[str, ...] = ()  # replayed user texts that begin so are not a person's
    missing: tuple[str, ...] = ()  # texts in the error of a session that does not exist
    rename: Rename | None = None


class Quirks(msgspec.Struct, frozen=True, kw_only=True):
    """Where it differs from other agents."""

    reject_ends_turn: bool = False  # after a refused request it stops without a word: tell it the reason, and to go on
    reject_hides_reason: bool = False  # it goes on after one, but its model cannot hear why: tell it when the turn is over
    whole_thoughts: bool = False  # each chunk of a thought is one by itself
    forgets_failed: bool = False  # it drops a prompt whose model call failed, so that it must be told it again
    sigterm: bool = False  # it does not end when its stdin does
    system: Literal["prompt", "given"] = "prompt"  # `given`: the instructions reach it by `{system}` in files or environment


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One agent."""

    name: str
    title: str
    dialects: tuple[Dialect, ...]
    program: Program
    images: bool = False
    fork: bool = False
    environment: dict[str, Any] = {}
    files: dict[str, Any] = {}
    login: Login = Login()
    model: Model = Model()
    modes: Modes = Modes()
    effort: Effort = Effort()
    tools: Tools = Tools()
    resume: Resume = Resume()
    quirks: Quirks = Quirks()


def shipped() -> list[AgentSpec]:
    """The agents that come with Aegis."""
    folder = resources.files("aegis.drivers.acp") / "agents"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda entry: entry.name)
    return [parse(entry.read_text("utf-8"), entry.name) for entry in files]


def load(directory: Path, report: Callable[[AegisError], None] | None = None) -> list[AgentSpec]:
    """The agents of every `*.toml` in a directory, which need not exist.

    A file that cannot be used is left out and its error goes to `report`; without `report` it is raised.
    """
    found: dict[str, AgentSpec] = {}
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".toml")
    except OSError:
        return []
    for number, path in enumerate(paths):
        try:
            if number >= MOST_FILES:
                raise AegisError(ErrorKind.USAGE, f"{path}: it is one of more than {MOST_FILES} files and is not read", file=str(path))
            spec = read(path)
            if spec.name in found:
                raise AegisError(ErrorKind.USAGE, f"{path}: another file has the agent `{spec.name}` already", "choose another `name`")
            found[spec.name] = spec
        except AegisError as error:
            if report is None:
                raise
            report(error)
    return list(found.values())


def read(path: Path) -> AgentSpec:
    """One data file. Raises AegisError(USAGE) with `file`, `key` and `nearest` in its data."""
    try:
        # Not to wait for ever for somebody to write into a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("it is not a regular file")
            raw = file.read(_MOST + 1)
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AegisError(ErrorKind.USAGE, f"{path} cannot be read: {error}", file=str(path)) from None
    if len(raw) > _MOST:
        raise AegisError(ErrorKind.USAGE, f"{path} has more than {_MOST} bytes", file=str(path))
    return parse(text, str(path))


def parse(text: str, file: str) -> AgentSpec:
    """The agent that a data file describes; `file` is its name for errors. Raises AegisError(USAGE)."""

    def wrong(key: str, what: str, hint: str = "", nearest: str | None = None) -> AegisError:
        place = f"{file}: `{key}`" if key else file
        return AegisError(ErrorKind.USAGE, f"{place}: {what}", hint, file=file, key=key, nearest=nearest)

    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise wrong("", f"it is no TOML: {error}") from None
    for key, known in _strangers(raw, AgentSpec, ""):
        last = key.rpartition(".")[2]
        near = get_close_matches(last, known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else "known: " + ", ".join(f"`{name}`" for name in known)
        raise wrong(key, "there is no such key", hint, near[0] if near else None)
    try:
        spec = msgspec.convert(raw, AgentSpec)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        raise wrong(place.rstrip("`"), what[:1].lower() + what[1:]) from None
    if not _NAME.fullmatch(spec.name):
        raise wrong("name", f"{spec.name!r} is no name", "small letters, digits and dashes, beginning with a letter, at most 40")
    if not spec.program.command or not spec.dialects:
        raise wrong("dialects" if spec.program.command else "program.command", "at least one is needed")
    for key, value in _templates(spec):
        if unknown := templates.unknown(value):
            near = get_close_matches(unknown, templates.NAMES, n=1, cutoff=0.5)
            hint = f"did you mean `{{{near[0]}}}`?" if near else "known: " + ", ".join(f"`{{{name}}}`" for name in templates.NAMES)
            raise wrong(key, f"there is no placeholder `{{{unknown}}}`", hint, near[0] if near else None)
    for path in spec.files:
        if not path.startswith(("{home}/", "{tmp}/")) or ".." in path.split("/"):
            raise wrong(f"files.{path}", "a file is written below `{home}/` or `{tmp}/`")
    for path in (*spec.login.files, *spec.login.members):
        if path.startswith("/") or {"", ".", ".."} & set(path.split("/")) or "\n" in path:
            raise wrong("login.files", f"{path!r} is no path below HOME")
    for rule in spec.login.egress:
        if not _RULE.fullmatch(rule):
            raise wrong("login.egress", f"{rule!r} is no `host:port`")
    if (rename := spec.resume.rename) and any(
        ".." in text.split("/") or text.startswith("/") for text in (rename.directory, rename.match, rename.to)
    ):
        raise wrong("resume.rename", "the paths are below HOME")
    return spec


def _strangers(raw: dict[str, Any], struct: type[msgspec.Struct], place: str) -> Iterator[tuple[str, list[str]]]:
    """Keys that the struct has not, with those it has, also in the tables within."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in raw.items():
        if key not in fields:
            yield f"{place}{key}", list(fields)
        elif isinstance(value, dict) and (inner := _struct(fields[key])):
            yield from _strangers(value, inner, f"{place}{key}.")


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    for one in (kind, *(get_args(kind) if get_origin(kind) is not dict else ())):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return one
    return None


def _templates(spec: AgentSpec) -> Iterator[tuple[str, Any]]:
    yield "program.args", list(spec.program.args)
    yield "login.args", list(spec.login.args or ())
    yield "model.value", spec.model.value
    for table, values in (("environment", spec.environment), ("files", spec.files), ("login.environment", spec.login.environment)):
        for name, value in values.items():
            yield f"{table}.{name}", value
            yield f"{table}.{name}", name
