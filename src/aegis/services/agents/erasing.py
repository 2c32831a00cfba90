"""Removing what an agent wrote: a HOME of any depth, with any permissions, without following a link out of it.

`shutil.rmtree` recurses, and a program can nest directories deeper than Python can call itself. Here every directory that is
found is first moved up to the top, so nothing is ever deeper than two levels and two descriptors are open.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def erase(path: Path) -> None:
    """Remove the directory `path` and all in it, as far as the system lets this user; takes long for many files. Never raises OSError."""
    with contextlib.suppress(OSError):
        top = os.open(path, _FLAGS)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(top: int) -> None:
    """Remove all that is in the open directory."""
    waiting = [""]
    number = 0
    while waiting:
        name = waiting.pop()
        with contextlib.suppress(OSError):
            here = _enter(name, top) if name else os.dup(top)
            try:
                with os.scandir(here) as found:
                    entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
                for entry, is_directory in entries:
                    if is_directory and name:
                        number += 1
                        _writable(entry, here)  # the entry `..` of what moves is written to
                        with contextlib.suppress(OSError):
                            os.rename(entry, lifted := f".aegis-{os.getpid()}-{number}", src_dir_fd=here, dst_dir_fd=top)
                            waiting.append(lifted)
                    elif is_directory:
                        waiting.append(entry)
                    else:
                        with contextlib.suppress(OSError):
                            os.unlink(entry, dir_fd=here)
            finally:
                os.close(here)
            if name:
                os.rmdir(name, dir_fd=top)


def _enter(name: str, above: int) -> int:
    _writable(name, above)
    return os.open(name, _FLAGS, dir_fd=above)


def _writable(name: str, above: int) -> None:
    """Take back the right to a directory that its owner gave away."""
    with contextlib.suppress(OSError):
        about = os.stat(name, dir_fd=above, follow_symlinks=False)
        if about.st_mode & 0o700 != 0o700:
            os.chmod(name, 0o700, dir_fd=above)
