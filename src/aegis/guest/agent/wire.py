"""The agent's ends of stdin and stdout, and the one place where it waits.

Everything the agent ever waits for (a frame, a commit, the model's bytes, a tool's output) goes through `Wire`, so that an
interrupt, the end of the turn's time or the end of stdin is seen at once, whatever is going on. There are no threads.
"""

from __future__ import annotations

import os
import select
import time

from aegis.tether.jsontext import dumps_text, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_CHUNK = 64 * 1024


class Closed(Exception):
    """The daemon closed the session or is gone."""


class Stopped(Exception):
    """The turn must end now.

    `outcome` is how, `reason` is for people and for the model, `limit` names the limit if it was one, and `output` is what a
    tool that was cut had said so far.
    """

    def __init__(self, outcome: str, reason: str, limit: str = "") -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.limit = limit
        self.output = ""


class Wire:
    """Frames in, frames out, and waiting.

    Args:
        source: the descriptor frames are read from.
        sink: the descriptor frames are written to; blocks when the daemon does not read.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._partial = bytearray()
        self._frames: list[dict[str, Any]] = []
        self._committed = 0
        self._interrupted = False
        self._turn = False
        self._seconds = 0.0
        self._deadline = 0.0
        self._drained: dict[int, Callable[[bytes], object] | None] = {}
        self._answers: dict[str, dict[str, Any]] = {}
        self._mail: list[dict[str, Any]] = []
        #: What the session was told to run with from the next model call on, by name.
        self.changes: dict[str, Any] = {}

    def send(self, type_: str, **fields: Any) -> None:
        """Write one frame. What is not Unicode (lone surrogates) is replaced."""
        data = memoryview(dumps_text({"type": type_, **fields}) + b"\n")
        while data:
            try:
                data = data[os.write(self._sink, data) :]
            except BrokenPipeError:
                raise Closed from None

    def receive(self) -> dict[str, Any]:
        """The next `init` or `turn` frame. An interrupt between turns means nothing and is dropped."""
        while not self._frames:
            self._interrupted = False
            self._poll({}, None)
        return self._frames.pop(0)

    def begin(self, seconds: float) -> None:
        """A turn starts and may last `seconds`. An interrupt that came with it is kept."""
        self._turn = True
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._answers.clear()

    def end(self) -> None:
        """The turn is over; interrupts mean nothing until the next."""
        self._turn = False
        self._interrupted = False

    def committed(self, n: int) -> None:
        """Wait until record `n` is on disk. Not cut by an interrupt: memory must stay what the store holds."""
        while self._committed < n:
            self._poll({}, None)

    def mail(self, turn: str) -> list[dict[str, Any]]:
        """Messages that came in the middle of turn `turn`, each once. Those for a turn that is over are nobody's: they come again."""
        frames, self._mail = self._mail, []
        return [message for frame in frames if frame.get("turn") == turn for message in frame.get("messages") or []]

    def answer(self, ident: str) -> dict[str, Any]:
        """The answer to a question that was sent. The time until it comes is nobody's: the turn's time stands still. Raises Stopped."""
        left = self._deadline - time.monotonic()
        self._deadline = float("inf")
        try:
            while ident not in self._answers:
                self._raise_if_stopped()
                self._poll({}, None)
        finally:
            self._deadline = time.monotonic() + left
        return self._answers.pop(ident)

    def check(self) -> None:
        """Raise Stopped if the turn was interrupted or its time is over."""
        self._poll({}, 0.0)
        self._raise_if_stopped()

    def wait(self, *, read: Iterable[int] = (), write: Iterable[int] = (), until: float | None = None) -> set[int]:
        """Wait for one of the descriptors; the ready ones, or none when monotonic time `until` has come. Raises Stopped."""
        wanted = dict.fromkeys(read, select.POLLIN) | dict.fromkeys(write, select.POLLOUT)
        while True:
            self._raise_if_stopped()
            now = time.monotonic()
            if until is not None and now >= until:
                return set()  # also when something is ready: one that never stops must not outrun the time
            ends = self._deadline if until is None else min(self._deadline, until)
            if ready := self._poll(wanted, ends - now):
                self._raise_if_stopped()
                return ready

    def drain(self, fd: int, keep: Callable[[bytes], object] | None = None) -> None:
        """Read `fd` whenever the agent waits, until it ends, then close it. What comes is given to `keep`, and at the end nothing,
        or it is thrown away: a background program keeps writing after its call is over."""
        os.set_blocking(fd, False)
        self._drained[fd] = keep

    def forget(self, fd: int) -> None:
        """Drain `fd` no more, and close it if it has not ended already."""
        if fd in self._drained:
            del self._drained[fd]
            os.close(fd)

    def _raise_if_stopped(self) -> None:
        if self._interrupted:
            raise Stopped("cancelled", "interrupted by the user")
        if time.monotonic() >= self._deadline:
            raise Stopped("limited", f"the turn's time limit of {self._seconds:g} s is reached", "turn_seconds")

    def _poll(self, wanted: dict[int, int], seconds: float | None) -> set[int]:
        poll = select.poll()
        for fd in (self._source, *self._drained):
            poll.register(fd, select.POLLIN)
        for fd, mask in wanted.items():
            poll.register(fd, mask)
        # Rounded up: a wait cut short by a fraction of a millisecond would spin.
        events = poll.poll(None if seconds is None else max(0, int(seconds * 1000) + (seconds > 0)))
        ready = set()
        for fd, _ in events:
            if fd == self._source:
                self._read()
            elif fd in self._drained:
                self._discard(fd)
            else:
                ready.add(fd)
        return ready

    def _discard(self, fd: int) -> None:
        keep = self._drained[fd]
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.forget(fd)
        if keep is not None:
            keep(data)

    def _read(self) -> None:
        data = os.read(self._source, _CHUNK)
        if not data:
            raise Closed
        self._partial += data
        if b"\n" not in data:
            return
        *lines, rest = bytes(self._partial).split(b"\n")
        self._partial = bytearray(rest)
        for line in lines:
            if line.strip():
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            frame = loads(line)
            kind, n = frame["type"], int(frame.get("n", 0))
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # a newer daemon may say what this agent does not know; it must not die of it
        if kind in ("init", "turn"):
            self._frames.append(frame)
        elif kind == "committed":
            self._committed = max(self._committed, n)
        elif kind == "interrupt":
            # Frames come in order: an interrupt behind an unread turn belongs to that turn.
            self._interrupted = self._turn or bool(self._frames)
        elif kind == "add":
            self._mail.append(frame)
        elif kind == "answer":
            self._answers[frame.get("id", "")] = frame
        elif kind == "configure":
            self.changes |= {name: frame[name] for name in ("model", "effort") if frame.get(name) is not None}
        elif kind == "close":
            raise Closed
