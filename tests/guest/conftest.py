"""A real guest on a socket pair, without any sandbox around it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from aegis.sandboxes import bundle
from aegis.sandboxes.link import Link


class RawGuest:
    """A started guest: its process, its hello and its link."""

    def __init__(self, process: subprocess.Popen[bytes], link: Link, hello: dict[str, object], cwd: Path) -> None:
        self.process = process
        self.link = link
        self.hello = hello
        self.cwd = cwd

    async def run(self, *argv: str, stdin: bytes | None = None, **options: object) -> tuple[int, bytes, bytes]:
        """Run to the end; returns exit code, stdout, stderr."""
        program = await self.link.run(list(argv), stdin=stdin is not None, **options)  # type: ignore[arg-type]
        if stdin is not None:
            await program.write(stdin)
            await program.close_stdin()
        streams: dict[int, list[bytes]] = {1: [], 2: []}
        while (piece := await program.read()) is not None:
            streams[piece[0]].append(piece[1])
        return await program.wait(), b"".join(streams[1]), b"".join(streams[2])

    async def sh(self, script: str, **options: object) -> tuple[int, bytes, bytes]:
        """Run a shell script to the end."""
        return await self.run("sh", "-c", script, **options)  # type: ignore[arg-type]


Start = Callable[..., Awaitable[RawGuest]]


@pytest.fixture(scope="session")
def lib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle.build(tmp_path_factory.mktemp("home"))


@pytest.fixture
async def start(lib: Path, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts guests, each with extra environment."""
    started: list[RawGuest] = []

    async def begin(**env: str) -> RawGuest:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                bundle.command(bundle.interpreter(), str(lib)),
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "AEGIS_TETHER_FD": str(theirs.fileno()), **env},
                cwd=tmp_path,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        link = Link(ours)
        guest = RawGuest(process, link, await link.hello(20), tmp_path)
        started.append(guest)
        return guest

    yield begin
    for guest in started:
        await guest.link.close()
        try:
            guest.process.wait(10)
        finally:
            guest.process.kill()
            guest.process.wait()


@pytest.fixture
async def guest(start: Start) -> RawGuest:
    return await start()
