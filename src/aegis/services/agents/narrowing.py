"""What a child may have: no more than its parent, in each of the things that a launch says.

`narrow` compares two launches and looks at nothing else: no file, no network, no other instance. Paths in both are real paths of the
host; `inside.py` makes them from what an agent names. A cut is told by the name of what was cut, so that whoever asked for it by
name can be refused, while what only a declaration says is quietly less.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from aegis.core.egress import EgressRule
from aegis.drivers import AgentLimits
from aegis.sandboxes import Limits
from aegis.services.agents.model import Launch
from aegis.services.config.model import SpawnRights
from aegis.services.egress.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis.drivers import Permission
    from aegis.services.agents.model import MountRule

_PERMISSIONS: Final = ("read", "write", "full")
_APPROVALS: Final = ("auto", "ask")
_GUARD: Final = ("hold", "tell", "off")
#: Directories that the host acts upon. They are kept from an agent at the top of its workspace, so none may begin below or in one.
_KEPT: Final = frozenset({".git", ".aegis"})
#: Limits of the whole tree of processes, by the names that people use.
BOUNDS: Final = {"memory": "memory_bytes", "cpus": "cpus", "pids": "pids"}
#: Less than this of a limit is not worth starting anything with.
LEAST: Final = {"memory": 16 * 2**20, "cpus": 0.01, "pids": 8}


class Place(NamedTuple):
    """A directory of the host that an instance sees, and whether it may write there."""

    source: str
    target: str
    writable: bool
    workspace: bool = False


class Narrowed(NamedTuple):
    """A launch that exceeds its parent in nothing, and by name what was more: what the parent has of it, for people."""

    launch: Launch
    cuts: dict[str, str]


def places(launch: Launch) -> list[Place]:
    """What an instance sees of the host."""
    found = [Place(m.source, m.target, m.writable) for m in launch.mounts]
    if launch.workspace is not None:
        found.insert(0, Place(launch.workspace, "/workspace", not launch.read_only, workspace=True))
    return found


def holder(launch: Launch, path: str, *, writable: bool = False, mount: bool = False) -> Place | None:
    """The place of an instance that `path` is or lies in, a writable one before others; None when it sees no such thing.

    What is written through a mount goes past the files that are kept from the agent in a workspace, so only where the parent has a
    writable mount itself may the child have one.
    """
    found = [place for place in places(launch) if _within(path, place)]
    if writable:
        found = [place for place in found if place.writable and not (mount and place.workspace)]
    return max(found, key=lambda place: place.writable, default=None)


def narrow(parent: Launch, wanted: Launch, *, strength: Mapping[str, int], free: Limits | None = None) -> Narrowed:
    """`wanted`, cut to what `parent` has.

    Args:
        strength: of each kind of sandbox.
        free: what the parent and its ancestors have left of their limits; None when none of them has any.
    """
    cuts: dict[str, str] = {}
    permission = wanted.permission
    if _over(_PERMISSIONS, permission, parent.permission):
        permission = parent.permission
        cuts["permission"] = f"the parent's permission is `{parent.permission}`"
    workspace, permission = _workspace(parent, wanted, permission, cuts)
    approvals = wanted.approvals
    if _over(_APPROVALS, parent.approvals, approvals):
        approvals = parent.approvals
        cuts["approvals"] = "a person is asked before the parent uses a tool, and so before its children do"
    sandbox = wanted.sandbox
    if strength.get(sandbox, -1) < strength.get(parent.sandbox, 0):
        sandbox = parent.sandbox
        cuts["sandbox"] = f"the parent's sandbox is `{parent.sandbox}`, which is stronger"
    secrets = _among("secrets", wanted.secrets, parent.secrets, cuts)
    exposed = _among("exposed secrets", wanted.exposed, [name for name in parent.exposed if name in secrets], cuts)
    if wanted.auth != "broker":
        cuts["auth"] = "a login is never shared with a child"
    mcp = [server for server in wanted.mcp if server in parent.mcp]
    if len(mcp) < len(wanted.mcp):
        cuts["mcp"] = "the parent does not have the same MCP servers"
    launch = msgspec.structs.replace(
        wanted,
        permission=permission,
        approvals=approvals,
        approvals_default=wanted.approvals_default if parent.approvals_default == "approve" else "reject",
        mode=wanted.mode if approvals == wanted.approvals else None,
        sandbox=sandbox,
        workspace=workspace,
        egress=_egress(parent, wanted, permission, secrets, cuts),
        mounts=_mounts(parent, wanted, permission, cuts),
        secrets=secrets,
        exposed=exposed,
        env={name: value for name, value in wanted.env.items() if not name.startswith("AEGIS_")},
        auth="broker",
        mcp=mcp,
        tools=tuple(family for family in wanted.tools if family in parent.tools),
        tool_servers=tuple(server for server in wanted.tool_servers if server in parent.tool_servers),
        security=tuple(dict.fromkeys((*parent.security, *wanted.security))),
        record=parent.record if wanted.driver is not None else None,
        replay=parent.replay if wanted.driver is not None else None,
        limits=_limits(parent.limits, wanted.limits, free or parent.limits, cuts),
        turn=AgentLimits(*(min(getattr(wanted.turn, f), getattr(parent.turn, f)) for f in AgentLimits.__struct_fields__)),
        guard=min(wanted.guard, parent.guard, key=_GUARD.index),
        project=parent.project,
        spawn=SpawnRights(
            max(0, min(wanted.spawn.depth, parent.spawn.depth - 1)),
            min(wanted.spawn.children, parent.spawn.children),
            min(wanted.spawn.total, parent.spawn.total),
        ),
    )
    return Narrowed(launch, cuts)


def _over(words: tuple[str, ...], one: str, other: str) -> bool:
    return words.index(one) > words.index(other)


def _within(path: str, place: Place) -> bool:
    below = PurePosixPath(path)
    if not below.is_absolute() or ".." in below.parts or not below.is_relative_to(place.source):
        return False
    return not place.workspace or _KEPT.isdisjoint(below.relative_to(place.source).parts)


def _workspace(parent: Launch, wanted: Launch, permission: Permission, cuts: dict[str, str]) -> tuple[str | None, Permission]:
    """The child's workspace, and its permission, which is `read` where the parent may only read."""
    workspace = wanted.workspace
    if workspace is None:
        return None, permission
    place = holder(parent, workspace)
    if place is None:
        cuts["workspace"] = "it is not within what the parent sees, or within `.git` or `.aegis`"
        workspace = parent.workspace
        place = holder(parent, workspace) if workspace is not None else None
    if place is not None and not place.writable and permission != "read":
        cuts.setdefault("permission", f"the parent may only read {place.target}")
        permission = "read"
    return workspace, permission


def _among(what: str, wanted: list[str], has: list[str], cuts: dict[str, str]) -> list[str]:
    kept = [name for name in wanted if name in has]
    if len(kept) < len(wanted):
        cuts[what] = f"the parent has {', '.join(has) or 'none'}"
    return kept


def _egress(parent: Launch, wanted: Launch, permission: str, secrets: list[str], cuts: dict[str, str]) -> list[str | EgressRule]:
    """The rules that allow nothing which the parent's do not; they count with permission `full` alone, on both sides."""
    theirs = parent.egress if parent.permission == "full" else []
    has = Rules(theirs)
    kept: list[str | EgressRule] = []
    short = False
    for rule in wanted.egress if permission == "full" else []:
        # A host whose requests are looked at for the parent is asked for by its name alone; the child gets the same.
        same = [mine for mine in theirs if isinstance(mine, EgressRule) and mine.host == rule]
        short |= not same and not has.cover(rule)
        kept += same or ([rule] if has.cover(rule) else [])
    # A secret that the child does not have is not sent for it.
    kept = [
        msgspec.structs.replace(rule, secret=None, header=None)
        if isinstance(rule, EgressRule) and rule.secret is not None and rule.secret not in secrets
        else rule
        for rule in kept
    ]
    if short or len(kept) < len(wanted.egress):
        cuts["egress"] = f"the parent may reach {', '.join(map(str, theirs)) or 'nothing'}"
    return kept


def _mounts(parent: Launch, wanted: Launch, permission: str, cuts: dict[str, str]) -> list[MountRule]:
    kept = []
    for mount in wanted.mounts:
        if holder(parent, mount.source) is None:
            cuts["mounts"] = "not all of them are within what the parent sees"
            continue
        may = mount.writable and permission == "full" and holder(parent, mount.source, writable=True, mount=True) is not None
        if mount.writable and not may:
            cuts.setdefault("mounts", "not all of them are writable for the parent, by a mount of its own")
        kept.append(msgspec.structs.replace(mount, writable=may))
    return kept


def _limits(parent: Limits, wanted: Limits, free: Limits, cuts: dict[str, str]) -> Limits:
    """What is asked for, if the parent has as much and so much is left; half of what is left where nobody said how much."""
    given: dict[str, float | int | None] = {}
    for name, field in BOUNDS.items():
        ask, has, left = getattr(wanted, field), getattr(parent, field), getattr(free, field)
        bound = min((value for value in (has, left) if value is not None), default=None)
        if bound is None or (ask is not None and ask <= bound):
            given[field] = ask
            continue
        if ask is not None:
            cuts[name] = f"{shown(name, bound)} of the parent's are left"
        half = min(bound, max(bound / 2, LEAST[name]))
        given[field] = half if name == "cpus" else int(half)
    return Limits(required=wanted.required or parent.required, **given)  # type: ignore[arg-type]


def shown(name: str, value: float) -> str:
    """A limit for people."""
    return f"{value / 2**20:.0f} MB of memory" if name == "memory" else f"{value:g} {name}"
