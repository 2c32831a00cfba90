"""Idmapped mounts by raw system calls: a directory shown with its owner exchanged for another user.

On disk nothing changes. Through the mount, files of the one owner (and group) appear as the private user's, and what the
private user makes there is written down as the owner's. Everything here needs root in the first user namespace and
Linux 5.12; all functions raise OSError as the kernel answered.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import struct
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
#: Keeps the interpreter's lock during the call, so that the copy made by clone() has it and can go on.
_locked_libc = ctypes.PyDLL(None, use_errno=True)

_SYS_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_IDMAP = 0x00100000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_SLAVE = 2, 4, 8, 16384, 1 << 19
_MNT_DETACH = 2
_WAIT_ANY_CLONE = 0x40000000  # __WALL: the copy announces its end by no signal


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _syscall(what: str, number: int, *arguments: int | bytes) -> int:
    converted = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *converted), what)


def user_namespace(uid: int, gid: int, private: int) -> int:
    """A descriptor of a user namespace in which `uid` and `gid` stand for the host's `private`. The caller closes it.

    The namespace is born with a copy of this process that lives for a millisecond and never runs anything but a wait:
    it could not safely do more, since other threads may have held any lock.
    """
    pid = _locked_libc.syscall(ctypes.c_long(_SYS_CLONE[platform.machine()]), ctypes.c_long(_CLONE_NEWUSER), 0, 0, 0, 0)
    if pid == 0:
        while True:
            _locked_libc.pause()
    _check(pid, "clone")
    try:
        for name, ident in (("uid_map", uid), ("gid_map", gid)):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(f"{ident} {private} 1")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, _WAIT_ANY_CLONE)


def clone_tree(fd: int) -> int:
    """A copy, attached nowhere, of what is mounted at the open file `fd` and below. Works in the mount namespace `fd` is of."""
    return _syscall("open_tree", _SYS_OPEN_TREE, fd, b"", _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | _AT_RECURSIVE)


def apply(tree: int, namespace: int) -> None:
    """Map ids of the copied tree as `namespace` does. EINVAL where the file system cannot."""
    attributes = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
    _syscall("mount_setattr", _SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes, len(attributes))


def attach(tree: int, path: str) -> None:
    """Mount the copied tree at `path` in this thread's mount namespace."""
    _syscall("move_mount", _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)


def detach(path: str) -> None:
    """Take away what is mounted at `path` and below; namespaces made meanwhile keep their copies. Nothing there is no error."""
    with contextlib.suppress(OSError):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), "umount2")


def leave_mount_namespace(staging: str) -> None:
    """Give this thread a mount namespace of its own, with an empty file system over the directory `staging`.

    Mounts that the host makes later appear (so that it can also unmount them); none made here is seen outside.
    """
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None), "mount / as a slave")
    make_staging(staging)


def make_staging(path: str) -> None:
    """Mount a small empty file system at `path`, which anyone may pass through; `detach` takes all that is attached in it along."""
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(_libc.mount(b"aegis", os.fsencode(path), b"tmpfs", flags, b"mode=0711,size=1m"), f"mount a tmpfs at {path}")
