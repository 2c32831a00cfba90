"""The face of the agents service: what a person, a program or another service can ask of instances.

Every method that has an effect takes the principal who asks, passes the gate, and leaves an audit row before the effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import InstanceExec, Retrying
from aegis.core.ids import new_id
from aegis.core.principals import SYSTEM
from aegis.drivers import Capabilities
from aegis.services.agents import changing, describing, memory, records, sessions
from aegis.services.agents.activity import Activity, Teller, activity
from aegis.services.agents.cascading import Cascade, refuse_doomed
from aegis.services.agents.erasing import erase
from aegis.services.agents.life import Life
from aegis.services.agents.model import State
from aegis.services.agents.recovery import recover
from aegis.services.agents.returning import Returning
from aegis.services.agents.turns import Session
from aegis.services.mail import Joined

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

    from aegis.core.envelopes import Envelope
    from aegis.core.principals import Principal
    from aegis.sandboxes import Stats
    from aegis.sandboxes.link import Link, Program
    from aegis.services.agents.logs import Log
    from aegis.services.agents.model import Instance, Launch
    from aegis.services.agents.world import World
    from aegis.store import Tx


_logger = logging.getLogger(__name__)

#: So many programs of one instance run at a time, each a process of some hundred megabytes; the one that was used least lately is
#: ended, and resumed by its next message. Aegis's own agent, which is small, is not counted.
MAX_PROGRAMS: Final = 8
#: When a provider gives again, those who waited go on one after the other: each instance after a share of this part of the wait
#: that follows from its id, and at most so many seconds.
_JITTER: Final = 0.03
_MOST_JITTER: Final = 30.0
#: Within an instance the next session goes on when the one before has nothing more to do, or after so many seconds.
_NEXT: Final = 30.0


class Live:
    """An instance together with its life and its sessions' workers."""

    def __init__(self, world: World, instance: Instance) -> None:
        self.instance = instance
        self.sessions: dict[str, Session] = {}
        self.doomed = False  # it is being deleted
        self.life = Life(world, instance, self.turn_of)
        self.life.on_gone = self._gone
        self.life.models = lambda: sessions.models(world.store, instance.id)
        self.teller = Teller(self.life, self.activity)
        self.life.on_change = self._changed
        #: Why it could not be started when that was last looked at.
        self.obstacle: Callable[[], str] = lambda: ""
        #: Called when it runs.
        self.on_running: Callable[[], None] = lambda: None

    def session(self, key: str) -> Session:
        """The worker of a session, made when first asked for."""
        return self.sessions.setdefault(key, Session(self.life, key, self._make_room))

    @property
    def provider(self) -> str:
        """Who gives the instance's model, by the name that limits are kept under."""
        return self.instance.launch.supply(None)

    @property
    def note(self) -> str:
        """What makes it look stuck, or keeps it from being started, for people."""
        found = next((s.pump.hearing.note for s in self.sessions.values() if s.pump is not None and s.pump.hearing.note), "")
        return found or ("" if self.instance.state is State.RUNNING else self.obstacle())

    def _changed(self) -> None:
        if self.instance.state is State.RUNNING:
            self.on_running()
        self.teller.changed()

    def activity(self) -> Activity:
        """What it is about."""
        return activity(
            self.life,
            state=self.instance.state,
            running=any(s.turn or s.background for s in self.sessions.values()),
            silent=any(s.pump is not None and s.pump.hearing.silent for s in self.sessions.values()),
            note=self.note,
            open_approvals=self.life.world.approvals.open(self.instance.id),
            held=self._held(),
        )

    def _held(self) -> float | None:
        """Until when its provider or a budget keeps it waiting."""
        provider, budget = self.life.world.limits.held(self.provider), self.life.world.budgets.waiting(self.instance.id)
        return max(provider, budget) if provider is not None and budget is not None else provider or budget

    async def _make_room(self, asker: Session) -> None:
        """End programs that are idle, the one that was used least lately first, until one more may run."""
        running = [s for s in self.sessions.values() if s is not asker and s.pump is not None and s.pump.keeps_memory]
        running.sort(key=lambda s: s.pump.used if s.pump is not None else 0.0)
        excess = len(running) - MAX_PROGRAMS + 1
        for session in running:
            if excess <= 0:
                return
            excess -= await session.retire()

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
        self._draining: set[asyncio.Task[None]] = set()  # those who go on after a limit
        self._closing = False
        self.returning = Returning(world, self._of)
        self._cascade = Cascade(world, self._of, self._forget)

    async def open(self, *, clean: bool = False) -> None:
        """Load the rows, sweep what a dead daemon left, close its open turns, set going what has work.

        With `clean` nothing is set going: every instance is put aside, that is disabled.
        """
        world = self._world
        world.registry.load()
        world.limits.load()
        for kind in world.kinds.values():
            await kind.sweep(world.home)
        work = await recover(world)
        await world.budgets.open()  # after the turns, whose ends are what the last bytes of a full disk are kept for
        self._spawn(world.guard.recover(world.registry.find))
        for instance in world.registry.all():  # made for one program, or not made to an end, or not deleted to an end
            if instance.launch.ephemeral and world.registry.find(instance.id) is instance:
                await self._quietly(self.delete(SYSTEM, instance))
        await asyncio.to_thread(self._sweep_files)
        self.returning.remember()
        if clean:
            await self.returning.set_aside()
        else:
            restoring = asyncio.create_task(self._set_going(work), name="setting work going")
            self._draining.add(restoring)
            restoring.add_done_callback(self._draining.discard)

    async def _set_going(self, work: list[tuple[str, str]]) -> None:
        try:
            await self.returning.set_going(work)
        except Exception:
            _logger.exception("a defect while work was set going")

    async def close(self) -> None:
        """Stop everything; open turns stay open and are continued by the next daemon."""
        self._closing = True
        for task in self._draining:
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)
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
        else:
            session.pass_on()

    def admit(self, ident: str, hold: bool) -> None:
        """Raise AegisError when an instance takes no message: NOT_FOUND, CONFLICT (no agent; disabled, and not `hold`)."""
        instance = self._world.registry.find(ident)
        if instance is None:
            raise AegisError(ErrorKind.NOT_FOUND, "the instance was deleted meanwhile", "see `aegis instance list`")
        if instance.launch.driver is None:
            text = f"`{instance.handle}` runs a program, not an agent"
            raise AegisError(ErrorKind.CONFLICT, text, "start one with `aegis instance start --kit agent`")
        if not instance.enabled and not hold:
            hint = f"`aegis instance start --name {instance.handle}` enables it again; with `hold` a message waits for that"
            raise AegisError(ErrorKind.CONFLICT, f"`{instance.handle}` is disabled", hint)

    async def take_in(self, ident: str, session: str, limit: int, pictures: bool) -> list[Envelope]:
        """Take waiting mail into the turn that runs in a session, for the result of a tool; see `Session.join`."""
        live = self._live.get(ident)
        worker = live.sessions.get(session) if live is not None else None
        return await worker.join(limit, Joined.NOTE, pictures=pictures) if worker is not None else []

    def turn_of(self, ident: str, session: str) -> str | None:
        """The turn that runs in a session of an instance, by its id."""
        live = self._live.get(ident)
        return live.turn_of(session) if live is not None else None

    def busy_sessions(self, ident: str) -> list[str]:
        """The sessions of an instance in which a turn runs."""
        live = self._live.get(ident)
        return [key for key, session in live.sessions.items() if session.turn] if live is not None else []

    def continued(self, turn: str) -> tuple[float, float] | None:
        """From when to when a turn was cut short that this one goes on with, in wall seconds; None when it goes on with none."""
        return records.continued(self._world.store, turn)

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
                self.discard(instance)
            raise
        return instance

    async def start(self, principal: Principal, instance: Instance, launch: Launch | None = None) -> None:
        """Enable and boot, with another `launch` from now on if one is given; crashes of the past are forgiven. What waited begins."""
        await self._enable(principal, "instance.start", instance, launch)
        live = self._of(instance)
        live.life.forgive()
        await self._world.limits.lift(live.provider)
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
        await self._world.limits.lift(live.provider)
        await live.life.awake()
        self._kick_waiting(live)

    async def disable(self, principal: Principal, instance: Instance) -> None:
        """Stop it and all that it spawned, and keep them stopped, whatever arrives, until somebody starts them. Works with a full disk."""
        await self._cascade.disable(principal, instance)

    async def delete(self, principal: Principal, instance: Instance) -> list[Instance]:
        """End it and all that it spawned, and forget them: conversation, mail, files of their own. Works with a full disk.

        No workspace is touched. Returns those that went, the instance first.
        """
        return await self._cascade.delete(principal, instance)

    async def interrupt(self, principal: Principal, instance: Instance, session: str | None) -> bool:
        """Cut the running turn of a session, or of all with None, and what was spawned in it; False when nothing runs.

        Works with a full disk.
        """
        return await self._cascade.cancel(principal, instance, session)

    def admit_child(self, instance: Instance) -> None:
        """Raise CONFLICT for an instance that is being ended: it gets no child any more."""
        refuse_doomed(self._of(instance))
        if not instance.enabled:
            raise AegisError(ErrorKind.CONFLICT, f"`{instance.handle}` is disabled", "see `aegis tree`")

    async def boot(self, instance: Instance) -> None:
        """Start the sandbox of an instance that was made just now. Raises what `Life.awake` raises."""
        await self._of(instance).life.awake()

    def working(self, instance: Instance) -> bool:
        """Whether a turn of it runs, or the program that it was made for."""
        live = self._live.get(instance.id)
        if live is None:
            return False
        if instance.launch.driver is None:
            return instance.state in (State.STARTING, State.RUNNING, State.PAUSED)
        return any(session.turn or session.background for session in live.sessions.values())

    async def change(self, instance: Instance, after: int, seconds: float) -> None:
        """Return when one of its turns is over, when something is told of it above the number `after`, or after so many seconds."""
        live = self._live.get(instance.id)
        turns = [(s, turn) for s in live.sessions.values() if (turn := s.turn) is not None] if live is not None else []
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(session.over(turn)) for session, turn in turns]
        waits.append(asyncio.ensure_future(self._world.store.wait(after, instance=instance.id, timeout=seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def discard(self, instance: Instance) -> asyncio.Task[None]:
        """Delete it in the background, whatever becomes of who asks; the task never fails but for a defect."""
        return self._spawn(self.delete(SYSTEM, instance))

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
                self.discard(instance)
            else:
                self._spawn(self.look_after(instance))

    async def look_after(self, instance: Instance) -> None:
        """See what its programs left in its workspace for others to act on, now."""
        if self._world.registry.find(instance.id) is instance:
            await self._world.guard.look(instance, kept=self._of(instance).life.protects())

    def holding(self, instance: Instance) -> contextlib.AbstractAsyncContextManager[Link]:
        """The tether of an instance, woken if need be, and kept awake until the block ends: for what acts inside in its name."""
        return self._of(instance).life.holding()

    def _spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run something to its end, whoever was waiting for it having gone."""
        task = asyncio.create_task(self._quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _quietly(self, work: Coroutine[Any, Any, object]) -> None:
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
        return describing.describe(self._world, instance, self._live.get(instance.id), self.activity(instance))

    def activity(self, instance: Instance) -> Activity:
        """What it is about, in one word, and until when a limit keeps it from it."""
        return self._of(instance).activity()

    async def usage(self, instance: Instance, session: str | None = None, turn: str | None = None) -> dict[str, Any]:
        """What an instance, one of its sessions or one of its turns has used; see `describing.usage`."""
        return await describing.usage(self._world, instance, session, turn)

    async def configure(
        self,
        principal: Principal,
        instance: Instance,
        session: str,
        *,
        model: str | None = None,
        mode: str | None = None,
        effort: str | None = None,
    ) -> None:
        """Change what a session runs with, from its next model call on, or from its next turn where the program must be started anew.

        Raises AegisError: NOT_FOUND (the model, mode or effort, with the nearest), USAGE, CONFLICT for what the program cannot be told.
        """
        live = self._of(instance)
        refuse_doomed(live)
        await changing.configure(self._world, principal, instance, live.session(session), model=model, mode=mode, effort=effort)

    async def fork(self, principal: Principal, instance: Instance, session: str, to: str) -> None:
        """Let the new session `to` begin as a copy of `session`, as that is when `to` has its first turn; both go on apart.

        Raises AegisError: NOT_FOUND, CONFLICT when `to` exists, `session` has not begun or the program cannot copy.
        """
        refuse_doomed(self._of(instance))
        await changing.fork(self._world, principal, instance, session, to)

    def capabilities(self, instance: Instance) -> Capabilities:
        """What the program of an instance can do; nothing, where it is none that Aegis talks to."""
        driver = self._world.drivers.get(instance.launch.driver or "")
        return driver.capabilities if driver is not None else Capabilities()

    def admit_images(self, ident: str) -> None:
        """Raise CONFLICT when what an instance runs cannot be shown pictures."""
        instance = self._world.registry.find(ident)
        driver = self._world.drivers.get(instance.launch.driver or "") if instance is not None else None
        if instance is not None and (driver is None or not driver.capabilities.images):
            raise AegisError(
                ErrorKind.CONFLICT,
                f"`{instance.handle}` cannot be shown pictures",
                "put them into its workspace and name them in the message, or start an agent that can",
            )

    def retrying(self, ident: str, session: str | None, turn: str | None, fact: Retrying) -> None:
        """A model call failed, and its program may try it again: tell those who watch, unless the program does so itself."""
        instance = self._world.registry.find(ident)
        driver = self._world.drivers.get(instance.launch.driver or "") if instance is not None else None
        if turn is not None and driver is not None and not driver.capabilities.tells_retries:
            self._world.store.emit(fact, instance=ident, session=session, turn=turn)

    # Limits of providers, and what changes the activity of instances.

    def using(self, provider: str) -> list[str]:
        """The ids of the instances that use a provider, by the name that limits are kept under, in any of their sessions."""
        switched = sessions.switched(self._world.store)
        return [
            i.id for i in self._world.registry.all() if provider in {i.launch.supply(model) for model in (None, *switched.get(i.id, ()))}
        ]

    def look(self, ident: str) -> None:
        """What an instance is about may have changed."""
        if (live := self._live.get(ident)) is not None:
            live.teller.changed()

    def held(self, provider: str) -> None:
        """A provider gives no more for now."""
        for ident in self.using(provider):
            self.look(ident)

    def freed(self, provider: str) -> None:
        """A provider may be asked again: those who wait for it go on, one after the other."""
        self.held(provider)
        if self._closing:
            return
        for ident in self.using(provider):
            instance = self._world.registry.find(ident)
            if instance is not None and instance.enabled:
                task = asyncio.create_task(self._go_on(instance, provider), name=f"{instance.handle} goes on")
                self._draining.add(task)
                task.add_done_callback(self._draining.discard)

    async def _go_on(self, instance: Instance, provider: str) -> None:
        share = int.from_bytes(sha256(instance.id.encode()).digest()[:4], "big") / 2**32
        await self._world.clock.sleep(share * min(_MOST_JITTER, _JITTER * self._world.limits.waited(provider)))
        for key in self._world.mail.sessions(instance.id):
            live = self._live_of(instance)
            if live is None or self._closing or self._world.limits.held(provider):
                return
            session = live.session(key)
            session.kick()
            await session.rest(_NEXT)

    def budgets_freed(self, idents: Iterable[str]) -> None:
        """Budgets that these instances waited for have something left again."""
        for ident in idents:
            self.look(ident)
            instance = self._world.registry.find(ident)
            live = self._live_of(instance) if instance is not None and instance.enabled and not self._closing else None
            if live is not None:
                self._kick_waiting(live)

    def _live_of(self, instance: Instance) -> Live | None:
        """The live side of an instance that was not deleted meanwhile."""
        return self._of(instance) if self._world.registry.find(instance.id) is instance else None

    async def _enable(self, principal: Principal, action: str, instance: Instance, launch: Launch | None = None) -> None:
        changes: dict[str, Any] = {"secrets": launch.secrets, "exposed": launch.exposed} if launch else {}
        decision = await self._world.gate.check(principal, action, instance.handle, **changes)
        refuse_doomed(self._of(instance))

        def enable(tx: Tx) -> None:
            self._world.gate.write(tx, decision)
            self._world.registry.enable(tx, instance, True)
            if launch is not None or instance.launch.ephemeral:  # somebody wants it, so what should have gone with the daemon stays
                self._world.registry.relaunch(tx, instance, msgspec.structs.replace(launch or instance.launch, ephemeral=False))

        await self._world.store.write(enable)

    def _of(self, instance: Instance) -> Live:
        live = self._live.get(instance.id)
        if live is None:
            live = Live(self._world, instance)
            live.obstacle = lambda: self.returning.obstacle(instance.id)
            live.on_running = lambda: self.returning.started(instance.id)
            live.life.on_lost = partial(self._lost, instance)
            if self._world.registry.find(instance.id) is instance:  # not for one that was deleted while somebody held it
                self._live[instance.id] = live
        return live

    def _forget(self, instance: Instance) -> None:
        self._live.pop(instance.id, None)

    def _lost(self, instance: Instance) -> None:
        self._spawn(self._cascade.fail(instance))

    def _kick_waiting(self, live: Live) -> None:
        for session in self._world.mail.sessions(live.instance.id):
            live.session(session).kick()
