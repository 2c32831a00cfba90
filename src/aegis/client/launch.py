"""Finding the daemon of a home, and starting it when nothing answers.

Two callers may start at once: a lock file lets one launch while the other waits and then finds the socket. The daemon says
over a pipe that it is ready, or why it cannot be, so nothing is polled. It is a session of its own, gets only the variables it
needs, and writes what it has to say to `aegisd.log` in the home.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    import subprocess

#: The longest path a unix socket can have, in bytes.
MAX_SOCKET_PATH = 107
#: Seconds a daemon may take to become ready.
READY_SECONDS = 30.0
#: The last two are where the desktop of the person is reached.
_KEPT = ("PATH", "HOME", "USER", "LANG", "TZ", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
_KEPT_PREFIXES = ("LC_", "AEGIS_")


class Launch(NamedTuple):
    """How the daemon was found. `pid` is known only when this call started it."""

    started: bool
    pid: int | None = None


def home() -> Path:
    """The home in force: `AEGIS_HOME`, else `~/.aegis`, as an absolute path."""
    named = os.environ.get("AEGIS_HOME")
    return Path(os.path.abspath(os.path.expanduser(named or "~/.aegis")))


def socket_path(home: Path) -> Path:
    """Where the daemon of `home` listens. Raises a usage error for a home whose path is too long for a socket."""
    path = home / "aegisd.sock"
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise AegisError(
            ErrorKind.USAGE,
            f"the socket path {path} is {length} bytes long; this system allows {MAX_SOCKET_PATH}",
            f"set AEGIS_HOME to a path of at most {MAX_SOCKET_PATH - len('/aegisd.sock')} bytes",
            length=length,
        )
    return path


def answers(path: Path) -> bool:
    """Whether somebody listens on the socket `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except OSError as exc:
            raise AegisError(ErrorKind.UNREACHABLE, f"cannot connect to {path}: {exc.strerror}", "is this home yours?") from exc
        return True


def ensure_daemon(home: Path, *, listen: str | None = None, timeout: float = READY_SECONDS, clean: bool = False) -> Launch:
    """Return when a daemon answers on the socket of `home`, starting one if need be; `listen` and `clean` are for that one.

    With `clean` it puts every instance aside.

    Raises what the daemon says when it cannot start, TIMEOUT after `timeout` seconds, UNAVAILABLE when the home cannot be
    written.
    """
    path = socket_path(home)
    if answers(path):
        return Launch(started=False)
    deadline = time.monotonic() + timeout
    with _launch_lock(home):
        while not answers(path):
            try:
                return Launch(started=True, pid=_launch(home, listen, deadline, clean=clean))
            except AegisError as exc:
                # Another daemon holds the home but does not listen: it is starting in the foreground, or just ending. Either
                # is over soon, and each attempt takes a while of its own.
                if exc.kind is not ErrorKind.CONFLICT or time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
    return Launch(started=False)


class _launch_lock:
    """Holds `aegisd.launch` in the home, which is made when it is not there."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._fd = -1

    def __enter__(self) -> None:
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._home / "aegisd.launch", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise _unwritable(self._home, exc) from exc
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _unwritable(home: Path, exc: OSError) -> AegisError:
    return AegisError(
        ErrorKind.UNAVAILABLE, f"cannot write to the home {home}: {exc.strerror}", "set AEGIS_HOME to a directory that you can write to"
    )


def _launch(home: Path, listen: str | None, deadline: float, *, clean: bool) -> int:
    """Start a daemon and wait for its word; returns its pid."""
    import subprocess

    log_path = home / "aegisd.log"
    try:
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _unwritable(home, exc) from exc
    said_before = os.fstat(log).st_size
    ready, says_ready = os.pipe()
    try:
        process = subprocess.Popen(
            daemon_argv(home, listen, *(("--clean",) if clean else ()), "--ready-fd", str(says_ready)),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(says_ready,),
            cwd="/", env=daemon_environment(), start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(log)
        os.close(says_ready)
    with os.fdopen(ready, "rb", buffering=0) as pipe:
        line = _line(pipe.fileno(), deadline)
    if line is None:
        process.kill()
    # A long-lived caller must not keep a zombie when the daemon ends one day.
    threading.Thread(target=process.wait, name="aegisd", daemon=True).start()
    return _verdict(line, process, log_path, said_before)


def daemon_argv(home: Path, listen: str | None = None, *more: str) -> list[str]:
    """The command that runs the daemon of `home`. `-P`: nothing of the working directory is imported."""
    return [sys.executable, "-P", "-m", "aegis.daemon", "--home", str(home), *(("--listen", listen) if listen else ()), *more]


def daemon_environment() -> dict[str, str]:
    """What the daemon may know of the caller's environment: never a key, never a Python setting."""
    return {key: value for key, value in os.environ.items() if key in _KEPT or key.startswith(_KEPT_PREFIXES)}


def _line(fd: int, deadline: float) -> bytes | None:
    """Bytes from `fd` to the first newline or the end; None when the deadline passes first."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    said = b""
    while b"\n" not in said:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        more = os.read(fd, 65536)
        if not more:
            break
        said += more
    return said


def _verdict(line: bytes | None, process: subprocess.Popen[bytes], log_path: Path, said_before: int) -> int:
    """The pid from the daemon's ready line, or the error that it is."""
    log = _tail(log_path, said_before)
    if line is None:
        raise AegisError(ErrorKind.TIMEOUT, "the daemon did not become ready in time", f"see {log_path}", stderr=log)
    try:
        word: Any = json.loads(line)
    except ValueError:
        word = None
    if not isinstance(word, dict):
        code = process.wait()
        last = log.splitlines()[-1] if log else "it said nothing"
        raise AegisError(
            ErrorKind.FAILED, f"the daemon ended before it was ready (exit {code}): {last}", f"see {log_path}", exit=code, stderr=log
        )
    if not word.get("ok"):
        raise AegisError.from_dict(word)
    return int(word["pid"])


def _tail(path: Path, start: int, limit: int = 4000) -> str:
    """What was written to the log since `start`, at most its last `limit` bytes."""
    with path.open("rb") as log:
        end = log.seek(0, os.SEEK_END)
        log.seek(max(start, end - limit))
        return log.read().decode("utf-8", "replace").strip()
