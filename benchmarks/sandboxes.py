"""The sandbox `bwrap`: start, pause, waking, and what an idle one weighs.

Floors, measured in the same run: bwrap with the same namespaces around a program that does nothing, and the guest's
interpreter doing nothing. A start cannot be faster than both together.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aegis.core.ids import new_id
from aegis.sandboxes import Mount, SandboxSpec, bundle
from aegis.sandboxes.bwrap import Bwrap, view
from benchmarks.harness import Row, measure, row

_MIB = 1024 * 1024


def main(quick: bool) -> list[Row]:
    """All rows; none, with a note, where bwrap does not work."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    try:
        return asyncio.run(_rows(folder, 5 if quick else 60, 10 if quick else 500))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _rows(folder: Path, starts: int, rounds: int) -> list[Row]:
    kind = Bwrap()
    verdict = await kind.probe()
    if not verdict.ok:
        print(f"bwrap does not work here: {verdict.detail}", file=sys.stderr)
        return []
    for name in ("home", "work"):
        (folder / name).mkdir()
    bundle.build(folder / "home")
    python = measure(lambda: subprocess.run([bundle.interpreter(), "-I", "-S", "-c", "pass"], check=True), starts)
    bare = ["bwrap", *view._ISOLATION, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", "/bin/true"]
    true = measure(lambda: subprocess.run(bare, check=True), starts)
    both = sorted(a + b for a, b in zip(python, true, strict=True))
    started: list[float] = []
    stopped: list[float] = []
    for number in range(starts + 1):
        sandbox = kind.create(_spec(folder, number))
        began = time.perf_counter()
        await sandbox.start()
        ready = time.perf_counter()
        await sandbox.stop(0.0)
        started.append((ready - began) * 1000)
        stopped.append((time.perf_counter() - ready) * 1000)
    rows = [
        row("floor: python -I -S -c pass", python),
        row("floor: bwrap /bin/true, same namespaces", true),
        row("spawn `bwrap` sandbox -> hello", sorted(started[1:]), both, "floor: the two above together"),
        row("stop a `bwrap` sandbox, no grace", sorted(stopped[1:])),
    ]
    return rows + await _idle(kind, folder, rounds)


async def _idle(kind: Bwrap, folder: Path, rounds: int) -> list[Row]:
    sandbox = kind.create(_spec(folder, 1))
    link = await sandbox.start()
    try:
        weight = (await sandbox.stats()).pss_bytes or 0
        pings: list[float] = []
        pauses: list[float] = []
        wakes: list[float] = []
        for _ in range(rounds):
            marks = [time.perf_counter()]
            await link.call("ping")
            marks.append(time.perf_counter())
            how = await sandbox.pause()
            marks.append(time.perf_counter())
            await sandbox.resume()
            await link.call("ping")
            marks.append(time.perf_counter())
            for times, begin, end in zip((pings, pauses, wakes), marks, marks[1:], strict=False):
                times.append((end - begin) * 1000)
    finally:
        await sandbox.stop(0.0)
    pings.sort()
    return [
        row("pause a `bwrap` sandbox", sorted(pauses), note=how),
        row("resume a `bwrap` sandbox -> ping", sorted(wakes), pings, f"{how}; floor: ping"),
        row("idle `bwrap` sandbox, PSS in MiB (not ms)", [weight / _MIB], note="monitor and guest"),
    ]


def _spec(folder: Path, index: int) -> SandboxSpec:
    ident = new_id("inst")
    workspace = Mount(folder / "work", "/workspace", True)
    return SandboxSpec(id=ident, index=index, handle="bench", home=folder / "home", state=folder / "home" / ident, workspace=workspace)
