"""`fs`: the files of the caller's workspace, through the desk in its sandbox."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.services.gate.calls import effect_of
from aegis.services.tools import Definition
from aegis.services.tools.builtin.arguments import Arguments, may_use, names_of, needed, place_of, read, schema_of
from aegis.services.tools.builtin.desks import SECONDS, refusal
from aegis.services.tools.builtin.output import said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.core.events import ToolKind
    from aegis.services.agents.model import Instance
    from aegis.services.gate import Effect
    from aegis.services.tools import Result, ToolCaller
    from aegis.services.tools.builtin.desks import Desks

#: The most text that one call gives, in bytes, whoever asks for more.
MOST: Final = 256 * 1024
#: What the host acts upon: it is not written here, in whatever case or with whatever invisible character its name is spelled.
_KEPT: Final = frozenset({".git", ".aegis", ".aegis.yaml", ".aegis.yml"})

_PATH: Final = msgspec.Meta(description="Relative to the workspace.")
_FOLDER: Final = msgspec.Meta(description="A directory, relative to the workspace; the workspace itself unless given.")


class Read(Arguments, frozen=True):
    """A file."""

    path: Annotated[str, _PATH]
    start_line: Annotated[int, msgspec.Meta(ge=1, description="The first line, from 1.")] | None = None
    end_line: Annotated[int, msgspec.Meta(ge=1, description="The last line, included.")] | None = None


class List(Arguments, frozen=True):
    """A directory."""

    path: Annotated[str, _FOLDER] = ""


class CreateDir(Arguments, frozen=True):
    """A directory to be."""

    path: Annotated[str, _PATH]


class Delete(Arguments, frozen=True):
    """What goes."""

    path: Annotated[str, _PATH]
    recursive: Annotated[bool, msgspec.Meta(description="Remove a directory with all that is in it.")] = False


class Write(Arguments, frozen=True):
    """A file and what it is to hold."""

    path: Annotated[str, _PATH]
    content: str


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One edit."""

    target_content: Annotated[str, msgspec.Meta(description="What stands there, exactly and only once.")]
    replacement_content: str


class Edit(Arguments, frozen=True):
    """One edit of a file."""

    path: Annotated[str, _PATH]
    target_content: Annotated[str, msgspec.Meta(description="What stands there, exactly and only once.")]
    replacement_content: str


class MultiEdit(Arguments, frozen=True):
    """Several edits of a file."""

    path: Annotated[str, _PATH]
    edits: Annotated[list[Change], msgspec.Meta(min_length=1, max_length=1000, description="Made one after the other.")]


class Grep(Arguments, frozen=True):
    """What to look for, and where."""

    pattern: Annotated[str, msgspec.Meta(description="A Python regular expression, tried on each line.")]
    path: Annotated[str, msgspec.Meta(description="A file or a directory, relative to the workspace.")] = ""
    include: Annotated[str, msgspec.Meta(description="Only files like this, such as *.py or src/**/*.py.")] | None = None
    max: Annotated[int, msgspec.Meta(ge=1, le=1000, description="Matches to show, 100 unless given.")] | None = None


class Glob(Arguments, frozen=True):
    """Which paths."""

    pattern: Annotated[str, msgspec.Meta(description="Such as src/**/*.py or *.{js,ts}; ** is any number of directories.")]
    path: Annotated[str, _FOLDER] = ""


class _Tool(NamedTuple):
    """One tool of the family, and what the desk is asked besides the path."""

    arguments: type[Arguments]
    about: str
    kind: ToolKind
    changes: bool
    wanted: Callable[[Any], dict[str, Any]]


def _fields(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda given: {name: getattr(given, name) for name in names}


def _changes(given: MultiEdit) -> dict[str, Any]:
    return {"edits": [[one.target_content, one.replacement_content] for one in given.edits]}


_TOOLS: Final[dict[str, _Tool]] = {
    "read": _Tool(Read, "Read a text file of the workspace, or some of its lines.", "read", False, _fields("start_line", "end_line")),
    "list": _Tool(List, "List a directory: directories end with a slash, files come with their size.", "read", False, _fields()),
    "create_dir": _Tool(CreateDir, "Make a directory, and those it needs.", "edit", True, _fields()),
    "delete": _Tool(Delete, "Remove a file, or a directory.", "delete", True, _fields("recursive")),
    "write": _Tool(Write, "Create or replace a file. Directories are made as needed.", "edit", True, _fields("content")),
    "edit": _Tool(
        Edit,
        "Replace a passage of a file. target_content must stand there exactly once.",
        "edit",
        True,
        lambda given: {"edits": [[given.target_content, given.replacement_content]]},
    ),
    "multi_edit": _Tool(MultiEdit, "Make several edits of a file, all of them or none.", "edit", True, _changes),
    "grep": _Tool(Grep, "Find lines that match, as path:line:text.", "search", False, _fields("pattern", "include", "max")),
    "glob": _Tool(Glob, "Find files and directories by a pattern of their paths.", "search", False, _fields("pattern")),
}
_OPERATIONS: Final = {"multi_edit": "edit"}


class Files:
    """The source `fs`."""

    name: str = "fs"

    def __init__(self, desks: Desks) -> None:
        self._desks = desks
        self._definitions = {
            name: Definition(name=name, description=tool.about, schema=schema_of(tool.arguments), kind=tool.kind, changes=tool.changes)
            for name, tool in _TOOLS.items()
        }

    async def tools(self, caller: ToolCaller) -> Sequence[Definition]:
        """Those that the caller may use: who only reads is offered nothing that writes."""
        if not may_use(caller, self.name):
            return ()
        reads = caller.instance is not None and caller.instance.launch.read_only
        return [one for one in self._definitions.values() if not (reads and one.changes)]

    def effect(self, caller: ToolCaller, name: str, arguments: dict[str, Any]) -> Effect:
        """The exact call. Raises AegisError: NOT_FOUND, USAGE, DENIED."""
        instance, tool, _, names = _parsed(caller, name, arguments)
        place = place_of(instance)
        said_ = {**arguments, "path": "/".join((place, *names))}
        return effect_of(f"fs.{name}", tool.kind, said_, cwd=place, workspace=place, session=caller.session)

    async def call(self, caller: ToolCaller, name: str, arguments: dict[str, Any], *, limit: int) -> Result:
        """Have it done in the sandbox. Raises AegisError."""
        instance, tool, given, names = _parsed(caller, name, arguments)
        request = {"op": _OPERATIONS.get(name, name), "path": names, **tool.wanted(given)}
        seconds = min(SECONDS, instance.launch.turn.tool_seconds)
        answer = await self._desks.ask(instance, request, limit=max(1024, min(limit, MOST)), seconds=seconds)
        if answer.error:
            raise refusal(answer)
        return said(answer.text, answer.data)


def _parsed(caller: ToolCaller, name: str, arguments: dict[str, Any]) -> tuple[Instance, _Tool, Any, list[str]]:
    tool = _TOOLS.get(name)
    if tool is None:
        raise AegisError(ErrorKind.NOT_FOUND, f"there is no tool `fs.{one_line(name, 80)}`", f"there are: {', '.join(_TOOLS)}")
    instance = needed(caller, f"fs.{name}")
    given: Any = read(tool.arguments, f"fs.{name}", arguments)
    names = names_of(instance, given.path)
    if tool.changes:
        _may_write(instance, name, names)
    return instance, tool, given, names


def _may_write(instance: Instance, name: str, names: list[str]) -> None:
    if instance.launch.read_only:
        text = f"fs.{name} changes files, and the permission of `{instance.handle}` is `read`"
        raise AegisError(ErrorKind.DENIED, text, "say what you would change instead; a person can start it with `permission: write`")
    if any(plain(part) in _KEPT for part in names):
        text = f"`{'/'.join(names)}` is something that the host acts upon, and is not changed by a tool"
        raise AegisError(ErrorKind.DENIED, text, "use git for git's files; a person edits those of Aegis")


def plain(name: str) -> str:
    """A name as a file system without cases might read it: without what is invisible, in one case."""
    visible = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    return unicodedata.normalize("NFKC", visible.casefold()).rstrip(". ")
