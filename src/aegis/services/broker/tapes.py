"""The files that model calls are recorded to and answered from.

JSON lines: a header, then one line per exchange, in the order in which they ended. A file holds no credential; it does hold
what was said, so it is readable by its owner alone. Its `timing` may be set to `recorded` by hand, and its answers then come at
the pace of the recorded ones.

A file is opened where a person named it, which may be a folder that an agent can write to. So nothing is ever written to a
file that is not a recording already, no step of the path may be a symbolic link, and the home is out of bounds.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.models import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION: Final = 1
#: The longest line of a file, and the largest file, in bytes.
MAX_LINE: Final = 64 * 1024 * 1024
MAX_FILE: Final = 2 * 1024 * 1024 * 1024
_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")
_VALUE: Final = re.compile(r"[\x20-\x7e]{0,1000}")
#: What differs between two runs of the same work: ids, moments, places.
_VOLATILE: Final = re.compile(
    rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    rb"|\b(?:toolu|call|msg|fc|rs|resp|req|ses|prt|chatcmpl)_?[-_A-Za-z0-9]{8,}"
    rb"|\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
    rb"|(?:(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?,? )?"
    rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{1,2},? \d{4}"
    rb"|\d{1,2}:\d\d(?::\d\d)?(?: ?[AP]M)?"
    rb"|\b[0-9a-f]{16,}\b"
    rb"|\b\d+\.\d+\.\d+(?:[-+.][0-9A-Za-z.]+)?\b"
    rb"|/(?:tmp|var/tmp|home|root|private)/[^\s\"'`\\<>)]*"
)
#: Keys at the top of a request that say who asks, not what.
_ASKER: Final = frozenset({"model", "metadata", "user", "prompt_cache_key", "safety_identifier", "client_metadata", "labels"})


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line."""

    aegis_model_calls: int
    timing: Literal["instant", "recorded"] = "instant"
    recorded_at: str = ""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """One piece of an answer: when it came, in milliseconds after the first byte of the head; as text, or as bytes where it is none."""

    ms: float
    text: str | None = None
    data: bytes | None = None

    @property
    def content(self) -> bytes:
        """The bytes."""
        return self.text.encode() if self.text is not None else self.data or b""


class Exchange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call and its answer. `status` 0: there was none; then, and where an answer broke off, `error` says why.

    `n` counts the calls in the order in which they were made. `request` is the body, unless it was long.
    """

    n: int
    session: str | None = None
    name: str  # what calls of the same kind share: dialect and path, without the model
    model: str
    digest: str
    status: int = 0
    headers: list[tuple[str, str]] = []
    pieces: list[Piece] = []
    usage: Usage | None = None
    error: str = ""
    request: str | None = None


def digest(body: bytes) -> str:
    """What a request asks for, as far as that is the same each time the same work is done."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        data = body.decode("utf-8", "replace")
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key not in _ASKER}
    plain = _VOLATILE.sub(b"~", msgspec.json.encode(data, order="deterministic"))
    return hashlib.blake2b(plain, digest_size=12).hexdigest()


def open_to_write(path: str, home: Path) -> int:
    """Open a recording for appending, or begin one. Raises AegisError that names the path."""
    fd = _open(path, home, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        if os.fstat(fd).st_size:
            _check_header(path, os.pread(fd, 4096, 0).partition(b"\n")[0])
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_to_read(path: str, home: Path) -> int:
    """Open a recording. Raises AegisError that names the path."""
    return _open(path, home, os.O_RDONLY)


def check_recording(path: str, home: Path) -> None:
    """Look whether a file is a recording that can be replayed. Raises AegisError that names the path."""
    fd = open_to_read(path, home)
    try:
        _check_header(path, os.pread(fd, 4096, 0).partition(b"\n")[0])
    finally:
        os.close(fd)


def lines(fd: int, path: str) -> Iterator[tuple[int, int, bytes]]:
    """Each line's number, offset and bytes. Raises AegisError for a file or a line that is too long."""
    if os.fstat(fd).st_size > MAX_FILE:
        raise AegisError(ErrorKind.TOO_LARGE, f"the recording {path} is over {MAX_FILE} bytes")
    offset = 0
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise damaged(path, number, f"the line is over {MAX_LINE} bytes")
            yield number, offset, line
            offset += len(line)


def read_header(path: str, line: bytes) -> Header:
    """The first line. Raises AegisError when it is no recording of this version."""
    _check_header(path, line)
    try:
        return msgspec.json.decode(line, type=Header)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise damaged(path, 1, str(error)) from None


def read_exchange(path: str, number: int, line: bytes) -> Exchange:
    """One line. Raises AegisError that says where the file is damaged."""
    try:
        exchange = msgspec.json.decode(line, type=Exchange)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        cut = "" if line.endswith(b"\n") else "; the line is cut off"
        raise damaged(path, number, f"{str(error)[:200]}{cut}") from None
    if exchange.status and not 200 <= exchange.status <= 599:
        raise damaged(path, number, f"{exchange.status} is no status of an answer")
    for name, value in exchange.headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise damaged(path, number, f"{name[:40]!r} is no header of an answer")
    return exchange


def damaged(path: str, number: int, problem: str) -> AegisError:
    """The error for a line that cannot be read."""
    return AegisError(ErrorKind.USAGE, f"{path}:{number}: {problem}", "mend or remove that line, or record again")


def _check_header(path: str, line: bytes) -> None:
    try:
        version: Any = msgspec.json.decode(line, type=dict[str, Any]).get("aegis_model_calls")
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        version = None
    if version is None:
        raise AegisError(ErrorKind.USAGE, f"{path}:1: this is no recording of model calls", "name another file")
    if version != VERSION:
        raise AegisError(
            ErrorKind.USAGE, f"{path}:1: a recording of version {str(version)[:20]}; this Aegis reads {VERSION}", "record again"
        )


def _open(path: str, home: Path, flags: int) -> int:
    if not Path(path).is_absolute():
        raise AegisError(ErrorKind.USAGE, f"the recording {path!r} is not an absolute path", "give the whole path")
    try:
        fd = _walk(Path(path), flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        kind = ErrorKind.NOT_FOUND if isinstance(error, FileNotFoundError) else ErrorKind.UNAVAILABLE
        link = next((step for step in (Path(path), *Path(path).parents) if step.is_symlink()), None)
        reason = f"{link} is a symbolic link" if link is not None else error.strerror
        raise AegisError(kind, f"cannot open the recording {path}: {reason}", "name a file in a folder of yours") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AegisError(ErrorKind.USAGE, f"the recording {path} is not a file", "name a file")
        real = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if real.is_relative_to(home.resolve()):
            raise AegisError(ErrorKind.DENIED, f"the recording {path} is in the Aegis home {home}", "name a file outside of it")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _walk(path: Path, flags: int) -> int:
    """Open a file by its directories, none of which may be a symbolic link: whoever can write one could lead the daemon elsewhere."""
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in path.parts[1:-1]:
            if step == "..":
                raise OSError(errno.EINVAL, "`..` is not followed")
            deeper = os.open(step, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = deeper
        return os.open(path.name, flags, 0o600, dir_fd=folder)
    finally:
        os.close(folder)
