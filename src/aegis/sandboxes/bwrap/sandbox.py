"""The life of one bwrap sandbox: start, freeze, measure, end.

Two processes stand on the host: bwrap's monitor, child of the stage's thread, and the guest, first process of the
sandbox's pid namespace; when the guest ends, the kernel kills everything in there. Ready means that the guest has said
hello; a start that fails leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.guest import processes
from aegis.sandboxes import Stats, Verdict, bundle, cgroups, seccomp, tree
from aegis.sandboxes.bwrap import descriptors, places, view
from aegis.sandboxes.bwrap.stage import Stage, Staged, exit_of, private_id
from aegis.sandboxes.environment import clean_env
from aegis.sandboxes.link import Link

if TYPE_CHECKING:
    import subprocess

    from aegis.sandboxes import SandboxSpec

#: How long a guest may take to say hello, seconds. It takes 20 ms; a machine under load a hundred times that.
_HELLO: Final = 15.0
#: Processes and threads of a sandbox where nobody said less: a fork bomb in one must not take the host's last.
_MOST_PROCESSES: Final = 8192
#: How long the kernel may take to end what was killed, seconds.
_REAP: Final = 2.0
#: How long beyond its grace a guest may take to end by itself, seconds.
_PATIENCE: Final = 0.2


class BwrapSandbox:
    """One sandbox; see the port for what its methods promise."""

    kind = "bwrap"

    def __init__(self, spec: SandboxSpec, stage: Stage) -> None:
        places.check(spec)
        self.spec = spec
        self.enforced: dict[str, Verdict] = {}
        self._stage = stage
        self._group: cgroups.Group | None = None
        self._link: Link | None = None
        self._monitor: subprocess.Popen[bytes] | None = None
        self._exited: asyncio.Future[int] | None = None
        self._guest: int | None = None  # pidfd
        self._guest_pid = 0
        self._stderr = -1
        self._frozen: str | None = None  # the mechanism
        self._stopped: list[int] = []  # by signals
        self._over = False
        self._lock = asyncio.Lock()

    async def start(self) -> Link:
        if self._monitor is not None or self._over:
            raise AegisError(ErrorKind.INTERNAL, f"the sandbox of {self.spec.handle} was started before")
        try:
            self._bound()
            return await self._start()
        except OSError as error:
            await self._end()
            text = f"the sandbox of {self.spec.handle} cannot start: {error}"
            raise AegisError(ErrorKind.UNAVAILABLE, text, "aegis doctor --sandbox bwrap") from error
        except BaseException:
            await self._end()
            raise

    @property
    def pid(self) -> int | None:
        """The guest's process on the host, once it has said hello."""
        return self._guest_pid or None

    def _bound(self) -> None:
        self._group = cgroups.create(self.spec.home, self.spec.id, self.spec.limits)
        self.enforced = dict(self._group.enforced)
        if not self.enforced["pids"].ok and _counts_per_namespace():
            self.enforced["pids"] = Verdict(True, "rlimit (RLIMIT_NPROC)")
        missing = {name: verdict for name, verdict in self.enforced.items() if not verdict.ok}
        if self.spec.limits.required and missing:
            name, verdict = next(iter(missing.items()))
            text = f"the {name} limit of {self.spec.handle} is required and cannot be enforced: {verdict.detail}"
            raise AegisError(ErrorKind.UNAVAILABLE, text, verdict.mend)

    async def _start(self) -> Link:
        spec = self.spec
        private = private_id(spec.index)
        (spec.state / "home").mkdir(mode=0o700, parents=True, exist_ok=True)
        if spec.workspace is not None and spec.workspace.writable:
            places.prepare(spec.workspace.source)
        lib = await asyncio.to_thread(bundle.build, spec.home)
        listed = view.shown(spec, lib)
        info, info_inner = os.pipe2(os.O_CLOEXEC)
        staged = None
        try:
            with contextlib.ExitStack() as given:  # what only bwrap needs is closed here as soon as it runs
                _own(given, info_inner)
                staged = await self._stage.prepare(spec.id, [item.source for item in listed], private)
                # Without a private user bwrap looks the sources up by their names, which somebody may exchange in between.
                meant = places.identities(spec) if private is None else {}
                await self._run(given, listed, staged, private, info_inner)
            link = await self._hello()
            await self._learn(info)
            self._adopt(meant)
        finally:
            if self._monitor is not None and self._guest is None:  # whoever was started must be known, to be ended
                await self._learn(info)
            os.close(info)
            if staged is not None:
                await staged.close()
        return link

    async def _run(self, given: contextlib.ExitStack, listed: list[view.Shown], staged: Staged, private: int | None, info: int) -> None:
        """Start bwrap with everything it is given by descriptor."""
        program = _bwrap()
        ours, theirs = socket.socketpair()
        given.callback(theirs.close)
        self._link = Link(ours)
        self._stderr = descriptors.bounded_memfd()
        filter_fd = _own(given, seccomp.memfd())
        files = {path: _own(given, descriptors.memfd(text.encode())) for path, text in view.files(self.spec).items()}
        args = view.arguments(self.spec, listed, staged.paths, self._env(theirs.fileno()), files)
        args += ["--seccomp", str(filter_fd), "--info-fd", str(info)]
        args_fd = _own(given, descriptors.memfd(descriptors.joined(args)))
        starting = self._stage.start(
            staged,
            [program, "--args", str(args_fd), "--", *self._command()],
            private=private,
            pass_fds=[theirs.fileno(), info, filter_fd, args_fd, *files.values()],
            env=tree.marks(self.spec.id, self.spec.home),
            output=self._stderr,
            begun=self._group_or_fail().add,
        )
        await self._started(asyncio.ensure_future(starting))

    def _command(self) -> list[str]:
        return bundle.command(bundle.interpreter(), bundle.INSIDE, *tree.label(self.spec.id, self.spec.home))

    def _env(self, tether: int) -> dict[str, str]:
        env = clean_env(self.spec, home=places.HOME, tmp=places.TMP)
        env["AEGIS_TETHER_FD"] = str(tether)
        if self.spec.limits.pids is not None and self.enforced["pids"].detail.startswith("rlimit"):
            env["AEGIS_RLIMIT_NPROC"] = str(self.spec.limits.pids)
        elif self.spec.limits.pids is None and _counts_per_namespace():
            env["AEGIS_RLIMIT_NPROC"] = str(_MOST_PROCESSES)
        return env

    async def _started(self, starting: asyncio.Future[subprocess.Popen[bytes]]) -> None:
        """Take over bwrap's process, also when this start is cancelled meanwhile: what was begun must be ended."""
        try:
            await asyncio.shield(starting)
        finally:
            self._monitor = await starting
            self._exited = exit_of(self._monitor)

    async def _hello(self) -> Link:
        """Wait for the guest; fail at once when bwrap ends instead."""
        assert self._link is not None
        assert self._exited is not None
        hello = asyncio.ensure_future(self._link.hello(_HELLO))
        waited: list[asyncio.Future[Any]] = [hello, self._exited]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if hello.done() and hello.exception() is None:
                return self._link
        finally:
            hello.cancel()
        with contextlib.suppress(TimeoutError):  # the tether ends a moment before the process
            await asyncio.wait_for(asyncio.shield(self._exited), 0.5)
        code = self._exited.result() if self._exited.done() else None
        tail = descriptors.said(self._stderr)
        raise AegisError(
            ErrorKind.FAILED,
            f"the sandbox of {self.spec.handle} did not come up: {tail.splitlines()[-1] if tail else 'it said nothing'}",
            "aegis doctor --sandbox bwrap",
            stderr=tail,
            exit=code,
        )

    async def _learn(self, info: int) -> None:
        """Learn who the guest is from what bwrap says as soon as it has made it; nothing when bwrap ended before."""
        if not self._running or not await descriptors.readable(info, _REAP):
            return
        found = re.search(rb'"child-pid": (\d+)', os.read(info, 4096))
        if found is not None:
            with contextlib.suppress(ProcessLookupError):
                self._guest = os.pidfd_open(int(found[1]))
                self._guest_pid = int(found[1])

    def _adopt(self, meant: dict[str, tuple[int, int]]) -> None:
        """Check what the guest was given. Until here it has started nothing."""
        if self._guest is None:
            raise AegisError(
                ErrorKind.FAILED, f"the sandbox of {self.spec.handle} ended as soon as it was up", "aegis doctor --sandbox bwrap"
            )
        self._group_or_fail().add(self._guest_pid)  # born before its parent was moved, perhaps
        for target, identity in meant.items():
            about = os.stat(f"/proc/{self._guest_pid}/root{target}")
            if (about.st_dev, about.st_ino) != identity:
                text = f"what {self.spec.handle} was to see at {target} was exchanged while the sandbox started"
                raise AegisError(ErrorKind.DENIED, text, f"see who else works there, then: aegis start {self.spec.handle}")
        wrong = view.unprotected(self.spec, Path(f"/proc/{self._guest_pid}/mountinfo").read_text())
        if wrong is not None:
            text = f"{wrong} of the workspace changed while the sandbox started"
            raise AegisError(ErrorKind.DENIED, text, f"see who else works in it, then: aegis start {self.spec.handle}")

    def _group_or_fail(self) -> cgroups.Group:
        assert self._group is not None
        return self._group

    async def pause(self) -> str:
        async with self._lock:
            self._check_running()
            if self._frozen is None:
                group = self._group_or_fail()
                if group.freezer is not None and await asyncio.to_thread(group.freeze):
                    self._frozen = group.freezer
                else:
                    self._stopped = await asyncio.to_thread(tree.freeze, self._guest_pid)
                    self._frozen = "signals"
            return self._frozen

    def protects(self) -> frozenset[str]:
        try:
            return view.protects(self.spec, Path(f"/proc/{self._guest_pid}/mountinfo").read_text()) if self._guest_pid else frozenset()
        except OSError:  # it has gone
            return frozenset()

    async def resume(self) -> None:
        async with self._lock:
            self._thaw()

    def _thaw(self) -> None:
        if self._frozen == "signals":
            tree.thaw(self._stopped)
            self._stopped = []
        elif self._frozen is not None and self._group is not None:
            self._group.thaw()
        self._frozen = None

    async def stop(self, grace: float = 2.0) -> None:
        async with self._lock:
            if not self._over and self._running and self._link is not None and grace > 0:
                self._thaw()
                await self._ask(self._link, grace)
            await self._end()

    async def _ask(self, link: Link, grace: float) -> None:
        """Have the guest end everything and itself; what it does not do in time is done without it."""
        assert self._exited is not None
        with contextlib.suppress(AegisError, TimeoutError):
            async with asyncio.timeout(grace + _PATIENCE):
                await link.call("shutdown", {"grace": grace}, timeout=grace + _PATIENCE)
                await asyncio.shield(self._exited)

    @property
    def _running(self) -> bool:
        return self._exited is not None and not self._exited.done()

    def _check_running(self) -> None:
        if self._over or not self._running:
            raise AegisError(ErrorKind.CONFLICT, f"the sandbox of {self.spec.handle} is not running", f"aegis start {self.spec.handle}")

    async def _end(self) -> None:
        """Kill what is left and give everything back. SIGKILL goes before the thaw, so that nothing runs in between."""
        self._over = True
        if self._guest is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._guest, signal.SIGKILL)
            os.close(self._guest)
            self._guest = None
        elif self._running and self._monitor is not None:
            self._monitor.kill()  # it has made no guest
        self._thaw()
        if self._exited is not None and self._monitor is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._exited), _REAP)
            if self._running:
                self._monitor.kill()
        if self._link is not None:
            await self._link.close()
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1
        await self._remove_group()

    async def _remove_group(self) -> None:
        group, self._group = self._group, None
        if group is None:
            return
        for _ in range(200):
            if group.remove():
                return
            group.kill()
            await asyncio.sleep(0.01)

    async def stats(self) -> Stats:
        self._check_running()
        assert self._monitor is not None
        usage: dict[str, Any] = await asyncio.to_thread(processes.usage, self._monitor.pid)
        return Stats(usage["processes"], usage["cpu_seconds"], usage["rss_bytes"], usage["pss_bytes"])


def _bwrap() -> str:
    program = shutil.which("bwrap")
    if program is None:
        raise AegisError(ErrorKind.UNAVAILABLE, "the program `bwrap` is not installed", "apt-get install bubblewrap")
    return program


def _counts_per_namespace() -> bool:
    """Whether RLIMIT_NPROC counts a sandbox's own processes only: by a user of its own, or since Linux 5.14."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    return os.geteuid() == 0 or release >= (5, 14)


def _own(stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd
