"""Writing model calls down, so that the same work can be done again without a model."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.broker.tapes import MAX_FILE, MAX_LINE, VERSION, Exchange, Header, Piece, digest, lines, open_to_write, read_exchange

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aegis.core.clock import Clock
    from aegis.models import ModelResponse
    from aegis.services.broker.model import Call

#: The longest request that is kept as it was; of longer ones the digest has to do.
MAX_REQUEST: Final = 256 * 1024
#: The most bytes of an answer that are kept; JSON may write a byte as six.
MAX_ANSWER: Final = MAX_LINE // 8


class Recorder:
    """One file that exchanges are written to. All of an instance's calls, or of several that record to the same file, share it.

    Writing never fails a call: `problem` is told why something could not be written, once per reason, and None when it works again.
    """

    def __init__(self, path: str, home: Path, clock: Clock, problem: Callable[[str | None], None]) -> None:
        self.path = path
        self._home = home
        self._clock = clock
        self._problem = problem
        self._told: str | None = None
        self._fd = -1
        self._next = 1
        self._opening: asyncio.Future[None] | None = None
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Open the file and find out how many calls are in it. Raises AegisError; the next call then tries again."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        opening = self._opening
        try:
            await asyncio.shield(opening)
        except BaseException:
            if opening.done():
                self._opening = None
            raise

    async def begin(self, call: Call, name: str, body: bytes) -> Take | None:
        """A call is made. None when it cannot be recorded, which has been told then."""
        try:
            await self.open()
        except AegisError as error:
            self._tell(f"model calls are not recorded: {error.message}")
            return None
        number, self._next = self._next, self._next + 1
        return Take(self, number, call, name, body, self._clock)

    async def write(self, exchange: Exchange) -> None:
        """Append one exchange. Raises nothing."""
        try:
            line = msgspec.json.encode(exchange) + b"\n"
            if len(line) > MAX_LINE:
                self._tell(f"call {exchange.n} is not recorded in {self.path}: it is too long")
                return
            async with self._lock:
                await asyncio.to_thread(self._append, line)
        except AegisError as error:
            self._tell(error.message)
        except OSError as error:
            self._tell(f"model calls cannot be recorded in {self.path}: {error.strerror}")
        else:
            self._tell(None)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        fd, self._fd = self._fd, -1
        self._opening = None
        if fd >= 0:
            os.close(fd)

    def _tell(self, message: str | None) -> None:
        if message != self._told:
            self._told = message
            self._problem(message)

    def _open(self) -> None:
        fd = open_to_write(self.path, self._home)
        try:
            if not os.fstat(fd).st_size:
                moment = datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="seconds")
                os.write(fd, msgspec.json.encode(Header(aegis_model_calls=VERSION, recorded_at=moment)) + b"\n")
            last = b"\n"
            for number, _, last in lines(fd, self.path):
                if number > 1 and last.endswith(b"\n"):
                    self._next = max(self._next, read_exchange(self.path, number, last).n + 1)
            if not last.endswith(b"\n"):  # the daemon died while it wrote this line
                os.ftruncate(fd, os.fstat(fd).st_size - len(last))
        except OSError as error:
            os.close(fd)
            raise AegisError(ErrorKind.UNAVAILABLE, f"cannot write to {self.path}: {error.strerror}") from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _append(self, line: bytes) -> None:
        """One line as a whole, or nothing of it."""
        size = os.fstat(self._fd).st_size
        if size + len(line) > MAX_FILE:
            raise AegisError(ErrorKind.TOO_LARGE, f"the recording {self.path} is full: it has {size} bytes")
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, size)
            raise


class Take:
    """One call while it is being recorded."""

    def __init__(self, recorder: Recorder, number: int, call: Call, name: str, body: bytes, clock: Clock) -> None:
        self._recorder = recorder
        self._number = number
        self._call = call
        self._name = name
        self._body = body
        self._clock = clock
        self._begun = 0.0
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._pieces: list[tuple[float, bytes]] = []
        self._size = 0
        #: Never written, wherever it turns up.
        self.credential: str | None = None

    def answered(self, response: ModelResponse, headers: list[tuple[str, str]]) -> None:
        """The head of the answer is there; `headers` are those that the program gets."""
        self._begun = self._clock.monotonic()
        self._status = response.status
        self._headers = headers

    def piece(self, data: bytes) -> None:
        """The next bytes of it."""
        self._size += len(data)
        if self._size <= MAX_ANSWER:
            self._pieces.append((round((self._clock.monotonic() - self._begun) * 1000, 2), data))

    async def end(self) -> None:
        """The call is over; write it down."""
        call = self._call
        error = call.error if call.outcome != "completed" and not (self._status >= 400 and call.outcome == "failed") else ""
        if call.outcome == "cancelled":
            error = "the program went away"
        if self._size > MAX_ANSWER:
            error = f"the answer was longer than {MAX_ANSWER} bytes"
        kept = self._body if len(self._body) <= MAX_REQUEST else None
        exchange = Exchange(
            n=self._number,
            session=call.session,
            name=self._name,
            model=call.model,
            digest=await asyncio.to_thread(digest, self._body),
            status=self._status,
            headers=[(name, self._clean(value.encode("latin-1", "replace")).decode("latin-1")) for name, value in self._headers],
            pieces=self._written(),
            usage=call.usage,
            error=self._clean(error.encode()).decode(),
            request=self._clean(kept).decode("utf-8", "replace") if kept is not None else None,
        )
        await self._recorder.write(exchange)

    def _written(self) -> list[Piece]:
        pieces = self._pieces
        if self.credential and self.credential.encode() in (whole := b"".join(data for _, data in pieces)):
            pieces = [(pieces[-1][0], self._clean(whole))]
        return [_piece(ms, data) for ms, data in pieces]

    def _clean(self, data: bytes) -> bytes:
        return data.replace(self.credential.encode(), b"[key]") if self.credential else data


def _piece(ms: float, data: bytes) -> Piece:
    try:
        return Piece(ms, data.decode())
    except UnicodeDecodeError:
        return Piece(ms, None, data)
