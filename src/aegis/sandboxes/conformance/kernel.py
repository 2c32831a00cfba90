"""What of the kernel must not be usable from inside: its files, its privileged calls, its odd sockets; and the guest itself."""

from __future__ import annotations

import asyncio
import errno
import json
import platform
import socket
from typing import Final

from aegis.sandboxes import seccomp, tree
from aegis.sandboxes.conformance.scratch import Scratch, Skipped, Trial, expect

#: Tries each [name, number, arguments...] and prints the errno of each; 0 for a call that worked.
_CALLS = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
done = {}
for name, number, *arguments in json.loads(sys.argv[1]):
    ctypes.set_errno(0)
    converted = [ctypes.c_char_p(a.encode()) if isinstance(a, str) else ctypes.c_long(a) for a in arguments]
    done[name] = 0 if libc.syscall(ctypes.c_long(number), *converted) >= 0 else ctypes.get_errno()
print(json.dumps(done))
"""
_WRITABLE = """
import os, sys
for path in sys.argv[1:]:
    try: os.close(os.open(path, os.O_WRONLY)); print(path)
    except OSError: pass
"""
_GADGETS = (
    *("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/overcommit_memory", "/proc/sys/net/ipv4/ip_forward"),
    *("/proc/sysrq-trigger", "/proc/kcore", "/proc/1/oom_score_adj", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent"),
    *("/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/vda", "/dev/sda", "/dev/net/tun"),
)
_FAMILIES = """
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps([f for f in range(64) if libc.socket(f, 1, 0) >= 0 or libc.socket(f, 2, 0) >= 0 or libc.socket(f, 3, 0) >= 0]))
"""
_GUEST = """
import ctypes, json, os, sys
guest = int(sys.argv[1]); ptrace, readv, getfd = json.loads(sys.argv[2])
got = []
for name in ('mem', 'environ', 'maps', 'auxv'):
    try:
        if open(f'/proc/{guest}/{name}', 'rb').read(16): got.append(name)
    except OSError: pass
for name in ('fd', 'map_files'):
    try: os.listdir(f'/proc/{guest}/{name}'); got.append(name)
    except OSError: pass
for name in ('root', 'cwd', 'exe'):
    try: os.readlink(f'/proc/{guest}/{name}'); got.append(name)
    except OSError: pass
libc = ctypes.CDLL(None, use_errno=True)
L = ctypes.c_long
if libc.syscall(L(ptrace), L(16), L(guest), L(0), L(0)) >= 0: got.append('ptrace')
buffer = ctypes.create_string_buffer(16)
iov = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 16)
if libc.syscall(L(readv), L(guest), iov, L(1), iov, L(1), L(0)) >= 0: got.append('process_vm_readv')
pidfd = os.pidfd_open(guest)
for n in range(3, 32):
    if libc.syscall(L(getfd), L(pidfd), L(n), L(0)) >= 0: got.append(f'pidfd_getfd {n}')
print(json.dumps(got))
"""


def _number(name: str) -> int:
    column = seccomp.MACHINES[platform.machine()].column
    number = seccomp.SYSCALLS[name][column]
    assert number is not None
    return number


async def _kernel_files(scratch: Scratch) -> str:
    box = await scratch.shared()
    found = (await box.says(_WRITABLE, *_GADGETS)).split()
    expect(not found, f"writable inside: {', '.join(found)}")
    return ""


async def _attributes(scratch: Scratch) -> str:
    box = await scratch.shared()
    status = dict(line.partition(":\t")[::2] for line in (await box.run(["cat", "/proc/self/status"])).out.splitlines())
    caps = {name: value for name, value in status.items() if name.startswith("Cap") and int(value, 16)}
    expect(not caps, f"capabilities: {caps}")
    expect(status["NoNewPrivs"] == "1", "new privileges can be gained")
    expect(status["Seccomp"] == "2", "no system call filter")
    expect("0" not in status["Uid"].split(), "it runs as uid 0 inside")
    outside = await asyncio.to_thread(_host_uids, box.sandbox.spec.id)
    expect(0 not in outside, "it runs as uid 0 of the host")
    return f"uid {', '.join(map(str, sorted(outside)))} on the host"


def _host_uids(instance: str) -> set[int]:
    found = set()
    for pid in tree.marked(instance):
        try:
            with open(f"/proc/{pid}/status") as file:
                found |= {int(uid) for line in file if line.startswith("Uid:") for uid in line.split()[1:]}
        except OSError:
            continue
    return found


async def _system_calls(scratch: Scratch) -> str:
    if platform.machine() not in seccomp.MACHINES:
        raise Skipped(f"no system call table for {platform.machine()}")
    box = await scratch.shared()
    new_user, new_net = 0x10000000, 0x40000000
    calls: list[list[str | int]] = [
        ["unshare a user namespace", _number("unshare"), new_user],
        ["unshare a network namespace", _number("unshare"), new_net],
        ["clone into a user namespace", _number("clone"), new_user | 17, 0, 0, 0, 0],
        ["clone3", _number("clone3"), 0, 0],
        ["setns", _number("setns"), 0, 0],
        ["mount", _number("mount"), "none", "/run", "tmpfs", 0, 0],
        ["fsopen", _number("fsopen"), "tmpfs", 0],
        ["open_tree", _number("open_tree"), -100, "/run", 1],
        ["pivot_root", _number("pivot_root"), "/", "/"],
        ["chroot", _number("chroot"), "/run"],
        ["ptrace", _number("ptrace"), 0, 0, 0, 0],
        ["bpf", _number("bpf"), 0, 0, 0],
        ["keyctl", _number("keyctl"), 0, -1, 0],
        ["add_key", _number("add_key"), "user", "x", "y", 1, -3],
        ["io_uring_setup", _number("io_uring_setup"), 1, 0],
        ["perf_event_open", _number("perf_event_open"), 0, 0, -1, -1, 0],
        ["userfaultfd", _number("userfaultfd"), 1],
        ["personality", _number("personality"), 0x0040000],
        ["kexec_load", _number("kexec_load"), 0, 0, 0, 0],
        ["finit_module", _number("finit_module"), 0, "", 0],
        ["reboot", _number("reboot"), 0, 0, 0, 0],
    ]
    done: dict[str, int] = json.loads(await box.says(_CALLS, json.dumps(calls)))
    allowed = [name for name, number in done.items() if number not in {errno.EPERM, errno.ENOSYS, errno.EACCES}]
    expect(not allowed, f"not refused: {', '.join(allowed)}")
    return f"{len(done)} refused"


async def _terminal(scratch: Scratch) -> str:
    box = await scratch.shared()
    script = (
        "import fcntl, os\na, b = os.openpty()\nfor r in (0x5412, 0x541C):\n"
        " try: fcntl.ioctl(b, r, b'x'); print(hex(r))\n except OSError: pass"
    )
    found = await box.says(script)
    expect(not found, f"a terminal can be typed into: {found}")
    return ""


async def _lending(scratch: Scratch) -> str:
    box = await scratch.shared()
    script = (
        "import os\nopen('lent', 'w').write('#!/bin/sh')\n"
        "for m in (0o4755, 0o2755):\n try: os.chmod('lent', m)\n except OSError: pass\n"
        "try: os.close(os.open('lent2', os.O_CREAT | os.O_WRONLY, 0o4755))\nexcept OSError: pass"
    )
    await box.says(script)
    lent = [p.name for p in (scratch.workspace / "lent", scratch.workspace / "lent2") if p.exists() and p.stat().st_mode & 0o6000]
    expect(not lent, f"files that lend their owner's rights were made: {lent}")
    return ""


async def _families(scratch: Scratch) -> str:
    found = json.loads(await (await scratch.shared()).says(_FAMILIES))
    allowed = {int(f) for f in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)}
    expect(set(found) <= allowed, f"socket families {sorted(set(found) - allowed)} can be used")
    return ""


async def _guest(scratch: Scratch) -> str:
    box = await scratch.shared()
    guest = (await box.link.hello(1.0))["pid"]
    numbers = [_number("ptrace"), _number("process_vm_readv"), _number("pidfd_getfd")]
    got = json.loads(await box.says(_GUEST, str(guest), json.dumps(numbers)))
    expect(not got, f"of the guest a child gets: {', '.join(got)}")
    return ""


async def _nested(scratch: Scratch) -> str:
    box = await scratch.shared()
    ran = await box.run(["sh", "-c", "command -v bwrap unshare"])
    tools = ran.out.split()
    if not tools:
        raise Skipped("neither bwrap nor unshare is inside")
    bwraps = ("bwrap --ro-bind / / --dev /dev true", "bwrap --unshare-all --ro-bind / / true")
    for command in (*bwraps, "unshare -Ur true", "unshare -n true", "unshare -m true"):
        if any(tool.endswith("/" + command.split()[0]) for tool in tools):
            expect((await box.run(["sh", "-c", command])).code != 0, f"`{command}` works")
    return ""


TRIALS: Final = (
    Trial("files of the kernel", True, _kernel_files),
    Trial("user, capabilities, filter", True, _attributes),
    Trial("system calls", True, _system_calls),
    Trial("terminal injection", True, _terminal),
    Trial("files that lend rights", True, _lending),
    Trial("socket families", True, _families),
    Trial("memory and descriptors of the guest", True, _guest),
    Trial("nested sandboxes", True, _nested),
)
