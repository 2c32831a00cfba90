"""What programs printed and what the daemon did with an instance, as lines on disk that survive restarts.

One file per instance, NDJSON `{ts, stream, text, source}`; at `ROTATE` bytes it becomes `.1` and a new one begins, so an instance
keeps at most twice that. A full disk loses log lines and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from aegis.core.clock import Clock

ROTATE: Final = 8 * 1024 * 1024


class Log:
    """The log of one instance."""

    def __init__(self, path: Path, clock: Clock, clean: Callable[[bytes], bytes] = bytes) -> None:
        self._path = path
        self._clock = clock
        self._clean = clean  # takes out what may not be kept
        self._followers: set[asyncio.Queue[dict[str, Any]]] = set()

    def write(self, text: str, *, stream: str = "system", source: str = "aegis", ts: float | None = None) -> None:
        """Append one line."""
        self.extend([{"ts": ts or self._clock.now(), "stream": stream, "text": text, "source": source}])

    def extend(self, records: list[dict[str, Any]]) -> None:
        """Append several lines at once."""
        if not records:
            return
        told = msgspec.json.Encoder().encode_lines(records)
        if (clean := self._clean(told)) != told:
            told, records = clean, [msgspec.json.decode(line) for line in clean.splitlines()]
        with contextlib.suppress(OSError):
            self._rotate()
            with open(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(told)
        for queue in self._followers:
            for record in records:
                with contextlib.suppress(asyncio.QueueFull):
                    queue.put_nowait(record)

    def tail(self, lines: int | None = None, since: float | None = None) -> list[dict[str, Any]]:
        """The last `lines` records (all when None) from `since` on, oldest first."""
        found: list[dict[str, Any]] = []
        for path in (self._path.with_suffix(".1"), self._path):
            with contextlib.suppress(OSError):
                for line in path.read_bytes().splitlines():
                    with contextlib.suppress(msgspec.DecodeError):  # a line torn by a crash
                        record = msgspec.json.decode(line)
                        if since is None or record.get("ts", 0) >= since:
                            found.append(record)
        return found if lines is None else found[len(found) - min(lines, len(found)) :]

    async def follow(self, lines: int | None = 0, since: float | None = None) -> AsyncIterator[dict[str, Any]]:
        """`tail`, then every further record as it is written. A reader that falls 10 000 records behind misses the excess."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(10_000)
        self._followers.add(queue)
        try:
            for record in self.tail(lines, since):
                yield record
            while True:
                yield await queue.get()
        finally:
            self._followers.discard(queue)

    def _rotate(self) -> None:
        try:
            if self._path.stat().st_size >= ROTATE:
                self._path.replace(self._path.with_suffix(".1"))
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
