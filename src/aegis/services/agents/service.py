"""The face of the agents service: what a person, a program or another service can ask of instances.

Every method that has an effect takes the principal who asks, passes the gate, and leaves an audit row before the effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import InstanceExec
from aegis.core.faults import point
from aegis.core.ids import new_id
from aegis.core.principals import SYSTEM
from aegis.services.agents import memory
from aegis.services.agents.erasing import erase
from aegis.services.agents.life import Life, state_dir
from aegis.services.agents.model import State
from aegis.services.agents.recovery import recover
from aegis.services.agents.turns import Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from aegis.core.envelopes import Envelope
    from aegis.core.principals import Principal
    from aegis.sandboxes import Stats
    from aegis.sandboxes.link import Program
    from aegis.services.agents.logs import Log
    from aegis.services.agents.model import Instance, Launch
    from aegis.services.agents.world import World
    from aegis.store import Tx


_logger = logging.getLogger(__name__)


class Live:
    """An instance together with its life and its sessions' workers."""

    def __init__(self, world: World, instance: Instance) -> None:
        self.instance = instance
        self.sessions: dict[str, Session] = {}
        self.doomed = False  # it is being deleted
        self.life = Life(world, instance, self.turn_of)
        self.life.on_gone = self._gone

    def session(self, key: str) -> Session:
        """The worker of a session, made when first asked for."""
        return self.sessions.setdefault(key, Session(self.life, key))

    def turn_of(self, session: str | None) -> str | None:
        """The running turn of a session; with None that of the only busy one."""
        if session is not None:
            return self.sessions[session].turn if session in self.sessions else None
        running = [s.turn for s in self.sessions.values() if s.turn]
        return running[0] if len(running) == 1 else None

    async def halt(self) -> None:
        """Stop every worker where it stands."""
        await asyncio.gather(*(session.halt() for session in self.sessions.values()))

    def _gone(self) -> None:
        for session in self.sessions.values():
            session.sandbox_gone()


class Agents:
    """All instances of the home."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._live: dict[str, Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def open(self) -> None:
        """Load the rows, sweep what a dead daemon left, close its open turns, start the workers that have work."""
        world = self._world
        world.registry.load()
        for kind in world.kinds.values():
            await kind.sweep(world.home)
        work = await recover(world)
        for instance in world.registry.all():
            if instance.launch.ephemeral:
                await self._quietly(self.delete(SYSTEM, instance))
        await asyncio.to_thread(self._sweep_files)
        for place, session in work:
            found = world.registry.find(place)
            if found is not None and found.enabled:
                self._of(found).session(session).kick()

    async def close(self) -> None:
        """Stop everything; open turns stay open and are continued by the next daemon."""
        self._closing = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        living = list(self._live.values())
        await asyncio.gather(*(live.halt() for live in living), return_exceptions=True)
        await asyncio.gather(*(live.life.stop("the daemon ended", grace=0.5) for live in living), return_exceptions=True)

    def deliver(self, envelope: Envelope) -> None:
        """An envelope is on disk: see to its turn, and cut the one before it if it says so. Called by mail, in the event loop."""
        instance = self._world.registry.find(envelope.instance)
        if instance is None or not instance.enabled or self._closing:
            return
        live = self._of(instance)
        session = live.session(envelope.session)
        session.kick()
        if envelope.interrupt:
            live.life.spawn(session.interrupt(sparing=envelope.id))

    async def create(self, principal: Principal, handle: str | None, launch: Launch) -> Instance:
        """A new instance, started. Raises what `Life.awake` raises; then it exists, in state `failed`, unless it was ephemeral."""
        world = self._world
        decision = await world.gate.check(
            principal,
            "instance.create",
            handle or "(new)",
            agent=launch.agent,
            sandbox=launch.sandbox,
            workspace=launch.workspace,
            exposed=launch.exposed,
        )
        instance = await world.registry.create(handle, launch, lambda tx: world.gate.write(tx, decision))
        try:
            await self._of(instance).life.awake()
        except AegisError:
            if launch.ephemeral:
                self._spawn(self.delete(SYSTEM, instance))
            raise
        return instance

    async def start(self, principal: Principal, instance: Instance, launch: Launch | None = None) -> None:
        """Enable and boot, with another `launch` from now on if one is given; crashes of the past are forgiven. What waited begins."""
        await self._enable(principal, "instance.start", instance, launch)
        live = self._of(instance)
        live.life.forgive()
        await live.life.awake()
        self._kick_waiting(live)

    async def pause(self, principal: Principal, instance: Instance) -> None:
        """Freeze it now; CONFLICT when it is not running."""
        await self._world.gate.pass_through(principal, "instance.pause", instance.handle)
        if instance.state is State.PAUSED:
            return
        if instance.state is not State.RUNNING:
            raise AegisError(
                ErrorKind.CONFLICT,
                f"`{instance.handle}` is {instance.state}, not running",
                f"`aegis instance resume {instance.handle}` starts it",
            )
        await self._of(instance).life.pause()

    async def resume(self, principal: Principal, instance: Instance) -> None:
        """Thaw it, or boot it when it is stopped."""
        await self._world.gate.pass_through(principal, "instance.resume", instance.handle)
        await self._of(instance).life.awake()

    async def restart(self, principal: Principal, instance: Instance) -> None:
        """A fresh sandbox with the same conversation. A running turn is cut and continued."""
        await self._enable(principal, "instance.restart", instance)
        live = self._of(instance)
        await live.life.stop("restart", patient=True)
        live.life.forgive()
        await live.life.awake()
        self._kick_waiting(live)

    async def disable(self, principal: Principal, instance: Instance) -> None:
        """Stop it and keep it stopped, whatever arrives, until somebody starts it. Works with a full disk."""
        world = self._world
        decision = await world.gate.check(principal, "instance.disable", instance.handle)

        def disable(tx: Tx) -> None:
            world.gate.write(tx, decision)
            world.registry.enable(tx, instance, False)

        await world.insist(disable)
        await self._of(instance).life.stop("disabled")

    async def delete(self, principal: Principal, instance: Instance) -> None:
        """End it and forget it: conversation, mail, files of its own. Its workspace is not touched. Works with a full disk."""
        world = self._world
        decision = await world.gate.check(principal, "instance.delete", instance.handle)
        live = self._of(instance)
        _refuse_doomed(live)

        def doom(tx: Tx) -> None:
            world.gate.write(tx, decision)
            world.registry.enable(tx, instance, False)

        def forget(tx: Tx) -> None:
            world.mail.forget(tx, instance.id)
            world.models.forget(tx, instance.id)
            for table in ("memory", "turns"):
                tx.execute(f"DELETE FROM {table} WHERE instance = ?", (instance.id,))
            world.registry.delete(tx, instance)

        live.doomed = True
        try:
            await world.insist(doom)
            await live.halt()
            await live.life.stop("deleted")
            point("instance.ended")
            await world.insist(forget)
        finally:
            live.doomed = False
        world.registry.forget(instance)
        self._live.pop(instance.id, None)
        await asyncio.to_thread(erase, state_dir(world.home, instance))

    async def interrupt(self, principal: Principal, instance: Instance, session: str) -> bool:
        """Cut the running turn of a session; False when none runs. Works with a full disk."""
        world = self._world
        decision = await world.gate.check(principal, "turn.interrupt", instance.handle, session=session)
        with contextlib.suppress(AegisError):  # also when even the reserved space is used up
            await world.insist(lambda tx: world.gate.write(tx, decision))
        worker = self._of(instance).sessions.get(session)
        return worker is not None and await worker.interrupt()

    @contextlib.asynccontextmanager
    async def exec(
        self, principal: Principal, instance: Instance, argv: list[str], *, env: dict[str, str], cwd: str | None, stdin: bool
    ) -> AsyncIterator[tuple[str, Program]]:
        """Run a program in the sandbox, waking it if need be; leaving the block ends the program and all it started."""
        if not argv or any("\x00" in part for part in argv):
            raise AegisError(
                ErrorKind.USAGE, "the command is empty or holds a NUL", "give the program and its arguments as a list of strings"
            )
        exec_id = new_id("exec")
        decision = await self._world.gate.check(principal, "instance.exec", instance.handle, argv=argv[:32])

        def record(tx: Tx) -> None:
            self._world.gate.write(tx, decision)
            tx.append(InstanceExec(exec_id, argv, str(principal)), instance=instance.id)

        await self._world.store.write(record)
        try:
            async with self._of(instance).life.holding() as link:
                program = await link.run(argv, env={**env, "AEGIS_EXEC_ID": exec_id}, cwd=cwd, stdin=stdin)
                try:
                    yield exec_id, program
                finally:
                    with contextlib.suppress(AegisError):  # the sandbox has gone, and the program with it
                        await program.kill()
        finally:
            if instance.launch.ephemeral:
                self._spawn(self.delete(SYSTEM, instance))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something to its end, whoever was waiting for it having gone."""
        task = asyncio.create_task(self._quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except AegisError as error:
            _logger.warning("not done: %s", error.message)

    def _sweep_files(self) -> None:
        """Remove the files of instances that a dead daemon was about to forget."""
        for folder in (self._world.home / "instances").glob("*"):
            if self._world.registry.find(folder.name) is None:
                erase(folder)

    def log(self, instance: Instance) -> Log:
        """What its programs printed and what happened to it."""
        return self._of(instance).life.log

    async def stats(self, instance: Instance) -> Stats:
        """What its sandbox uses now."""
        return await self._of(instance).life.stats()

    async def transcript(self, instance: Instance, session: str, after: int = 0, limit: int = 500) -> list[dict[str, Any]]:
        """The conversation of a session."""
        return await memory.transcript(self._world.store, instance.id, session, after, limit)

    def is_blank(self, instance: Instance) -> bool:
        """Whether it never did anything: no message was ever sent to it. Such a one may as well be launched anew."""
        return not self._world.mail.box(instance.id, 1)

    def describe(self, instance: Instance) -> dict[str, Any]:
        """The instance object of the HTTP API."""
        launch, live = instance.launch, self._live.get(instance.id)
        kind = self._world.kinds[launch.sandbox]
        turns, usage = self._totals(instance.id)
        queued = self._world.mail.queued(instance.id)
        sandbox = live.life.sandbox if live else None
        sessions = sorted({*turns, *queued, *(live.sessions if live else ())})
        memory_mb = launch.limits.memory_bytes / 2**20 if launch.limits.memory_bytes else None
        return {
            "id": instance.id,
            "handle": instance.handle,
            "agent": launch.agent,
            "kit": launch.kit,
            "driver": launch.driver,
            "command": launch.command,
            "model": launch.model,
            "state": instance.state,
            "reason": instance.reason,
            "enabled": instance.enabled,
            "sandbox": launch.sandbox,
            "boundary": kind.boundary,
            "permission": launch.permission,
            "workspace": launch.workspace,
            "read_only": launch.read_only,
            "mounts": [{"source": m.source, "target": m.target, "writable": m.writable} for m in launch.mounts],
            "secret_keys": launch.secrets,
            "exposed_secrets": launch.exposed,
            "env_keys": sorted(launch.env),
            "limits": {"memory_mb": memory_mb, "cpus": launch.limits.cpus, "pids": launch.limits.pids},
            "enforced": {name: {"ok": v.ok, "detail": v.detail} for name, v in sandbox.enforced.items()} if sandbox else {},
            "project": launch.project,
            "created_at": instance.created_at,
            "last_active_at": instance.last_active_at,
            "stopped_at": instance.stopped_at,
            "sessions": [
                {
                    "session": key,
                    "turns": turns.get(key, 0),
                    "busy": bool(live and key in live.sessions and live.sessions[key].turn),
                    "queued": queued.get(key, 0),
                }
                for key in sessions
            ],
            "usage": usage,
        }

    async def _enable(self, principal: Principal, action: str, instance: Instance, launch: Launch | None = None) -> None:
        changes = {"secrets": launch.secrets, "exposed": launch.exposed} if launch else {}
        decision = await self._world.gate.check(principal, action, instance.handle, **changes)
        _refuse_doomed(self._of(instance))

        def enable(tx: Tx) -> None:
            self._world.gate.write(tx, decision)
            self._world.registry.enable(tx, instance, True)
            if launch is not None:
                self._world.registry.relaunch(tx, instance, launch)

        await self._world.store.write(enable)

    def _totals(self, instance: str) -> tuple[dict[str, int], dict[str, Any]]:
        turns, used = self._world.store.read(
            lambda db: (
                db.execute("SELECT session, count(*) FROM turns WHERE instance = ? GROUP BY session", (instance,)).fetchall(),
                self._world.models.totals(db, instance=instance),
            )
        )
        return dict(turns), used

    def _of(self, instance: Instance) -> Live:
        live = self._live.get(instance.id)
        if live is None:
            live = Live(self._world, instance)
            if self._world.registry.find(instance.id) is instance:  # not for one that was deleted while somebody held it
                self._live[instance.id] = live
        return live

    def _kick_waiting(self, live: Live) -> None:
        for session in self._world.mail.sessions(live.instance.id):
            live.session(session).kick()


def _refuse_doomed(live: Live) -> None:
    if live.doomed:
        raise AegisError(ErrorKind.CONFLICT, f"`{live.instance.handle}` is being deleted", "see `aegis instance list`")
