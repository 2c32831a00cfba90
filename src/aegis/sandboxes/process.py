"""The kind `process`: no boundary at all.

The guest and its programs run as the user who runs the daemon, with a clean environment, a HOME and a TMPDIR of their own,
and nothing else between them and the machine. It is for machines where nothing else works, for trusted programs, and for
tests. What it does guarantee: everything it starts is found again, can be paused, and ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path

from aegis.core.errors import AegisError, ErrorKind
from aegis.guest.processes import usage
from aegis.sandboxes import SandboxSpec, Stats, Verdict, bundle, tree
from aegis.sandboxes.environment import clean_env
from aegis.sandboxes.link import Link

_HELLO_SECONDS = 15.0
#: Seconds beyond its grace that a guest has for ending by itself.
_PATIENCE = 0.5
_TAIL = 8 * 1024


class ProcessKind:
    """Programs of the user, without isolation."""

    name = "process"
    strength = 0
    boundary = "none: the agent is the user, and can read, change and reach whatever the user can"

    async def probe(self) -> Verdict:
        """Whether processes can be found again here, by their /proc."""
        if os.path.exists(f"/proc/{os.getpid()}/stat"):
            return Verdict(True, "starts programs as the user, without isolation")
        return Verdict(False, "/proc is not mounted", "mount -t proc proc /proc")

    def create(self, spec: SandboxSpec) -> ProcessSandbox:
        """A sandbox that is not yet started."""
        return ProcessSandbox(spec)

    async def sweep(self, home: Path) -> list[str]:
        """Kill what the sandboxes of dead daemons of this home left running."""
        return await asyncio.to_thread(tree.kill_orphans, home)


class ProcessSandbox:
    """One guest and its tree of processes."""

    kind = "process"

    def __init__(self, spec: SandboxSpec) -> None:
        self.spec = spec
        self.enforced = _enforced(spec)
        self._guest: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._frozen: list[int] = []
        self._paused = False
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The guest's process, while there is one."""
        return self._guest.pid if self._guest is not None else None

    async def start(self) -> Link:
        """Start the guest; see the port."""
        spec = self.spec
        if spec.limits.required:
            missing = [name for name, verdict in self.enforced.items() if not verdict.ok and _wanted(spec, name)]
            if missing:
                text = f"the sandbox kind `process` cannot enforce {' and '.join(missing)} of `{spec.handle}`"
                raise AegisError(ErrorKind.UNAVAILABLE, text, "choose the sandbox `bwrap`, or make the limits `wanted`")
        try:
            command, cwd, env = await asyncio.to_thread(self._prepare)
            self._link = self._spawn(command, cwd, env)
        except OSError as error:
            raise AegisError(ErrorKind.UNAVAILABLE, f"the sandbox of `{spec.handle}` cannot start: {error}", "aegis doctor") from error
        try:
            await self._link.hello(_HELLO_SECONDS)
        except AegisError as error:
            raise await self._failed(error) from None
        except BaseException:
            await self.stop(0.0)
            raise
        return self._link

    async def pause(self) -> str:
        """Stop the whole tree by SIGSTOP."""
        async with self._lock:
            if not self._paused and self._guest is not None:
                self._paused = True
                self._frozen = await asyncio.to_thread(tree.freeze, self._guest.pid)
        return "signals"

    def protects(self) -> frozenset[str]:
        return frozenset()

    async def resume(self) -> None:
        """Let what `pause` stopped go on."""
        async with self._lock:
            if self._paused:
                tree.thaw(self._frozen)
                self._frozen = []
                self._paused = False

    async def stop(self, grace: float = 2.0) -> None:
        """Ask everything to end, then kill it."""
        await self.resume()
        guest, self._guest = self._guest, None
        link, self._link = self._link, None
        try:
            if link is not None and not link.closed.done():
                await asyncio.wait_for(self._ask(link, grace), grace + _PATIENCE)
        except (AegisError, TimeoutError):
            pass
        finally:
            await asyncio.shield(asyncio.to_thread(self._kill, guest))
            if link is not None:
                await link.close()

    async def stats(self) -> Stats:
        """What the tree uses now; raises AegisError(CONFLICT) when there is none."""
        if self._guest is None or self._link is None:
            raise AegisError(ErrorKind.CONFLICT, f"the sandbox of `{self.spec.handle}` is not running")
        if self._paused:
            found = await asyncio.to_thread(usage, self._guest.pid)
        else:
            found = await self._link.call("stats")
        return Stats(**found)

    # How it is done.

    def _prepare(self) -> tuple[list[str], Path, dict[str, str]]:
        spec = self.spec
        lib = bundle.build(spec.home)
        for name in ("home", "tmp"):
            (spec.state / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        env = clean_env(spec)
        if spec.limits.pids is not None:
            # RLIMIT_NPROC counts everything the user runs, wherever: what runs already is not the sandbox's.
            env["AEGIS_RLIMIT_NPROC"] = str(tree.tasks_of(os.getuid()) + spec.limits.pids)
        cwd = spec.workspace.source if spec.workspace is not None else spec.state / "home"
        return bundle.command(bundle.interpreter(), str(lib), *tree.label(spec.id, spec.home)), cwd, env

    def _spawn(self, command: list[str], cwd: Path, env: dict[str, str]) -> Link:
        """In the loop's thread: when the thread that started it ends, a paused guest is woken to see whether the tether did."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._stderr.open("wb") as stderr:
                self._guest = subprocess.Popen(
                    command,
                    env={**env, "AEGIS_TETHER_FD": str(theirs.fileno())},
                    cwd=cwd,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        return Link(ours)

    @property
    def _stderr(self) -> Path:
        return self.spec.state / "guest.stderr"

    async def _ask(self, link: Link, grace: float) -> None:
        await link.call("shutdown", {"grace": grace})
        await asyncio.shield(link.closed)

    def _kill(self, guest: subprocess.Popen[bytes] | None) -> None:
        # A process of its own session that outlived the guest is found by its marks.
        left = tree.kill_tree(guest.pid if guest is not None and guest.poll() is None else None, self.spec.id)
        if guest is not None:
            guest.wait()
        if left:
            raise AegisError(ErrorKind.FAILED, f"processes {left} of `{self.spec.handle}` do not die")

    async def _failed(self, error: AegisError) -> AegisError:
        guest = self._guest
        await self.stop(0.0)
        try:
            stderr = self._stderr.read_bytes()[-_TAIL:].decode("utf-8", "replace").strip()
        except OSError:
            stderr = ""
        code = guest.returncode if guest is not None else None
        last = stderr.rsplit("\n", 1)[-1]
        text = f"the guest of `{self.spec.handle}` did not come up: {last or error.message}"
        return AegisError(ErrorKind.FAILED, text, "aegis doctor --sandbox process", stderr=stderr, exit=code)


def _enforced(spec: SandboxSpec) -> dict[str, Verdict]:
    if os.getuid() == 0:
        pids = Verdict(False, "the kernel does not apply RLIMIT_NPROC to root", "run the daemon as a user")
    else:
        pids = Verdict(True, "RLIMIT_NPROC, counted over all processes of the user")
    return {
        "memory": Verdict(False, "not enforced by the kind `process`", "use the sandbox `bwrap`"),
        "cpus": Verdict(False, "not enforced by the kind `process`", "use the sandbox `bwrap`"),
        "pids": pids,
    }


def _wanted(spec: SandboxSpec, name: str) -> bool:
    value = {"memory": spec.limits.memory_bytes, "cpus": spec.limits.cpus, "pids": spec.limits.pids}[name]
    return value is not None
