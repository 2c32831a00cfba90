"""The workspace comes back: what a new daemon finds of the instances that there were, and what it sets going again.

Everything is there and asleep: an instance is a row until somebody wants it. What has work, a turn that was cut short or mail that
waits, is set going, a few sandboxes at a time. One that could not start, because its workspace, its program, its login, a secret or its
kind of sandbox has gone, is left as it is with its work: it says why, and goes on when somebody has mended that and starts it. The
agent's definition is not among these: an instance keeps all that it was launched with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.errors import AegisError
from aegis.core.principals import SYSTEM
from aegis.core.text import one_line
from aegis.services.agents.model import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from aegis.sandboxes import Verdict
    from aegis.services.agents.model import Instance
    from aegis.services.agents.service import Live
    from aegis.services.agents.world import World
    from aegis.store import Tx

#: So many sandboxes start at the same time when a daemon sets work going.
AT_ONCE: Final = 4
#: So many events of an instance are looked at for the version of its program.
_BACK: Final = 5000
_AWAKE: Final = (State.STARTING, State.RUNNING, State.PAUSED)


class Obstacle(NamedTuple):
    """Why an instance cannot be started, and what mends that."""

    reason: str
    mend: str


class _Here(NamedTuple):
    """What this machine has at the moment; None where nobody can say."""

    verdicts: Mapping[str, Verdict]
    stored: Collection[str] | None


class Returned(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as it came back.

    `sessions` counts its conversations, `waiting` the messages that waited, and `resumes` the turns that were cut short and go on;
    the latter two as they were at the start of the daemon. `obstacle` is why it cannot be started, "" where it can, and `mend` what
    helps; `notes` is what a person should know besides.
    """

    id: str
    handle: str
    agent: str
    state: str
    enabled: bool
    parent: str | None
    workspace: str | None
    sessions: int
    waiting: int
    resumes: int
    obstacle: str = ""
    mend: str = ""
    notes: list[str] = []


class Returning:
    """What came back with this daemon.

    Args:
        world: the house.
        of: the live side of an instance.
    """

    def __init__(self, world: World, of: Callable[[Instance], Live]) -> None:
        #: What works here of the kinds of sandboxes, and which secrets there are; set by the wiring.
        self.verdicts: Callable[[], Awaitable[Mapping[str, Verdict]]] = _nothing
        self.stored: Callable[[], Awaitable[Collection[str]]] | None = None
        #: Called with an instance that has work and cannot be started, and why; set by the wiring.
        self.on_hindered: Callable[[Instance, str], Awaitable[None]] = _untold
        #: How many were put aside at the start.
        self.put_aside = 0
        self._world = world
        self._of = of
        self._waiting: Counter[str] = Counter()
        self._resumes: Counter[str] = Counter()
        self._obstacles: dict[str, Obstacle] = {}

    def remember(self) -> None:
        """Take note of what waits and what was cut, before anything goes on."""
        waiting, cut = self._world.store.read(
            lambda db: (
                db.execute("SELECT instance, count(*) FROM envelopes WHERE done_at IS NULL AND turn IS NULL GROUP BY 1").fetchall(),
                db.execute(
                    "SELECT t.instance, count(DISTINCT t.id) FROM turns t JOIN envelopes e ON e.turn = t.id "
                    "WHERE t.outcome IN ('interrupted', 'limited') AND e.done_at IS NULL GROUP BY 1"
                ).fetchall(),
            )
        )
        self._waiting, self._resumes = Counter(dict(waiting)), Counter(dict(cut))

    async def set_aside(self) -> None:
        """Disable every instance; nothing is deleted, and what waits for it stays."""
        world = self._world
        found = [instance for instance in world.registry.all() if instance.enabled]
        decisions = [world.gate.decide(SYSTEM, "instance.disable", instance.handle, clean=True) for instance in found]

        def disable(tx: Tx) -> None:
            for instance, decision in zip(found, decisions, strict=True):
                world.gate.write(tx, decision)
                world.registry.enable(tx, instance, False)

        await world.insist(disable)
        self.put_aside = len(found)

    async def set_going(self, work: Sequence[tuple[str, str]]) -> None:
        """Start the workers of the (instance id, session) pairs that have work and can be started; a few sandboxes at a time."""
        sessions: dict[str, list[str]] = {}
        for ident, session in work:
            sessions.setdefault(ident, []).append(session)
        found = [one for ident in sessions if (one := self._world.registry.find(ident)) is not None and one.enabled]
        if not found:  # what works on this machine need not be tried for nothing
            return
        turnstile, here = asyncio.Semaphore(AT_ONCE), await self._here()

        async def go(instance: Instance) -> None:
            obstacle = await self._examine(instance, here)
            if obstacle is not None:
                await self.on_hindered(instance, obstacle.reason)
            elif instance.enabled and self._world.registry.find(instance.id) is instance:
                live = self._of(instance)
                live.life.turnstile = turnstile
                for session in sessions[instance.id]:
                    live.session(session).kick()

        await asyncio.gather(*(go(instance) for instance in found))

    async def examine(self, instances: Sequence[Instance]) -> dict[str, Obstacle]:
        """Look which of these could not be started now; by id. What is found is shown with them until they were started."""
        here = await self._here()
        found = await asyncio.gather(*(self._examine(instance, here) for instance in instances))
        return {instance.id: obstacle for instance, obstacle in zip(instances, found, strict=True) if obstacle is not None}

    async def _here(self) -> _Here:
        return _Here(await self.verdicts(), await self.stored() if self.stored is not None else None)

    async def _examine(self, instance: Instance, here: _Here) -> Obstacle | None:
        if instance.state in _AWAKE:
            return None
        obstacle = await self._obstacle(instance, here)
        if self._world.registry.find(instance.id) is not instance:
            return None  # deleted meanwhile
        if obstacle is None:
            self._obstacles.pop(instance.id, None)
        elif self._obstacles.get(instance.id) != obstacle:
            self._obstacles[instance.id] = obstacle
            live = self._of(instance)
            live.life.log.write(f"cannot be started: {obstacle.reason}")
            live.life.on_change()
        return obstacle

    def obstacle(self, ident: str) -> str:
        """Why an instance could not be started when that was last looked at; "" when it could."""
        return self._obstacles[ident].reason if ident in self._obstacles else ""

    def started(self, ident: str) -> None:
        """It runs, so that nothing keeps it from that."""
        self._obstacles.pop(ident, None)

    @property
    def hindered(self) -> int:
        """How many are known not to start."""
        return sum(self._world.registry.find(ident) is not None for ident in self._obstacles)

    async def report(self) -> list[Returned]:
        """Every instance as it came back, oldest first."""
        world = self._world
        instances = world.registry.all()
        await self.examine([instance for instance in instances if instance.enabled])
        counts = dict(
            await world.store.query(
                lambda db: db.execute(
                    "SELECT instance, count(*) FROM "
                    "(SELECT instance, session FROM sessions UNION SELECT instance, session FROM turns) GROUP BY 1"
                ).fetchall()
            )
        )
        found = []
        for instance in instances:
            obstacle = self._obstacles.get(instance.id) or Obstacle("", "")
            found.append(
                Returned(
                    id=instance.id,
                    handle=instance.handle,
                    agent=instance.launch.agent,
                    state=instance.state.value,
                    enabled=instance.enabled,
                    parent=instance.parent,
                    workspace=instance.launch.workspace,
                    sessions=counts.get(instance.id, 0),
                    waiting=self._waiting[instance.id],
                    resumes=self._resumes[instance.id],
                    obstacle=obstacle.reason,
                    mend=obstacle.mend,
                    notes=await self._notes(instance) if instance.enabled else [],
                )
            )
        return found

    async def _obstacle(self, instance: Instance, here: _Here) -> Obstacle | None:
        """The first thing that keeps an instance from being started."""
        world, launch, handle = self._world, instance.launch, instance.handle
        anew = f"or make it anew: `aegis instance delete {handle}`"
        if launch.workspace is not None and not Path(launch.workspace).is_dir():
            return Obstacle(f"its workspace {launch.workspace} is gone", f"bring it back (is a disk not mounted?), {anew}")
        for mount in launch.mounts:
            if not Path(mount.source).exists():
                return Obstacle(f"{mount.source}, which is shown inside, is gone", f"bring it back, {anew}")
        if launch.sandbox not in world.kinds:
            return Obstacle(f"the sandbox `{launch.sandbox}` is not known any more", f"`aegis doctor`, {anew}")
        if (verdict := here.verdicts.get(launch.sandbox)) is not None and not verdict.ok:
            return Obstacle(
                f"the sandbox `{launch.sandbox}` does not work here: {one_line(verdict.detail)}", verdict.mend or "`aegis doctor`"
            )
        for name in (*launch.secrets, *launch.exposed):
            if here.stored is not None and name not in here.stored:
                return Obstacle(f"the secret `{name}` is not stored any more", f"`aegis secret set {name}`")
        try:
            if launch.driver is not None:
                await world.driver(launch.driver).locate()
                if launch.auth == "login":
                    world.logins.check(launch.driver, instance.id)
        except AegisError as error:
            return Obstacle(one_line(error.message, 400), error.hint or "`aegis doctor`")
        if launch.replay is not None and not Path(launch.replay).is_file():
            return Obstacle(f"the file of model calls {launch.replay} is gone", f"bring it back, {anew}")
        return None

    async def _notes(self, instance: Instance) -> list[str]:
        """What a person should know of one that can be started."""
        launch = instance.launch
        driver = self._world.drivers.get(launch.driver or "")
        if driver is None or not driver.capabilities.keeps_memory:
            return []
        with contextlib.suppress(AegisError):
            installed = await driver.locate()
            before = await self._world.store.query(lambda db: _version(db, instance.id))
            if installed is not None and before and installed.version and before != installed.version:
                return [f"{launch.driver} is {installed.version} now; its conversations were made with {before}"]
        return []


def _version(db: Any, ident: str) -> str:
    """The version of the program that last opened a session of an instance."""
    row = db.execute(
        "SELECT data FROM (SELECT type, data, seq FROM events WHERE instance = ? ORDER BY seq DESC LIMIT ?) "
        "WHERE type = 'session.opened' ORDER BY seq DESC LIMIT 1",
        (ident, _BACK),
    ).fetchone()
    return str(msgspec.json.decode(row[0]).get("version", "")) if row else ""


async def _nothing() -> Mapping[str, Verdict]:
    return {}


async def _untold(_instance: Instance, _reason: str) -> None:
    """Nobody wants to know."""
