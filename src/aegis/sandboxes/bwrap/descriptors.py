"""What is handed to bwrap by descriptor: its arguments, small files, memory for what it says; and waiting for one."""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import Final

from aegis.core.errors import AegisError, ErrorKind

#: How much bwrap and the guest may say on stderr, bytes.
BOUND: Final = 64 * 1024
_TAIL: Final = 4096


def joined(args: list[str]) -> bytes:
    """The arguments as bwrap reads them from a descriptor; a NUL in one would begin another."""
    for arg in args:
        if "\0" in arg:
            raise AegisError(ErrorKind.USAGE, f"a NUL byte in a setting of the sandbox: {arg[:40]!r}", "remove it")
    return b"".join(os.fsencode(arg) + b"\0" for arg in args)


def memfd(content: bytes) -> int:
    """A descriptor to be read once, from the start, by the program it is given to. The caller closes it."""
    fd = os.memfd_create("aegis-bwrap", os.MFD_CLOEXEC)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def bounded_memfd() -> int:
    """Memory for what bwrap and the guest say on stderr, which cannot grow whatever they say."""
    fd = os.memfd_create("aegis-stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, BOUND)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def said(fd: int) -> str:
    """The end of what was written to a `bounded_memfd`."""
    return os.pread(fd, BOUND, 0).rstrip(b"\0")[-_TAIL:].decode(errors="replace").strip()


async def readable(fd: int, timeout: float) -> bool:
    """Wait until `fd` has something to read or has ended; False when neither happens within `timeout` seconds."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def arrived() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, arrived)
    try:
        await asyncio.wait_for(ready, timeout)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True
