"""Running one tool in a child process that can be ended, whatever it does.

Every tool runs in a forked child in a session of its own: a program hangs, a regular expression explodes, a device never
answers, and still an interrupt or a time limit ends the whole tree at once, with the children that left the session or lost
their parent: a mark in their environment tells them.
"""

from __future__ import annotations

import itertools
import os
import time

from aegis.guest import processes
from aegis.guest.agent.wire import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from aegis.guest.agent.wire import Wire
else:
    import _signal as signal  # its Python face costs 3 ms

#: The variable that marks the programs of one call.
MARK = "AEGIS_CALL"
#: How long output is still read after a program ended while a background child holds its stdout, in seconds.
GRACE = 0.2
#: How long killed processes have for being gone, in seconds; one that waits for a dead disk may take longer.
_KILL_SECONDS = 2.0
_CHUNK = 64 * 1024
_numbers = itertools.count(1)
_wake: list[int] = []


class Ended:
    """How a child ended. `exit` is negative for a signal, None when it ran out of time. `cut` says that output was left out."""

    def __init__(self, exit_: int | None, output: str, cut: bool) -> None:
        self.exit = exit_
        self.output = output
        self.cut = cut


class _Kept:
    """The first third and the last two thirds of what came, `limit` bytes in all."""

    def __init__(self, limit: int) -> None:
        self._head_size, self._tail_size = limit // 3, limit - limit // 3
        self._head, self._tail = bytearray(), bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        room = self._head_size - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._tail_size:
            self._trim()

    def text(self) -> str:
        self._trim()
        if not self.dropped:
            return (self._head + self._tail).decode("utf-8", "replace")
        return f"{self._head.decode('utf-8', 'replace')}\n[... {self.dropped} bytes left out ...]\n{self._tail.decode('utf-8', 'replace')}"

    def _trim(self) -> None:
        extra = max(0, len(self._tail) - self._tail_size)
        del self._tail[:extra]
        self.dropped += extra


def run(wire: Wire, body: Callable[[str], None], seconds: float, limit: int) -> Ended:
    """Run `body` in a child whose stdout is collected, up to `limit` bytes, for at most `seconds`.

    `body` gets the value that `MARK` must have in the environment of what it executes; it returns for exit code 0. Raises
    Stopped, with the output so far, when the turn ends first. What is still running then, or after `seconds`, is killed; what
    a program left in the background when it ended by itself keeps running.
    """
    watch()
    mark = next_mark()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(writing, body, mark)
    os.close(writing)
    os.set_blocking(reading, False)
    kept = _Kept(limit)
    try:
        ended, code = _follow(wire, pid, mark, reading, kept, time.monotonic() + seconds)
    except Stopped as stop:
        stop.output = kept.text()
        raise
    return Ended(code if ended else None, kept.text(), kept.dropped > 0)


def _follow(wire: Wire, pid: int, mark: str, reading: int, kept: _Kept, deadline: float) -> tuple[bool, int]:
    """Collect, kill what must not go on, reap, and see to the pipe. Returns whether it ended by itself, and its exit code."""
    ended = eof = False
    code = 0
    try:
        ended, eof = _collect(wire, pid, reading, kept, deadline)
    finally:
        if not ended:
            kill(pid, mark)
        if not eof:
            _pour(reading, kept)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if ended and not eof:
            wire.drain(reading)
        else:
            os.close(reading)
    return ended, code


def next_mark() -> str:
    """A value of `MARK` that nothing else has."""
    return f"{os.getpid()}-{next(_numbers)}"


def kill(pid: int, mark: str) -> None:
    """Kill all that came from `pid`, and see it gone."""
    end = time.monotonic() + _KILL_SECONDS
    while processes.kill(lambda: processes.members([pid], MARK, mark)) and time.monotonic() < end:
        time.sleep(0.002)


def _child(writing: int, body: Callable[[str], None], mark: str) -> None:
    """Never returns."""
    code = 127
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(writing, 1)
        heed_signals()
        body(mark)
        code = 0
    finally:
        os._exit(code)


def heed_signals() -> None:
    """Undo in a child what Python ignores: a program would inherit that."""
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)


def _collect(wire: Wire, pid: int, reading: int, kept: _Kept, deadline: float) -> tuple[bool, bool]:
    """Read until the child ended and its output too, or `deadline`. Returns whether each of the two ended."""
    ended = eof = False
    until = deadline
    while not (ended and eof):
        ready = wire.wait(read=[_wake[0]] if eof else [_wake[0], reading], until=until)
        if not ready:
            break
        if reading in ready:
            eof = not _take(reading, kept)
        if _wake[0] in ready:
            os.read(_wake[0], _CHUNK)
        if not ended and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            # Not reaped yet: while it is a zombie its number cannot be given to somebody else.
            ended, until = True, min(deadline, time.monotonic() + GRACE)
    return ended, eof


def _take(reading: int, kept: _Kept) -> bool:
    """Read once; False at the end."""
    try:
        data = os.read(reading, _CHUNK)
    except BlockingIOError:
        return True
    kept.add(data)
    return bool(data)


def _pour(reading: int, kept: _Kept) -> None:
    """Take what is there already: at most what a pipe holds."""
    for _ in range(16):
        try:
            data = os.read(reading, _CHUNK)
        except BlockingIOError:
            return
        kept.add(data)
        if not data:
            return


def watch() -> int:
    """Have the end of a child wake `Wire.wait`, through a pipe; returns the end to read from, whose bytes mean nothing."""
    if not _wake:
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        _wake.append(reading)
    return _wake[0]
