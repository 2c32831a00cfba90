"""Trees of processes on the host, for kinds of sandbox that have no cgroup to hold them.

Every process of a sandbox is started with marks in its environment: `AEGIS_INSTANCE`, `AEGIS_HOME_ID` and `AEGIS_DAEMON`.
The guest hides its environment, so it carries them in its command line as well. By the tree and by the marks everything is
found that did not both leave its tree and clean its environment; a guest is the reaper of its tree, so nothing leaves it
while the guest lives.

Walking /proc takes milliseconds: call these in a worker thread, `thaw` excepted.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from aegis.guest import processes
from aegis.guest.processes import thaw

__all__ = [
    "alive",
    "daemon_mark",
    "descendants",
    "freeze",
    "home_mark",
    "kill_orphans",
    "kill_tree",
    "label",
    "marked",
    "marks",
    "orphans",
    "tasks_of",
    "thaw",
]

_INSTANCE, _HOME, _DAEMON = "AEGIS_INSTANCE", "AEGIS_HOME_ID", "AEGIS_DAEMON"
#: What a guest's command line ends with, before the three marks.
_LABEL = "aegis-guest"


def home_mark(home: Path) -> str:
    """The name of a home that its sandboxes are marked with."""
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]


def daemon_mark() -> str:
    """This process, named so that no other ever has the name: its pid and when it began."""
    me = processes.process(os.getpid())
    return f"{os.getpid()}.{me.started if me else 0}"


def label(instance: str, home: Path) -> tuple[str, ...]:
    """The words at the end of a guest's command line by which it is found."""
    return (_LABEL, instance, home_mark(home), daemon_mark())


def marks(instance: str, home: Path) -> dict[str, str]:
    """The same in the environment."""
    return {_INSTANCE: instance, _HOME: home_mark(home), _DAEMON: daemon_mark()}


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, parents before children."""
    return processes.descendants(processes.table(), [pid])


def marked(instance: str) -> list[int]:
    """The living processes of an instance and all below them, parents first."""
    return _find(lambda found: found[0] == instance)


def freeze(pid: int) -> list[int]:
    """Stop `pid` and everything below it, parents first; returns what was stopped, for `thaw`."""
    return processes.freeze(lambda: _living([pid, *descendants(pid)]))


def kill_tree(pid: int | None, instance: str, timeout: float = 5.0) -> list[int]:
    """Kill `pid`, everything below it and everything marked with `instance`; returns what is still there after `timeout` s."""

    def find() -> list[int]:
        tree = [pid, *descendants(pid)] if pid is not None else []
        return _living(list(dict.fromkeys([*tree, *marked(instance)])))

    return _kill(find, timeout)


def orphans(home: Path) -> list[tuple[int, str]]:
    """The processes of sandboxes of `home` whose daemon is dead, as (pid, instance)."""
    mine = home_mark(home)
    gone: dict[str, bool] = {}
    found = []
    for pid in processes.table():
        instance, at, daemon = _marks_of(pid)
        if at == mine and pid != os.getpid():
            if daemon not in gone:
                gone[daemon] = not alive(daemon)
            if gone[daemon]:
                found.append((pid, instance))
    return found


def kill_orphans(home: Path, timeout: float = 5.0) -> list[str]:
    """Kill what sandboxes of dead daemons of `home` left running; a line for each instance found."""
    found = orphans(home)
    instances = list(dict.fromkeys(instance for _, instance in found))
    left = _kill(lambda: _below([pid for pid, _ in orphans(home)]), timeout) if found else []
    counts = {one: sum(instance == one for _, instance in found) for one in instances}
    return [f"killed {counts[one]} processes of {one}" for one in instances] + [f"process {pid} does not die" for pid in left]


def alive(daemon: str) -> bool:
    """Whether the process that a daemon mark names still runs."""
    pid, _, started = daemon.partition(".")
    if not pid.isdigit():
        return False
    one = processes.process(int(pid))
    return one is not None and one.state not in "ZX" and str(one.started) == started


def tasks_of(uid: int) -> int:
    """How many tasks (threads) a user has now: what RLIMIT_NPROC counts."""
    count = 0
    for pid, one in processes.table().items():
        try:
            if os.stat(f"/proc/{pid}").st_uid == uid:
                count += one.threads
        except OSError:
            continue
    return count


def _below(pids: list[int]) -> list[int]:
    return _living(list(dict.fromkeys([*pids, *processes.descendants(processes.table(), pids)])))


def _find(matches: Callable[[tuple[str, str, str]], bool]) -> list[int]:
    return _below([pid for pid in processes.table() if matches(_marks_of(pid))])


def _living(pids: list[int]) -> list[int]:
    """Those that run, without this process and what it descends from: a daemon may itself run inside a sandbox."""
    table = processes.table()
    spared = set()
    at = os.getpid()
    while at in table:
        spared.add(at)
        at = table[at].parent
    return [pid for pid in pids if pid in table and pid not in spared and table[pid].state not in "ZX"]


def _marks_of(pid: int) -> tuple[str, str, str]:
    """(instance, home, daemon) of a process; empty texts for a process of no sandbox."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if len(words) > 4 and words[-5] == _LABEL.encode():
            return words[-4].decode(), words[-3].decode(), words[-2].decode()
        variables = dict(entry.partition(b"=")[::2] for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except (OSError, ValueError):
        return "", "", ""
    instance, home, daemon = (variables.get(name.encode(), b"").decode("utf-8", "replace") for name in (_INSTANCE, _HOME, _DAEMON))
    return instance, home, daemon


def _kill(find: Callable[[], list[int]], timeout: float) -> list[int]:
    deadline = time.monotonic() + timeout
    while True:
        processes.kill(find)
        left = find()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.002)
