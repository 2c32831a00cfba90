"""Instances, tools, hosts and the rest as the engine knows them: made from facts once, then kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What an instance is when nothing is known of it: nothing.
UNKNOWN: Final[dict[str, Any]] = {
    "handle": "", "agent": "", "project": "", "permission": "", "approvals": "", "sandbox": "", "program": "", "model": "",
    "security": [], "tools": [], "servers": [], "depth": 0,
}  # fmt: skip
#: Actions whose resource is another instance, by the first word; the others are about what their first word says.
_OF_INSTANCES: Final = frozenset({"mail", "peer", "instance", "turn", "session"})
_KEPT: Final = 4096


class Resource(NamedTuple):
    """What is acted on: its type and id, its attributes, what it is in."""

    type: str
    id: str
    attributes: dict[str, Any]
    parents: tuple[tuple[str, str], ...] = ()


def between(action: str) -> bool:
    """Whether an action is from one instance to another, or to itself."""
    return action.partition(".")[0] in _OF_INSTANCES


def resource_of(action: str, name: str, family: str) -> Resource:
    """What an action is about, when that is no instance."""
    match action.partition(".")[0], action:
        case "tool", ("tool.call" | "tool.list" | "tool.use"):
            if action == "tool.use" and name.startswith("aegis_"):  # as programs call Aegis's own verbs; each call is judged besides
                name = f"aegis.{name.removeprefix('aegis_')}"
            server = name.partition(".")[0] if "." in name else ""
            return Resource("Tool", name, {"name": name, "server": server, "family": family}, (("Server", server),))
        case "egress", ("egress.connect" | "egress.request"):
            host, port = host_of(name)
            return Resource("Host", host, {"name": host, "port": port})
        case "model", "model.call":
            return Resource("Model", name, {"name": name, "provider": name.partition("/")[0]})
        case "secret", _:
            return Resource("Secret", name, {"name": name})
    return Resource("Thing", name, {"name": name})


def host_of(place: str) -> tuple[str, int]:
    """`host:port` in its parts; port 0 where none is named."""
    host, colon, port = place.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or (":" in host and not host.startswith("[")):
        return place.strip("[]").lower(), 0
    return host.strip("[]").lower(), int(port)


def instance(facts: Mapping[str, Any]) -> Resource:
    """An instance as something that is acted on."""
    return Resource("Instance", str(facts["handle"]), attributes(facts))


def attributes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What rules may know of an instance, complete."""
    return {
        name: sorted(facts.get(name, default)) if isinstance(default, list) else facts.get(name, default)
        for name, default in UNKNOWN.items()
    }  # fmt: skip


class Entities:
    """Parsed pairs of who acts and on what."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str, str], tuple[Any, Any, Any]] = {}

    def of(self, principal: tuple[str, str], facts: Mapping[str, Any] | None, resource: Resource, about: object) -> Any:
        """The engine's handle. `facts` are those of a principal that is an instance, `about` those of a resource that is one."""
        key = (*principal, resource.type, resource.id)
        known = self._kept.get(key)
        if known is not None and known[0] is facts and (known[1] is about or known[1] == about):
            return known[2]
        from cedarpy import _internal

        listed = [_entity(principal, attributes(facts) if facts is not None else {}, ())]
        if (resource.type, resource.id) != principal:
            listed.append(_entity((resource.type, resource.id), resource.attributes, resource.parents))
        made = _internal.Entities.from_json_str(msgspec.json.encode(listed).decode())
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[key] = (facts, about, made)
        return made


def _entity(uid: tuple[str, str], attrs: dict[str, Any], parents: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {"uid": _uid(uid), "attrs": attrs, "parents": [_uid(parent) for parent in parents]}


def _uid(uid: tuple[str, str]) -> dict[str, str]:
    return {"type": uid[0], "id": uid[1]}


def call(arguments: Mapping[str, Any]) -> str:
    """The arguments of a call as an entity's tags: texts as they are, all else as JSON."""
    tags = {name: said if isinstance(said, str) else msgspec.json.encode(said).decode() for name, said in arguments.items()}
    return msgspec.json.encode([{"uid": {"type": "Call", "id": "call"}, "attrs": {}, "parents": [], "tags": tags}]).decode()
