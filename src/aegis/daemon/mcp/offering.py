"""What a caller is offered, and what he asks it with: the tables of verbs as definitions of tools, and arguments read back."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.mcp import children, core, host
from aegis.daemon.mcp.protocol import Offer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.daemon.mcp.model import Arguments, Caller, Verb
    from aegis.services.tools.registry import Offered

#: How a program may say who it is. It is never believed, only compared.
IDENTITIES: Final = ("from_handle", "fh")

_INSTANCE: Final = """You are one of several agents that Aegis runs, each in a sandbox of its own. aegis_meta says who you are.
Reach others by handle: aegis_list_sessions shows who there is; aegis_handoff hands work or an answer to one of them and returns at once.
What others write to you starts your next turn, or comes with the result of your next aegis call; aegis_read_mail shows it at once.
Do not wait by asking again and again: end your turn, and an answer wakes you."""
_PERSON: Final = """Aegis runs agents in sandboxes on this machine. Start one, send it a message and read what it says; others can be
listed, paused, and looked into."""


class Tool(NamedTuple):
    """A verb with what there is to know of its arguments."""

    verb: Verb
    definition: dict[str, Any]
    fields: tuple[str, ...]


class Shelf(NamedTuple):
    """The tools of a caller."""

    offer: Offer
    tools: dict[str, Tool]


def for_instance(families: Iterable[str]) -> Shelf:
    """What an instance of these families is offered of Aegis's own."""
    return _shelf(tuple(sorted(set(families))), person=False)


def without(shelf: Shelf, denied: frozenset[str]) -> Shelf:
    """The same shelf without the tools of these names."""
    if not denied:
        return shelf
    tools = {name: tool for name, tool in shelf.tools.items() if name not in denied}
    definitions = tuple(tool.definition for tool in tools.values())
    return Shelf(Offer(shelf.offer.instructions, definitions, frozenset(tools)), tools)


def beside(shelf: Shelf, others: Iterable[Offered]) -> Shelf:
    """The shelf with the tools of the registry, whose names are others than its own."""
    more = [each for each in others if each.called not in shelf.tools]
    definitions = (*shelf.offer.tools, *(_foreign(each) for each in more))
    return Shelf(Offer(shelf.offer.instructions, definitions, shelf.offer.names | {each.called for each in more}), shelf.tools)


def _foreign(offered: Offered) -> dict[str, Any]:
    given = offered.definition
    about = given.description or f"The tool {given.name} of {offered.server}."
    definition: dict[str, Any] = {"name": offered.called, "description": about, "inputSchema": given.schema}
    if not given.changes:
        definition["annotations"] = {"readOnlyHint": True}
    return definition


def family_of(ident: str) -> str:
    """The family of a tool by its id: that of a verb, or the source that it is of."""
    server, _, name = ident.partition(".")
    return _verb_families().get(name, server) if server == "aegis" else server


@cache
def _verb_families() -> dict[str, str]:
    return {verb.id.partition(".")[2]: verb.family for verb in (*core.VERBS, *children.VERBS)}


def for_person() -> Shelf:
    """What a person's own agent is offered."""
    return _shelf(("host",), person=True)


def families() -> list[str]:
    """Every family that an agent may be given."""
    return sorted({verb.family for verb in (*core.VERBS, *children.VERBS)})


@cache
def _shelf(wanted: tuple[str, ...], person: bool) -> Shelf:
    table = host.VERBS if person else (*core.VERBS, *children.VERBS)
    tools = {verb.name: _tool(verb) for verb in table if person or verb.family in wanted}
    definitions = tuple(tool.definition for tool in tools.values())
    return Shelf(Offer(_PERSON if person else _INSTANCE, definitions, frozenset(tools)), tools)


def _tool(verb: Verb) -> Tool:
    definition: dict[str, Any] = {"name": verb.name, "description": verb.about, "inputSchema": schema_of(verb.arguments)}
    if not verb.changes:
        definition["annotations"] = {"readOnlyHint": True}
    return Tool(verb, definition, verb.arguments.__struct_fields__)


def schema_of(arguments: type[Arguments]) -> dict[str, Any]:
    """The JSON schema of arguments, without what only takes room. It says nothing of further ones, so that identities may come."""
    whole = msgspec.json.schema(arguments)
    definitions = whole.pop("$defs", {})
    name = str(whole.get("$ref", "")).rpartition("/")[2]
    found: dict[str, Any] = definitions.pop(name, whole)
    plain = {key: found[key] for key in ("type", "properties", "required") if found.get(key)}
    plain.setdefault("properties", {})
    plain["properties"] = {key: _plain(value) for key, value in plain["properties"].items()}
    if definitions:
        plain["$defs"] = {key: _plain(value) for key, value in definitions.items()}
    return plain


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A property without titles, defaults that say nothing, and the word that it may be null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **kinds[0]}
    return {k: v for k, v in schema.items() if k != "title" and not (k == "default" and v in (None, "", [], {}, False))}


def read(tool: Tool, given: dict[str, Any], caller: Caller) -> Arguments:
    """The arguments of a call. Raises AegisError: USAGE naming what is wrong, DENIED when it says that it is somebody else."""
    own = {key: value for key, value in given.items() if key not in IDENTITIES or key in tool.fields}
    for key in IDENTITIES:
        if key in given and key not in tool.fields:
            _same(key, given[key], caller)
    unknown = next((key for key in own if key not in tool.fields), None)
    if unknown is not None:
        near = get_close_matches(unknown[:80], tool.fields, n=1, cutoff=0.4)
        takes = ", ".join(tool.fields) or "none"
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise AegisError(ErrorKind.USAGE, f"{tool.verb.name} has no argument `{unknown[:80]}`", f"{hint}it takes: {takes}")
    missing = [f for f in tool.definition["inputSchema"].get("required", ()) if f not in own]
    if missing:
        raise AegisError(ErrorKind.USAGE, f"{tool.verb.name} needs `{'`, `'.join(missing)}`", "call it again with that")
    try:
        return msgspec.convert(own, tool.verb.arguments, strict=False)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise AegisError(ErrorKind.USAGE, f"{tool.verb.name}: {error}", "call it again with that put right") from None


def _same(key: str, said: Any, caller: Caller) -> None:
    mine = caller.instance.handle if caller.instance is not None else None
    if mine is None:
        raise AegisError(ErrorKind.DENIED, f"you have no handle, so `{key}` cannot be {str(said)[:80]!r}", f"leave `{key}` out")
    if said not in (mine, f"agent:{mine}", ""):
        raise AegisError(ErrorKind.DENIED, f"you are `{mine}`, not {str(said)[:80]!r}", f"leave `{key}` out: who you are is known")
