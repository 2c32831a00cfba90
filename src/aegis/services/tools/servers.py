"""MCP servers that run: one set for each agent instance that uses them, each command in a sandbox of its own.

A server is started at the first list or call, supervised (started again after a pause that grows, at most `DEATHS` times within
`WINDOW`, then unavailable for a while), and ended with its instance. Those of a person's own calls end when nobody uses them. What a
dead daemon left is found by the marks that every sandbox has.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import shutil
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.ids import new_id
from aegis.core.text import one_line
from aegis.sandboxes import Limits, Mount, SandboxSpec
from aegis.services.agents.model import Instance, Launch, State
from aegis.services.tools.cleaning import Cleaned, definitions
from aegis.services.tools.speaking import Broken
from aegis.services.tools.upstream import Upstream
from aegis.services.tools.wires import Pipes, Web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aegis.core.clock import Clock
    from aegis.sandboxes import Sandbox, SandboxKind
    from aegis.sandboxes.link import Channel, Link
    from aegis.services.config.model import ToolServer
    from aegis.services.egress.dialling import Resolve
    from aegis.services.tools.pinning import Origin
    from aegis.services.tools.wires import Wire

_logger = logging.getLogger(__name__)

#: So many deaths or failed starts within so many seconds, and it is not started again until the first of them is that long ago.
DEATHS: Final = 5
WINDOW: Final = 120.0
#: Seconds before it is started again after its first death; each time twice as long, up to the second.
_PAUSE: Final = (0.25, 10.0)
#: How long a start may take, with the list of tools, in seconds.
START: Final = 30.0
#: The tools are listed again at most once in so many seconds, however often the server says that they changed.
_RELIST: Final = 2.0
#: So long has a server that did not answer a call for a sign of life, in seconds.
_PROBE: Final = 2.0
#: A server of a person's own calls, or of an instance that does not run, ends when it was not used for so many seconds.
_IDLE: Final = 120.0
#: Bounds of a server's processes together.
_LIMITS: Final = Limits(memory_bytes=2 * 1024**3, pids=512)
#: Numbers for private users that no instance gets: instances count from below.
_FIRST_INDEX: Final = 0x0F000000
_INDEXES: Final = 0x00100000
_SECRET: Final = re.compile(r"\{secret:([A-Za-z_][A-Za-z0-9_]{0,127})\}")


class WayOut(Protocol):
    """The egress gate, as a server's sandbox uses it."""

    async def serve(self, channel: Channel, instance: Instance) -> None:
        """Serve one connection."""
        ...

    async def environment(self, launch: Launch) -> dict[str, str]:
        """What programs inside need to find the way out."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What servers stand on; the wiring fills it in."""

    home: Path
    clock: Clock
    kinds: Mapping[str, SandboxKind]
    strongest: Callable[[], Awaitable[str | None]]
    egress: WayOut
    resolve: Resolve
    #: The value of a secret for a server of the instance with this id (None: of a person's own calls), for a host, empty without one.
    reveal: Callable[[str, str | None, str], Awaitable[str | None]]


class Child:
    """One server, for one instance or for a person's own calls. Made stopped."""

    def __init__(self, ground: Ground, server: ToolServer, origin: Origin, owner: Instance | None, index: int) -> None:
        self.server = server
        self.origin = origin
        self.owner = owner
        self.index = index
        #: What it offers, once it was listed.
        self.offered = Cleaned([], {})
        #: How often it was listed, so that who compares knows whether there is something new.
        self.listed = 0
        self.problem = ""
        self.used = ground.clock.monotonic()
        self.calls = 0
        self._ground = ground
        self._upstream: Upstream | None = None
        self._sandbox: Sandbox | None = None
        self._link: Link | None = None
        self._starting: asyncio.Task[None] | None = None
        self._burying: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._began = 0.0
        self._listing: asyncio.Task[None] | None = None
        self._listed_at = float("-inf")
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._version = ""
        self._ended = False

    @property
    def running(self) -> bool:
        """Whether it can be called now."""
        return self._upstream is not None and self._upstream.wire is not None and not self._upstream.wire.closed.done()

    @property
    def state(self) -> str:
        """In a word for people."""
        if self.running:
            return "running"
        if self._starting is not None and not self._starting.done():
            return "starting"
        return "failed" if self.problem else "stopped"

    async def ready(self) -> None:
        """Return when it runs and its tools are known. Raises UNAVAILABLE with the reason, and what it said last."""
        self.used = self._ground.clock.monotonic()
        if not self.running:
            if self._ended:
                raise AegisError(ErrorKind.INTERRUPTED, f"the tool server `{self.server.name}` was ended", "see `aegis tree`")
            if self._starting is None or self._starting.done():
                self._began = self._ground.clock.monotonic()
                self._starting = asyncio.create_task(self._start(), name=f"starting the tool server {self.server.name}")
                self._starting.add_done_callback(_forget)
            await self._settled(self._starting)
        elif self._upstream is not None and self._upstream.speaker.changed:
            await self._relist()

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call a tool of a server that is `ready`. Raises Refused, AegisError(UNAVAILABLE)."""
        upstream = self._upstream
        if upstream is None:
            raise self._unavailable("it is not running")
        self.calls += 1
        try:
            return await upstream.call(name, arguments)
        except Broken as error:
            self._fail(upstream, str(error))
            raise self._unavailable(str(error)) from None
        finally:
            self.calls -= 1
            self.used = self._ground.clock.monotonic()

    async def stop(self) -> None:
        """End it and all it started, for good. Idempotent."""
        self._ended = True
        for task in (self._starting, self._listing, self._probing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._burying is not None:
            await asyncio.gather(self._burying, return_exceptions=True)
        await self._down()

    def suspect(self) -> None:
        """A call was not answered in time: when it answers nothing else either, it is started anew."""
        if self._upstream is not None and (self._probing is None or self._probing.done()):
            self._probing = asyncio.create_task(self._probe(self._upstream), name=f"probing the tool server {self.server.name}")
            self._probing.add_done_callback(_forget)

    async def _probe(self, upstream: Upstream) -> None:
        try:
            async with asyncio.timeout(_PROBE):
                await upstream.ping()
        except (Broken, TimeoutError):
            self._fail(upstream, "it hangs")

    @property
    def starting_for(self) -> float:
        """For how many seconds it has been starting; 0 when it is not."""
        under_way = self._starting is not None and not self._starting.done()
        return self._ground.clock.monotonic() - self._began if under_way else 0.0

    async def _settled(self, task: asyncio.Task[None]) -> None:
        """Wait for what all wait for. Cancelling who waits does not cancel it."""
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            asker = asyncio.current_task()
            if asker is not None and asker.cancelling():
                raise
            raise self._unavailable("it was ended") from None

    async def _start(self) -> None:
        clock = self._ground.clock
        if self._burying is not None:
            await asyncio.shield(self._burying)
        now = clock.monotonic()
        if len(self._deaths) == DEATHS and now - self._deaths[0] < WINDOW:
            raise self._unavailable(f"{self.problem}; it died {DEATHS} times and is not started again for a while")
        if self._deaths:
            pause = min(_PAUSE[0] * 2.0 ** (len(self._deaths) - 1), _PAUSE[1])
            await clock.sleep(max(0.0, self._deaths[-1] + pause - now))
        upstream = Upstream(self._open, version=self._version)
        try:
            async with asyncio.timeout(START):
                await upstream.start()
            self._take(upstream)
        except (Broken, AegisError, OSError, TimeoutError) as error:
            self._deaths.append(clock.monotonic())
            said = f"it did not begin within {START:g} s" if isinstance(error, TimeoutError) else str(error)
            self.problem = one_line(said, 700)
            await upstream.close()
            await self._down()
            raise self._unavailable(self.problem) from None
        except BaseException:
            await upstream.close()
            await self._down()
            raise
        self.problem = ""
        self._version = upstream.speaker.version
        self._upstream = upstream
        assert upstream.wire is not None
        upstream.wire.closed.add_done_callback(lambda told: self._fail(upstream, told.result()))

    def _take(self, upstream: Upstream) -> None:
        self.offered = definitions(upstream.tools)
        if upstream.more:
            self.offered.refused["..."] = "it lists more tools than are taken"
        self.listed += 1
        self._listed_at = self._ground.clock.monotonic()

    async def list_again(self) -> None:
        """List the tools of one that is `ready` once more. Raises UNAVAILABLE."""
        await self._relist(at_once=True)

    async def _relist(self, *, at_once: bool = False) -> None:
        """List the tools again, unless that was done just now."""
        if not at_once and self._ground.clock.monotonic() - self._listed_at < _RELIST:
            return
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list(), name=f"listing the tool server {self.server.name}")
            self._listing.add_done_callback(_forget)
        await self._settled(self._listing)

    async def _list(self) -> None:
        upstream = self._upstream
        if upstream is None:
            return
        try:
            async with asyncio.timeout(START):
                await upstream.list()
            self._take(upstream)
        except (Broken, TimeoutError) as error:
            said = "it does not list its tools any more" if isinstance(error, TimeoutError) else str(error)
            self._fail(upstream, said)
            raise self._unavailable(said) from None

    def _fail(self, upstream: Upstream, reason: str) -> None:
        """It is of no use any more: clear it away."""
        if self._upstream is not upstream:
            return
        self._upstream = None
        if self._ended:
            return
        self._deaths.append(self._ground.clock.monotonic())
        self.problem = one_line(reason, 700)
        _logger.info("the tool server %s of %s: %s", self.server.name, self._whose, self.problem)
        self._burying = asyncio.create_task(self._bury(upstream), name=f"burying the tool server {self.server.name}")
        self._burying.add_done_callback(_forget)

    async def _bury(self, upstream: Upstream) -> None:
        await upstream.close()
        await self._down()

    async def _down(self) -> None:
        """Take away what there is of it."""
        upstream, self._upstream = self._upstream, None
        sandbox, self._sandbox, self._link = self._sandbox, None, None
        if upstream is not None:
            await upstream.close()
        if sandbox is not None:
            try:
                await asyncio.shield(sandbox.stop(0.2))
            except (AegisError, OSError) as error:
                _logger.warning("the tool server %s of %s: %s", self.server.name, self._whose, error)
            shutil.rmtree(self._state / "tmp", ignore_errors=True)

    @property
    def _whose(self) -> str:
        return self.owner.handle if self.owner is not None else "a person"

    @property
    def _state(self) -> Path:
        """Where it keeps its HOME on the host: with its instance, which takes it along when it goes."""
        if self.owner is not None:
            return self._ground.home / "instances" / self.owner.id / "tools" / self.server.name
        return self._ground.home / "tools" / f"{self.server.name}-{self.origin.declared[:12]}"

    async def _open(self) -> Wire:
        server = self.server
        if server.url:
            from aegis.services.egress.rules import Rules
            from aegis.services.tools.dialling import Dial

            return Web(server.url, Dial(Rules(server.egress), self._ground.resolve), self._headers)
        if self._link is None:
            await self._begin()
        assert self._link is not None
        return Pipes(await self._link.run(server.command), self._ground.clock)

    async def _headers(self) -> dict[str, str]:
        """The headers of a request, the secrets put in: nothing keeps them."""
        host = urlsplit(self.server.url).hostname or ""
        found: dict[str, str] = {}
        for name, text in self.server.headers.items():
            parts: list[str] = []
            at = 0
            for match in _SECRET.finditer(text):
                parts += [text[at : match.start()], await self._secret(match[1], host)]
                at = match.end()
            found[name.lower()] = "".join([*parts, text[at:]])
        return found

    async def _secret(self, name: str, host: str) -> str:
        value = await self._ground.reveal(name, self.owner.id if self.owner is not None else None, host)
        if value is None:
            text = f"the secret `{name}` of the tool server `{self.server.name}` is not stored"
            raise AegisError(ErrorKind.NOT_FOUND, text, f"`aegis secret set {name}`")
        value = value.strip()
        if host and not (value.isascii() and value.isprintable()):
            raise AegisError(ErrorKind.USAGE, f"the secret `{name}` does not fit a header", f"store it again: `aegis secret set {name}`")
        return value

    async def _begin(self) -> None:
        """Start the sandbox."""
        name = self.server.sandbox or await self._ground.strongest()
        if name is None:
            text = "no sandbox with a boundary works on this machine"
            raise AegisError(ErrorKind.UNAVAILABLE, text, "`aegis doctor`; or declare `sandbox: process`, which is no boundary")
        placed = self._placed(name)
        outside = {"AEGIS_EGRESS": "1", **await self._ground.egress.environment(placed.launch)} if self.server.egress else {}
        exposed = {secret: await self._secret(secret, "") for secret in self.server.exposed}
        for part in (self._state, self._state / "home", self._state / "tmp"):
            part.mkdir(parents=True, exist_ok=True, mode=0o700)
        spec = SandboxSpec(
            id=new_id("tool"),
            index=self.index,
            handle=placed.handle.replace("/", "-").replace("_", "-")[:60].strip("-"),
            home=self._ground.home,
            state=self._state,
            workspace=self._workspace(),
            mounts=tuple(Mount(Path(m.source), m.target or m.source, m.writable) for m in self.server.mounts),
            env={**outside, **self.server.env, **exposed},
            limits=_LIMITS,
        )
        self._sandbox = self._ground.kinds[name].create(spec)
        self._link = await self._sandbox.start()
        self._link.on_channel = lambda channel: self._channel(channel, placed)

    def _workspace(self) -> Mount | None:
        """What it sees as the workspace: that of its instance, or, for a person's own calls, the project that declares it."""
        owner = self.owner
        place = owner.launch.workspace if owner is not None else self.origin.project or None
        if place is None or self.server.workspace == "none":
            return None
        writable = self.server.workspace == "write" and not (owner is not None and owner.launch.read_only)
        return Mount(Path(place), "/workspace", writable=writable)

    def _placed(self, sandbox: str) -> Instance:
        """Who this is for the egress gate: the instance, by the rules of the server."""
        reach: dict[str, Any] = {"permission": "full", "egress": self.server.egress, "env": {}, "sandbox": sandbox}
        if self.owner is not None:
            launch = msgspec.structs.replace(self.owner.launch, secrets=[], exposed=[], **reach)
            return msgspec.structs.replace(self.owner, handle=f"{self.owner.handle}/{self.server.name}", launch=launch)
        launch = Launch(agent="tools", driver=None, **reach)
        return Instance("tools", f"tools/{self.server.name}", self.index, launch, State.RUNNING, "", True, "", 0.0, 0.0)

    def _channel(self, channel: Channel, placed: Instance) -> None:
        """The guest opened a channel: the way out is served, and there is nothing else."""
        if channel.kind == "egress" and self.server.egress:
            work: Any = self._ground.egress.serve(channel, placed)
        else:
            work = channel.close(error="not for a tool server")
        task = asyncio.ensure_future(work)
        task.add_done_callback(_forget)
        _KEPT.add(task)

    def _unavailable(self, reason: str) -> AegisError:
        text = f"the tool server `{self.server.name}` cannot be used: {reason}"
        return AegisError(ErrorKind.UNAVAILABLE, text, "`aegis tools servers` shows its state", server=self.server.name)


class Servers:
    """Every server that runs, by whose it is and how it is declared."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._children: dict[tuple[str, Origin], Child] = {}
        self._indexes = itertools.count()
        self._reaper: asyncio.Task[None] | None = None
        self._closed = False

    def child(self, owner: Instance | None, server: ToolServer, origin: Origin) -> Child:
        """The server for an instance, or for a person's own calls; made when it is not there."""
        key = (owner.id if owner is not None else "", origin)
        found = self._children.get(key)
        if found is None:
            if self._closed:
                raise AegisError(ErrorKind.INTERRUPTED, "the daemon ends", "try again")
            index = _FIRST_INDEX + next(self._indexes) % _INDEXES
            found = self._children[key] = Child(self._ground, server, origin, owner, index)
        if (owner is None or _down(owner)) and (self._reaper is None or self._reaper.done()):
            self._reaper = asyncio.create_task(self._reap(), name="ending tool servers that nobody uses")
        return found

    def of(self, owner: str) -> list[Child]:
        """Those of an instance by its id; of a person's own calls when it is empty."""
        return [child for (whose, _), child in self._children.items() if whose == owner]

    def all(self) -> list[Child]:
        """Every one."""
        return list(self._children.values())

    async def ended(self, owner: str) -> None:
        """End those of an instance; returns when nothing of them is left."""
        await self._end([key for key in self._children if key[0] == owner])

    async def drop(self, child: Child) -> None:
        """End one, such as one that is declared otherwise by now."""
        await self._end([key for key, each in self._children.items() if each is child])

    async def close(self) -> None:
        """End all."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.gather(self._reaper, return_exceptions=True)
        await self._end(list(self._children))

    async def _end(self, keys: list[tuple[str, Origin]]) -> None:
        going = [self._children.pop(key) for key in keys if key in self._children]
        if going:
            await asyncio.gather(*(child.stop() for child in going), return_exceptions=True)

    async def _reap(self) -> None:
        clock = self._ground.clock
        while loose := {key: child for key, child in self._children.items() if child.owner is None or _down(child.owner)}:
            now = clock.monotonic()
            await self._end([key for key, child in loose.items() if not child.calls and now - child.used >= _IDLE])
            await clock.sleep(_IDLE / 2)


#: Tasks that nobody waits for, kept until they are done.
_KEPT: Final[set[asyncio.Future[Any]]] = set()


def _forget(task: asyncio.Future[Any]) -> None:
    """Nobody may be waiting for it: what it raised was said to those who did."""
    _KEPT.discard(task)
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()


def _down(instance: Instance) -> bool:
    return instance.state in (State.CREATED, State.STOPPED, State.FAILED)
