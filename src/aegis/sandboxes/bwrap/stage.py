"""The thread that starts sandboxes, and where their sources stand while they start.

Every bwrap is a child of this one thread, which lives as long as its owner: the death signal that ties a sandbox to the
daemon fires when the *thread* that started it ends.

When the daemon is root, the sandbox runs as a private user who may reach nothing of the host. So the thread has a mount
namespace of its own with a staging directory open to all, in which the sources of one sandbox are mounted, mapped to its
private user, from just before bwrap starts until the guest has said hello. Sources are opened and checked in the host's
namespace first and travel by descriptor, so the path that was checked is the thing that is mounted. For an ordinary user
sources are used where they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from aegis.core.errors import AegisError, ErrorKind
from aegis.sandboxes.bwrap import idmap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_T = TypeVar("_T")
#: Users that no distribution and no container tool hands out (systemd's containers end just below).
FIRST_PRIVATE_ID: Final = 0x70000000
_LAST_PRIVATE_ID: Final = 0x7FFDFFFF
#: Covered in the thread's own namespace only. It exists on every Linux, and no source is looked up there.
_STAGING: Final = "/tmp"  # noqa: S108
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


def private_id(index: int) -> int | None:
    """The host user and group of sandbox number `index` when this daemon is root, else None: the daemon's own."""
    if os.geteuid() != 0:
        return None
    if not 0 <= index <= _LAST_PRIVATE_ID - FIRST_PRIVATE_ID:
        raise AegisError(ErrorKind.INTERNAL, f"sandbox number {index} has no private user")
    return FIRST_PRIVATE_ID + index


class Source(NamedTuple):
    """A directory or file of the host to be shown inside."""

    path: Path
    mapped: bool  # its owner becomes the private user; else the mode bits for others decide
    required: bool = True  # refuse where it cannot be mapped, else show it unmapped


class Staged:
    """The sources of one sandbox, opened. `paths` are what bwrap must name, in the order given; `close` when started or failed."""

    def __init__(self, stage: Stage, directory: str, trees: list[int], paths: list[str]) -> None:
        self.paths = paths
        self._stage = stage
        self._directory = directory
        self._trees = trees

    def attach(self) -> None:
        """Mount them. In the stage's thread."""
        if not self._trees:
            return
        os.mkdir(self._directory, 0o711)
        idmap.make_staging(self._directory)
        for tree, path in zip(self._trees, self.paths, strict=True):
            if os.path.isdir(f"/proc/self/fd/{tree}"):
                os.mkdir(path)
            else:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
            idmap.attach(tree, path)

    async def close(self) -> None:
        """Unmount and forget them; the sandbox keeps its own copies."""
        trees, self._trees = self._trees, []
        for tree in trees:
            os.close(tree)
        if trees:
            await self._stage.call(self._detach)

    def _detach(self) -> None:
        idmap.detach(self._directory)
        with contextlib.suppress(OSError):
            os.rmdir(self._directory)


class Stage:
    """The thread. One per kind, for the life of the daemon."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="aegis-stage")
        self._entered = False

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run `work` in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def prepare(self, name: str, sources: Iterable[Source], private: int | None) -> Staged:
        """Open `sources` for the private user, or leave them where they are when there is none.

        Raises AegisError(UNAVAILABLE), naming the file system, when one that must be mapped cannot be.
        """
        listed = list(sources)
        if private is None:
            return Staged(self, "", [], [str(source.path) for source in listed])
        opening = asyncio.ensure_future(asyncio.to_thread(_open_all, listed, private))
        try:
            trees = await asyncio.shield(opening)
        except asyncio.CancelledError:
            for tree in await opening:
                os.close(tree)
            raise
        directory = f"{_STAGING}/{name}"
        return Staged(self, directory, trees, [f"{directory}/{number}" for number in range(len(trees))])

    async def start(
        self,
        staged: Staged,
        argv: list[str],
        *,
        private: int | None,
        pass_fds: list[int],
        env: dict[str, str],
        output: int,
        begun: Callable[[int], None] = lambda _pid: None,
    ) -> subprocess.Popen[bytes]:
        """Start `argv` as the private user, with what is staged in its view; what it says goes to the descriptor `output`.

        `begun` is called with its pid at once, in the thread: moving a process to a control group takes the kernel 7 ms.
        """
        user: dict[str, Any] = {} if private is None else {"user": private, "group": private, "extra_groups": []}

        def run() -> subprocess.Popen[bytes]:
            if private is not None and not self._entered:
                idmap.leave_mount_namespace(_STAGING)
                self._entered = True
            staged.attach()
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            process = subprocess.Popen(argv, cwd="/", umask=0o022, pass_fds=pass_fds, env=env, **streams, **user)
            try:
                begun(process.pid)
            except BaseException:
                process.kill()
                process.wait()
                raise
            return process

        return await self.call(run)


def exit_of(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """Resolves with the exit code when `process` has ended, and reaps it. Nothing polls."""
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[int] = loop.create_future()
    pidfd = os.pidfd_open(process.pid)

    def ended() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        exited.set_result(process.wait())

    loop.add_reader(pidfd, ended)
    return exited


def _open_all(sources: list[Source], private: int) -> list[int]:
    """A copied and mapped tree for each source, opened in the host's own mount namespace."""
    with contextlib.ExitStack() as stack:
        namespaces: dict[tuple[int, int], int] = {}
        trees = contextlib.ExitStack()
        with trees:
            opened = []
            for source in sources:
                fd = os.open(source.path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
                stack.callback(os.close, fd)
                if (opened_path := os.readlink(f"/proc/self/fd/{fd}")) != str(source.path):
                    text = f"{source.path} leads to {opened_path} by now"
                    raise AegisError(ErrorKind.DENIED, text, "see who else works there, then start it again")
                tree = idmap.clone_tree(fd)
                trees.callback(os.close, tree)
                opened.append(tree)
                if source.mapped:
                    owner = os.fstat(fd)
                    key = (owner.st_uid, owner.st_gid)
                    if key not in namespaces:
                        namespaces[key] = idmap.user_namespace(*key, private)
                        stack.callback(os.close, namespaces[key])
                    _map(source, tree, namespaces[key])
            trees.pop_all()
            return opened


def _map(source: Source, tree: int, namespace: int) -> None:
    try:
        idmap.apply(tree, namespace)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if source.required:
            raise AegisError(
                ErrorKind.UNAVAILABLE,
                f"{source.path} is on {_file_system(source.path)}, or has a file system below it, that cannot map its owner",
                "run the daemon as the owner of the files instead of root, or move them to ext4, xfs or btrfs",
            ) from error


def _file_system(path: Path) -> str:
    """The type of the file system `path` is on, as /proc/self/mountinfo names it."""
    best, kind = "", "an unknown file system"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].encode().decode("unicode_escape")
        if len(point) >= len(best) and path.is_relative_to(point):
            best, kind = point, right.split(" ", 1)[0]
    return kind
