"""One instance's life: its sandbox, its states, when it sleeps.

`created → starting → running ⇄ paused → stopped`, and `failed`. All transitions happen under one lock. Whoever needs the sandbox
calls `awake`, or `holding` to keep it awake meanwhile. A boot belongs to nobody who waits for it: it goes on when they lose
patience, and only `stop` cuts it. A sandbox that is not held is frozen after `pause_after` seconds without a turn, an exec or CPU
use, and stopped `stop_after` seconds later. Nothing polls: one sleeping task per instance that is awake.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.envelopes import DEFAULT_SESSION
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.faults import point
from aegis.core.text import one_line
from aegis.sandboxes import Mount, SandboxSpec, Stats
from aegis.services.agents.bearers import program_bearer_of
from aegis.services.agents.logs import Log
from aegis.services.agents.model import State
from aegis.services.egress import Entrusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from aegis.sandboxes import Sandbox
    from aegis.sandboxes.link import Channel, Link
    from aegis.services.agents.model import Instance
    from aegis.services.agents.world import World

_logger = logging.getLogger(__name__)

#: So many deaths within so many seconds are a crash loop: the instance stays down until a person starts it.
CRASHES: Final = 5
CRASH_WINDOW: Final = 120.0
#: States without a sandbox.
_DOWN: Final = (State.CREATED, State.STOPPED, State.FAILED)
#: Less CPU than this since the last look counts as none, in seconds; the guest's own bookkeeping stays below it.
_IDLE_CPU: Final = 0.05
#: More than a guest ever says in one record of its log, in bytes.
_LOG_RECORD: Final = 1024 * 1024


class _Said(msgspec.Struct):
    """One record of a guest's log channel."""

    t: float
    stream: str = ""
    text: str = ""
    source: str = ""
    dropped: int = 0


class Life:
    """The sandbox of one instance and everything about when it runs."""

    def __init__(self, world: World, instance: Instance, turn_of: Callable[[str | None], str | None]) -> None:
        self.world = world
        self.instance = instance
        self.sandbox: Sandbox | None = None
        self.log = Log(state_dir(world.home, instance) / "log.ndjson", world.clock, lambda text: world.store.cleaner.clean(text))
        #: Called when the sandbox has gone, for whatever reason, before the state says so.
        self.on_gone: Callable[[], None] = lambda: None
        #: Called when what the instance is about may have changed.
        self.on_change: Callable[[], None] = lambda: None
        #: Called when it has failed for good: its one program ended so, or it died so often that it is not started again.
        self.on_lost: Callable[[], None] = lambda: None
        #: The models that sessions were switched to, by their full names.
        self.models: Callable[[], tuple[str, ...]] = lambda: ()
        #: The sandbox did not answer when it was last asked.
        self.silent = False
        #: Held while a program of others starts: two that make their database in one HOME at the same time spoil each other's start.
        self.opening = asyncio.Lock()
        #: Passed while it boots, so that many who are set going at once do not boot at once.
        self.turnstile: contextlib.AbstractAsyncContextManager[Any] = contextlib.nullcontext()
        self._turn_of = turn_of
        self._link: Link | None = None
        self._lock = asyncio.Lock()
        self._waking: asyncio.Task[Link] | None = None  # the one under way, for all who wait
        self._held = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._last_active = world.clock.monotonic()
        self._watcher: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaths: deque[float] = deque(maxlen=CRASHES)

    @contextlib.asynccontextmanager
    async def holding(self) -> AsyncIterator[Link]:
        """The tether of the sandbox, awake, and kept so until the block ends."""
        self.hold()
        try:
            yield await self.awake()
        finally:
            self.release()

    def hold(self) -> None:
        """Keep it awake, if it is, until `release` is called as often."""
        self._held += 1
        self._quiet.clear()

    def release(self) -> None:
        """Let go of what `hold` held."""
        self._held -= 1
        self._last_active = self.world.clock.monotonic()
        if not self._held:
            self._quiet.set()

    @property
    def link(self) -> Link | None:
        """The tether of the sandbox there is."""
        return self._link

    @property
    def busy(self) -> bool:
        """Whether a turn or an exec keeps it awake."""
        return self._held > 0

    async def awake(self) -> Link:
        """The tether of the running sandbox: resumed when paused, booted when not there.

        Raises CONFLICT when disabled or in a crash loop; FAILED or UNAVAILABLE with `stderr` and `exit` when it does not come up;
        INTERRUPTED when it is stopped meanwhile.
        """
        try:
            return await asyncio.shield(self._begin_waking())
        except asyncio.CancelledError:
            asker = asyncio.current_task()
            if asker is not None and asker.cancelling():
                raise
            text = f"`{self.instance.handle}` was stopped before it was awake"
            raise AegisError(ErrorKind.INTERRUPTED, text, f"`aegis instance start --name {self.instance.handle}`") from None

    def _begin_waking(self) -> asyncio.Task[Link]:
        """The waking under way, begun if there is none."""
        self._last_active = self.world.clock.monotonic()
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._wake(), name=f"waking {self.instance.handle}")
        return self._waking

    def rouse(self) -> None:
        """Begin to thaw it, because there is work: what is frozen under a turn, or will be needed by one. Nothing when it is not."""
        if self.instance.state is State.PAUSED or self._lock.locked():
            self._begin_waking()  # at once: what is written of it goes to the disk together with what comes next
            self.spawn(self.awake())

    async def pause(self) -> None:
        """Freeze it now, in the middle of a turn if there is one; the next message or exec thaws it. No effect unless running."""
        async with self._lock:
            await self._freeze()

    async def stop(self, reason: str, *, grace: float = 2.0, patient: bool = False) -> None:
        """End the sandbox and everything in it, cutting a boot under way unless `patient`. Works with a full disk.

        No effect when there is none.
        """
        if self._waking is not None and not patient:
            self._waking.cancel()
        async with self._lock:
            await self._end(State.STOPPED, reason, grace)

    async def stats(self) -> Stats:
        """What the sandbox uses; zeros when there is none."""
        if self.sandbox is None:
            return Stats(0, 0.0, 0, 0)
        try:
            used = await self.sandbox.stats()
        except AegisError as error:
            self._answered(error.kind is not ErrorKind.TIMEOUT)
            raise
        self._answered(True)
        return used

    def protects(self) -> frozenset[str]:
        """Paths of the workspace that no program inside can change; none without a sandbox."""
        return self.sandbox.protects() if self.sandbox is not None else frozenset()

    def _answered(self, answered: bool) -> None:
        if self.silent == answered:
            self.silent = not answered
            self.on_change()

    def forgive(self) -> None:
        """Forget earlier crashes: a person has asked for another start."""
        self._deaths.clear()

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something for this instance in the background. What ends with the sandbox ends without a word, a defect is logged."""
        task = asyncio.create_task(self._background(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _background(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except AegisError as error:
            _logger.debug("for %s: %s", self.instance.handle, error.message)
        except Exception:
            _logger.exception("a defect in the background of %s", self.instance.handle)

    async def _wake(self) -> Link:
        async with self._lock:
            if not self.instance.enabled:
                handle = self.instance.handle
                raise AegisError(ErrorKind.CONFLICT, f"`{handle}` is disabled", f"`aegis instance start --name {handle}` enables it again")
            if self._link is not None and self._link.closed.done():
                await self._bury(self._link)
            if self._link is None:
                async with self.turnstile:
                    self.turnstile = contextlib.nullcontext()
                    return await self._boot()
            if self.instance.state is State.PAUSED and self.sandbox is not None:
                await self.sandbox.resume()
                await self._move(State.RUNNING, keep_trying=True)
            return self._link

    async def _boot(self) -> Link:
        now = self.world.clock.monotonic()
        if self._crashing(now):
            handle = self.instance.handle
            raise AegisError(
                ErrorKind.CONFLICT,
                f"`{handle}` died {CRASHES} times within {CRASH_WINDOW:.0f} s and is not started again",
                f"see `aegis logs {handle}`, then `aegis instance restart {handle}`",
            )
        await self._move(State.STARTING)
        sandbox: Sandbox | None = None
        try:
            await self.world.guard.opening(self.instance)
            sandbox = self.world.kinds[self.instance.launch.sandbox].create(await self._spec())
            link = await sandbox.start()
            if self.instance.launch.auth == "login":
                await self.world.logins.enter(self.instance, link)
            point("instance.started")
        except BaseException as error:
            if sandbox is not None:
                await sandbox.stop(0.0)
            await self.world.guard.closing(self.instance)
            if isinstance(error, asyncio.CancelledError):  # `stop` cut it, waits for the lock, and says so in the state
                raise
            self._deaths.append(now)
            reason = one_line(str(error)) or type(error).__name__
            stderr = str(error.data.get("stderr", "")) if isinstance(error, AegisError) else ""
            self.log.write(f"did not start: {reason}")
            await self._move(State.FAILED, reason, stderr=stderr[-4096:], keep_trying=True)
            self._look_lost()
            if isinstance(error, OSError | KeyError):
                raise AegisError(ErrorKind.FAILED, f"the sandbox did not start: {reason}", "see `aegis doctor`") from error
            raise
        self.sandbox, self._link = sandbox, link
        link.on_channel = self._channel
        link.closed.add_done_callback(lambda _: self._link_closed(link))
        self._watcher = asyncio.create_task(self._watch(), name=f"sleep of {self.instance.handle}")
        await self._move(State.RUNNING, keep_trying=True)
        if self.instance.launch.command:
            self.spawn(self._run_command(link))
        return link

    def _crashing(self, now: float) -> bool:
        return len(self._deaths) == CRASHES and now - self._deaths[0] < CRASH_WINDOW

    def _look_lost(self) -> None:
        if self._crashing(self.world.clock.monotonic()):
            self.on_lost()

    async def _spec(self) -> SandboxSpec:
        instance, launch = self.instance, self.instance.launch
        installed = await self.world.driver(launch.driver).locate() if launch.driver is not None else None
        outside = {"AEGIS_EGRESS": "1", **await self.world.egress.environment(launch)} if self._reaches_out else {}
        entrusted = self.world.egress.entrust(instance) if self._reaches_out else Entrusted()
        exposed = {}
        for name in launch.exposed:
            value = await self.world.reveal(name, instance.id)
            if value is None:
                raise AegisError(
                    ErrorKind.NOT_FOUND, f"the secret `{name}` of `{instance.handle}` is not stored any more", f"`aegis secret set {name}`"
                )
            exposed[name] = value
        state = state_dir(self.world.home, instance)
        for part in (state, state / "home", state / "tmp"):
            part.mkdir(parents=True, exist_ok=True, mode=0o700)
        workspace = None
        if launch.workspace is not None:
            workspace = Mount(Path(launch.workspace), "/workspace", writable=not launch.read_only)
        return SandboxSpec(
            id=instance.id,
            index=instance.idx,
            handle=instance.handle,
            home=self.world.home,
            state=state,
            workspace=workspace,
            mounts=(
                *(Mount(Path(m.source), m.target, m.writable) for m in launch.mounts),
                *(installed.mounts if installed is not None else ()),
            ),
            env={
                **outside,
                **entrusted.environment,
                **launch.env,
                **exposed,
                "AEGIS_HANDLE": instance.handle,
                "AEGIS_MCP_TOKEN": program_bearer_of(instance.token, DEFAULT_SESSION),
            },
            limits=launch.limits,
            roots=entrusted.roots,
        )

    @property
    def _reaches_out(self) -> bool:
        """Whether programs inside have a way to the outside."""
        return self.instance.launch.permission == "full" and bool(self.instance.launch.egress)

    async def _run_command(self, link: Link) -> None:
        """The one program of an instance that is not an agent; its end is the instance's end."""
        try:
            program = await link.run(self.instance.launch.command, stdin=False, capture="program")
            code = await program.wait()
            self.log.write(f"process exited (code={code})")
            state, reason = (State.STOPPED, "the program ended") if code == 0 else (State.FAILED, f"the program ended with {code}")
        except AegisError as error:
            if error.kind is ErrorKind.INTERRUPTED:  # the sandbox went first
                return
            self.log.write(f"the program did not start: {error.message}")
            state, reason = State.FAILED, one_line(error.message)
        async with self._lock:
            if self._link is link:
                await self._end(state, reason, 0.5)
                if state is State.FAILED:
                    self.on_lost()

    async def _take_log(self, channel: Channel) -> None:
        """Write down what the guest captured of programs whose output nobody reads."""
        pending = b""
        while data := await channel.read():
            *lines, pending = (pending + data).split(b"\n")
            try:
                self.log.extend([_log_record(line) for line in lines if line])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pending = b"x" * (_LOG_RECORD + 1)
            if len(pending) > _LOG_RECORD:
                self.log.write("the guest's log is not one: nothing more of it is kept")
                await channel.close(error="not a log")

    def _channel(self, channel: Channel) -> None:
        """The guest opened a channel."""
        match channel.kind:
            case "model":
                self.spawn(self.world.models.serve(channel, self.instance, self._turn_of, self.models))
            case "mcp":
                self.spawn(self.world.plane.serve(channel, self))
            case "egress" if self._reaches_out:
                self.spawn(self.world.egress.serve(channel, self.instance))
            case "log":
                self.spawn(self._take_log(channel))
            case _:
                self.spawn(channel.close(error="unknown kind"))

    def _link_closed(self, link: Link) -> None:
        if self._link is link:
            self.spawn(self._died(link))

    async def _died(self, link: Link) -> None:
        async with self._lock:
            if self._link is link:
                await self._bury(link)

    async def _bury(self, link: Link) -> None:
        """Clear away a sandbox that ended by itself; the lock is held."""
        self._deaths.append(self.world.clock.monotonic())
        await self._end(State.FAILED, f"the sandbox ended: {one_line(link.closed.result())}", 0.0)
        self._look_lost()

    async def _freeze(self) -> None:
        """Freeze what runs; the lock is held."""
        if self.instance.state is State.RUNNING and self.sandbox is not None:
            await self.sandbox.pause()
            await self.world.guard.look(self.instance, kept=self.protects())
            await self._move(State.PAUSED, keep_trying=True)

    async def _end(self, state: State, reason: str, grace: float) -> None:
        """Take the sandbox away; the lock is held."""
        sandbox, self.sandbox, self._link = self.sandbox, None, None
        self.silent = False
        if self._watcher is not None and self._watcher is not asyncio.current_task():
            self._watcher.cancel()
        self._watcher = None
        self.on_gone()
        await self.world.plane.ended(self.instance)
        if sandbox is None and self.instance.state in _DOWN:
            return
        if sandbox is not None:
            kept = sandbox.protects()
            try:
                await sandbox.stop(grace)
            except (AegisError, OSError) as error:
                state, reason = State.FAILED, f"{reason}, but {one_line(str(error))}"
            await self.world.guard.closing(self.instance, kept=kept)
        shutil.rmtree(state_dir(self.world.home, self.instance) / "tmp", ignore_errors=True)
        self.log.write(f"{state}: {reason}")
        await self._move(state, reason, keep_trying=True)

    async def _move(self, state: State, reason: str = "", *, stderr: str = "", keep_trying: bool = False) -> None:
        await self.world.registry.move(self.instance, state, reason, stderr=stderr, keep_trying=keep_trying)
        self.on_change()

    async def _watch(self) -> None:
        """Put the instance to sleep when nothing has happened for long enough."""
        launch, clock = self.instance.launch, self.world.clock
        cpu = 0.0
        while True:
            await self._quiet.wait()
            since = self._last_active
            wait = since + launch.pause_after - clock.monotonic()
            if wait > 0:
                await clock.sleep(wait)
                continue
            try:
                used = (await self.stats()).cpu_seconds
                if used - cpu > _IDLE_CPU:
                    cpu, self._last_active = used, clock.monotonic()
                    continue
                async with self._lock:
                    if not self._idle(since):  # somebody came while it was looked at
                        continue
                    await self._freeze()
            except AegisError as error:
                self.log.write(f"cannot be put to sleep: {one_line(error.message)}")
                self._last_active = clock.monotonic()
                continue
            await clock.sleep(since + launch.pause_after + launch.stop_after - clock.monotonic())
            async with self._lock:
                if self._idle(since) and self.instance.state is State.PAUSED:
                    await self._end(State.STOPPED, "idle", 2.0)
                    return

    def _idle(self, since: float) -> bool:
        """Whether nobody has wanted it since."""
        return not self.busy and self._last_active == since


def _log_record(line: bytes) -> dict[str, Any]:
    """One line of a log channel as a log record."""
    said = msgspec.json.decode(line, type=_Said)
    if said.dropped:
        return {"ts": said.t, "stream": "system", "text": f"{said.dropped} lines were dropped", "source": "guest"}
    return {"ts": said.t, "stream": said.stream, "text": said.text, "source": said.source}


def state_dir(home: Path, instance: Instance) -> Path:
    """Where an instance keeps its HOME, its temporary files and its log on the host; mode 0700."""
    return home / "instances" / instance.id
