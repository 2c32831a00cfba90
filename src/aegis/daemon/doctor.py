"""What works on this machine, what does not, why, and the command that mends it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

from aegis.core.errors import unknown_name
from aegis.core.version import __version__
from aegis.daemon.programs import examine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from aegis.daemon.programs import Foreign
    from aegis.models.catalogue import Catalogue
    from aegis.sandboxes import SandboxKind, Verdict


class Doctor:
    """Examines the machine for one home."""

    def __init__(
        self,
        home: Path,
        kinds: Mapping[str, SandboxKind],
        catalogue: Callable[[], Catalogue],
        stored: Callable[[], Awaitable[set[str]]],
        foreign: Foreign,
    ) -> None:
        self._home = home
        self._kinds = kinds
        self._catalogue = catalogue
        self._stored = stored
        self._foreign = foreign
        self._verdicts: dict[str, Verdict] = {}
        self._probing = asyncio.Lock()

    async def verdicts(self, *, again: bool = False) -> dict[str, Verdict]:
        """Whether each sandbox works here; tried once, and again on demand or while one does not."""
        async with self._probing:
            for name, kind in self._kinds.items():
                if again or name not in self._verdicts or not self._verdicts[name].ok:
                    self._verdicts[name] = await kind.probe()
        return dict(self._verdicts)

    async def strongest(self) -> str | None:
        """The strongest sandbox with a boundary that works here."""
        verdicts = await self.verdicts()
        working = [kind for name, kind in self._kinds.items() if verdicts[name].ok and kind.strength > 0]
        return max(working, key=lambda kind: kind.strength).name if working else None

    async def report(self) -> dict[str, Any]:
        """The whole examination but for the conformance suites."""
        verdicts = await self.verdicts(again=True)
        return {
            "checks": self._checks(),
            "sandboxes": [
                {"name": k.name, "ok": verdicts[k.name].ok, "strength": k.strength, "boundary": k.boundary}
                | {"detail": verdicts[k.name].detail, "mend": verdicts[k.name].mend}
                for k in sorted(self._kinds.values(), key=lambda kind: -kind.strength)
            ],
            "programs": await examine(self._foreign),
            "models": await self._models(),
        }

    async def conformance(self, name: str) -> list[dict[str, Any]]:
        """The conformance suite of one sandbox, run now. Raises NOT_FOUND for a name that is none."""
        from aegis.sandboxes.conformance import run

        if name not in self._kinds:
            raise unknown_name("sandbox", name, self._kinds)
        checks = await run(self._kinds[name], self._home)
        return [{"name": c.name, "ok": c.ok, "detail": c.detail, "skipped": c.skipped} for c in checks]

    def _checks(self) -> list[dict[str, Any]]:
        free = shutil.disk_usage(self._home).free
        mode = self._home.stat().st_mode & 0o777
        return [
            {"name": "aegis", "ok": True, "detail": __version__, "mend": ""},
            {"name": "python", "ok": True, "detail": platform.python_version(), "mend": ""},
            {"name": "sqlite", "ok": True, "detail": sqlite3.sqlite_version, "mend": ""},
            {"name": "kernel", "ok": True, "detail": platform.release(), "mend": ""},
            {
                "name": "user",
                "ok": True,
                "detail": "root (each sandbox gets a private uid)" if os.geteuid() == 0 else f"uid {os.geteuid()}",
                "mend": "",
            },
            {
                "name": "home",
                "ok": mode == 0o700,
                "detail": f"{self._home} (mode {mode:o})",
                "mend": "" if mode == 0o700 else f"chmod 700 {self._home}",
            },
            {
                "name": "disk",
                "ok": free > 2**28,
                "detail": f"{free / 2**30:.1f} GiB free",
                "mend": "" if free > 2**28 else "free some space",
            },
        ]

    async def _models(self) -> list[dict[str, Any]]:
        stored = await self._stored()
        ready = await self._catalogue().readiness(stored.__contains__)
        return [{"name": r.name, "ok": r.ok, "detail": r.detail, "mend": r.mend} for r in ready]
