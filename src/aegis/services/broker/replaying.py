"""Answering model calls from a recording: nothing leaves the machine, and nothing is used."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NamedTuple

from aegis.core.errors import AegisError, ErrorKind
from aegis.models import ModelResponse
from aegis.services.broker.tapes import damaged, digest, lines, open_to_read, read_exchange, read_header

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aegis.core.clock import Clock
    from aegis.services.broker.tapes import Exchange


class _Entry(NamedTuple):
    """Where an exchange stands in the file. What is kept of it is small; the rest is read when it is played."""

    n: int
    line: int
    offset: int
    length: int
    digest: str


class Player:
    """One recording as one instance plays it. Each exchange is played once.

    A call gets the first unused exchange of its session and kind that was asked for the same, or else the first unused one: what
    programs put into their requests differs from run to run, the order of their work much less.
    """

    def __init__(self, path: str, home: Path, clock: Clock) -> None:
        self.path = path
        self._home = home
        self._clock = clock
        self._fd = -1
        self._paced = False
        self._unused: dict[tuple[str | None, str], list[_Entry]] = {}
        self._played: dict[tuple[str | None, str], int] = {}
        self._loading: asyncio.Future[None] | None = None

    async def load(self) -> None:
        """Read the file. Raises AegisError with the file and the line where it is damaged, each time until it is mended."""
        if self._loading is None:
            self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        loading = self._loading
        try:
            await asyncio.shield(loading)
        except BaseException:
            if loading.done():
                self._loading = None
            raise

    async def answer(self, session: str | None, name: str, body: bytes) -> ModelResponse:
        """What was answered then. Raises AegisError: NOT_FOUND where the recording has none left, UNREACHABLE where there was none."""
        await self.load()
        wanted = await asyncio.to_thread(digest, body)
        key = (session, name)
        unused = self._unused.get(key, [])
        played = self._played.get(key, 0)
        if not unused:
            of = f"session `{session}`" if session else "no session"
            others = "" if played else self._others()
            raise AegisError(
                ErrorKind.NOT_FOUND,
                f"the recording {self.path} has no answer for call {played + 1} of {of} to {name}: it holds {played}{others}",
                "record again, or replay the work that was recorded",
            )
        entry = next((each for each in unused if each.digest == wanted), unused[0])
        unused.remove(entry)
        self._played[key] = played + 1
        exchange = read_exchange(self.path, entry.line, await asyncio.to_thread(os.pread, self._fd, entry.length, entry.offset))
        if exchange.n != entry.n:
            raise damaged(self.path, entry.line, "the file has changed since it was opened")
        if not exchange.status:
            raise AegisError(ErrorKind.UNREACHABLE, f"{self.path}:{entry.line}: there was no answer: {exchange.error}", sent=False)
        return ModelResponse(exchange.status, tuple(exchange.headers), self._pieces(exchange, entry))

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def _pieces(self, exchange: Exchange, entry: _Entry) -> AsyncIterator[bytes]:
        started = self._clock.monotonic()
        for piece in exchange.pieces:
            if self._paced:
                await self._clock.sleep(started + piece.ms / 1000 - self._clock.monotonic())
            if content := piece.content:
                yield content
        if exchange.error:
            raise AegisError(ErrorKind.UNREACHABLE, f"{self.path}:{entry.line}: the recorded answer broke off: {exchange.error}")

    def _others(self) -> str:
        found = [f"{session or 'no session'} {name}" for session, name in self._unused]
        return "; there are " + ", ".join(found[:5]) if found else " and no other"

    def _load(self) -> None:
        fd = open_to_read(self.path, self._home)
        try:
            unused: dict[tuple[str | None, str], list[_Entry]] = {}
            number = 0
            for number, offset, line in lines(fd, self.path):
                if number == 1:
                    self._paced = read_header(self.path, line).timing == "recorded"
                    continue
                exchange = read_exchange(self.path, number, line)
                entry = _Entry(exchange.n, number, offset, len(line), exchange.digest)
                unused.setdefault((exchange.session, exchange.name), []).append(entry)
            if not number:
                raise damaged(self.path, 1, "the file is empty")
        except BaseException:
            os.close(fd)
            raise
        for entries in unused.values():
            entries.sort()
        self._unused, self._fd = unused, fd
