"""An MCP server that is a program beside the agent: one message of JSON per line on its stdin and stdout.

It has a session of its own and dies with the agent, whatever becomes of that. Its stdout is read while an answer is awaited and else
waits in the pipe; its stderr is always read, and the end of it kept for the case that it dies.
"""

from __future__ import annotations

import os
import time

from aegis.guest import kernel
from aegis.guest.agent.mcp import MAX_MESSAGE, MAX_NOISE, Broken, Late, Refused, Unsent, one_line
from aegis.guest.agent.mcp.machine import notification
from aegis.guest.agent.tools import children
from aegis.tether.jsontext import dumps_text, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aegis.guest.agent.mcp import Flow
    from aegis.guest.agent.mcp.machine import Machine
    from aegis.guest.agent.wire import Wire

_CHUNK = 64 * 1024
_TAIL = 4096
#: How long a program that closed its stdout has for ending, in seconds, before it is taken for one that will not.
_ENDING = 0.2


class Stdio:
    """The program and its pipes. Opened again, it is a new one."""

    def __init__(self, wire: Wire, command: list[str], env: dict[str, str]) -> None:
        self._wire = wire
        self._command = command
        # The agent's own token has no business in what others run.
        self._env = {k: v for k, v in os.environ.items() if k != "AEGIS_TOKEN"} | env
        self._pid = 0
        self._mark = ""
        self._in = self._out = self._err = -1
        self._tail = bytearray()
        self._buffer = bytearray()
        self._seen = 0  # how much of the buffer is known to hold no end of a line
        self._torn = False  # half a message was written
        #: The definitions of its tools; nothing is done with them here.
        self.schemas: dict[str, dict[str, Any]] = {}

    def open(self) -> None:
        """Start the program. Raises Broken."""
        self.close()
        self._mark = children.next_mark()
        self._tail.clear()
        self._buffer.clear()
        self._seen, self._torn = 0, False
        pipes: list[int] = []
        try:
            for _ in range(3):
                pipes += os.pipe()
            self._pid = os.fork()
        except OSError as error:
            for fd in pipes:
                os.close(fd)
            raise Broken(f"cannot be started: {error.strerror}") from None
        if self._pid == 0:
            self._become(pipes)
        for fd in (pipes[0], pipes[3], pipes[5]):
            os.close(fd)
        self._in, self._out, self._err = pipes[1], pipes[2], pipes[4]
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._wire.drain(self._err, self._keep)

    def _become(self, pipes: list[int]) -> None:
        """Be the program; never returns."""
        try:
            os.setsid()
            kernel.die_with_parent()
            for fd, number in ((pipes[0], 0), (pipes[3], 1), (pipes[5], 2)):
                os.dup2(fd, number)
            children.heed_signals()
            try:
                os.execvpe(self._command[0], self._command, self._env | {children.MARK: self._mark})
            except (OSError, ValueError) as error:
                os.write(2, f"cannot run {self._command[0]}: {getattr(error, 'strerror', None) or error}".encode())
        finally:
            os._exit(127)

    def request(self, machine: Machine, message: dict[str, Any], until: float, other: int | None = None) -> Flow[tuple[Any, Any]]:
        """Send a request and return the id and the result of its answer, or of the request `other` when that succeeds first.

        Raises Unsent, Broken and Late.
        """
        yield from self._write(message, until)
        noise = 0
        while True:
            while (line := self._line()) is not None:
                for one in _messages(line):
                    answer = machine.take(one)
                    if answer and type(answer[0]) is int:
                        if answer[0] == message["id"] or (answer[0] == other and not isinstance(answer[1], Refused)):
                            return answer
                    elif answer and answer[0] is None and isinstance(answer[1], Refused):
                        return message["id"], answer[1]  # it could not read even the id
                noise += len(line)
                if noise > MAX_NOISE:
                    raise Broken(f"said more than {MAX_NOISE} bytes and gave no answer")
            while machine.replies:
                yield from self._write(machine.replies.pop(0), until)
            if not self._read():
                yield from self._wait((), until)

    def notify(self, message: dict[str, Any], until: float, _: Machine) -> Flow[None]:
        """Send a message that nothing answers. Raises Unsent and Late."""
        yield from self._write(message, until)

    def cancel(self, machine: Machine, ident: int) -> None:
        """Tell the server that nobody waits for an answer any more, if it can be told at once."""
        data = dumps_text(notification("notifications/cancelled", {"requestId": ident})) + b"\n"
        if self._in >= 0 and not self._torn:
            try:
                self._torn = os.write(self._in, data) < len(data)
            except OSError:
                pass  # it does not read, or is gone

    def hang_up(self) -> None:
        """Close its stdin, which tells it to end."""
        if self._in >= 0:
            os.close(self._in)
            self._in = -1

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self._pid > 0 and not os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)

    def close(self) -> None:
        """Kill what is left of the program and of all that it started. Idempotent."""
        self.hang_up()
        if self._pid:
            children.kill(self._pid, self._mark)
            os.waitpid(self._pid, 0)
            os.close(self._out)
            if self._err >= 0:
                self._wire.forget(self._err)
            self._pid, self._out, self._err = 0, -1, -1

    def _write(self, message: dict[str, Any], until: float) -> Flow[None]:
        if self._in < 0 or self._torn:
            raise Unsent("takes no more messages")
        if not self.running:
            raise Unsent(self._obituary())
        data = dumps_text(message) + b"\n"
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._in, rest) :]
                except BlockingIOError:
                    pass
                except OSError:
                    raise Unsent(self._obituary()) from None
                if rest:  # a server that cannot get rid of its answers reads no more questions
                    while len(self._buffer) < MAX_NOISE and self._read():
                        pass
                    yield from self._wait((self._in,), until)
        finally:
            self._torn = 0 < len(rest) < len(data)

    def _wait(self, write: tuple[int, ...], until: float) -> Flow[None]:
        """Wait for output, for room in its stdin or for its end, which its own children can hide. Raises Broken and Late."""
        wake = children.watch()
        gone = not self.running
        if gone and not self._read():
            raise Broken(self._obituary())
        if not gone:
            yield ((self._out, wake) if len(self._buffer) < MAX_NOISE else (wake,)), write, until
            try:
                os.read(wake, _CHUNK)
            except BlockingIOError:
                pass
            if time.monotonic() >= until:
                raise Late

    def _read(self) -> bool:
        """Take what is there, once; False when there is nothing yet. Raises Broken at the end."""
        try:
            data = os.read(self._out, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            raise Broken(self._obituary())
        self._buffer += data
        return True

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._seen)
        if end < 0:
            self._seen = len(self._buffer)
            if self._seen > MAX_MESSAGE:
                raise Broken(f"sent a line of more than {MAX_MESSAGE} bytes")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._seen = 0
        return line

    def _keep(self, data: bytes) -> None:
        if not data:
            self._err = -1  # it is closed, and its number may soon be another's
        self._tail += data[-_TAIL:]
        del self._tail[:-_TAIL]

    def _obituary(self) -> str:
        """How it ended, and what it said last."""
        end = time.monotonic() + _ENDING
        while (ended := os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None and time.monotonic() < end:
            time.sleep(0.002)
        how = "closed its output"
        if ended is not None:
            how = f"ended with exit code {ended.si_status}" if ended.si_code == os.CLD_EXITED else f"was killed by signal {ended.si_status}"
        for _ in range(4 if self._err >= 0 else 0):
            try:
                data = os.read(self._err, _CHUNK)
            except OSError:
                break
            if not data:
                break
            self._keep(data)
        said = one_line(self._tail.decode("utf-8", "replace")[-600:])
        return f"{how}: {said}" if said else how


def _messages(line: bytes) -> list[Any]:
    """The messages of a line. What is no message is what a careless program prints; what begins as one must be one."""
    line = line.strip()
    if not line.startswith((b"{", b"[")):
        return []
    try:
        value = loads(line)
    except ValueError as error:
        if line.startswith(b"["):
            return []  # as many programs begin the lines of their logs
        raise Broken(f"sent a message that is not JSON ({error})") from None
    return value if isinstance(value, list) else [value]
