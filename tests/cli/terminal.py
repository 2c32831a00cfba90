"""The program in a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.cli.conftest import Program

_SECONDS = 30.0


class Terminal:
    """Runs `aegis` in a terminal of its own; a context manager that ends it. `typed` was typed before it started."""

    def __init__(self, program: Program, *args: str, environment: dict[str, str] | None = None, typed: str = "") -> None:
        self._fd, inner = pty.openpty()
        os.write(self._fd, typed.encode())
        environment = {**program.environment, "TERM": "dumb", **(environment or {})}
        self._process = subprocess.Popen(
            program.argv(*args), stdin=inner, stdout=inner, stderr=inner, cwd=program.cwd, env=environment, start_new_session=True,
            preexec_fn=_controlling,
        )  # fmt: skip
        os.close(inner)
        self._seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def type(self, text: str) -> None:
        """Type, `\\x03` being Ctrl-C, once the program waits for it.

        It has shown its prompt a moment before it waits, and a signal in between would be noticed only at the next key; no
        person is that quick.
        """
        deadline = time.monotonic() + _SECONDS
        while Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, "the program never waits"
            time.sleep(0.002)
        os.write(self._fd, text.encode())

    def expect(self, text: str) -> str:
        """Wait until `text` is shown; returns all up to its end and forgets it."""
        deadline = time.monotonic() + _SECONDS
        wanted = text.encode()
        while wanted not in self._seen:
            data = self._read(deadline)
            assert data, f"{text!r} did not come; there was: {self._seen!r}"
            self._seen += data
        end = self._seen.index(wanted) + len(wanted)
        shown, self._seen = self._seen[:end], self._seen[end:]
        return shown.decode("utf-8", "replace")

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        deadline = time.monotonic() + _SECONDS
        while data := self._read(deadline):
            self._seen += data
        return self._process.wait(_SECONDS)

    def _read(self, deadline: float) -> bytes:
        """What is shown next; nothing at the end of the program or at the deadline."""
        if not select.select([self._fd], [], [], max(deadline - time.monotonic(), 0))[0]:
            return b""
        try:
            return os.read(self._fd, 65536)
        except OSError:  # the other end is closed
            return b""


def _controlling() -> None:
    """Make the terminal the controlling one, so that Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
