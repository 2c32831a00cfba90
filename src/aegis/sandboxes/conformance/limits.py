"""What must be bounded. A limit that the host cannot enforce is skipped with the reason its verdict gives."""

from __future__ import annotations

import json
from typing import Final

from aegis.core.errors import AegisError
from aegis.sandboxes import Limits
from aegis.sandboxes.conformance.scratch import Box, Scratch, Skipped, Trial, expect

_PIDS: Final = 40
_MEMORY: Final = 96 << 20
_CPUS: Final = 0.2

_FORKS = """
import os, signal, json
pids, why = [], None
for _ in range(200):
    try: pid = os.fork()
    except OSError as e:
        why = e.strerror; break
    if pid == 0: signal.pause()
    pids.append(pid)
for pid in pids: os.kill(pid, 9); os.waitpid(pid, 0)
print(json.dumps([len(pids), why]))
"""
_HOG = """
kept = []
for _ in range(600):
    kept.append(bytearray(b'x' * (1 << 20)))
print('got all')
"""
_BURN = """
import time
end = time.monotonic() + 1.0
while time.monotonic() < end: pass
print(time.process_time())
"""


async def _bounded(scratch: Scratch, name: str, limits: Limits) -> Box:
    sandbox = scratch.kind.create(scratch.spec(limits=limits))
    box = await scratch.start(sandbox.spec)
    verdict = box.sandbox.enforced[name]
    if not verdict.ok:
        await box.sandbox.stop(0.0)
        raise Skipped(verdict.detail)
    return box


async def _processes(scratch: Scratch) -> str:
    box = await _bounded(scratch, "pids", Limits(pids=_PIDS))
    made, why = json.loads(await box.says(_FORKS))
    await box.link.call("ping")
    mechanism = box.sandbox.enforced["pids"].detail
    await box.sandbox.stop(0.0)
    # Counted over all processes of the user, the room of those that end meanwhile is free as well.
    most = 2 * _PIDS if "of the user" in mechanism else _PIDS
    expect(why is not None and made < most, f"{made} processes were made under a limit of {_PIDS}")
    return f"{mechanism}: stopped after {made}"


async def _memory(scratch: Scratch) -> str:
    box = await _bounded(scratch, "memory", Limits(memory_bytes=_MEMORY))
    mechanism = box.sandbox.enforced["memory"].detail
    try:
        ran = await box.python(_HOG)
        expect(ran.code != 0, f"600 MiB were had under a limit of {_MEMORY >> 20} MiB")
        await box.link.call("ping")
        after = "the sandbox lives on"
    except AegisError as error:
        expect(box.link.closed.done(), f"it hangs: {error}")
        after = f"the sandbox ended: {box.link.closed.result()}"
    await box.sandbox.stop(0.0)
    return f"{mechanism}: {after}"


async def _cpus(scratch: Scratch) -> str:
    box = await _bounded(scratch, "cpus", Limits(cpus=_CPUS))
    used = float(await box.says(_BURN))
    mechanism = box.sandbox.enforced["cpus"].detail
    await box.sandbox.stop(0.0)
    expect(used < 0.6, f"{used:.2f} s of CPU were used in one second under a limit of {_CPUS}")
    return mechanism


async def _required(scratch: Scratch) -> str:
    spec = scratch.spec(limits=Limits(memory_bytes=_MEMORY, cpus=1.0, pids=_PIDS, required=True))
    sandbox = scratch.kind.create(spec)
    try:
        await sandbox.start()
    except AegisError as error:
        expect(not all(v.ok for v in sandbox.enforced.values()), f"refused although all is enforced: {error}")
        return f"refused: {error}"
    finally:
        await sandbox.stop(0.0)
    expect(all(v.ok for v in sandbox.enforced.values()), "it started although a required limit is not enforced")
    return "all enforced"


TRIALS: Final = (
    Trial("process limit", False, _processes),
    Trial("memory limit", False, _memory),
    Trial("CPU limit", False, _cpus),
    Trial("required limits", False, _required),
)
