"""The system call filter, run through an interpreter of classic BPF as the kernel would."""

from __future__ import annotations

import errno
import os
import platform
import struct

import pytest

from aegis.core.errors import AegisError
from aegis.sandboxes import seccomp
from aegis.sandboxes.seccomp import ALLOW, KILL, MACHINES, SYSCALLS

EPERM, ENOSYS, EAFNOSUPPORT = (0x00050000 | number for number in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))
MANY = tuple(MACHINES)


def run(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the filter answers to one call."""
    filled = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack(
        "=IIQ6Q", number & 0xFFFFFFFF, MACHINES[machine].audit if audit is None else audit, 0, *(a & (1 << 64) - 1 for a in filled)
    )
    raw = seccomp.program(machine)
    program = list(struct.iter_unpack("=HBBI", raw))
    at = accumulator = 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x20:
            assert constant % 4 == 0
            assert constant + 4 <= len(data)
            (accumulator,) = struct.unpack_from("=I", data, constant)
        elif code == 0x06:
            return constant
        else:
            holds = {
                0x15: accumulator == constant,
                0x25: accumulator > constant,
                0x35: accumulator >= constant,
                0x45: bool(accumulator & constant),
            }
            at += if_true if holds[code] else if_false


def number(machine: str, name: str) -> int:
    found = SYSCALLS[name][MACHINES[machine].column]
    if found is None:
        pytest.skip(f"{machine} has no {name}")
    return found


@pytest.mark.parametrize("machine", MANY)
def test_every_path_ends_inside_the_program(machine: str) -> None:
    program = seccomp.instructions(machine)
    assert len(program) < 4096
    for at, (code, if_true, if_false, _) in enumerate(program):
        assert code in {0x20, 0x15, 0x25, 0x35, 0x45, 0x06}
        if code not in {0x20, 0x06}:
            assert at + 1 + max(if_true, if_false) < len(program)
            assert 0 <= if_true <= 255
            assert 0 <= if_false <= 255
    assert program[-1] == (0x06, 0, 0, ALLOW)


@pytest.mark.parametrize("machine", MANY)
def test_what_is_refused_by_name(machine: str) -> None:
    column = MACHINES[machine].column
    for name in seccomp.REFUSED:
        if (found := SYSCALLS[name][column]) is not None:
            assert run(machine, found, 1, 2, 3, 4, 5, 6) == EPERM, name
    for name in seccomp.UNCHECKABLE:
        assert run(machine, number(machine, name)) == ENOSYS, name


@pytest.mark.parametrize("machine", MANY)
def test_everything_else_up_to_the_newest_is_allowed_and_nothing_beyond(machine: str) -> None:
    named = {numbers[MACHINES[machine].column] for numbers in SYSCALLS.values()}
    for found in range(470):
        if found not in named:
            assert run(machine, found, 1, 2, 3, 4, 5, 6) == ALLOW, found
    assert run(machine, 470) == ENOSYS
    assert run(machine, 1000) == ENOSYS


@pytest.mark.parametrize("machine", MANY)
def test_a_foreign_architecture_is_killed(machine: str) -> None:
    for audit in (0x40000003, 0x40000028, 0, 0xFFFFFFFF):  # i386, arm, nonsense
        assert run(machine, 1, audit=audit) == KILL


def test_x32_is_killed() -> None:
    assert run("x86_64", 0x40000000) == KILL
    assert run("x86_64", 0x40000000 | 41, 40) == KILL
    assert run("x86_64", -1) == KILL
    assert run("aarch64", 0x40000000) == ENOSYS


@pytest.mark.parametrize("machine", MANY)
@pytest.mark.parametrize("flag", [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_processes_and_threads_but_no_namespaces(machine: str, flag: int) -> None:
    clone = number(machine, "clone")
    assert run(machine, clone, 17) == ALLOW  # fork: SIGCHLD
    assert run(machine, clone, 0x003D0F00) == ALLOW  # a thread
    assert run(machine, clone, 0x4111) == ALLOW  # vfork
    assert run(machine, clone, flag | 17) == EPERM
    assert run(machine, clone, flag | 0x003D0F00) == EPERM


@pytest.mark.parametrize("machine", MANY)
def test_socket_families(machine: str) -> None:
    socket = number(machine, "socket")
    for family in range(64):
        expected = ALLOW if family in {1, 2, 10, 16} else EAFNOSUPPORT
        assert run(machine, socket, family, 1, 0) == expected, family
    assert run(machine, socket, 1 | 40 << 32, 1, 0) == ALLOW  # the kernel looks at the low word too
    assert run(machine, socket, 40 | 1 << 32, 1, 0) == EAFNOSUPPORT
    assert run(machine, socket, 16, 3, 12) == EAFNOSUPPORT  # netlink, but netfilter
    assert run(machine, socket, 16, 3, 2) == EAFNOSUPPORT
    assert run(machine, number(machine, "socketpair"), 1, 1, 0) == ALLOW
    assert run(machine, number(machine, "socketpair"), 40, 1, 0) == EAFNOSUPPORT


@pytest.mark.parametrize("machine", MANY)
@pytest.mark.parametrize("request_", [0x5412, 0x541C, 0x5423])
def test_terminals_cannot_be_typed_into(machine: str, request_: int) -> None:
    ioctl = number(machine, "ioctl")
    assert run(machine, ioctl, 0, request_) == EPERM
    assert run(machine, ioctl, 0, request_ | 1 << 32) == EPERM  # the kernel drops the high word
    assert run(machine, ioctl, 0, 0x5413) == ALLOW  # window size


@pytest.mark.parametrize("machine", MANY)
def test_personality_may_be_asked_but_not_changed(machine: str) -> None:
    personality = number(machine, "personality")
    assert run(machine, personality, 0xFFFFFFFF) == ALLOW
    assert run(machine, personality, 0) == ALLOW
    assert run(machine, personality, 0x0040000) == EPERM
    assert run(machine, personality, 0x0400000) == EPERM


@pytest.mark.parametrize("machine", MANY)
@pytest.mark.parametrize("name", ["chmod", "fchmod", "fchmodat", "fchmodat2", "mknod", "mknodat", "creat"])
def test_no_file_may_lend_its_owners_rights(machine: str, name: str) -> None:
    call = number(machine, name)
    at = 2 if name in {"fchmodat", "fchmodat2", "mknodat"} else 1  # where its mode stands
    for mode, expected in ((0o755, ALLOW), (0o1777, ALLOW), (0o4755, EPERM), (0o2755, EPERM), (0o6000, EPERM)):
        assert run(machine, call, *([0] * at), mode) == expected, (name, oct(mode))


@pytest.mark.parametrize("machine", MANY)
@pytest.mark.parametrize(("name", "flags"), [("open", 1), ("openat", 2)])
def test_open_is_judged_by_mode_only_when_it_makes_a_file(machine: str, name: str, flags: int) -> None:
    call = number(machine, name)
    before = [0] * flags
    assert run(machine, call, *before, os.O_RDONLY, 0o4755) == ALLOW  # whatever stands in the unused argument
    assert run(machine, call, *before, os.O_CREAT, 0o644) == ALLOW
    assert run(machine, call, *before, os.O_CREAT | os.O_WRONLY, 0o4755) == EPERM
    assert run(machine, call, *before, 0o20000000 | os.O_DIRECTORY, 0o2755) == EPERM


def test_a_processor_without_a_table_is_refused() -> None:
    with pytest.raises(AegisError, match="riscv64"):
        seccomp.program("riscv64")


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="no table for this processor")
def test_each_start_gets_a_descriptor_of_its_own() -> None:
    first, second = seccomp.memfd(), seccomp.memfd()
    try:
        assert os.read(first, 1 << 20) == seccomp.program(platform.machine())
        assert os.read(second, 1 << 20) == seccomp.program(platform.machine())
        assert not os.get_inheritable(first)
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs the C library's header for x86_64")
def test_the_numbers_are_those_of_the_systems_headers() -> None:
    header = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
    if not os.path.exists(header):
        pytest.skip("no kernel headers installed")
    with open(header) as file:
        known = {words[1][5:]: int(words[2]) for line in file if line.startswith("#define __NR_") and len(words := line.split()) == 3}
    wrong = {name: numbers[0] for name, numbers in SYSCALLS.items() if name in known and known[name] != numbers[0]}
    assert not wrong
