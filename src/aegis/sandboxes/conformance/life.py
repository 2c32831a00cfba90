"""How a sandbox pauses and ends: all of it, children in sessions of their own included."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.errors import AegisError
from aegis.sandboxes import bundle, tree
from aegis.sandboxes.conformance.scratch import Box, Scratch, Trial, expect

if TYPE_CHECKING:
    from pathlib import Path

#: How long the host is watched for a sign of life of what is paused, seconds.
_WATCHED: Final = 0.2
_PATIENCE: Final = 5.0

_TICKER = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.environ.clear()
with open(sys.argv[1], 'ab', buffering=0) as file:
    while True:
        file.write(b'.'); time.sleep(0.002)
"""
#: A daemon that starts a sandbox with a program in a session of its own, says so, and waits to be killed.
_DAEMON = """
import asyncio, importlib, pathlib, sys, msgspec
from aegis.sandboxes import SandboxSpec
async def main():
    kind = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])()
    sandbox = kind.create(msgspec.json.decode(sys.argv[3], type=SandboxSpec, dec_hook=lambda t, v: t(v)))
    link = await sandbox.start()
    program = await link.run(['sh', '-c', 'setsid sleep 1000 & sleep 1000 & echo up; wait'])
    await program.read()
    print('up', flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


async def _ticking(scratch: Scratch, box: Box, name: str) -> Path:
    ran = await box.run(["sh", "-c", 'exec "$AEGIS_PYTHON" -I -S -c "$@"', "sh", _TICKER, name])
    expect(ran.code == 0, ran.err)
    path = scratch.workspace / name
    await _until(lambda: path.exists() and path.stat().st_size > 0, "the ticker does not tick")
    return path


async def _until(condition: object, otherwise: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        expect(time.monotonic() < deadline, otherwise)
        await asyncio.sleep(0.005)


async def _pause(scratch: Scratch) -> str:
    box = await scratch.start(scratch.spec())
    path = await _ticking(scratch, box, "ticks-pause")
    mechanism = await box.sandbox.pause()
    expect(await box.sandbox.pause() == mechanism, "pausing twice is not the same as once")
    before = path.stat().st_size
    await asyncio.sleep(_WATCHED)
    expect(path.stat().st_size == before, "a program in a session of its own goes on while paused")
    await box.sandbox.resume()
    await box.sandbox.resume()
    await box.link.call("ping")
    await _until(lambda: path.stat().st_size > before, "nothing goes on after resume")
    await box.sandbox.stop(0.0)
    return mechanism


async def _stop(scratch: Scratch) -> str:
    for paused in (False, True):
        box = await scratch.start(scratch.spec())
        path = await _ticking(scratch, box, f"ticks-stop-{paused}")
        if paused:
            await box.sandbox.pause()
        began = time.monotonic()
        await box.sandbox.stop(0.2)
        took = time.monotonic() - began
        await box.sandbox.stop()
        left = await asyncio.to_thread(tree.marked, box.sandbox.spec.id)
        expect(not left, f"processes {left} are left")
        size = path.stat().st_size
        await asyncio.sleep(_WATCHED / 2)
        expect(path.stat().st_size == size, "a program that hid from the tree is left")
        expect(took < 2.4, f"it took {took:.1f} s with a grace of 0.2 s")
    return ""


async def _failed_start(scratch: Scratch) -> str:
    spec = scratch.spec()
    sandbox = scratch.kind.create(spec)
    package = bundle.build(scratch.home) / "aegis"
    hidden = package.with_name("hidden")
    package.rename(hidden)
    try:
        await sandbox.start()
    except AegisError as error:
        stderr, code = str(error.data.get("stderr", "")), error.data.get("exit")
        expect(
            "ModuleNotFoundError" in stderr and code not in (None, 0), f"the error tells neither why nor how it ended: {error.to_dict()}"
        )
    else:
        expect(False, "it started without its guest")
    finally:
        hidden.rename(package)
        await sandbox.stop(0.0)
    left = await asyncio.to_thread(tree.marked, spec.id)
    expect(not left, f"processes {left} are left")
    return ""


async def _death_of_the_daemon(scratch: Scratch) -> str:
    spec = scratch.spec()
    kind = type(scratch.kind)
    encoded = msgspec.json.encode(spec, enc_hook=str).decode()
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _DAEMON, kind.__module__, kind.__qualname__, encoded),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert daemon.stdout is not None
    assert daemon.stderr is not None
    said = await asyncio.wait_for(daemon.stdout.readline(), 30)
    if said != b"up\n":
        expect(False, f"the daemon of this check does not come up: {(await daemon.stderr.read())[-300:].decode(errors='replace')}")
    before = await asyncio.to_thread(tree.marked, spec.id)
    daemon.kill()
    await daemon.wait()
    left: list[int] = before
    deadline = time.monotonic() + _PATIENCE
    while left and time.monotonic() < deadline:
        left = await asyncio.to_thread(tree.marked, spec.id)
    expect(not left, f"processes {left} outlive a daemon that was killed")
    await scratch.kind.sweep(scratch.home)
    return f"{len(before)} processes ended with it"


TRIALS: Final = (
    Trial("pause and resume", False, _pause),
    Trial("stop ends everything", False, _stop),
    Trial("a failed start tells why and leaves nothing", False, _failed_start),
    Trial("the daemon's death ends everything", False, _death_of_the_daemon),
)
