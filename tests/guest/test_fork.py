"""Programs of the bundle in a fork of the guest."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aegis.sandboxes import tree
from aegis.sandboxes.link import Program

_AGENT = "aegis.guest.agent.main"
_INIT = b'{"type":"init","session":"s","model":"m/m","dialect":"openai","limits":{"rounds":1,"turn_seconds":9,'
_INIT += b'"tool_seconds":9,"context_tokens":9000,"max_tokens":99}}\n'


async def said(program: Program) -> tuple[bytes, bytes]:
    streams: dict[int, bytes] = {1: b"", 2: b""}
    while (piece := await program.read()) is not None:
        streams[piece[0]] += piece[1]
    return streams[1], streams[2]


async def ready(guest: Any) -> Program:
    program: Program = await guest.link.run_module(_AGENT)
    await program.write(_INIT)
    assert await program.read() == (1, b'{"type":"ready"}\n')
    return program


async def test_it_is_a_program_like_any_other(guest: Any) -> None:
    program = await ready(guest)
    await program.close_stdin()
    assert await said(program) == (b"", b"")
    assert await program.wait() == 0


async def test_it_has_nothing_of_the_guest(guest: Any) -> None:
    program = await ready(guest)
    (pid,) = tree.descendants(guest.process.pid)
    held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [target for target in held if not target.startswith(("pipe:", "/dev/null"))]
    assert os.getsid(pid) == pid
    await program.kill()
    await guest.link.call("ping")
    assert (await guest.sh("echo still here"))[1] == b"still here\n"


async def test_what_goes_wrong_is_told(guest: Any) -> None:
    program = await guest.link.run_module("aegis.guest.absent")
    out, err = await said(program)
    assert (out, await program.wait()) == (b"", 1)
    assert b"ModuleNotFoundError" in err


async def test_many_start_at_once(guest: Any) -> None:
    programs = await asyncio.gather(*(ready(guest) for _ in range(8)))
    for program in programs:
        await program.close_stdin()
    assert [await program.wait() for program in programs] == [0] * 8
