"""What ends an instance ends all that it spawned, and all that those did: deleting, disabling, cancelling, and failing for good.

What is decided is on disk for the whole family in one transaction before anything is stopped, and then everything is stopped at once:
a daemon that dies in between leaves nothing that would begin again, and the next one finishes a deletion. All of it works with a full
disk. Children of one that is idle, asleep or stopped live on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.faults import point
from aegis.core.principals import SYSTEM, PrincipalKind
from aegis.services.agents.erasing import erase
from aegis.services.agents.life import state_dir
from aegis.services.agents.verdicts import MAX_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from aegis.core.principals import Principal
    from aegis.services.agents.model import Instance
    from aegis.services.agents.service import Live
    from aegis.services.agents.world import World
    from aegis.store import Tx

_logger = logging.getLogger(__name__)

#: How long a program may take to end when its instance is ended with others, and to end a turn that is cut with others, in seconds.
GRACE: Final = 1.0
#: Tables with rows of an instance that are the agents service's own.
_TABLES: Final = ("memory", "turns", "sessions")


class Cascade:
    """Ends whole families. `of` gives the live side of an instance, `forget` lets go of it."""

    def __init__(self, world: World, of: Callable[[Instance], Live], forget: Callable[[Instance], None]) -> None:
        self._world = world
        self._of = of
        self._forget = forget

    def family(self, instance: Instance) -> list[Instance]:
        """The instance and its descendants, parents before their children."""
        return [instance, *self._world.registry.descendants(instance.id)]

    async def disable(self, principal: Principal, instance: Instance) -> None:
        """Stop all of a family and keep it stopped."""
        world = self._world
        family = self.family(instance)
        also: dict[str, Any] = {"descendants": [i.handle for i in family[1:]]} if len(family) > 1 else {}
        decision = await world.gate.check(principal, "instance.disable", instance.handle, **also)

        def disable(tx: Tx) -> None:
            world.gate.write(tx, decision)
            world.registry.require(tx, instance.id)
            world.registry.shut(tx, family)

        await world.insist(disable)
        try:
            point("cascade.recorded")
        finally:  # what is on record happens
            await self._stop(family, "disabled", f"`{instance.handle}`, which is above it, was disabled")
        point("cascade.stopped")

    async def fail(self, instance: Instance) -> None:
        """An instance has failed for good: what it spawned has nobody to work for, and is disabled."""
        below = self._world.registry.descendants(instance.id)
        if not below:
            return
        decision = await self._world.gate.check(SYSTEM, "instance.disable", instance.handle, descendants=[i.handle for i in below])

        def disable(tx: Tx) -> None:
            self._world.gate.write(tx, decision)
            self._world.registry.shut(tx, below)

        await self._world.insist(disable)
        await self._stop(below, "", f"`{instance.handle}`, which is above it, failed")

    async def delete(self, principal: Principal, instance: Instance) -> list[Instance]:
        """End all of a family and forget it; returns those that went, the instance first. Raises CONFLICT when that is under way."""
        world = self._world
        family = [i for i in self.family(instance) if i is instance or not self._of(i).doomed]
        lives = [self._of(i) for i in family]
        also: dict[str, Any] = {"descendants": [i.handle for i in family[1:]]} if len(family) > 1 else {}
        decision = await world.gate.check(principal, "instance.delete", instance.handle, **also)
        refuse_doomed(lives[0])
        for live in lives:
            live.doomed = True
        try:
            await self._delete(principal, family, lives, lambda tx: world.gate.write(tx, decision))
        finally:
            for live in lives:
                live.doomed = False
        for gone in family:
            world.registry.forget(gone)
            self._forget(gone)
        await _all(asyncio.to_thread(erase, state_dir(world.home, gone)) for gone in family)
        return family

    async def _delete(self, principal: Principal, family: Sequence[Instance], lives: Sequence[Live], audit: Callable[[Tx], None]) -> None:
        world = self._world
        top = family[0]

        def doom(tx: Tx) -> None:
            audit(tx)
            world.registry.require(tx, top.id)
            world.registry.shut(tx, family, doomed=True)

        def forget(tx: Tx) -> None:
            if principal.kind is not PrincipalKind.PERSON:  # who ends its own child needs no report of that
                world.mail.call_off(tx, top.id, "its parent ended it")
            for gone in reversed(family):
                world.mail.forget(tx, gone.id)
                world.models.forget(tx, gone.id)
                world.approvals.forget(tx, gone.id)
                world.egress.forget(tx, gone.id)
                for table in _TABLES:
                    tx.execute(f"DELETE FROM {table} WHERE instance = ?", (gone.id,))
                world.registry.delete(tx, gone)

        await world.insist(doom)
        point("cascade.recorded")
        grace = 2.0 if len(family) == 1 else GRACE
        await _all(_halt(live, "deleted" if live is lives[0] else f"`{top.handle}` was deleted", grace) for live in lives)
        point("instance.ended")
        await world.insist(forget)

    async def cancel(self, principal: Principal, instance: Instance, session: str | None) -> bool:
        """Cut the running turn of a session, or of all with None, and the work of all that was spawned in it. False when there was none.

        What agents sent to the descendants and waits there is called off, and nobody is sent a report. Plain programs are stopped.
        """
        world = self._world
        decision = await world.gate.check(principal, "turn.interrupt", instance.handle, session=session or "(all)")
        below = self._below(instance, session)
        live = self._of(instance)
        own = [worker for key, worker in live.sessions.items() if session is None or key == session]

        def record(tx: Tx) -> None:
            world.gate.write(tx, decision)
            for worker in own if below else ():
                _not_again(tx, instance.id, worker.key)
            for child in below:
                world.mail.call_off(tx, child.id, f"`{instance.handle}`, which is above it, was cancelled")
                _not_again(tx, child.id)

        with contextlib.suppress(AegisError):  # also when even the reserved space is used up
            await world.insist(record)
        if below:
            point("cascade.recorded")
        results = await asyncio.gather(*(worker.interrupt() for worker in own), *(self._cut(child) for child in below))
        if below:
            point("cascade.stopped")
        return any(results)

    def _below(self, instance: Instance, session: str | None) -> list[Instance]:
        """What was spawned in one conversation, and all that it spawned."""
        begun = [c for c in self._world.registry.children(instance.id) if session is None or c.launch.origin in (None, session)]
        return [one for child in begun for one in self.family(child)]

    async def _cut(self, instance: Instance) -> bool:
        """End what an instance does now; its sandbox is taken away when that takes too long. False when it did nothing."""
        live = self._of(instance)
        if instance.launch.driver is None:
            busy = live.life.sandbox is not None
            await live.life.stop("cancelled with what is above it", grace=GRACE)
            return busy
        turns = [(worker, turn) for worker in live.sessions.values() if (turn := worker.turn) is not None]
        await _all(worker.interrupt() for worker, _ in turns)
        try:
            async with asyncio.timeout(GRACE):
                await _all(worker.over(turn) for worker, turn in turns)
        except TimeoutError:
            await live.life.stop("cancelled with what is above it", grace=GRACE / 4)
        return bool(turns)

    async def _stop(self, family: Sequence[Instance], first: str, others: str) -> None:
        grace = 2.0 if len(family) == 1 else GRACE
        lives = [self._of(i) for i in family]
        await _all(live.life.stop((first if n == 0 else "") or others, grace=grace) for n, live in enumerate(lives))


def refuse_doomed(live: Live) -> None:
    """Raise CONFLICT for an instance that is being deleted."""
    if live.doomed:
        raise AegisError(ErrorKind.CONFLICT, f"`{live.instance.handle}` is being deleted", "see `aegis instance list`")


def _not_again(tx: Tx, instance: str, session: str | None = None) -> None:
    """Should the daemon die before the turns that run are over, they are not gone on with."""
    where, values = ("AND session = ?", (session,)) if session is not None else ("", ())
    tx.execute(f"UPDATE turns SET attempts = ? WHERE instance = ? AND finished_at IS NULL {where}", (MAX_ATTEMPTS, instance, *values))


async def _halt(live: Live, reason: str, grace: float) -> None:
    await live.halt()
    await live.life.stop(reason, grace=grace)


async def _all(work: Iterable[Awaitable[object]]) -> None:
    """Do all at once and to their ends, then raise the first error."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
