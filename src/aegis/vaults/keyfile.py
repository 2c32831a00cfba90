"""Keys in files of their own, 0600: made whole or not at all, and not believed when somebody else could have had them."""

from __future__ import annotations

import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES: Final = 32


def read_key(path: Path, what: str) -> bytes:
    """The key in `path`; `what` names it for people, such as "master key".

    FileNotFoundError when there is none, AegisError(UNAVAILABLE) when the file is not fit to be trusted.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AegisError(ErrorKind.UNAVAILABLE, f"the {what} {path} cannot be read: {error.strerror}", f"see `ls -l {path}`") from None
    try:
        _check_file(path, what, os.fstat(fd))
        key = os.read(fd, KEY_BYTES + 1)
    finally:
        os.close(fd)
    if len(key) != KEY_BYTES:
        raise AegisError(ErrorKind.UNAVAILABLE, f"the {what} {path} does not hold {KEY_BYTES} bytes", "restore the file from a copy")
    return key


def _check_file(path: Path, what: str, about: os.stat_result) -> None:
    """Refuse a file that somebody else could have written or read."""
    if not stat.S_ISREG(about.st_mode):
        raise AegisError(ErrorKind.UNAVAILABLE, f"the {what} {path} is not a regular file", "put the key file back")
    if about.st_uid != os.geteuid():
        raise AegisError(ErrorKind.UNAVAILABLE, f"the {what} {path} belongs to uid {about.st_uid}", f"chown {os.geteuid()} {path}")
    if about.st_mode & 0o077:
        mode = stat.S_IMODE(about.st_mode)
        raise AegisError(ErrorKind.UNAVAILABLE, f"the {what} {path} is open to others (mode {mode:04o})", f"chmod 600 {path}")


def create_key(path: Path, what: str, key: bytes | None = None) -> bytes:
    """Put a new key, or the one given, into `path`, 0600, all of it or nothing, on disk; if somebody else was first, the key is theirs.

    Raises AegisError(UNAVAILABLE) when the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    key = secrets.token_bytes(KEY_BYTES) if key is None else key
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(fd)
        os.link(partial, path)  # unlike a rename, fails when the file is there
        sync(path.parent)
    except FileExistsError:
        return read_key(path, what)
    except OSError as error:
        raise AegisError(
            ErrorKind.UNAVAILABLE, f"the {what} {path} cannot be made: {error.strerror}", "make the home writable, or free some space"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return key


def sync(folder: Path) -> None:
    """Have the names in a folder on disk."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
