"""What the drivers of all programs have in common: lines from a pipe, the last words of a program, and why it did not start."""

from __future__ import annotations

from typing import Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers import Died

#: How much of what a program said last to people is kept, in bytes.
TAIL: Final = 16 * 1024


class Broken(Exception):
    """The program does not keep to the protocol."""


class Output:
    """What a program says: the lines of its stdout, cut in linear time, and the end of what it says to people.

    Args:
        who: what the program is called in errors.
        most: the longest line, in bytes.
    """

    def __init__(self, who: str, most: int) -> None:
        self._who = who
        self._most = most
        self._pieces: list[bytes] = []  # of a line that waits for its end, joined once
        self._size = 0
        self._tail = bytearray()

    def lines(self, data: bytes) -> list[bytes]:
        """The lines that these bytes of stdout complete, without their ends and without blank ones. Raises Broken for one too long."""
        first, newline, rest = data.partition(b"\n")
        self._size += len(first)
        self._check()
        self._pieces.append(first)
        if not newline:
            return []
        found = [b"".join(self._pieces) if len(self._pieces) > 1 else first]
        *more, last = rest.split(b"\n")
        found += more
        self._pieces = [last] if last else []
        self._size = len(last)
        self._check()
        return [line for line in found if line and not line.isspace()]

    def aside(self, data: bytes) -> None:
        """Keep the end of what it says to people, on stderr or in lines that are no frames."""
        self._tail += data[-TAIL:]
        del self._tail[:-TAIL]

    @property
    def said(self) -> str:
        """The end of what it said to people."""
        return self._tail.decode("utf-8", "replace").strip()

    def died(self, exit_: int | None, reason: str = "") -> Died:
        """The event of its end; `reason` is ours, and stands behind what it said itself: torn words too, but no half of a frame."""
        torn = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        if not torn.startswith(b"{"):
            self.aside(torn)
        return Died(exit_, "\n".join(part for part in (self.said, reason) if part))

    def _check(self) -> None:
        if self._size > self._most:
            raise Broken(f"{self._who} sent a line of more than {self._most} bytes")


def unstarted(who: str, end: Died, kind: ErrorKind = ErrorKind.FAILED, hint: str = "aegis doctor") -> AegisError:
    """The error of a program that ended when it should have begun."""
    how = "" if end.exit is None else f" (exit {end.exit})"
    last = end.stderr.splitlines()[-1] if end.stderr else "it said nothing"
    return AegisError(kind, f"{who} did not start{how}: {last}", hint, exit=end.exit, stderr=end.stderr)
