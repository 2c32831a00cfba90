"""Configuration files of others: read whole, replaced in one step, never torn, never widened.

A link is followed to the file that it names. Permissions and owner stay. A file that changed meanwhile, is write-protected or belongs
to somebody else is left alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple

from aegis.core.errors import AegisError, ErrorKind

_MOST = 64 * 1024 * 1024


class Seen(NamedTuple):
    """A file as it was read: where it really is, and what it held; `data` is None when it is not there."""

    path: Path
    data: bytes | None

    @property
    def text(self) -> str:
        """What it held. Raises USAGE when it is not UTF-8."""
        try:
            return (self.data or b"").decode()
        except UnicodeDecodeError as error:
            line = (self.data or b"").count(b"\n", 0, error.start) + 1
            told = f"{self.path} is not UTF-8 (line {line}), so it is left as it is"
            raise AegisError(ErrorKind.USAGE, told, "save it as UTF-8 first") from None


def read(path: Path, within: Path | None = None) -> Seen:
    """The file at `path`, links followed. Raises DENIED for one that leads out of `within`, USAGE for what is no file."""
    real = Path(os.path.realpath(path))
    if within is not None and not real.is_relative_to(os.path.realpath(within)):
        told = f"{path} leads out of the project, to {real}"
        raise AegisError(ErrorKind.DENIED, told, "remove the link, or use --user for your own file")
    try:
        found = real.stat()
        if not stat.S_ISREG(found.st_mode):
            raise AegisError(ErrorKind.USAGE, f"{real} is no file", "see what it is")
        if found.st_size > _MOST:
            raise AegisError(ErrorKind.TOO_LARGE, f"{real} has {found.st_size:,} bytes", "see what it is")
        return Seen(real, real.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return Seen(real, None)
    except OSError as error:
        raise AegisError(ErrorKind.DENIED, f"{real} cannot be read: {error.strerror}", "see its permissions") from error


def write(seen: Seen, text: str, *, private: bool) -> None:
    """Put `text` in the place of what was seen. `private` is for a new file: nobody else may read it.

    Raises DENIED, CONFLICT when the file changed since, UNAVAILABLE when there is no room.
    """
    path = seen.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o777)
        _replace(path, seen.data, text.encode(), private)
    except OSError as error:
        kind = ErrorKind.DENIED if isinstance(error, PermissionError) else ErrorKind.UNAVAILABLE
        raise AegisError(kind, f"{path} cannot be written: {error.strerror}", "nothing was changed; see the permissions") from error


def _replace(path: Path, before: bytes | None, data: bytes, private: bool) -> None:
    kept = path.stat() if before is not None else None
    if kept is not None:
        if not kept.st_mode & stat.S_IWUSR:
            raise AegisError(ErrorKind.DENIED, f"{path} is write-protected", "whoever made it so knows why; change it there")
        if os.geteuid() not in (0, kept.st_uid):
            raise AegisError(ErrorKind.DENIED, f"{path} belongs to somebody else", "run this as its owner")
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if kept is not None:
                if (kept.st_uid, kept.st_gid) != (os.geteuid(), os.getegid()):
                    with contextlib.suppress(PermissionError):  # a group that is not ours; the mode below still holds
                        os.fchown(descriptor, kept.st_uid, kept.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(kept.st_mode))
            elif not private:
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(descriptor, 0o666 & ~mask)
            os.fsync(descriptor)
        now = path.read_bytes() if path.exists() else None
        if now != before:
            raise AegisError(ErrorKind.CONFLICT, f"{path} was changed by somebody else just now", "run it again")
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
