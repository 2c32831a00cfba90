"""Control groups: what bounds and freezes a whole tree of processes, on hosts with version 2, version 1, both or none.

A sandbox gets one directory per hierarchy this daemon may write: `aegis-<home>/<instance>@<daemon>`, both marks as in `tree`,
beside the group the daemon itself is in. An ordinary user has that only under a delegated v2 slice; root has it
always. What cannot be had is said in `Group.enforced` with the command that mends it, never raised.

Not done here: moving anything that is not told to move; limits on disk and network.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.sandboxes import Limits, Verdict
from aegis.sandboxes.tree import alive, daemon_mark, home_mark

if TYPE_CHECKING:
    from collections.abc import Iterator

_PERIOD_US: Final = 100_000
_DELEGATE: Final = "systemd-run --user --scope -p Delegate=yes aegis daemon"
#: How long a freeze may take to reach every process before it counts as failed, seconds.
_FREEZE_DEADLINE: Final = 2.0
_V2: Final = "v2"
_CONTROLLERS: Final = {"memory": "memory", "cpus": "cpu", "pids": "pids"}


class Hierarchy(NamedTuple):
    """One mounted hierarchy: `v2`, or the name of a v1 controller, and the directory whose children we may make."""

    name: str
    base: Path


def hierarchies() -> dict[str, Hierarchy]:
    """The hierarchies in which this process may make groups, by name. Empty where it may in none."""
    mine = _own_groups()
    found: dict[str, Hierarchy] = {}
    for name, mount in _mounts():
        own = mine.get("" if name == _V2 else name, "/")
        # Siblings of the daemon's own group: a v2 group with processes in it may not hand controllers to children.
        base = mount / own.lstrip("/")
        base = base if name != _V2 or own == "/" else base.parent
        if os.access(base, os.W_OK) and os.access(base / "cgroup.procs", os.W_OK):
            found[name] = Hierarchy(name, base)
    return found


def _mounts() -> Iterator[tuple[str, Path]]:
    """(`v2` or controller, mount point), hybrid hosts included."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        point = Path(left.split(" ")[4].encode().decode("unicode_escape"))
        if kind == "cgroup2":
            yield _V2, point
        elif kind == "cgroup":
            for option in options.split(","):
                if option in {"memory", "cpu", "pids", "freezer"}:
                    yield option, point


def _own_groups() -> dict[str, str]:
    """Controller ("" for v2) -> the path of this process's group."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = path
    return groups


class Group:
    """The control groups of one sandbox. Made by `create`; `remove` must be called when its processes are gone."""

    def __init__(self, directories: dict[str, Path], enforced: dict[str, Verdict], name: str = "") -> None:
        self._directories = directories  # hierarchy name -> our directory
        self._name = name  # of each of them
        self.enforced = enforced

    def add(self, pid: int) -> None:
        """Move one process in, if it is not; children it makes from now on are born inside. One that is gone is ignored."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            if sum(line.endswith("/" + self._name) for line in lines) == len(self._directories):
                return
        for directory in self._directories.values():
            try:
                (directory / "cgroup.procs").write_text(str(pid))
            except ProcessLookupError:
                return

    @property
    def freezer(self) -> str | None:
        """How `freeze` works here: `cgroup v2`, `cgroup v1`, or None when it cannot."""
        if _V2 in self._directories and (self._directories[_V2] / "cgroup.freeze").exists():
            return "cgroup v2"
        return "cgroup v1" if "freezer" in self._directories else None

    def freeze(self) -> bool:
        """Stop every process and wait until they stand. False (and thawed again) if some did not within 2 s."""
        self._set_frozen(True)
        deadline = time.monotonic() + _FREEZE_DEADLINE
        while not self._is_frozen():
            if time.monotonic() > deadline:
                self.thaw()
                return False
            time.sleep(0.0001)
        return True

    def thaw(self) -> None:
        """Let them run again."""
        self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:
        if self.freezer == "cgroup v2":
            (self._directories[_V2] / "cgroup.freeze").write_text("1" if frozen else "0")
        elif self.freezer == "cgroup v1":
            (self._directories["freezer"] / "freezer.state").write_text("FROZEN" if frozen else "THAWED")

    def _is_frozen(self) -> bool:
        if self.freezer == "cgroup v2":
            return "frozen 1" in (self._directories[_V2] / "cgroup.events").read_text()
        return (self._directories["freezer"] / "freezer.state").read_text().strip() == "FROZEN"

    def processes(self) -> set[int]:
        """The pids inside, as this process sees them."""
        pids: set[int] = set()
        for directory in self._directories.values():
            with contextlib.suppress(FileNotFoundError):
                pids.update(int(pid) for pid in (directory / "cgroup.procs").read_text().split())
        return pids

    def kill(self) -> None:
        """SIGKILL everything inside, frozen or not, until nothing new appears."""
        for _ in range(64):  # a tree that forks faster than one pass kills is bounded by its pids limit
            pids = self.processes()
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                self.thaw()  # a v1 freezer holds even the killed

    def remove(self) -> bool:
        """Remove the directories. False while a process that is ending still stands in one; then call again."""
        gone = True
        for name, directory in list(self._directories.items()):
            if _rmdir(directory):
                del self._directories[name]
                _rmdir(directory.parent)  # while other sandboxes are in there, it stays
            else:
                gone = False
        return gone


def create(home: Path, name: str, limits: Limits) -> Group:
    """Groups for the sandbox `name` of this process, with `limits` set as far as this host can; of v1 only those it needs.

    Never raises for what a host lacks.
    """
    found = hierarchies()
    asked = {_CONTROLLERS[limit] for limit, value in _values(limits).items() if value is not None}
    wanted = asked | {_V2 if _V2 in found else "freezer"}
    mine = f"{name}@{daemon_mark()}"
    directories: dict[str, Path] = {}
    for hierarchy in found.values():
        parent = hierarchy.base / f"aegis-{home_mark(home)}"
        if hierarchy.name not in wanted:
            continue
        try:
            if hierarchy.name == _V2:
                _hand_down(hierarchy.base)
                parent.mkdir(exist_ok=True)
                _hand_down(parent)
            (parent / mine).mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        directories[hierarchy.name] = parent / mine
    return Group(directories, {limit: _bound(directories, limit, value) for limit, value in _values(limits).items()}, mine)


def sweep(home: Path) -> list[str]:
    """Remove the groups that dead daemons of `home` left, killing what is in them; one line for each that was not empty."""
    found = []
    for hierarchy in hierarchies().values():
        parent = hierarchy.base / f"aegis-{home_mark(home)}"
        if not parent.is_dir():
            continue
        for directory in [d for d in parent.iterdir() if d.is_dir() and not alive(d.name.rpartition("@")[2])]:
            group = Group({hierarchy.name: directory}, {})
            pids = group.processes()
            if pids:
                found.append(f"killed {len(pids)} processes in the control group {directory}")
                group.kill()
            deadline = time.monotonic() + _FREEZE_DEADLINE
            while not group.remove() and time.monotonic() < deadline:
                time.sleep(0.005)
        _rmdir(parent)
    return found


def _values(limits: Limits) -> dict[str, float | None]:
    return {"memory": limits.memory_bytes, "cpus": limits.cpus, "pids": limits.pids}


def _hand_down(directory: Path) -> None:
    """Let children of a v2 group be bounded. Where it is not ours to say, what is already handed down remains."""
    for controller in _CONTROLLERS.values():
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def _bound(directories: dict[str, Path], limit: str, value: float | None) -> Verdict:
    """Set one limit in the first hierarchy that has its controller."""
    if value is None:
        return Verdict(True, "no bound asked")
    for version, files in (("v2", _v2_files(limit, value)), ("v1", _v1_files(limit, value))):
        directory = directories.get(_V2 if version == "v2" else _CONTROLLERS[limit])
        if directory is None or not (directory / files[0][0]).exists():
            continue
        try:
            for file, text in files:
                if (directory / file).exists():
                    (directory / file).write_text(text)
        except OSError as error:
            return Verdict(False, f"cgroup {version}: {file}: {error.strerror}")
        return Verdict(True, f"cgroup {version} ({files[0][0]})")
    what = {"memory": "memory", "cpus": "cpu", "pids": "process"}[limit]
    return Verdict(False, f"no delegated cgroup: no {what} cap", _DELEGATE)


def _v2_files(limit: str, value: float) -> list[tuple[str, str]]:
    if limit == "memory":
        return [("memory.max", str(int(value))), ("memory.swap.max", "0")]
    if limit == "cpus":
        return [("cpu.max", f"{max(1000, int(value * _PERIOD_US))} {_PERIOD_US}")]
    return [("pids.max", str(int(value)))]


def _v1_files(limit: str, value: float) -> list[tuple[str, str]]:
    if limit == "memory":  # memory first: the sum with swap may not be the smaller one
        return [("memory.limit_in_bytes", str(int(value))), ("memory.memsw.limit_in_bytes", str(int(value)))]
    if limit == "cpus":
        return [("cpu.cfs_quota_us", str(max(1000, int(value * _PERIOD_US)))), ("cpu.cfs_period_us", str(_PERIOD_US))]
    return [("pids.max", str(int(value)))]


def _rmdir(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.ENOTEMPTY}:
            raise
        return False
    return True
