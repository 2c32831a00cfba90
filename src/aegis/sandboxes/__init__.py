"""The sandbox port: what isolates an instance, and the inner end of its tether.

A kind implements `SandboxKind`; `daemon/wiring.py` decides which are there. `link.py` is the daemon's end of the tether, the
same for every kind. `conformance.py` is the suite that each kind must pass, shipped as `aegis doctor --sandbox NAME`.

Guaranteed by every kind: the guest's `hello` has arrived before `start` returns; after `stop` no process of the sandbox is
alive; the sandbox dies with the daemon. A kind's `boundary` says in words what it protects from; `process` protects nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from aegis.sandboxes.link import Link


#: Where `SandboxSpec.roots` are inside: by themselves, and together with those that the system trusts.
ROOTS = "/etc/aegis/roots.pem"
ALL_ROOTS = "/etc/aegis/all-roots.pem"


class Mount(msgspec.Struct, frozen=True):
    """A host path shown inside. Read-only unless `writable`."""

    source: Path
    target: str
    writable: bool = False


class Limits(msgspec.Struct, frozen=True):
    """Bounds for the whole tree of processes; None is no bound. `required` refuses to start where one cannot be enforced."""

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    required: bool = False


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All a kind needs to know to make one sandbox."""

    id: str  # the instance id
    index: int  # small number, unique among the instances of a home; a root daemon derives the private uid from it
    handle: str  # becomes the host name inside
    home: Path  # the daemon's home; nothing of it may be visible inside
    state: Path  # a private directory of this instance on the host, 0700; its `home` and nothing else becomes HOME inside
    workspace: Mount | None = None  # target is /workspace (the real path for `process`)
    mounts: tuple[Mount, ...] = ()
    env: dict[str, str] = {}
    limits: Limits = Limits()
    roots: str = ""  # certificates, in PEM, that programs inside trust besides the system's; a kind without files of its own ignores it


class Verdict(msgspec.Struct, frozen=True):
    """Whether a limit or a kind works here, and if not, why and what mends it."""

    ok: bool
    detail: str = ""
    mend: str = ""  # the exact command


class Stats(msgspec.Struct, frozen=True):
    """Resources of a sandbox now; None where this host cannot tell."""

    processes: int
    cpu_seconds: float
    rss_bytes: int
    pss_bytes: int | None = None


class Sandbox(Protocol):
    """One sandbox. Not reusable after `stop`."""

    spec: SandboxSpec
    kind: str
    #: limit name ("memory", "cpus", "pids") -> how it is enforced here, or why it is not
    enforced: dict[str, Verdict]

    async def start(self) -> Link:
        """Start it and return its tether when the guest has said hello.

        Raises AegisError(UNAVAILABLE or FAILED) with `stderr` and `exit` in its data when it does not come up; nothing is left.
        """
        ...

    async def pause(self) -> str:
        """Freeze every process. Returns the mechanism used (`cgroup v2`, `cgroup v1`, `signals`). Idempotent."""
        ...

    async def resume(self) -> None:
        """Undo `pause`. Idempotent."""
        ...

    def protects(self) -> frozenset[str]:
        """Paths of the workspace that no program inside can change at the moment, nor anything below them. Blocking, short."""
        ...

    async def stop(self, grace: float = 2.0) -> None:
        """End every process: asked, then killed after `grace` seconds, also when frozen. Idempotent."""
        ...

    async def stats(self) -> Stats:
        """What it uses now."""
        ...


class SandboxKind(Protocol):
    """One way to isolate."""

    name: str
    strength: int  # for choosing the strongest: process 0, bwrap 50, ...
    boundary: str  # one sentence: what it protects from, and what not

    async def probe(self) -> Verdict:
        """Whether it works on this machine, by trying it."""
        ...

    def create(self, spec: SandboxSpec) -> Sandbox:
        """A sandbox that is not yet started."""
        ...

    async def sweep(self, home: Path) -> list[str]:
        """End and remove what a dead daemon of this home left behind; returns a line for each thing found."""
        ...


SandboxName = Literal["process", "bwrap"]
