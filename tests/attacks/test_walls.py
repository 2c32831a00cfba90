"""Out of the sandbox through the kernel: switching it off, /proc and /sys, other processes, sockets, every kind of network."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.attacks.conftest import Box

Make = Callable[..., Box]


def test_nothing_inside_switches_the_sandbox_off(box: Make) -> None:
    """Case 13."""
    a = box()
    for script in (
        "bwrap --bind / / true",
        "unshare -r true",
        "unshare -n true",
        "unshare -m true",
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /usr",
        "umount -l /workspace",
        "chroot / true",
        "nsenter -t 1 -m true",
        "su -c true",
        "echo x > /usr/x",
        "echo x > /etc/x",
        "echo x > /x",
        "echo x > /dev/x",
        "echo x > /run/aegis/lib/x",
        "mkdir /run/aegis/lib/aegis/x",
    ):
        assert a.sh(script).code != 0, script
    found = a.attempts("""
        clone3: call(435, ctypes.create_string_buffer(88), 88)
        unshare user: call(272, 0x10000000) if os.uname().machine == "x86_64" else call(97, 0x10000000)
        setns: call(308, os.open("/proc/self/ns/net", 0), 0) if os.uname().machine == "x86_64" else call(268, 3, 0)
        io_uring: call(425, 8, ctypes.create_string_buffer(120))
        bpf: call(321, 0, ctypes.create_string_buffer(64), 64) if os.uname().machine == "x86_64" else call(280, 0, 0, 64)
        open_tree: call(428, -100, b"/", 1)
        new_prctl_filter_off: call(157, 22, 0, 0, 0, 0) if os.uname().machine == "x86_64" else call(167, 22, 0)
        setuid root: os.setuid(0)
        setgroups: os.setgroups([0])
        uid_map: put("/proc/self/uid_map", b"0 0 1")
    """)
    assert "done" not in found.values(), found


def test_no_request_names_a_switch(box: Make) -> None:
    """Case 13: neither the environment of an agent nor that of a program changes what the guest is."""
    a = box()
    env = {"AEGIS_SANDBOX": "process", "AEGIS_DEFAULTS_SANDBOX": "process", "AEGIS_TETHER_FD": "0", "AEGIS_RLIMIT_CORE": "unlimited"}
    assert a.run("/bin/sh", "-c", "grep -E '^(Seccomp|NoNewPrivs)' /proc/self/status", env=env).out.split() == [
        "NoNewPrivs:",
        "1",
        "Seccomp:",
        "2",
        "Seccomp_filters:",
        "1",
    ]
    assert a.client.instances.get("a")["sandbox"] == "bwrap"


def test_proc_and_sys_tell_and_take_nothing(box: Make) -> None:
    """Case 18."""
    a = box()
    found = a.attempts("""
        core_pattern: put("/proc/sys/kernel/core_pattern", b"|/workspace/x")
        modprobe: put("/proc/sys/kernel/modprobe", b"/workspace/x")
        sysrq: put("/proc/sysrq-trigger", b"b")
        kmsg: open("/proc/kmsg", "rb").read(1)
        kcore: open("/proc/kcore", "rb").read(1)
        dev_mem: open("/dev/mem", "rb").read(1)
        dev_kmsg: open("/dev/kmsg", "rb").read(1)
        disk: open("/dev/vda", "rb").read(1)
        kvm: open("/dev/kvm", "rb")
        fuse: open("/dev/fuse", "rb")
        tun: open("/dev/net/tun", "rb")
        sys: os.listdir("/sys")
        cgroup: os.listdir("/sys/fs/cgroup")
        guest environ: open("/proc/1/environ", "rb").read()
        guest maps: open("/proc/1/maps", "rb").read()
        guest mem: open("/proc/1/mem", "rb")
        guest fds: os.listdir("/proc/1/fd")
        guest cwd: os.listdir("/proc/1/cwd")
        guest root: os.listdir("/proc/1/root")
        oom: put("/proc/self/oom_score_adj", b"-1000")
        dmesg: call(103, 3, ctypes.create_string_buffer(100), 100) if os.uname().machine == "x86_64" else call(116, 3, 0, 100)
    """)
    assert "done" not in found.values(), found
    seen = a.python(
        "import json, os; print(json.dumps([sorted(os.listdir('/proc/self/fd')), [p for p in os.listdir('/proc') if p.isdigit()]]))"
    )
    assert set(seen[0]) <= {"0", "1", "2", "3"}  # 3 is the listing itself
    assert len(seen[1]) <= 3  # the guest and this program: nothing of the host
    assert a.sh("readlink /proc/1/exe /proc/1/cwd /proc/1/ns/net").out == ""


def test_the_guest_cannot_be_taken_over(box: Make) -> None:
    """Case 18: its tether, its memory, its life."""
    a = box()
    found = a.attempts("""
        ptrace: call(101, 16, 1, 0, 0) if os.uname().machine == "x86_64" else call(117, 16, 1, 0, 0)
        process_vm_readv: call(310, 1, 0, 0, 0, 0, 0) if os.uname().machine == "x86_64" else call(270, 1, 0, 0, 0, 0, 0)
        pidfd_getfd: call(438, os.pidfd_open(1), 3, 0)
        reopen tether: os.open("/proc/1/fd/3", os.O_RDWR)
        kcmp: call(312, 1, os.getpid(), 0, 3, 3) if os.uname().machine == "x86_64" else call(272, 1, os.getpid(), 0, 3, 3)
    """)
    assert "done" not in found.values(), found
    # The first process of a pid namespace gets no signal from within that it has no handler for.
    a.sh("kill -KILL 1; kill -STOP 1; kill -SEGV 1; kill -USR1 1")
    assert a.sh("echo alive").out == "alive\n"


@pytest.fixture
def host_services() -> Iterator[tuple[int, bytes, socket.socket, list[str]]]:
    """Listeners on the host's loopback and on an abstract socket, and what they heard."""
    heard: list[str] = []
    listeners: list[socket.socket] = []
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, f"\0aegis-attack-{os.getpid()}")):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen(8)
        listeners.append(listener)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            heard.append(str(listener.getsockname()))
            peer.close()

    for listener in listeners:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
    yield listeners[0].getsockname()[1], listeners[1].getsockname(), udp, heard
    for listener in (*listeners, udp):
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        listener.close()


def test_no_network_of_any_kind(box: Make, host_services: tuple[int, bytes, socket.socket, list[str]]) -> None:
    """Cases 20 and 22: the host's loopback, names, IPv6, UDP, raw and packet sockets, abstract sockets, vsock, netlink, bluetooth."""
    port, abstract, udp, heard = host_services
    udp.setblocking(False)
    a = box()
    name = abstract.decode().lstrip("\0") if isinstance(abstract, bytes) else str(abstract).lstrip("\0")
    found = a.attempts(f"""
        host loopback: socket.create_connection(("127.0.0.1", {port}), 2)
        host loopback v6: socket.create_connection(("::1", {port}), 2)
        metadata: socket.create_connection(("169.254.169.254", 80), 2)
        outside: socket.create_connection(("192.0.2.1", 443), 2)
        outside v6: socket.create_connection(("2001:db8::1", 443), 2)
        any: socket.create_connection(("0.0.0.0", {port}), 2)
        name: socket.getaddrinfo("example.com", 80)
        resolver: socket.create_connection(("127.0.0.53", 53), 2)
        udp outside: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
        udp v6: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("2001:db8::1", 53))
        raw: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        ping: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).sendto(b"x", ("192.0.2.1", 0))
        packet: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        vsock: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        alg: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
        bluetooth: socket.socket(31, socket.SOCK_RAW)
        netlink audit: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)
        netlink wide: call(41, 16, 3, 9 | 1 << 32) if os.uname().machine == "x86_64" else call(198, 16, 3, 9 | 1 << 32)
        vsock wide: call(41, 40 | 1 << 32, 1, 0) if os.uname().machine == "x86_64" else call(198, 40 | 1 << 32, 1, 0)
        vsock pair: call(53, 40, 1, 0, ctypes.create_string_buffer(8)) if os.uname().machine == "x86_64" else call(199, 40, 1, 0, 0)
        abstract: socket.socket(socket.AF_UNIX).connect("\\0{name}")
        interface up: __import__("fcntl").ioctl(socket.socket(), 0x8914, b"lo" + bytes(38))
    """)
    assert "done" not in found.values(), found
    a.sh(f"echo x > /dev/udp/127.0.0.1/{udp.getsockname()[1]}")
    with pytest.raises(BlockingIOError):
        udp.recv(1)
    assert heard == []
    assert a.sh("ls /sys/class/net 2>/dev/null; cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '").out.split() == ["lo"]


def test_sockets_of_the_host_are_not_there(box: Make) -> None:
    """Case 20: our own control socket, and the well-known ones."""
    a = box()
    home = str(a.daemon.home)
    found = a.attempts(f"""
        control socket: socket.socket(socket.AF_UNIX).connect({home + "/aegisd.sock"!r})
        home: os.listdir({home!r})
        docker: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")
        docker run: socket.socket(socket.AF_UNIX).connect("/run/docker.sock")
        dbus: socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket")
        x11: socket.socket(socket.AF_UNIX).connect("/tmp/.X11-unix/X0")
        var: os.listdir("/var")
        user: os.listdir("/run/user")
    """)
    assert "done" not in found.values(), found
    listed = a.sh("find / -xdev -type s 2>/dev/null; env | grep -E '_SOCK|DISPLAY|DBUS|SSH_' ").out
    assert listed == ""


def test_a_program_cannot_type_into_a_terminal(box: Make) -> None:
    """Case 13: TIOCSTI and its relatives, with the high bits that a sloppy filter overlooks as well."""
    a = box()
    found = a.attempts("""
        tiocsti: __import__("fcntl").ioctl(os.openpty()[1], 0x5412, b"x")
        tiocsti wide: call(16 if os.uname().machine == "x86_64" else 29, os.openpty()[1], 0x5412 | 1 << 32, b"x")
        controlling: os.open("/dev/tty", os.O_RDWR)
    """)
    assert "done" not in found.values(), found


def test_processes_of_the_same_user_on_the_host_are_out_of_reach(box: Make) -> None:
    """A daemon of an ordinary user gives the sandbox that user's uid; the pid namespace is what stands between."""
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL)
    try:
        a = box()
        a.sh(f"kill -9 {victim.pid}; kill -9 -1")
        assert a.sh(f"ls /proc/{victim.pid}").code != 0 or victim.pid < 50  # a small number may exist inside as well
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_a_core_of_a_program_goes_nowhere(box: Make) -> None:
    """Case 18: no core file in the workspace, and the limit cannot be raised."""
    a = box()
    assert a.sh("ulimit -c; ulimit -c unlimited; kill -ABRT $$").out.splitlines()[0] == "0"
    assert list(a.workspace.iterdir()) == []
