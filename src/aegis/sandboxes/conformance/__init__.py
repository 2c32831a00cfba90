"""The suite that every kind of sandbox must pass, shipped as `aegis doctor --sandbox NAME`.

It starts real sandboxes on a scratch workspace beside the home and attacks them from inside with real programs; what the
attacks found is then looked up on the host. Checks of a wall are skipped, with that reason, for kinds that have none.

`basics` is what any sandbox does, `walls` what of the host must not be reachable, `kernel` what of the kernel, `limits` what
must be bounded, `life` how it pauses and ends. `scratch` holds what they share.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aegis.sandboxes.conformance import basics, kernel, life, limits, walls
from aegis.sandboxes.conformance.scratch import Check, Scratch, Trial, perform

if TYPE_CHECKING:
    from pathlib import Path

    from aegis.sandboxes import SandboxKind

__all__ = ["Check", "Scratch", "perform", "run", "trials"]


def trials() -> list[Trial]:
    """All checks, in the order in which they run."""
    return [*basics.TRIALS, *walls.TRIALS, *kernel.TRIALS, *limits.TRIALS, *life.TRIALS]


async def run(kind: SandboxKind, home: Path) -> list[Check]:
    """Try `kind` on this machine. Takes some seconds; nothing is left in or beside `home`.

    A kind that does not work here gives one failed check with the reason, and the rest skipped.
    """
    verdict = await kind.probe()
    if not verdict.ok:
        failed = Check("probe", False, f"{verdict.detail}; {verdict.mend}" if verdict.mend else verdict.detail)
        return [failed, *(Check(trial.name, False, skipped="the kind does not work here") for trial in trials())]
    checks = [Check("probe", True, verdict.detail)]
    scratch = await asyncio.to_thread(Scratch, kind, home)
    try:
        checks += [await perform(trial, scratch) for trial in trials()]
    finally:
        await scratch.close()
    return checks
