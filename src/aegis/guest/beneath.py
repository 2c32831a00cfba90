"""Files beneath one directory, reached without following any link.

A path is a list of names. Each name is opened relative to the directory before it, with `O_NOFOLLOW`, so that what was looked at is
what is used: nobody can exchange a part of the path in between, no link leads out, and no name means a directory above. What a link
leads to is told, for whoever wants to name it.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Without `O_NONBLOCK` opening a pipe would wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
#: Directories within each other that are gone through: one descriptor is open for each.
DEPTH = 200
#: Names that were begun and not finished: what is written takes the place of the old in one step.
_SCRATCH = ".aegis-writing-"


class Refused(Exception):
    """It cannot be done with this path. `kind` is one of the daemon's kinds of error, or `link`: then `link` is where one was met, and
    `target` what it says."""

    def __init__(self, kind: str, text: str, link: str = "", target: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.link = link
        self.target = target


class Root:
    """One directory. To be closed."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def folder(self, names: list[str], *, make: bool = False) -> int:
        """A descriptor of a directory beneath, the caller's own; with `make` what is missing is made. Raises Refused."""
        fd = os.dup(self._fd)
        try:
            for number, name in enumerate(check(names)):
                fd = self._step(fd, names[: number + 1], name, make)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def file(self, names: list[str]) -> int:
        """A descriptor of a regular file beneath, for reading, the caller's own. Raises Refused."""
        parent, name = self.parent(names)
        try:
            fd = os.open(name, _FILE, dir_fd=parent)
        except OSError as error:
            raise refusal(error, names, parent) from None
        finally:
            os.close(parent)
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return fd
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise Refused("usage", f"`{shown(names)}` is a directory")
        raise Refused("usage", f"`{shown(names)}` is not a regular file")

    def parent(self, names: list[str], *, make: bool = False) -> tuple[int, str]:
        """A descriptor of the directory that holds a path, the caller's own, and the name in it. Raises Refused."""
        if not names:
            raise Refused("usage", "the workspace itself is a directory, and stays")
        return self.folder(names[:-1], make=make), check(names)[-1]

    def _step(self, fd: int, names: list[str], name: str, make: bool) -> int:
        """The directory `name` in `fd`, which is closed when that worked."""
        if make:
            try:
                os.mkdir(name, dir_fd=fd)
            except FileExistsError:
                pass
            except OSError as error:
                raise refusal(error, names, fd) from None
        try:
            below = os.open(name, _FOLDER, dir_fd=fd)
        except OSError as error:
            raise refusal(error, names, fd) from None
        os.close(fd)
        return below


def check(names: list[str]) -> list[str]:
    """The names, if each can be that of an entry. Raises Refused."""
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise Refused("denied", "a path is a list of names, none of which leads up")
    return names


def refusal(error: OSError, names: list[str], parent: int) -> Refused:
    """What an error at the last of `names`, which lies in the directory `parent`, means."""
    path = shown(names)
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.EEXIST):
        try:
            return Refused("link", f"`{path}` is a symbolic link", path, os.readlink(names[-1], dir_fd=parent))
        except OSError:
            pass
    if error.errno == errno.ENOENT:
        return Refused("not_found", f"`{path}` is not there")
    if error.errno == errno.ENOTDIR:
        return Refused("usage", f"`{path}` is not a directory")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Refused("denied", f"`{path}`: {os.strerror(error.errno).lower()}")
    if error.errno == errno.ENAMETOOLONG:
        return Refused("usage", f"a name in the path is longer than files may have: `{path[:80]}`")
    return Refused("failed", f"`{path}`: {(error.strerror or str(error)).lower()}")


def shown(names: list[str]) -> str:
    """A path for people."""
    return "/".join(names) or "."


def replace(parent: int, names: list[str], data: bytes, before: os.stat_result | None) -> None:
    """Give the file `names[-1]` in the directory `parent` new content, all of it or none. Raises Refused.

    A new file takes the place of the old, so that a link to it, hard or symbolic, is never written through. `before` is what it was when
    it was read: what has changed since is left alone. None: it may be there or not.
    """
    name = names[-1]
    scratch = f"{_SCRATCH}{os.urandom(8).hex()}"
    try:
        now = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        now = None
    except OSError as error:
        raise refusal(error, names, parent) from None
    if now is not None and stat.S_ISLNK(now.st_mode):
        raise Refused("link", f"`{shown(names)}` is a symbolic link", shown(names), os.readlink(name, dir_fd=parent))
    if now is not None and not stat.S_ISREG(now.st_mode):
        what = "a directory" if stat.S_ISDIR(now.st_mode) else "not a regular file"
        raise Refused("usage", f"`{shown(names)}` is {what}")
    if before is not None and (now is None or _state(now) != _state(before)):
        raise Refused("conflict", f"`{shown(names)}` was changed meanwhile by somebody else; read it again")
    if now is not None and not os.access(name, os.W_OK, dir_fd=parent, follow_symlinks=False):
        raise Refused("denied", f"`{shown(names)}`: it is not writable")
    try:
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=parent)
        try:
            if now is not None:
                os.fchmod(fd, stat.S_IMODE(now.st_mode) & 0o777)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(scratch, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as error:
        try:
            os.unlink(scratch, dir_fd=parent)
        except OSError:
            pass
        raise refusal(error, names, parent) from None


def _state(of: os.stat_result) -> tuple[int, int, int, int]:
    return of.st_dev, of.st_ino, of.st_mtime_ns, of.st_size


def entries(fd: int) -> list[os.DirEntry[str]]:
    """What is in a directory, by name; nothing when it cannot be read."""
    try:
        with os.scandir(fd) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []


def regular(fd: int, name: str) -> int | None:
    """A descriptor of a regular file in the directory `fd`, the caller's own; None when it is none, or cannot be read."""
    try:
        found = os.open(name, _FILE, dir_fd=fd)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(found).st_mode):
        return found
    os.close(found)
    return None


def walk(
    fd: int, skipped: frozenset[str], names: tuple[str, ...] = (), *, deep: int = DEPTH
) -> Iterator[tuple[int, tuple[str, ...], os.DirEntry[str]]]:
    """Everything below the directory `fd`: the directory that holds it, its path from `fd`, and the entry. No link is followed.

    Directories called as one of `skipped` are told of and not entered; nothing is entered that is `deep` directories down.
    """
    for entry in entries(fd):
        path = (*names, entry.name)
        yield fd, path, entry
        if entry.name in skipped or len(path) >= deep or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            below = os.open(entry.name, _FOLDER, dir_fd=fd)
        except OSError:
            continue
        try:
            yield from walk(below, skipped, path, deep=deep)
        finally:
            os.close(below)


def remove(parent: int, name: str, names: list[str], depth: int = 0) -> int:
    """Remove an entry of the directory `parent` and all below it; returns how many. Links are removed, not followed. Raises Refused."""
    if depth >= DEPTH:
        raise Refused("failed", f"`{shown(names)}` is too deep to be removed; use a command")
    try:
        fd = os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise refusal(error, names, parent) from None
        try:
            os.unlink(name, dir_fd=parent)
        except OSError as failed:
            raise refusal(failed, names, parent) from None
        return 1
    try:
        count = sum(remove(fd, entry.name, [*names, entry.name], depth + 1) for entry in entries(fd))
    finally:
        os.close(fd)
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        raise refusal(error, names, parent) from None
    return count + 1
