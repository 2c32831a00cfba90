"""Arguments of the built-in tools: read strictly, described as a JSON schema, and paths as lists of names."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line

if TYPE_CHECKING:
    from aegis.services.agents.model import Instance
    from aegis.services.tools import ToolCaller

#: The longest path that the kernel takes, in bytes, its end included.
MAX_PATH: Final = 4096
#: Where an instance sees its workspace, or its home where it has none.
WORKSPACE: Final = "/workspace"
_HOME: Final = "/home/agent"

A = TypeVar("A", bound="Arguments")


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of all arguments. Fields with `msgspec.Meta(description=...)` make the schema that the model reads."""


def read(kind: type[A], tool: str, given: dict[str, Any]) -> A:
    """The arguments of a call. Raises AegisError(USAGE) naming what is wrong."""
    fields = kind.__struct_fields__
    unknown = next((key for key in given if key not in fields), None)
    if unknown is not None:
        near = get_close_matches(unknown[:80], fields, n=1, cutoff=0.4)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise AegisError(ErrorKind.USAGE, f"{tool} has no argument `{one_line(unknown, 80)}`", f"{hint}it takes: {', '.join(fields)}")
    given = {name: value for name, value in given.items() if value is not None}
    missing = [name for name in schema_of(kind).get("required", ()) if name not in given]
    if missing:
        raise AegisError(ErrorKind.USAGE, f"{tool} needs `{'`, `'.join(missing)}`", "call it again with that")
    try:
        return msgspec.convert(given, kind)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise AegisError(ErrorKind.USAGE, f"{tool}: {one_line(str(error), 300)}", "call it again with that put right") from None


def schema_of(kind: type[Arguments]) -> dict[str, Any]:
    """The JSON schema of arguments, without what only takes room."""
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    own = definitions.pop(kind.__name__, schema)
    plain: dict[str, Any] = {"type": "object", "properties": {name: _plain(value) for name, value in own.get("properties", {}).items()}}
    if own.get("required"):
        plain["required"] = own["required"]
    plain["additionalProperties"] = False
    if definitions:
        plain["$defs"] = {name: {key: value for key, value in one.items() if key != "title"} for name, one in definitions.items()}
    return plain


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A property without its title, a default that says nothing, and the word that it may be null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **kinds[0]}
    return {k: v for k, v in schema.items() if k != "title" and not (k == "default" and v in (None, "", [], {}, False))}


def names_of(instance: Instance, path: str) -> list[str]:
    """A path of an instance as the names beneath its workspace; none for the workspace itself.

    It is relative to the workspace, or begins with it. Nothing is decoded: `%2e` is three characters. Raises AegisError: USAGE, DENIED.
    """
    shown = f"`{one_line(path, 120)}`"
    if "\0" in path:
        raise AegisError(ErrorKind.USAGE, f"{shown} holds a NUL", "name a path below the workspace")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise AegisError(ErrorKind.USAGE, f"{shown} is not text", "name a path in UTF-8") from None
    if size >= MAX_PATH:
        raise AegisError(ErrorKind.USAGE, f"a path of {size} bytes is longer than any file's", f"paths have less than {MAX_PATH} bytes")
    pure = PurePosixPath(path)
    if ".." in pure.parts:
        raise AegisError(ErrorKind.DENIED, f"{shown} goes up with `..`", "name the path from the workspace down")
    if not pure.is_absolute():
        return [*pure.parts]
    for root in _roots(instance):
        if pure.is_relative_to(root) and not path.startswith("//"):
            return [*pure.relative_to(root).parts]
    raise AegisError(ErrorKind.DENIED, f"{shown} is not in the workspace", "name a path relative to the workspace")


def place_of(instance: Instance) -> str:
    """What rules and people call the directory that everything is beneath: the workspace, or the home where there is none."""
    return WORKSPACE if instance.launch.workspace is not None else _HOME


def _roots(instance: Instance) -> list[str]:
    """How its programs name that directory. Without a boundary they see it where it really is."""
    launch = instance.launch
    return [place_of(instance), *([launch.workspace] if launch.sandbox == "process" and launch.workspace is not None else [])]


def may_use(caller: ToolCaller, family: str) -> bool:
    """Whether a caller has a family of tools; a person is shown all."""
    return caller.instance is None or family in caller.instance.launch.tools


def needed(caller: ToolCaller, tool: str) -> Instance:
    """The instance that calls, if it has this tool. Raises AegisError: USAGE for a person, who has no sandbox; DENIED."""
    instance = caller.instance
    if instance is None:
        text = f"{tool} acts for an instance, in its sandbox, and you are none"
        raise AegisError(ErrorKind.USAGE, text, f"name one: `aegis tools call {tool} --instance HANDLE`")
    family = tool.partition(".")[0]
    if family not in instance.launch.tools:
        hint = f"a person adds it to the agent: `tools: [core, {family}]`"
        raise AegisError(ErrorKind.DENIED, f"`{instance.handle}` does not have the tools of `{family}`", hint)
    return instance
