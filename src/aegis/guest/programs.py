"""Programs: one `exec` channel is one program in a session of its own.

Its output crosses the tether under the channel's credit, so a slow reader blocks the program and loses nothing; a captured
program writes to the log instead and is never blocked. Once it has ended, all it wrote is sent; a child left behind that
holds its output open may add to it for a moment, and then lives on with its output thrown away. CLOSE from the daemon kills
the program and everything it started.
"""

from __future__ import annotations

import errno
import os
import sys

from aegis.guest import processes
from aegis.guest.fork import fork
from aegis.guest.loop import READ, WRITE
from aegis.tether.frames import CHUNK, STDERR, STDIN, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aegis.guest.logs import Stream
    from aegis.guest.loop import Timer
    from aegis.guest.supervisor import Guest

#: The variable that marks what an exec started, in case it leaves its tree.
MARK = "AEGIS_EXEC"
#: Seconds of silence after which an ended program's output counts as complete, and the most that is waited for silence.
_SILENCE, _LINGER = 0.2, 2.0
#: A program starts with the default for each of these: what Python ignores (SIGPIPE, SIGXFSZ) and what the daemon was started with,
#: behind `nohup` or a shell's `&`, would stay ignored over exec. SIGKILL and SIGSTOP cannot be set.
_DEFAULTS = tuple(number for number in range(1, 32) if number not in (9, 19))
_KINDS = {errno.ENOENT: "not_found", errno.EACCES: "denied", errno.EPERM: "denied", errno.E2BIG: "too_large", errno.EAGAIN: "limit"}


class NotStarted(Exception):
    """A program could not be started; `kind` is one of the daemon's error kinds."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Request:
    """What an OPEN of kind `exec` asks for. Raises NotStarted when it is malformed."""

    __slots__ = ("argv", "capture", "cwd", "env", "module", "stdin")

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.module: str | None = info.get("module")
        self.argv: list[str] = info.get("argv") or [self.module or ""]
        self.env: dict[str, str] = info.get("env") or {}
        self.cwd: str | None = info.get("cwd")
        self.stdin = bool(info.get("stdin", True))
        self.capture: str | None = info.get("capture")
        if not isinstance(self.argv, list) or not self.argv or not all(_text(word) for word in self.argv) or not self.argv[0]:
            raise NotStarted("usage", "argv is not a list of words without NUL, beginning with a program")
        if not isinstance(self.env, dict) or not all(map(_variable, self.env.items())):
            raise NotStarted("usage", "env is not a set of names and texts")
        if not (self.module is None or _text(self.module)):
            raise NotStarted("usage", "module is a text")
        if not (self.cwd is None or _text(self.cwd)) or not (self.capture is None or _text(self.capture)):
            raise NotStarted("usage", "cwd and capture are texts")


def _text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _variable(item: tuple[object, object]) -> bool:
    name, value = item
    return isinstance(name, str) and name != "" and "=" not in name and _text(name) and _text(value)


def spawn(request: Request, env: dict[str, str], base: str, fds: tuple[int, int, int]) -> int:
    """Start the program with `env`, `fds` as its 0 to 2 and nothing else open; returns its pid. Raises NotStarted.

    `base` is the directory a relative cwd starts from.
    """
    cwd = os.path.join(base, request.cwd or "")
    try:
        os.chdir(cwd)  # posix_spawn has no cwd, and this process no other use for its own
    except OSError as error:
        raise NotStarted(_KINDS.get(error.errno or 0, "failed"), f"cannot run in {cwd}: {error.strerror}") from None
    if request.module is not None:
        return fork(request.module, env, fds)
    path = _find(request.argv[0], env.get("PATH", os.defpath))
    try:
        return os.posix_spawn(
            path,
            request.argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULTS,
        )
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or 0
        text = os.strerror(number) if number else str(error)
        if number == errno.ENOENT and os.path.exists(path):
            text = "its interpreter does not exist"
        raise NotStarted(_KINDS.get(number, "failed"), f"cannot run {request.argv[0]}: {text}") from None


def _find(name: str, path: str) -> str:
    if "/" in name:
        return name
    denied = False
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or ".", name)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            denied = True
    if denied:
        raise NotStarted("denied", f"cannot run {name}: it is not executable")
    raise NotStarted("not_found", f"no program {name} in PATH ({path})")


class Program:
    """A running program and its channel."""

    def __init__(self, guest: Guest, channel: int, request: Request) -> None:
        self._guest = guest
        self._channel = channel
        self._mark = f"{guest.mark}.{channel}"
        self._exit: int | None = None
        self._input: list[memoryview] = []
        self._input_ended = False
        self._stdin: int | None = None
        self._outputs: dict[int, int] = {}  # stream -> descriptor
        self._waiting: set[int] = set()  # streams that wait for credit
        self._owed: dict[int, int] = {}  # stream -> bytes that were in its pipe when the program ended
        self._logs: dict[int, Stream] = {}
        self._timer: Timer | None = None
        self._silent_at = self._give_up_at = 0.0
        self.pid = self._start(request)

    def _start(self, request: Request) -> int:
        ours: list[int] = []
        theirs: list[int] = []
        try:
            if request.stdin:
                read, write = os.pipe()
                theirs.append(read)
                ours.append(write)
            else:
                theirs.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            for _ in (STDOUT, STDERR):
                read, write = os.pipe()
                ours.append(read)
                theirs.append(write)
            env: dict[str, str] = {**self._guest.environ, **request.env, **self._guest.marks, MARK: self._mark}
            pid = spawn(request, env, self._guest.cwd, (theirs[0], theirs[1], theirs[2]))
        except NotStarted:
            _close(ours)
            raise
        except OSError as error:
            _close(ours)
            raise NotStarted("limit", f"cannot run {request.argv[0]}: {error.strerror}") from None
        finally:
            _close(theirs)
        for fd in ours:
            os.set_blocking(fd, False)
        if request.stdin:
            self._stdin = ours.pop(0)
        self._outputs = {STDOUT: ours[0], STDERR: ours[1]}
        for stream in self._outputs:
            if request.capture is not None:
                self._logs[stream] = self._guest.log.stream(request.capture, stream)
            self._watch(stream)
        return pid

    # Input.

    def data(self, payload: bytes) -> None:
        """A frame for the program's stdin."""
        if payload[0] != STDIN or self._stdin is None:
            self._guest.mux.consumed(self._channel, len(payload))  # it reads no more: let the sender find out by the exit
            return
        self._input.append(memoryview(payload)[1:])
        if len(self._input) == 1:
            self._write()

    def eof(self) -> None:
        """The daemon closes the program's stdin."""
        self._input_ended = True
        if not self._input:
            self._close_input()

    def _write(self) -> None:
        fd = self._stdin
        if fd is None:
            return
        while self._input:
            piece = self._input[0]
            try:
                written = os.write(fd, piece) if len(piece) else 0
            except BlockingIOError:
                self._guest.loop.watch(fd, WRITE, self._write)
                return
            except OSError:  # nobody reads it any more
                self._close_input()
                return
            if written < len(piece):
                self._input[0] = piece[written:]
                self._guest.mux.consumed(self._channel, written)
            else:
                del self._input[0]
                self._guest.mux.consumed(self._channel, written + 1)
        self._guest.loop.forget(fd)
        if self._input_ended:
            self._close_input()

    def _close_input(self) -> None:
        if self._stdin is not None:
            self._guest.loop.forget(self._stdin)
            os.close(self._stdin)
            self._stdin = None
        for piece in self._input:
            self._guest.mux.consumed(self._channel, len(piece) + 1)
        self._input.clear()

    # Output.

    def writable(self) -> None:
        """There is credit again."""
        for stream in list(self._waiting):
            self._waiting.discard(stream)
            self._watch(stream)

    def _watch(self, stream: int) -> None:
        self._guest.loop.watch(self._outputs[stream], READ, lambda: self._read(stream))

    def _read(self, stream: int) -> None:
        room = CHUNK - 1
        if not self._logs:
            room = min(room, self._guest.mux.credit(self._channel, need=2) - 1)
            if room <= 0:
                self._waiting.add(stream)
                self._guest.loop.forget(self._outputs[stream])
                return
        try:
            data = os.read(self._outputs[stream], room)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._output_ended(stream)
        elif self._logs:
            self._logs[stream].write(data)
        else:
            self._guest.mux.send(self._channel, data, bytes((stream,)))
        if self._exit is not None:
            self._owed[stream] = self._owed.get(stream, 0) - len(data)
            self._silent_at = self._guest.now() + _SILENCE
            self._settle()

    def _output_ended(self, stream: int) -> None:
        fd = self._outputs.pop(stream)
        self._guest.loop.forget(fd)
        os.close(fd)
        self._owed.pop(stream, None)
        if self._logs:
            self._logs[stream].end()

    # The end.

    def exited(self, code: int) -> None:
        """The program has ended; `code` is negative for a signal."""
        self._exit = code
        self._close_input()
        for stream in list(self._outputs):
            self._owed[stream] = _held(self._outputs[stream])
            if not self._owed[stream] and stream not in self._waiting:
                self._read(stream)  # mostly finds the end, and spares a turn of the loop
        self._silent_at = self._guest.now() + _SILENCE
        self._settle()

    def _settle(self) -> None:
        """Say the result when all output is through: at the end of the pipes, or when who still holds them is silent."""
        if self._exit is None or self._channel not in self._guest.channels:
            return
        self._guest.loop.cancel(self._timer)
        self._timer = None
        if self._outputs:
            if any(owed > 0 for owed in self._owed.values()):
                self._give_up_at = 0.0
                return
            if not self._logs:
                now = self._guest.now()
                self._give_up_at = self._give_up_at or now + _LINGER
                due = min(self._silent_at, self._give_up_at)
                if self._waiting and self._give_up_at > now:
                    due = self._give_up_at
                if due > now:
                    self._timer = self._guest.loop.after(due - now, self._settle)
                    return
        self._guest.finish(self._channel, {"exit": self._exit})
        if not self._logs:
            self._abandon()

    def _abandon(self) -> None:
        """Let a child that was left behind write into nothing, rather than die of a broken pipe."""
        self._waiting.clear()
        for stream, fd in list(self._outputs.items()):
            self._guest.loop.watch(fd, READ, lambda stream=stream, fd=fd: self._discard(stream, fd))  # type: ignore[misc]

    def _discard(self, stream: int, fd: int) -> None:
        try:
            if os.read(fd, CHUNK):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._output_ended(stream)

    # What the daemon asks for.

    def signal(self, number: int, tree: bool) -> None:
        """Signal the program's process group, or with `tree` everything it started; nothing happens after its end."""
        if tree:
            processes.send(self._tree(), number) if number != 9 else processes.kill(self._tree)
        elif self._exit is None:
            try:
                os.killpg(self.pid, number)
            except OSError:
                pass

    def closed(self) -> None:
        """The daemon gave the channel up: kill everything the program started."""
        processes.kill(self._tree)
        self._guest.loop.cancel(self._timer)
        self._close_input()
        for stream in list(self._outputs):
            self._output_ended(stream)

    def _tree(self) -> list[int]:
        return processes.members([self.pid], MARK, self._mark)


def _held(fd: int) -> int:
    """How many bytes wait in a pipe."""
    import fcntl
    import termios

    size = bytearray(4)
    try:
        fcntl.ioctl(fd, termios.FIONREAD, size)
    except OSError:
        return 0
    return int.from_bytes(size, sys.byteorder)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
