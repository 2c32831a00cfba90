"""Spawning: an instance starts another one with a share of what it has itself, never more.

What is given is decided in three steps. The definition of the agent and the request make a launch, as for a person; `narrowing` cuts
it to what the parent has; what the request asked for by name and does not get is refused with all reasons at once, while what only
the definition says is quietly less. Then, without a pause between them, the caps of every ancestor are looked at and the child
counts. A child belongs to its parent when its message is on disk; a daemon that dies before leaves nothing of it.

How much all descendants of an instance may have together is as much as the instance itself: each has a limit of its own on what its
ancestors are limited in, and those limits never add up to more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.envelopes import DEFAULT_SESSION
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.faults import point
from aegis.core.ids import check_handle
from aegis.core.text import one_line
from aegis.sandboxes import Limits
from aegis.services.agents import inside
from aegis.services.agents.launching import MountRequest, StartRequest
from aegis.services.agents.narrowing import BOUNDS, LEAST, Narrowed, narrow, shown
from aegis.services.mail import Draft

if TYPE_CHECKING:
    from aegis.core.principals import Principal
    from aegis.services.agents.launching import Launching
    from aegis.services.agents.model import Instance, Launch
    from aegis.services.agents.registry import Registry
    from aegis.services.agents.service import Agents
    from aegis.services.agents.world import World
    from aegis.services.gate import Decision
    from aegis.store import Tx

#: So much of what a child that did not start said last is told to its parent, in characters.
_STDERR: Final = 600
_LIMITS: Final = tuple(BOUNDS)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance asks for. Everything but `prompt`, or `command` for a plain program, may be left out.

    Paths are as the parent sees them. Without `agent` it is another one such as the parent, on the same model.
    """

    prompt: str = ""
    agent: str | None = None
    command: list[str] = []
    slug: str | None = None  # the handle it would like; with a number behind it when that is taken
    model: str | None = None
    effort: str | None = None
    persona: str | None = None  # told to it as its system prompt, behind that of its definition
    cwd: str | None = None  # its workspace; the parent's if not given
    permission: str | None = None
    sandbox: str | None = None
    egress: list[str] = []
    mounts: list[str] = []  # PATH[:TARGET][:rw]
    secrets: list[str] = []
    env: dict[str, str] = {}
    memory_mb: float | None = None
    cpus: float | None = None
    pids: int | None = None
    report: bool = True  # the final text of its first turn comes back to the parent as mail

    @property
    def named(self) -> set[str]:
        """What is asked for by name, in the words of `Narrowed.cuts`."""
        asked: dict[str, object] = {"permission": self.permission, "sandbox": self.sandbox, "egress": self.egress, "mounts": self.mounts}
        asked |= {"secrets": self.secrets, "exposed secrets": self.secrets, "workspace": self.cwd}
        asked |= {"memory": self.memory_mb, "cpus": self.cpus, "pids": self.pids}
        return {name for name, value in asked.items() if value}


@dataclass(frozen=True, slots=True)
class Spawned:
    """A child that is there. `cuts` says by name what its definition declares and its parent could not give."""

    instance: Instance
    cuts: dict[str, str]
    message: str | None  # the id of the envelope that it begins with


class Spawning:
    """Starts children of instances."""

    def __init__(self, world: World, agents: Agents, launching: Launching) -> None:
        self._world = world
        self._agents = agents
        self._launching = launching
        self._strength = {kind.name: kind.strength for kind in world.kinds.values()}

    async def spawn(self, principal: Principal, parent: Instance, session: str | None, wish: Wish) -> Spawned:
        """A child of `parent`, started, with its first message on disk.

        Raises AegisError, and then there is none: USAGE, NOT_FOUND (an agent, a path), DENIED (more than the parent has, or may), LIMIT
        (no place or nothing of a limit is left), FAILED or UNAVAILABLE with `stderr` (it did not start), INTERRUPTED (the parent is gone).
        """
        world = self._world
        asked = _asked(wish)
        decision = await world.gate.check(principal, "instance.spawn", parent.handle, asked=asked)
        try:
            wanted = await self._wanted(parent, wish)
            self._asks(drafted := self._given(parent, wanted, wish).launch)
            await self._launching.check(drafted)
            # From here until the child counts nothing is awaited, so what is looked at holds.
            self._admit(parent)
            given = self._given(parent, wanted, wish)
            launch = msgspec.structs.replace(given.launch, origin=session, ephemeral=True)  # until it is its parent's for good
            handle = self._handle(wish)
        except AegisError as error:
            refused = {"asked": asked, "refused": one_line(error.message, 1000)}
            await world.gate.record(msgspec.structs.replace(decision, allow=False, reason=error.kind.value, data=refused))
            raise
        told = msgspec.structs.replace(decision, data={"asked": asked, "given": _told(launch), "cut": sorted(given.cuts)})
        try:
            instance = await world.registry.create(handle, launch, lambda tx: self._reserve(tx, parent, told), parent=parent.id)
            point("spawn.reserved")
            message = await self._begin(principal, parent, session, instance, wish)
        except AegisError as error:
            if (removing := self._remove(parent, launch)) is None:
                raise
            await asyncio.shield(removing)  # its place is free before the parent hears of it
            raise _not_started(handle, error) from error
        except BaseException:  # whoever asked is gone, or something is broken: nothing is left either
            self._remove(parent, launch)
            raise
        return Spawned(instance, given.cuts, message)

    def _remove(self, parent: Instance, launch: Launch) -> asyncio.Task[None] | None:
        """Delete the child that was made with this very launch, if it was; whoever asked for it may be gone."""
        found = next((child for child in self._world.registry.children(parent.id) if child.launch is launch), None)
        return self._agents.discard(found) if found is not None else None

    def _asks(self, launch: Launch) -> None:
        """Refuse a program that asks nobody where a person is to be asked."""
        if (
            launch.approvals == "ask"
            and launch.driver is not None
            and not self._world.driver(launch.driver).capabilities.permission_requests
        ):
            raise AegisError(
                ErrorKind.DENIED,
                f"a person is asked before you use a tool, and `{launch.driver}` asks nobody",
                "spawn an agent whose program asks, such as your own",
            )

    async def _begin(self, principal: Principal, parent: Instance, session: str | None, instance: Instance, wish: Wish) -> str | None:
        """Start a child, give it its first message and its parent; returns the message's id."""
        world = self._world
        await self._agents.boot(instance)
        message = None
        if wish.prompt:
            draft = Draft(instance=instance.id, session=DEFAULT_SESSION, text=wish.prompt, sender_session=session, report=wish.report)
            message = (await world.mail.accept(principal, draft)).id
        point("spawn.started")

        def settle(tx: Tx) -> None:
            for above in (instance, parent, *world.registry.ancestors(parent.id)):
                world.registry.living(tx, above.id)
            world.registry.relaunch(tx, instance, msgspec.structs.replace(instance.launch, ephemeral=False))

        await world.store.write(settle)
        return message

    def _reserve(self, tx: Tx, parent: Instance, decision: Decision) -> None:
        """In the transaction that makes the child: everything above it is there and may have it."""
        for above in (parent, *self._world.registry.ancestors(parent.id)):
            self._world.registry.living(tx, above.id)
        self._world.gate.write(tx, decision)

    async def _wanted(self, parent: Instance, wish: Wish) -> Launch:
        """What the definition and the request make, not yet cut. Raises AegisError."""
        launch = parent.launch
        if bool(wish.command) == bool(wish.prompt.strip()):
            raise AegisError(
                ErrorKind.USAGE, "a child needs either a prompt or a command", "give an agent its work, a program its arguments"
            )
        if any("\x00" in part for part in wish.command):
            raise AegisError(ErrorKind.USAGE, "the command holds a NUL", "give the program and its arguments as a list of strings")
        if wish.command and launch.approvals == "ask":
            raise AegisError(
                ErrorKind.DENIED,
                "a person is asked before you use a tool, and a plain program asks nobody",
                "run it with your own tools, or spawn an agent whose program asks",
            )
        alike = wish.agent in (None, launch.agent) and launch.driver is not None and not wish.command
        for name in (item.partition(":")[0] for item in wish.secrets):
            if name not in launch.secrets:  # before anything says which ones there are
                raise AegisError(ErrorKind.DENIED, f"you do not have the secret `{name[:100]}`", "leave it out")
        mounts = [inside.mount(launch, text) for text in wish.mounts]
        request = StartRequest(
            agent=None if wish.command else wish.agent or (launch.agent if alike else None),
            command=wish.command,
            project=launch.project,
            provider=launch.driver if alike else None,
            model=wish.model or (launch.model if alike else None),
            effort=wish.effort or (launch.effort if alike else None),
            auth=None if wish.command else "broker",
            sandbox=wish.sandbox,
            permission=wish.permission,
            egress=[*wish.egress],
            mounts=[MountRequest(mount.source, mount.target, mount.writable) for mount in mounts],
            secrets=wish.secrets,
            workspace=inside.directory(launch, wish.cwd) if wish.cwd else launch.workspace,
            env=wish.env,
            memory_mb=wish.memory_mb,
            cpus=wish.cpus,
            pids=wish.pids,
        )
        drafted = await self._launching.draft(request, like=launch)
        changes: dict[str, Any] = {"tools": launch.tools, "tool_servers": launch.tool_servers} if alike else {}
        if alike and launch.system is not None:
            changes["system"] = launch.system
        if wish.persona:
            if wish.command:
                raise AegisError(ErrorKind.USAGE, "a plain program has no persona", "leave it out")
            changes["system"] = "\n\n".join(part for part in (changes.get("system", drafted.system), wish.persona) if part)
        if wish.permission is None and (wish.egress or any(mount.writable for mount in mounts)) and launch.permission == "full":
            changes["permission"] = "full"  # what is asked for has no other meaning
        return msgspec.structs.replace(drafted, **changes)

    def _given(self, parent: Instance, wanted: Launch, wish: Wish) -> Narrowed:
        """What of it the parent can give now. Raises DENIED or LIMIT with every reason when something asked for by name is not given."""
        free, by = self._free(parent)
        for name, field in BOUNDS.items():
            left = getattr(free, field)
            if left is not None and left < LEAST[name]:
                raise AegisError(
                    ErrorKind.LIMIT,
                    f"nothing is left of the {name} of `{by[name].handle}`: its descendants have all of it",
                    "end one that is done with aegis_close, or ask for less for each",
                    limit=name,
                )
        found = narrow(parent.launch, wanted, strength=self._strength, free=free)
        refused = {name: found.cuts[name] for name in found.cuts if name in wish.named}
        if refused:
            kind = ErrorKind.LIMIT if all(name in _LIMITS for name in refused) else ErrorKind.DENIED
            reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
            raise AegisError(kind, f"a child cannot have more than its parent: {reasons}", "ask for less, or leave it out", refused=refused)
        return found

    def _admit(self, parent: Instance) -> None:
        """Raise when the parent, or one above it, may have no further descendant."""
        registry = self._world.registry
        if registry.find(parent.id) is not parent:
            raise AegisError(ErrorKind.INTERRUPTED, f"`{parent.handle}` was deleted meanwhile", "see `aegis tree`")
        for n, above in enumerate((parent, *registry.ancestors(parent.id))):
            self._agents.admit_child(above)
            rights = above.launch.spawn
            if rights.depth <= n or not rights.children or not rights.total:
                text = "may start no further agents" if not n else f"may have no descendants {n + 1} generations below it"
                raise AegisError(ErrorKind.DENIED, f"`{above.handle}` {text}", "do it yourself, or say in your answer who is missing")
            if not n and (have := len(registry.children(above.id))) >= rights.children:
                raise _full(above, have, rights.children, "children")
            if (have := len(registry.descendants(above.id))) >= rights.total:
                raise _full(above, have, rights.total, "descendants")

    def _free(self, parent: Instance) -> tuple[Limits, dict[str, Instance]]:
        """What is left of the limits of the parent and all above it, and whose is the tightest."""
        return free(self._world.registry, parent)

    def _handle(self, wish: Wish) -> str | None:
        """The handle that is wished for, or the first like it that is free. Raises USAGE for what is none."""
        if wish.slug is None:
            return None
        wanted, n = check_handle(wish.slug), 2
        while self._world.registry.find(wanted) is not None:
            wanted, n = check_handle(f"{wish.slug[:58]}-{n}"), n + 1
        return wanted


def free(registry: Registry, parent: Instance) -> tuple[Limits, dict[str, Instance]]:
    """What a further descendant of `parent` may have at most, None for no bound, and by name of the limit whose it is."""
    left: dict[str, float] = {}
    whose: dict[str, Instance] = {}
    for above in (parent, *registry.ancestors(parent.id)):
        below = registry.descendants(above.id)
        for name, field in BOUNDS.items():
            bound = getattr(above.launch.limits, field)
            if bound is None:
                continue
            rest = max(0, bound - sum(getattr(child.launch.limits, field) or 0 for child in below))
            if name not in left or rest < left[name]:
                left[name], whose[name] = rest, above
    values: dict[str, Any] = {BOUNDS[name]: value if name == "cpus" else int(value) for name, value in left.items()}
    return Limits(**values), whose


def _full(above: Instance, have: int, most: int, what: str) -> AegisError:
    return AegisError(
        ErrorKind.LIMIT,
        f"`{above.handle}` has {have} {what}, and may have {most}",
        "end one that is done with aegis_close; aegis_children shows them",
        have=have,
        most=most,
    )


def _not_started(handle: str | None, error: AegisError) -> AegisError:
    """Why a child did not start, for its parent: with the last of what it said."""
    stderr = str(error.data.get("stderr", ""))[-_STDERR:].strip()
    said = f"; it said: {stderr}" if stderr else ""
    return AegisError(
        error.kind,
        f"{f'`{handle}`' if handle else 'the child'} was not started: {error.message}{said}",
        "nothing is left of it; mend that and spawn again, or do the work yourself",
        **error.data,
    )


def _asked(wish: Wish) -> dict[str, Any]:
    """A request for the record: without the texts, and without values of variables."""
    asked = {
        name: value
        for name, value in msgspec.structs.asdict(wish).items()
        if value not in (None, "", [], {}) and name not in ("prompt", "persona", "env", "report")
    }
    asked["command"] = [one_line(part, 200) for part in wish.command[:32]]
    return {k: v for k, v in asked.items() if v} | ({"env": sorted(wish.env)} if wish.env else {})


def _told(launch: Launch) -> dict[str, Any]:
    """What a child is given, for the record."""
    limits = {name: shown(name, value) for name, field in BOUNDS.items() if (value := getattr(launch.limits, field)) is not None}
    return {
        "agent": launch.agent,
        "model": launch.model,
        "sandbox": launch.sandbox,
        "permission": launch.permission,
        "approvals": launch.approvals,
        "workspace": launch.workspace,
        "egress": [str(rule) for rule in launch.egress],
        "mounts": [f"{m.source}:{m.target}{':rw' if m.writable else ''}" for m in launch.mounts],
        "secrets": launch.secrets,
        "exposed": launch.exposed,
        "limits": limits,
        "spawn": [launch.spawn.depth, launch.spawn.children, launch.spawn.total],
    }
