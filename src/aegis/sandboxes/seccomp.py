"""The system call filter of a sandbox, as classic BPF generated here; no library is needed.

Allowed by default up to the last call this table knows, because what developers run inside is not ours to list; refused by
name is what attacks the kernel or the walls of the sandbox; calls newer than the table answer ENOSYS, so that a new kernel
never widens the sandbox and programs fall back as they do on an old kernel. Calls of a foreign architecture (x32 and i386
on x86_64) kill the process.

Not covered: arguments behind pointers (`clone3`, `openat2` therefore answer ENOSYS; the C library and language runtimes
fall back to `clone` and `openat`).
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import struct
from typing import Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind

KILL: Final = 0x80000000  # SECCOMP_RET_KILL_PROCESS
ALLOW: Final = 0x7FFF0000  # SECCOMP_RET_ALLOW
_ERRNO: Final = 0x00050000  # SECCOMP_RET_ERRNO

# struct seccomp_data: int nr; u32 arch; u64 ip; u64 args[6]. Only low words are looked at: the kernel truncates these
# arguments to 32 bits itself, so comparing all 64 would be a way around.
_NR, _ARCH, _ARGS = 0, 4, 16

_LD, _JEQ, _JGT, _JGE, _JSET, _RET = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06

_X32_BIT: Final = 0x40000000
#: The newest call number known (file_setattr); both tables are equal from 424 on.
_NEWEST: Final = 469

#: name -> numbers on (x86_64, aarch64); None where the call does not exist.
SYSCALLS: Final[dict[str, tuple[int | None, int | None]]] = {
    "_sysctl": (156, None),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chmod": (90, None),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "creat": (85, None),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_kernel_syms": (177, None),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listmount": (458, 458),
    "lookup_dcookie": (212, 18),
    "migrate_pages": (256, 238),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "nfsservctl": (180, 42),
    "open": (2, None),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "query_module": (178, None),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "statmount": (457, 457),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, None),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "ustat": (136, None),
    "vhangup": (153, 58),
}

#: Answered with ENOSYS, so that callers fall back to what can be checked.
UNCHECKABLE: Final = frozenset({"clone3", "openat2"})
#: Looked at by argument, below.
CONDITIONAL: Final = frozenset(
    "chmod clone creat fchmod fchmodat fchmodat2 ioctl mknod mknodat open openat personality socket socketpair".split()
)
#: Refused with EPERM, whatever the arguments.
REFUSED: Final = frozenset(SYSCALLS) - UNCHECKABLE - CONDITIONAL

#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. (clone() has its exit signal where NEWTIME would be.)
NEW_NAMESPACES: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE: Final = 0
#: TIOCSTI types into a terminal, TIOCLINUX pastes into a console, TIOCSETD loads line disciplines.
_TTY_IOCTLS: Final = (0x5412, 0x541C, 0x5423)
#: S_ISUID | S_ISGID: files made in the workspace belong to a person on the host; none may lend its owner's rights.
_LENDING_BITS: Final = 0o6000
_O_CREAT: Final = 0o100
#: O_TMPFILE without the O_DIRECTORY bit it contains, which aarch64 numbers differently.
_O_TMPFILE: Final = 0o20000000
#: personality: leave it alone, or ask.
_PERSONALITIES: Final = (0x00000000, 0xFFFFFFFF)

# Which argument holds the mode; and the flags that say a mode is meant.
_MODE_ARGUMENT: Final = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1, "mknod": 1, "mknodat": 2}
_OPEN_ARGUMENTS: Final = {"open": (1, 2), "openat": (2, 3)}


class Machine(NamedTuple):
    """What differs between processors: the audit number, the column of the table, whether x32 exists."""

    audit: int
    column: int
    x32: bool


MACHINES: Final = {"x86_64": Machine(0xC000003E, 0, True), "aarch64": Machine(0xC00000B7, 1, False)}

_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def _refuse(number: int) -> int:
    return _ERRNO | number


def _argument(index: int) -> _Instruction:
    return (_LD, 0, 0, _ARGS + 8 * index)


def _ret(value: int) -> _Instruction:
    return (_RET, 0, 0, value)


def _one_of(values: tuple[int, ...], if_found: int, otherwise: int) -> list[_Instruction]:
    """Compare the accumulator with each of `values`."""
    count = len(values)
    compare = [(_JEQ, count - i, 0, value) for i, value in enumerate(values)]
    return [*compare, _ret(otherwise), _ret(if_found)]


def _any_bit(mask: int, if_set: int, otherwise: int) -> list[_Instruction]:
    return [(_JSET, 0, 1, mask), _ret(if_set), _ret(otherwise)]


def _condition(name: str) -> list[_Instruction]:
    """The body that decides one call by its arguments; every path returns."""
    denied = _refuse(errno.EPERM)
    if name in _MODE_ARGUMENT:
        return [_argument(_MODE_ARGUMENT[name]), *_any_bit(_LENDING_BITS, denied, ALLOW)]
    if name in _OPEN_ARGUMENTS:
        flags, mode = _OPEN_ARGUMENTS[name]
        return [
            _argument(flags),
            (_JSET, 1, 0, _O_CREAT | _O_TMPFILE),
            _ret(ALLOW),
            _argument(mode),
            *_any_bit(_LENDING_BITS, denied, ALLOW),
        ]
    if name == "clone":
        return [_argument(0), *_any_bit(NEW_NAMESPACES, denied, ALLOW)]
    if name == "ioctl":
        return [_argument(1), *_one_of(_TTY_IOCTLS, denied, ALLOW)]
    if name == "personality":
        return [_argument(0), *_one_of(_PERSONALITIES, ALLOW, denied)]
    if name == "socketpair":
        return [_argument(0), *_one_of((AF_UNIX,), ALLOW, _refuse(errno.EAFNOSUPPORT))]
    assert name == "socket"
    return [
        _argument(0),
        (_JEQ, 0, 3, AF_NETLINK),
        _argument(2),
        (_JEQ, 0, 1, _NETLINK_ROUTE),
        _ret(ALLOW),
        # Netlink with another protocol falls through: its family is not in the list.
        (_LD, 0, 0, _ARGS),
        *_one_of((AF_UNIX, AF_INET, AF_INET6), ALLOW, _refuse(errno.EAFNOSUPPORT)),
    ]


def instructions(machine: str) -> list[_Instruction]:
    """The filter for `machine` (as `platform.machine()` names it). Raises AegisError(UNAVAILABLE) for one without a table."""
    try:
        audit, column, x32 = MACHINES[machine]
    except KeyError:
        raise AegisError(ErrorKind.UNAVAILABLE, f"no system call table for the processor {machine}", "use the sandbox `process`") from None
    program: list[_Instruction] = [(_LD, 0, 0, _ARCH), (_JEQ, 1, 0, audit), _ret(KILL), (_LD, 0, 0, _NR)]
    if x32:
        program += [(_JGE, 0, 1, _X32_BIT), _ret(KILL)]
    program += [(_JGT, 0, 1, _NEWEST), _ret(_refuse(errno.ENOSYS))]
    for names, action in ((REFUSED, errno.EPERM), (UNCHECKABLE, errno.ENOSYS)):
        for number in sorted(n for name in names if (n := SYSCALLS[name][column]) is not None):
            program += [(_JEQ, 0, 1, number), _ret(_refuse(action))]
    for name in sorted(CONDITIONAL):
        conditional = SYSCALLS[name][column]
        if conditional is not None:
            body = _condition(name)
            program += [(_JEQ, 0, len(body), conditional), *body]
    return [*program, _ret(ALLOW)]


@functools.cache
def program(machine: str) -> bytes:
    """The filter as the kernel reads it: an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions(machine))


def memfd() -> int:
    """A fresh descriptor that holds the filter, at offset 0. One per start: who reads it moves the offset. The caller closes it."""
    fd = os.memfd_create("aegis-seccomp", os.MFD_CLOEXEC)
    os.write(fd, program(platform.machine()))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
