"""One instance's life: its sandbox, its states, when it sleeps.

`created → starting → running ⇄ paused → stopped`, and `failed`. All transitions happen under one lock. Whoever needs the sandbox
calls `awake`, or `holding` to keep it awake meanwhile. A sandbox that is not held is frozen after `pause_after` seconds without a
turn, an exec or CPU use, and stopped `stop_after` seconds later. Nothing polls: one sleeping task per instance that is awake.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.sandboxes import Mount, SandboxSpec, Stats
from aegis.services.agents.logs import Log
from aegis.services.agents.model import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aegis.sandboxes import Sandbox
    from aegis.sandboxes.link import Channel, Link
    from aegis.services.agents.model import Instance
    from aegis.services.agents.world import World

#: So many deaths within so many seconds are a crash loop: the instance stays down until a person starts it.
CRASHES: Final = 5
CRASH_WINDOW: Final = 120.0
#: Less CPU than this since the last look counts as none, in seconds; the guest's own bookkeeping stays below it.
_IDLE_CPU: Final = 0.05


class Life:
    """The sandbox of one instance and everything about when it runs."""

    def __init__(self, world: World, instance: Instance, turn_of: Callable[[str | None], str | None]) -> None:
        self.world = world
        self.instance = instance
        self.sandbox: Sandbox | None = None
        self.log = Log(state_dir(world.home, instance) / "log.ndjson", world.clock)
        #: Called when the sandbox has gone, for whatever reason, before the state says so.
        self.on_gone: Callable[[], None] = lambda: None
        self._turn_of = turn_of
        self._link: Link | None = None
        self._lock = asyncio.Lock()
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
        self._held += 1
        self._quiet.clear()
        try:
            yield await self.awake()
        finally:
            self._held -= 1
            self._last_active = self.world.clock.monotonic()
            if not self._held:
                self._quiet.set()

    @property
    def busy(self) -> bool:
        """Whether a turn or an exec keeps it awake."""
        return self._held > 0

    async def awake(self) -> Link:
        """The tether of the running sandbox: resumed when paused, booted when not there.

        Raises CONFLICT when disabled or in a crash loop; FAILED or UNAVAILABLE with `stderr` and `exit` when it does not come up.
        """
        async with self._lock:
            self._last_active = self.world.clock.monotonic()
            if not self.instance.enabled:
                handle = self.instance.handle
                raise AegisError(ErrorKind.CONFLICT, f"`{handle}` is disabled", f"`aegis instance start --name {handle}` enables it again")
            if self._link is not None and self._link.closed.done():
                await self._bury(self._link)
            if self._link is None:
                return await self._boot()
            if self.instance.state is State.PAUSED and self.sandbox is not None:
                await self.sandbox.resume()
                await self.world.registry.move(self.instance, State.RUNNING, keep_trying=True)
            return self._link

    async def pause(self) -> None:
        """Freeze it now, in the middle of a turn if there is one; the next message or exec thaws it. No effect unless running."""
        async with self._lock:
            if self.instance.state is not State.RUNNING or self.sandbox is None:
                return
            await self.sandbox.pause()
            await self.world.registry.move(self.instance, State.PAUSED, keep_trying=True)

    async def stop(self, reason: str, *, grace: float = 2.0) -> None:
        """End the sandbox and everything in it. Works with a full disk. No effect when there is none."""
        async with self._lock:
            await self._end(State.STOPPED, reason, grace)

    async def stats(self) -> Stats:
        """What the sandbox uses; zeros when there is none."""
        return await self.sandbox.stats() if self.sandbox is not None else Stats(0, 0.0, 0, 0)

    def forgive(self) -> None:
        """Forget earlier crashes: a person has asked for another start."""
        self._deaths.clear()

    def spawn(self, work: asyncio.Task[None]) -> None:
        """Keep a background task of this instance alive and cancel it when the sandbox ends for good."""
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    async def _boot(self) -> Link:
        now = self.world.clock.monotonic()
        if len(self._deaths) == CRASHES and now - self._deaths[0] < CRASH_WINDOW:
            handle = self.instance.handle
            raise AegisError(
                ErrorKind.CONFLICT,
                f"`{handle}` died {CRASHES} times within {CRASH_WINDOW:.0f} s and is not started again",
                f"see `aegis logs {handle}`, then `aegis instance restart {handle}`",
            )
        registry = self.world.registry
        await registry.move(self.instance, State.STARTING)
        try:
            self.sandbox = self.world.kinds[self.instance.launch.sandbox].create(await self._spec())
            link = await self.sandbox.start()
        except BaseException as error:
            self.sandbox = None
            self._deaths.append(now)
            reason = one_line(str(error)) or type(error).__name__
            stderr = str(error.data.get("stderr", "")) if isinstance(error, AegisError) else ""
            self.log.write(f"did not start: {reason}")
            await registry.move(self.instance, State.FAILED, reason, stderr=stderr[-4096:], keep_trying=True)
            if isinstance(error, OSError | KeyError):
                raise AegisError(ErrorKind.FAILED, f"the sandbox did not start: {reason}", "see `aegis doctor`") from error
            raise
        self._link = link
        link.on_channel = self._channel
        link.closed.add_done_callback(lambda _: self._link_closed(link))
        await registry.move(self.instance, State.RUNNING)
        self._watcher = asyncio.create_task(self._watch())
        if self.instance.launch.command:
            self.spawn(asyncio.create_task(self._run_command(link)))
        return link

    async def _spec(self) -> SandboxSpec:
        instance, launch = self.instance, self.instance.launch
        exposed = {}
        for name in launch.exposed:
            value = await self.world.reveal(name)
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
            mounts=tuple(Mount(Path(m.source), m.target, m.writable) for m in launch.mounts),
            env={**launch.env, **exposed, "AEGIS_HANDLE": instance.handle},
            limits=launch.limits,
        )

    async def _run_command(self, link: Link) -> None:
        """The one program of an instance that is not an agent; its end is the instance's end."""
        try:
            program = await link.run(self.instance.launch.command, stdin=False, capture="program")
            code = await program.wait()
            self.log.write(f"process exited (code={code})")
            state, reason = (State.STOPPED, "the program ended") if code == 0 else (State.FAILED, f"the program ended with {code}")
        except AegisError as error:
            self.log.write(f"the program did not start: {error.message}")
            state, reason = State.FAILED, one_line(error.message)
        async with self._lock:
            if self._link is link:
                await self._end(state, reason, 0.5)

    async def _take_log(self, channel: Channel) -> None:
        """Write down what the guest captured of programs whose output nobody reads."""
        pending = b""
        while data := await channel.read():
            *lines, pending = (pending + data).split(b"\n")
            self.log.extend([_log_record(line) for line in lines if line])

    def _channel(self, channel: Channel) -> None:
        """The guest opened a channel."""
        match channel.kind:
            case "model":
                self.spawn(asyncio.create_task(self.world.models.serve(channel, self.instance, self._turn_of)))
            case "log":
                self.spawn(asyncio.create_task(self._take_log(channel)))
            case _:
                self.spawn(asyncio.create_task(channel.close(error="unknown kind")))

    def _link_closed(self, link: Link) -> None:
        if self._link is link:
            self.spawn(asyncio.create_task(self._died(link)))

    async def _died(self, link: Link) -> None:
        async with self._lock:
            if self._link is link:
                await self._bury(link)

    async def _bury(self, link: Link) -> None:
        """Clear away a sandbox that ended by itself; the lock is held."""
        self._deaths.append(self.world.clock.monotonic())
        await self._end(State.FAILED, f"the sandbox ended: {one_line(link.closed.result())}", 0.0)

    async def _end(self, state: State, reason: str, grace: float) -> None:
        """Take the sandbox away; the lock is held."""
        sandbox, self.sandbox, self._link = self.sandbox, None, None
        if self._watcher is not None and self._watcher is not asyncio.current_task():
            self._watcher.cancel()
        self._watcher = None
        self.on_gone()
        if sandbox is None:
            return
        await sandbox.stop(grace)
        shutil.rmtree(state_dir(self.world.home, self.instance) / "tmp", ignore_errors=True)
        self.log.write(f"{state}: {reason}")
        await self.world.registry.move(self.instance, state, reason, keep_trying=True)

    async def _watch(self) -> None:
        """Put the instance to sleep when nothing has happened for long enough."""
        launch, clock = self.instance.launch, self.world.clock
        cpu = 0.0
        while True:
            await self._quiet.wait()
            wait = self._last_active + launch.pause_after - clock.monotonic()
            if wait > 0:
                await clock.sleep(wait)
                continue
            used = (await self.stats()).cpu_seconds
            if used - cpu > _IDLE_CPU:
                cpu, self._last_active = used, clock.monotonic()
                continue
            since = self._last_active
            await self.pause()
            await clock.sleep(since + launch.pause_after + launch.stop_after - clock.monotonic())
            if self.instance.state is State.PAUSED and self._last_active == since and not self.busy:
                await self.stop("idle")
                return


def _log_record(line: bytes) -> dict[str, Any]:
    """One line of a log channel as a log record."""
    record = msgspec.json.decode(line)
    if "dropped" in record:
        return {"ts": record["t"], "stream": "system", "text": f"{record['dropped']} lines were dropped", "source": "guest"}
    return {"ts": record["t"], "stream": record["stream"], "text": record["text"], "source": record["source"]}


def state_dir(home: Path, instance: Instance) -> Path:
    """Where an instance keeps its HOME, its temporary files and its log on the host; mode 0700."""
    return home / "instances" / instance.id
