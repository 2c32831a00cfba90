"""The one funnel to the terminal.

Text is stripped of escape sequences and control characters on its way out, whoever wrote it; colour is added afterwards, and
only on a terminal that wants it. For people: `say`, `table`, `pairs`, `piece`. For programs, with `--json`: `data`. The bytes of
a program that a person runs go through `raw` untouched.
"""

from __future__ import annotations

import os
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from aegis.cli.flow import columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aegis.core.errors import AegisError

#: A piece of a line: text, or text and its style.
Piece = str | tuple[str, str]

_STYLES = {"bold": "1", "alert": "1;33", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
_STATES = {"running": "green", "starting": "cyan", "created": "cyan", "paused": "yellow", "stopped": "dim", "failed": "red"}
_CELL = 1000
_RING = 3.0  # seconds from one ring of the bell to the next
_NARROW = 10  # columns that a cut cell keeps at least


def state(name: str) -> Piece:
    """The state of an instance, in its colour."""
    return name, _STATES.get(name, "")


class Output:
    """Where one run of the program writes. `json` and `plain` are set by the flags of a verb."""

    def __init__(self) -> None:
        self.json = False
        self.plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._out = _binary(sys.stdout)
        self._err = _binary(sys.stderr)
        self._out_tty = _is_tty(sys.stdout)
        self._err_tty = _is_tty(sys.stderr)
        self._moves = self._out_tty and os.environ.get("TERM") != "dumb"
        self._rang = float("-inf")
        self._passing = False  # the line that the cursor is on is a passing one
        self.live = self._out_tty

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked: both ends are a terminal and nobody wants JSON."""
        return self._out_tty and _is_tty(sys.stdin) and not self.json

    @property
    def columns(self) -> int | None:
        """How wide the terminal is; None when standard output is none."""
        return self._width() if self._out_tty else None

    def say(self, *pieces: Piece) -> None:
        """A line for people, on standard output; nothing with `--json`."""
        if not self.json:
            self._write(self._line(pieces, self._out_tty) + "\n")

    def piece(self, text: str, style: str = "") -> None:
        """Part of a line for people, shown at once."""
        if not self.json:
            self._write(self._line([(text, style)], self._out_tty))
            self._out.flush()

    def bell(self) -> None:
        """Ring, at most once in a while; on a terminal alone."""
        if self._out_tty and not self.json and (now := time.monotonic()) - self._rang >= _RING:
            self._rang = now
            self._out.write(b"\a")
            self._out.flush()

    def passing(self, text: str) -> None:
        """A line about what goes on at this moment, which the next thing that is written takes the place of; on a terminal alone."""
        if self._moves and not self.json:
            from aegis.core.text import one_line

            self._write(self._line([(_cut(f"  {one_line(text, _CELL)}", self._width() - 1), "dim")], tty=True))
            self._passing = True
            self._out.flush()

    def data(self, value: Any) -> None:
        """One JSON value on a line of its own; nothing without `--json`."""
        if self.json:
            self._write(_json(value) + "\n")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Piece]]) -> None:
        """Rows under a heading, columns as wide as they need; on a terminal that is too narrow the widest are cut, each to no less
        than a few characters, and on one that is narrower still each row becomes a block of lines."""
        if self.json:
            return
        from aegis.core.text import one_line

        lines = [[(title, "dim") for title in head]]
        lines += [[(one_line(text, _CELL), style) for text, style in map(_styled, row)] for row in rows]
        widths = [max(columns(line[i][0]) for line in lines) for i in range(len(head))]
        if self._out_tty and not _fit(widths, self._width() - 2 * (len(widths) - 1)):
            for line in lines[1:]:
                self.pairs(zip(head, line, strict=True))
                self.say()
            return
        for line in lines:
            *cells, (last, style) = line
            padded: list[Piece] = [(_padded(text, width) + "  ", style) for (text, style), width in zip(cells, widths, strict=False)]
            self.say(*padded, (_cut(last, widths[-1]), style))

    def pairs(self, rows: Iterable[tuple[str, Piece]], indent: str = "") -> None:
        """Names and values, one on a line, the values under each other."""
        rows = list(rows)
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            self.say(indent, (name.ljust(width + 2), "dim"), value)

    def raw(self, stream: int, data: bytes) -> None:
        """Bytes of a program, unchanged, to standard output (1) or standard error (2)."""
        self._clear()
        target = self._err if stream == 2 else self._out
        target.write(data)
        target.flush()

    def warn(self, text: str) -> None:
        """A warning on standard error; nothing with `--json`, where the answer itself says it."""
        self._aside(("warning: ", "yellow"), text)

    def hint(self, text: str) -> None:
        """What to do next, on standard error."""
        self._aside(("hint: ", "cyan"), text)

    def error(self, exc: AegisError) -> None:
        """An error on standard error: one line, the tail of what a dead program said, a hint. With `--json` one object."""
        if self.json:
            self._write(_json(exc.to_dict()) + "\n", err=True)
            return
        from aegis.core.text import one_line, printable

        self._aside(("error: ", "red"), one_line(exc.message, 2000))
        for line in printable(str(exc.data.get("stderr") or "")).splitlines()[-12:]:
            self._aside(("  | ", "dim"), (line, "dim"))
        if exc.hint:
            self.hint(exc.hint)

    def ask(self, question: str) -> bool:
        """A yes-or-no question to a person; no is the default."""
        return self.read_line(f"{question} [y/N] ").strip().lower() in {"y", "yes"}

    def read_line(self, prompt: str) -> str:
        """A line from a person, with editing and history where there is readline. Raises EOFError at the end."""
        from contextlib import suppress

        with suppress(ImportError):
            import readline  # noqa: F401  (input uses it once it is there)
        self._clear()
        self._out.flush()
        return input(self._line([prompt], tty=False))

    def read_answer(self, prompt: str, bell: int | None, over: Callable[[], bool]) -> str | None:
        """A line from a person at the terminal, empty at the end of input; None when the question is over before there is one.

        What was typed before the question was shown is no answer to it, and is dropped. `bell` is a descriptor that can be read when
        something has happened, upon which `over` is asked; of what it says only that a person is told something, for which it rings.
        """
        import select
        import termios

        termios.tcflush(0, termios.TCIFLUSH)
        self.piece(prompt)
        while True:
            ready, _, _ = select.select([0] if bell is None else [0, bell], [], [])
            if 0 in ready:
                return os.read(0, 4096).decode("utf-8", "replace").strip()
            said = os.read(bell, 65536) if bell is not None else b""
            if not said:
                bell = None  # whoever would ring is gone
            if b'"attention.raised"' in said and b'"bell":false' not in said:
                self.bell()
            if over():
                termios.tcflush(0, termios.TCIFLUSH)
                self.say()
                return None

    def read_hidden(self, prompt: str) -> str:
        """A line from a person that is not shown while it is typed."""
        from getpass import getpass

        return getpass(prompt)

    def flush(self) -> None:
        """Hand over everything written so far."""
        self._clear()
        self._out.flush()
        self._err.flush()

    def abandon(self) -> None:
        """Nobody reads any more: let nothing that is still buffered raise at exit."""
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not _is_tty(stream):
                os.dup2(null, stream.fileno())

    def _aside(self, *pieces: Piece) -> None:
        if not self.json:
            self._write(self._line(pieces, self._err_tty) + "\n", err=True)

    def _write(self, text: str, *, err: bool = False) -> None:
        # A lone surrogate, from a file name say, becomes an escape that JSON and people can read.
        data = text.encode("utf-8", "backslashreplace")
        self._clear()
        if err:
            self._out.flush()
            self._err.write(data)
            self._err.flush()
        else:
            self._out.write(data)
            if self.live:
                self._out.flush()

    def _clear(self) -> None:
        """Take a passing line away."""
        if self._passing:
            self._passing = False
            self._out.write(b"\r\x1b[2K")
            self._out.flush()

    def _line(self, pieces: Iterable[Piece], tty: bool) -> str:
        from aegis.core.text import printable

        shown = []
        for text, style in map(_styled, pieces):
            text = printable(text)
            shown.append(f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style and text and tty and not self.plain else text)
        return "".join(shown)

    def _width(self) -> int:
        from shutil import get_terminal_size

        return get_terminal_size().columns


def _json(value: Any) -> str:
    """`value` as JSON in UTF-8, in which nothing can act on a terminal either."""
    import json

    from aegis.core.text import printable

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if printable(text) == text else "".join(_escaped(c) if printable(c) != c else c for c in text)


def _fit(widths: list[int], room: int) -> bool:
    """Make the widest columns narrower until all fit into `room`; False when they would become too narrow to be read."""
    while (over := sum(widths) - room) > 0:
        widest = max(widths)
        if widest <= _NARROW:
            return False
        second = max((width for width in widths if width < widest), default=_NARROW)
        one = widths.index(widest)
        widths[one] -= max(min(over, widest - max(second, _NARROW)), 1)
    return True


def _cut(text: str, width: int) -> str:
    """`text` in at most `width` columns."""
    if columns(text) <= width:
        return text
    while columns(text) >= width:
        text = text[:-1]
    return text + "…"


def _padded(text: str, width: int) -> str:
    text = _cut(text, width)
    return text + " " * (width - columns(text))


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}"


def _styled(piece: Piece) -> tuple[str, str]:
    return (piece, "") if isinstance(piece, str) else piece


def _binary(stream: Any) -> IO[bytes]:
    """The byte side of a standard stream, or nowhere when it was closed."""
    if stream is not None:
        side: IO[bytes] = stream.buffer
        return side
    import io

    return io.BytesIO()


def _is_tty(stream: Any) -> bool:
    return stream is not None and stream.isatty()
