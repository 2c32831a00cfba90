"""One writing daemon per home: an exclusive lock that dies with its holder.

The lock is the kernel's, on `<database>.lock`, so a killed daemon leaves nothing to clean up. The file stays; it holds the
pid of the last holder, for the message.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from aegis.core.errors import AegisError, ErrorKind
from aegis.store.sqlite import reported

if TYPE_CHECKING:
    from pathlib import Path


class Lock:
    """The right to write one database. Held from construction until `release`."""

    def __init__(self, database: Path) -> None:
        """Take the lock. Raises `AegisError`: conflict when another process has it, unavailable when there is no place for it."""
        path = database.with_name(database.name + ".lock")
        with reported(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with reported(path):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise AegisError(
                ErrorKind.CONFLICT,
                f"another daemon{f' (pid {pid})' if pid else ''} already serves {database.parent}",
                "use that one, or set AEGIS_HOME to another directory",
                pid=int(pid) if pid.isdecimal() else None,
            ) from None
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._fd)
