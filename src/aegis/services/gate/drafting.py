"""The narrowest rule that would permit what was denied: for a person to read, never in force by itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.services.gate.entities import resource_of
from aegis.services.gate.model import Effect, Facet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: More different things than this in one rule are not read by anybody.
MAX_ITEMS: Final = 50


class Denied(NamedTuple):
    """One call that was denied for want of a permit."""

    facts: Mapping[str, Any]
    action: str
    resource: str
    facets: tuple[Facet, ...]


def text(value: str) -> str:
    """A text as rules are written."""
    plain = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
    return '"' + "".join(plain.get(char, char) for char in value) + '"'


def rule(facts: Mapping[str, Any], action: str, resource: str, effect: Effect | None) -> str:
    """One rule for one call."""
    return rules([Denied(facts, action, resource, effect.facets if effect is not None else ())])[0]


def rules(denied: Iterable[Denied]) -> list[str]:
    """Rules for several: one for each agent, project, action, resource and kind of thing that is touched."""
    groups: dict[tuple[str, str, str, str, str], list[Facet]] = {}
    for one in denied:
        key = (str(one.facts.get("agent", "")), str(one.facts.get("project", "")), one.action, one.resource)
        for facet in one.facets or (Facet(),):
            groups.setdefault((*key, _kind(facet)), []).append(facet)
    return [_rule(n, key, list(dict.fromkeys(facets))) for n, (key, facets) in enumerate(groups.items(), 1)]


def _kind(facet: Facet) -> str:
    if facet.command is not None:
        return f"command {facet.command}"
    if facet.path is not None:
        return "path to write" if facet.writes else "path"
    return "host" if facet.host is not None else ""


def _rule(n: int, key: tuple[str, str, str, str, str], facets: list[Facet]) -> str:
    agent, project, action, resource, kind = key
    target = resource_of(action, resource, "")
    stem = re.sub(r"[^A-Za-z0-9]+", "-", f"{agent}-{resource}").strip("-").lower()[:60] or "rule"
    conditions = [f"principal.agent == {text(agent)}"] if agent else []
    if project:
        conditions.append(f"principal.project == {text(project)}")
    conditions += _touches(kind, facets[:MAX_ITEMS])
    left = f"// {len(facets) - MAX_ITEMS} further ones are left out.\n" if len(facets) > MAX_ITEMS else ""
    when = " &&\n  ".join(conditions)
    return (
        f"{left}@id({text(f'{stem}-{n}')})\npermit (\n  principal is Instance,\n  action == Action::{text(action)},\n"
        f"  resource == {target.type}::{text(target.id)}\n)" + (f"\nwhen {{\n  {when}\n}};" if conditions else ";")
    )


def _touches(kind: str, facets: list[Facet]) -> list[str]:
    if kind.startswith("path"):
        writes = [] if kind == "path to write" else ["context has writes && !context.writes"]
        return ["context has path", f"[{_among(facet.path for facet in facets)}].contains(context.path)", *writes]
    if kind.startswith("command"):
        found = ["context has command", f"context.command == {text(facets[0].command or '')}"]
        if all(facet.subcommand is not None for facet in facets):
            return [*found, "context has subcommand", f"[{_among(facet.subcommand for facet in facets)}].contains(context.subcommand)"]
        return found
    if kind == "host":
        found = ["context has host", f"[{_among(facet.host for facet in facets)}].contains(context.host)"]
        if all(facet.method is not None for facet in facets):
            return [*found, "context has method", f"[{_among(facet.method for facet in facets)}].contains(context.method)"]
        return found
    return []


def _among(values: Iterable[str | None]) -> str:
    return ", ".join(text(each) for each in dict.fromkeys(value or "" for value in values))


def effect_of_record(resource: str, data: Mapping[str, Any]) -> Effect | None:
    """The call that a record is about, as far as it was kept; None where nothing was."""
    listed = data.get("facets")
    try:
        facets = msgspec.convert(listed if isinstance(listed, list) else [], tuple[Facet, ...])
    except msgspec.ValidationError:
        facets = ()
    if not facets and "tool" not in data:
        return None
    session, cwd = data.get("session"), data.get("cwd")
    return Effect(
        tool=str(data.get("tool") or resource),
        facets=facets,
        cwd=cwd if isinstance(cwd, str) else "",
        session=session if isinstance(session, str) else None,
        opaque=data.get("opaque") is True,
    )
