"""Files in a directory that somebody else changes at the same time: every step by descriptor, no link is ever followed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
#: What is larger is never read: nothing that acts on a person is.
GIANT: Final = 16 * 1024 * 1024


def open_below(top: int, path: str) -> int:
    """The directory `path` below the open directory `top`, step by step. Raises OSError where a step is a link or no directory."""
    here = os.dup(top)
    try:
        for part in filter(None, path.split("/")):
            inner = os.open(part, DIRECTORY, dir_fd=here)
            os.close(here)
            here = inner
    except BaseException:
        os.close(here)
        raise
    return here


@contextlib.contextmanager
def parent_of(place: Path, path: str) -> Iterator[tuple[int, str]]:
    """The open directory that `path` below `place` stands in, and its name there."""
    top = os.open(place, DIRECTORY)
    try:
        above, _, name = path.rpartition("/")
        here = open_below(top, above)
    finally:
        os.close(top)
    try:
        yield here, name
    finally:
        os.close(here)


def read(name: str, above: int, limit: int = GIANT) -> bytes | None:
    """The bytes of a regular file; None for anything else, and for one over the limit. Raises OSError."""
    fd = os.open(name, _READ, dir_fd=above)
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size > limit:
            return None
        content = file.read(limit + 1)
    return content if len(content) <= limit else None


def digest_of(content: bytes) -> str:
    """The name that content is known by."""
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def _writable(directory: int) -> Iterator[None]:
    """Take back the right to change a directory that its owner gave away."""
    mode = stat.S_IMODE(os.fstat(directory).st_mode)
    if mode & 0o300 == 0o300:
        yield
        return
    os.fchmod(directory, mode | 0o700)
    try:
        yield
    finally:
        os.fchmod(directory, mode)


def take(above: int, name: str, into: int, mark: str) -> None:
    """Move `name` out of one open directory into another, as `content`; what it is and where a link leads does not matter.

    Across file systems it first gets the name `.aegis-MARK` where it is, by which nothing acts on it, and is removed when the copy is on
    disk. Raises OSError; then it is where it was, or under that name.
    """
    with _writable(above):
        try:
            os.rename(name, "content", src_dir_fd=above, dst_dir_fd=into)
        except OSError as error:
            if error.errno != 18:  # EXDEV
                raise
            aside = f".aegis-{mark}"
            os.rename(name, aside, src_dir_fd=above, dst_dir_fd=above)
            _copy(above, aside, into)
            os.unlink(aside, dir_fd=above)


def _copy(above: int, name: str, into: int) -> None:
    about = os.stat(name, dir_fd=above, follow_symlinks=False)
    if stat.S_ISLNK(about.st_mode):
        os.symlink(os.readlink(name, dir_fd=above), "content", dir_fd=into)
        return
    if not stat.S_ISREG(about.st_mode):  # a pipe or a device holds nothing
        os.close(os.open("content", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=into))
        return
    source = os.open(name, _READ, dir_fd=above)
    try:
        target = os.open("content", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=into)
        with open(source, "rb", closefd=False) as reads, open(target, "wb") as writes:
            while chunk := reads.read(1 << 20):
                writes.write(chunk)
            writes.flush()
            os.fsync(target)
    finally:
        os.close(source)


def put(above: int, name: str, content: bytes | str, *, mode: int, uid: int, gid: int, mark: str) -> None:
    """Make `name` in an open directory what it is to be, in one step: bytes are a file, a text is where a link leads. Raises OSError."""
    aside = f".aegis-{mark}"
    with _writable(above):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=above)
        if isinstance(content, str):
            os.symlink(content, aside, dir_fd=above)
        else:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=above)
            with open(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(fd, stat.S_IMODE(mode) & 0o777)
                if os.geteuid() == 0:
                    os.fchown(fd, uid, gid)
        if os.geteuid() == 0 and isinstance(content, str):
            os.chown(aside, uid, gid, dir_fd=above, follow_symlinks=False)
        os.rename(aside, name, src_dir_fd=above, dst_dir_fd=above)
