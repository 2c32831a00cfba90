"""Trees of processes, as /proc shows them: finding, measuring, freezing and killing them.

Freezing goes before killing: a process that is stopped cannot fork, so walking and stopping until nothing new turns up
catches a tree that grows faster than it is walked. Members that left the tree (by a double fork) are found by their session
or by a variable in their environment, where those still tell.

Used on both ends: by the guest for what it started, by the daemon for kinds of sandbox that have no cgroup.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    type_table = dict[int, "Process"]

_SIGKILL, _SIGCONT, _SIGSTOP = 9, 18, 19
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: The most walks of one freeze; each finds at least one new process or waits 1 ms, so only a fork bomb gets here.
_WALKS = 500


class Process:
    """One line of /proc/PID/stat, at the moment it was read."""

    __slots__ = ("cpu_seconds", "parent", "pid", "rss_bytes", "session", "started", "state", "threads")

    def __init__(self, pid: int, fields: list[bytes]) -> None:
        self.pid = pid
        self.state = fields[0].decode("ascii")
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.cpu_seconds = sum(map(int, fields[11:15])) / _TICKS  # its own and that of its reaped children
        self.threads = int(fields[17])
        self.started = int(fields[19])  # ticks since boot; with the pid it names a process for ever
        self.rss_bytes = int(fields[21]) * _PAGE


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 65536)
        while len(data) % 4096 == 0 and data:  # most files of /proc come whole
            more = os.read(fd, 65536)
            if not more:
                break
            data += more
        return data
    finally:
        os.close(fd)


def process(pid: int) -> Process | None:
    """The process `pid`, or None when there is none."""
    try:
        line = _read(f"/proc/{pid}/stat")
        return Process(pid, line[line.rindex(b")") + 2 :].split())
    except (OSError, ValueError, IndexError):
        return None


def table() -> type_table:
    """All processes that /proc shows."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            one = process(int(name))
            if one is not None:
                found[one.pid] = one
    return found


def descendants(processes: type_table, roots: Iterable[int]) -> list[int]:
    """The pids below `roots`, without the roots, parents before children."""
    children: dict[int, list[int]] = {}
    for one in processes.values():
        children.setdefault(one.parent, []).append(one.pid)
    found: list[int] = []
    seen = set(roots)
    layer = list(seen)
    while layer:
        layer = [child for parent in layer for child in children.get(parent, ()) if child not in seen]
        seen.update(layer)
        found += layer
    return found


def environment(pid: int, name: str) -> str | None:
    """The value that process `pid` was started with for `name`; None when it has none or does not let us read it."""
    try:
        for entry in _read(f"/proc/{pid}/environ").split(b"\0"):
            if entry.startswith(name.encode() + b"="):
                return entry[len(name) + 1 :].decode("utf-8", "replace")
    except OSError:
        pass
    return None


def members(roots: Iterable[int], name: str = "", value: str = "") -> list[int]:
    """The living processes of a tree, parents first, this process never: the roots and their sessions, those marked with
    the variable `name` of that `value`, and all below them."""
    processes = table()
    me = os.getpid()
    first = set(roots)
    heads = [pid for pid, one in processes.items() if pid in first or one.session in first]
    if name:
        heads += [pid for pid in processes if pid not in first and environment(pid, name) == value]
    everyone = dict.fromkeys(heads + descendants(processes, heads))
    return [pid for pid in everyone if pid != me and processes[pid].state not in "ZX"]


def send(pids: Iterable[int], signal: int) -> None:
    """Send `signal` to each; those that are gone or not ours are passed over."""
    for pid in pids:
        try:
            os.kill(pid, signal)
        except OSError:
            pass


def freeze(find: Callable[[], list[int]]) -> list[int]:
    """Stop every process that `find` finds, again until it finds no new one; returns them in the order of stopping."""
    stopped: dict[int, None] = {}
    for _ in range(_WALKS):
        found = find()
        new = [pid for pid in found if pid not in stopped]
        send(new, _SIGSTOP)
        stopped.update(dict.fromkeys(new))
        if not new:
            moving = [one for one in map(process, found) if one is not None and one.state in "RS"]
            if not moving:
                break
            time.sleep(0.001)
    return list(stopped)


def thaw(pids: list[int]) -> None:
    """Let stopped processes go on, the last stopped first, so that no parent sees a child still stopped."""
    send(reversed(pids), _SIGCONT)


def kill(find: Callable[[], list[int]]) -> list[int]:
    """Freeze what `find` finds, then SIGKILL all of it; returns the pids. They may be zombies for a moment."""
    pids = freeze(find)
    send(pids, _SIGKILL)
    return pids


def usage(root: int) -> dict[str, Any]:
    """What `root` and all below it use: `processes`, `cpu_seconds`, `rss_bytes`, `pss_bytes` (None when one is unreadable)."""
    processes = table()
    pids = [pid for pid in [root, *descendants(processes, [root])] if pid in processes]
    pss: int | None = 0
    for pid in pids:
        share = _pss(pid)
        pss = None if pss is None or share is None else pss + share
    return {
        "processes": sum(processes[pid].state not in "ZX" for pid in pids),
        "cpu_seconds": round(sum(processes[pid].cpu_seconds for pid in pids), 2),
        "rss_bytes": sum(processes[pid].rss_bytes for pid in pids),
        "pss_bytes": pss,
    }


def _pss(pid: int) -> int | None:
    try:
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except ProcessLookupError:  # gone, or a zombie: it has no memory
        return 0
    except OSError:
        return None if os.path.exists(f"/proc/{pid}") else 0
    return 0
