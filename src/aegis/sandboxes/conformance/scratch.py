"""What the checks share: a scratch workspace, sandboxes on it, and running programs inside."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from aegis.core.errors import AegisError
from aegis.core.ids import new_id
from aegis.sandboxes import Limits, Mount, Sandbox, SandboxKind, SandboxSpec
from aegis.tether.frames import STDOUT

if TYPE_CHECKING:
    from aegis.sandboxes.link import Link

#: A check that takes longer has failed, seconds.
_DEADLINE: Final = 60.0
#: The owner of the scratch workspace when the suite runs as root: not root, so that a mix-up shows.
OTHER_OWNER: Final = 43210
CANARY: Final = "canary-7c1f0e"
#: Sandboxes of the suite count from here, far from those of instances.
_FIRST_INDEX: Final = 0x0FF00000

PROTECTED: Final = {
    ".aegis.yaml": "agents: {}\n",
    ".aegis/agents/x.yaml": "name: x\n",
    ".git/hooks/pre-commit": "#!/bin/sh\n",
    ".git/config": "[core]\n\tbare = false\n",
}


class Check(msgspec.Struct, frozen=True):
    """What one check found. `skipped` holds the reason when it did not apply; then `ok` means nothing."""

    name: str
    ok: bool
    detail: str = ""
    skipped: str = ""


class Failed(Exception):
    """The promise does not hold; the text says what was seen."""


class Skipped(Exception):
    """The check does not apply here; the text says why."""


class Trial(NamedTuple):
    """One check: what it is called, whether it is about the wall, and what it does; it returns a detail or raises."""

    name: str
    wall: bool
    body: Callable[[Scratch], Awaitable[str]]


class Ran(NamedTuple):
    """A program that ended: its exit code (negative for a signal), and its output."""

    code: int
    out: str
    err: str


class Box:
    """A started sandbox with a shell's convenience."""

    def __init__(self, sandbox: Sandbox, link: Link) -> None:
        self.sandbox = sandbox
        self.link = link

    async def run(self, argv: list[str], stdin: bytes | None = None) -> Ran:
        """Run a program to its end."""
        program = await self.link.run(argv, stdin=stdin is not None)

        async def feed() -> None:
            if stdin is not None:
                await program.write(stdin)
                await program.close_stdin()

        feeding = asyncio.ensure_future(feed())
        out, err = bytearray(), bytearray()
        while (piece := await program.read()) is not None:
            (out if piece[0] == STDOUT else err).extend(piece[1])
        await feeding
        return Ran(await program.wait(), out.decode(errors="replace"), err.decode(errors="replace"))

    async def python(self, script: str, *arguments: str) -> Ran:
        """Run a script on the interpreter that the guest runs on."""
        return await self.run(["sh", "-c", 'exec "$AEGIS_PYTHON" -I -S -c "$@"', "sh", script, *arguments])

    async def says(self, script: str, *arguments: str) -> str:
        """The output of a script that must succeed."""
        ran = await self.python(script, *arguments)
        if ran.code != 0:
            raise Failed(f"the probe ended with {ran.code}: {ran.err.strip()[-300:]}")
        return ran.out.strip()


class Scratch:
    """A home, a workspace, a file outside both, and the sandboxes made during the suite; all beside the real home."""

    def __init__(self, kind: SandboxKind, home: Path) -> None:
        self.kind = kind
        self.real_home = home
        self._root = Path(tempfile.mkdtemp(prefix=".aegis-conformance-", dir=home.resolve().parent))
        self.home = self._root / "home"
        self.workspace = self._root / "workspace"
        self.outside = self._root / "outside"
        self._state = self.home / "state"
        self._made: list[Box] = []
        self._shared: Box | None = None
        self._fill()

    def _fill(self) -> None:
        self._state.mkdir(parents=True)
        self.home.chmod(0o700)
        self.outside.mkdir()
        (self.outside / "secret").write_text(CANARY)
        self.workspace.mkdir(mode=0o700)
        (self.workspace / "readable").write_text("from the host")
        (self.workspace / "link").symlink_to(self.outside / "secret")
        for name, text in PROTECTED.items():
            path = self.workspace / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if os.geteuid() == 0 and self.kind.strength > 0:
            self._root.chmod(0o711)
            for path in (self.workspace, *self.workspace.rglob("*")):
                os.chown(path, OTHER_OWNER, OTHER_OWNER, follow_symlinks=False)

    def spec(self, *, limits: Limits | None = None, writable: bool = True, env: dict[str, str] | None = None) -> SandboxSpec:
        """A spec on the scratch workspace; each has an id, a number and a state of its own."""
        number = len(list(self._state.iterdir()))
        ident = new_id("inst")
        state = self._state / ident
        state.mkdir(mode=0o700)
        target = "/workspace" if self.kind.strength > 0 else str(self.workspace)
        return SandboxSpec(
            id=ident,
            index=_FIRST_INDEX + number,
            handle=f"conformance-{number}",
            home=self.home,
            state=state,
            workspace=Mount(self.workspace, target, writable),
            limits=limits or Limits(),
            env=env or {},
        )

    async def start(self, spec: SandboxSpec) -> Box:
        """Start one; it is stopped at the end of the suite at the latest."""
        sandbox = self.kind.create(spec)
        box = Box(sandbox, await sandbox.start())
        self._made.append(box)
        return box

    async def shared(self) -> Box:
        """The one sandbox that all harmless checks use."""
        if self._shared is None or self._shared.link.closed.done():
            self._shared = await self.start(self.spec())
        return self._shared

    async def close(self) -> None:
        """Stop everything and remove every trace."""
        try:
            for box in self._made:
                await box.sandbox.stop(0.0)
        finally:
            await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)


async def perform(trial: Trial, scratch: Scratch) -> Check:
    """Run one check; whatever happens becomes its result."""
    if trial.wall and scratch.kind.strength == 0:
        return Check(trial.name, False, skipped="no boundary")
    try:
        return Check(trial.name, True, await asyncio.wait_for(trial.body(scratch), _DEADLINE))
    except Skipped as reason:
        return Check(trial.name, False, skipped=str(reason))
    except Failed as failure:
        return Check(trial.name, False, str(failure))
    except TimeoutError:
        return Check(trial.name, False, f"no answer within {_DEADLINE:g} s")
    except (AegisError, OSError, ValueError) as error:
        return Check(trial.name, False, f"{type(error).__name__}: {error}")


def expect(condition: object, seen: str) -> None:
    """Fail the check with what was seen unless `condition` holds."""
    if not condition:
        raise Failed(seen)
