"""What an instance, or a person, sees of those that were spawned, and what a parent does with its own: wait for one, close one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.text import one_line
from aegis.services.agents.model import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.core.envelopes import Envelope
    from aegis.core.principals import Principal
    from aegis.services.agents.model import Instance
    from aegis.services.agents.service import Agents
    from aegis.services.agents.world import World

#: The longest wait for a child in one call, in seconds; programs give up a tool that takes longer.
MAX_WAIT: Final = 600.0
_DOWN: Final = (State.CREATED, State.STOPPED, State.FAILED)
_COUNTED: Final = ("calls", "input", "output", "cached")


class Waited(NamedTuple):
    """What became of a child.

    `mail` is what was waiting for the parent and is thereby read; `text` are the last words of one whose report is not among it.
    """

    done: bool
    gone: bool
    outcome: str
    text: str
    mail: Sequence[Envelope]


class Descending:
    """Looks after what was spawned."""

    def __init__(self, world: World, agents: Agents) -> None:
        self._world = world
        self._agents = agents

    def own(self, parent: Instance, name: str) -> Instance:
        """The descendant of that handle or id. Raises NOT_FOUND with the nearest, also for an instance of somebody else."""
        below = self._world.registry.descendants(parent.id)
        for child in below:
            if name in (child.handle, child.id):
                return child
        hint = "" if below else "you have started none; aegis_spawn does"
        raise unknown_name("child of yours called", name[:100], [child.handle for child in below], hint)

    def to_run_in(self, parent: Instance, name: str) -> Instance:
        """The descendant in which the parent may run commands. Raises as `own`, and DENIED where a person is asked before each tool."""
        child = self.own(parent, name)
        if parent.launch.approvals == "ask":
            text = "a person is asked before you use a tool, and a command in another sandbox asks nobody"
            raise AegisError(ErrorKind.DENIED, text, "write to it instead")
        return child

    async def tree(self, root: Instance | None = None) -> list[dict[str, Any]]:
        """Every instance, or one with all below it: parents before their children, each with what it cost and what its subtree cost."""
        registry = self._world.registry
        tops = [root] if root is not None else [i for i in registry.all() if i.parent is None or registry.find(i.parent) is None]
        order: list[tuple[Instance, int]] = []

        def visit(instance: Instance, depth: int) -> None:
            order.append((instance, depth))
            for child in registry.children(instance.id):
                visit(child, depth + 1)

        for top in tops:
            visit(top, 0)
        used = await self._world.store.query(lambda db: {i.id: self._world.models.totals(db, instance=i.id) for i, _ in order})
        nodes = [self._node(instance, depth, used[instance.id]) for instance, depth in order]
        for n in range(len(nodes) - 1, -1, -1):  # children come after their parents
            nodes[n]["total"] = _sum(nodes[n]["usage"], [child["total"] for child in nodes[n + 1 :] if child["parent"] == nodes[n]["id"]])
        return nodes

    def _node(self, instance: Instance, depth: int, used: dict[str, Any]) -> dict[str, Any]:
        registry, launch, now = self._world.registry, instance.launch, self._agents.activity(instance)
        parent = registry.find(instance.parent) if instance.parent is not None else None
        return {
            "id": instance.id,
            "handle": instance.handle,
            "parent": parent.id if parent is not None else None,
            "parent_handle": parent.handle if parent is not None else None,
            "depth": depth,
            "children": len(registry.children(instance.id)),
            "session": launch.origin,
            "agent": launch.agent,
            "driver": launch.driver,
            "model": launch.model,
            "permission": launch.permission,
            "state": instance.state,
            "activity": now.word,
            "activity_until": now.until,
            "open_approvals": self._world.approvals.open(instance.id),
            "enabled": instance.enabled,
            "reason": instance.reason,
            "created_at": instance.created_at,
            "last_active_at": instance.last_active_at,
            "usage": used,
        }

    async def close(self, principal: Principal, parent: Instance, name: str, *, force: bool = False) -> list[Instance]:
        """End and forget a child of `parent`; with `force` also one that works, with all below it. Returns those that went.

        Raises CONFLICT with every reason against it at once, as `reasons`; NOT_FOUND; DENIED for what is not its own child.
        """
        if name in (parent.handle, parent.id):
            raise AegisError(ErrorKind.USAGE, "you cannot close yourself", "end your turn; who started you closes you")
        child = self.own(parent, name)
        if child.parent != parent.id:
            above = self._world.registry.get(child.parent or "")
            text = f"`{child.handle}` is a child of `{above.handle}`, not yours"
            raise AegisError(ErrorKind.DENIED, text, f"close `{above.handle}` with force, or have it close its own")
        reasons = self._against(child)
        if reasons and not force:
            text = f"`{child.handle}` is not closed: {'; '.join(reasons)}"
            raise AegisError(ErrorKind.CONFLICT, text, "wait for it with aegis_status, or call again with force", reasons=reasons)
        return await self._agents.delete(principal, child)

    def _against(self, child: Instance) -> list[str]:
        """Why somebody may not want it closed."""
        reasons = []
        if self._agents.working(child):
            reasons.append("it works on a turn" if child.launch.driver is not None else "its program runs")
        if unread := sum(self._world.mail.queued(child.id).values()):
            reasons.append(f"it has {unread} unread {'messages' if unread > 1 else 'message'}")
        if below := self._world.registry.children(child.id):
            reasons.append(f"it has children: {', '.join(one.handle for one in below)}")
        return reasons

    async def wait(self, parent: Instance, session: str | None, child: Instance, seconds: float) -> Waited:
        """Return when a child has nothing more to do, or after so many seconds, at most `MAX_WAIT`.

        What waits for the conversation `session` of the parent is read thereby, the report of the child among it.
        """
        try:
            async with asyncio.timeout(max(0.0, min(seconds, MAX_WAIT))):
                done = await self._quiet(child)
        except TimeoutError:
            return Waited(False, False, self._agents.activity(child).word, "", [])
        mail = await self._world.mail.read(parent.id, session) if session is not None else []
        if not done:
            return Waited(True, True, "gone", "", mail)
        outcome, text = self._last(child)
        told = any(envelope.sender == f"instance:{child.id}" for envelope in mail)
        return Waited(True, False, outcome, "" if told else text, mail)

    async def _quiet(self, child: Instance) -> bool:
        """Return when it has nothing to do: True, or False when it is not there any more."""
        world = self._world
        while world.registry.find(child.id) is child:
            head = world.store.head
            if not self._agents.working(child) and (child.launch.driver is None or not child.enabled or not world.mail.sessions(child.id)):
                return True
            await self._agents.change(child, head, 60.0)
        return False

    def _last(self, child: Instance) -> tuple[str, str]:
        """How its last turn ended and what it said, or, of a plain program, how that ended."""
        if child.launch.driver is None:
            lines = [
                f"{record['text']}" for record in self._agents.log(child).tail(20, None) if record.get("stream") in ("stdout", "stderr")
            ]
            return ("completed" if child.state is State.STOPPED else "failed"), "\n".join([*lines, f"[{one_line(child.reason)}]"])
        row = self._world.store.read(
            lambda db: db.execute(
                "SELECT seq FROM events WHERE instance = ? AND type = 'turn.finished' ORDER BY seq DESC LIMIT 1", (child.id,)
            ).fetchone()
        )
        if row is None:
            return "idle", ""
        (event,) = self._world.store.events(row[0] - 1, instance=child.id, types=("turn.finished",), limit=1).events
        fact: Any = event.fact
        return str(fact.outcome), fact.text or str((fact.error or {}).get("error", ""))


def _sum(own: dict[str, Any], below: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The use of a subtree; the cost is None when that of any part is not known."""
    parts = [own, *below]
    costs = [part["cost_usd"] for part in parts]
    total: dict[str, Any] = {name: sum(part[name] for part in parts) for name in _COUNTED}
    return total | {"cost_usd": None if None in costs else sum(costs)}
