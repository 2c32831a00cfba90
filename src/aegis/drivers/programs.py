"""Programs of others on this machine: which file is run, which directories a sandbox must show for it, which version it is.

A program is looked for on the daemon's PATH, or at the path that the configuration gives it. What is found there is often only a
way to the program (a link, a script that starts a native file of another package): `resolving` follows it. The version comes from
the program itself, run with an environment made from nothing and a HOME that is thrown away, so that it neither sees nor changes
anybody's login. What is found is kept until the file changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.drivers import Installation
from aegis.drivers.resolving import Resolved, private_directory, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

#: How long a program may take to tell its version, in seconds, and how much it may say.
_PATIENCE: Final = 30.0
_MOST: Final = 65_536
_VERSION: Final = re.compile(r"(?<![\w.])v?(\d{1,9}(?:\.\d{1,9}){1,3}(?:-[0-9A-Za-z.-]{1,40})?)")
_STANDARD_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class ProgramSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a program before it is found."""

    name: str  # of the driver; `programs.NAME.path` in the configuration says where it is
    command: tuple[str, ...]  # names to look for on PATH, the best first
    pinned: str = ""  # the version that Aegis is tested with; empty: none
    oldest: str = ""  # what is older does not work; empty: unknown
    install: str = ""  # the command that installs it
    version_args: tuple[str, ...] = ("--version",)
    #: Further environment for the question about its version, such as what keeps it from looking for updates.
    env: dict[str, str] = {}


class Programs:
    """Finds programs. Safe to be asked by many at once.

    Args:
        path: PATH of the daemon; entries that are not absolute are left out, for they depend on where it was started.
        overrides: name -> path, from the configuration of the home.
        shared: directories that agents can write to. Nothing of them is ever run here, for it would run outside of their sandbox.
    """

    def __init__(
        self, *, path: str, overrides: Callable[[], Mapping[str, str]] = dict, shared: Callable[[], Iterable[Path]] = tuple
    ) -> None:
        self._path = [Path(entry) for entry in path.split(os.pathsep) if entry.startswith("/")]
        self._overrides = overrides
        self._shared = shared
        #: What was asked last at a path, with the stamp of the file at that time.
        self._versions: dict[str, tuple[object, str]] = {}
        self._asking: dict[str, asyncio.Lock] = {}
        #: Every program that was asked for, by name.
        self.specs: dict[str, ProgramSpec] = {}

    async def find(self, wanted: ProgramSpec) -> Installation:
        """Where the program is and how it is run in a sandbox.

        Raises AegisError: NOT_FOUND whose hint installs it, UNAVAILABLE when what is there is too old or does not start, DENIED when
        anybody could exchange it, or when showing it to a sandbox would show a whole home directory.
        """
        self.specs[wanted.name] = wanted
        async with self._asking.setdefault(wanted.name, asyncio.Lock()):
            path = self._locate(wanted)
            candidates = resolve(path, wanted.command, [folder for folder in self._path if self._open_to(folder) is None])
            if not candidates:
                raise AegisError(
                    ErrorKind.UNAVAILABLE,
                    f"{path} is not a program that Aegis knows how to show to a sandbox",
                    _mend(wanted, "name the program behind it"),
                    program=wanted.name,
                )
            said = ""
            for candidate in candidates:
                for part in (path, candidate.program, Path(candidate.argv[0]), *(mount.source for mount in candidate.mounts)):
                    self._check(part, wanted)
                stamp = (candidate.argv, *_stamp(candidate.program))
                known, version = self._versions.get(str(path), (None, ""))
                if known != stamp:
                    version, said = await _ask(candidate, wanted)
                if version:
                    self._versions[str(path)] = (stamp, version)
                    return _judge(wanted, path, candidate, version)
        raise AegisError(
            ErrorKind.UNAVAILABLE,
            f"{path} does not tell its version: {one_line(said, 300) or 'it says nothing'}",
            _mend(wanted, "if another one works, say where it is"),
            program=wanted.name,
        )

    def _locate(self, wanted: ProgramSpec) -> Path:
        chosen = self._overrides().get(wanted.name)
        if chosen is not None:
            path = Path(chosen)
            if not path.is_absolute() or not _is_program(path):
                raise AegisError(
                    ErrorKind.NOT_FOUND,
                    f"`programs.{wanted.name}.path` is {chosen}, which is not a program",
                    _mend(wanted, "give the path of the program"),
                    program=wanted.name,
                )
            return path
        passed: Path | None = None
        for name in wanted.command:
            for folder in self._path:
                if _is_program(folder / name):
                    if self._open_to(folder / name) is None:
                        return folder / name
                    passed = folder / name
        if passed is not None:
            self._check(passed, wanted)
        raise AegisError(
            ErrorKind.NOT_FOUND,
            f"the program `{wanted.command[0]}` of the provider `{wanted.name}` is not installed",
            _mend(wanted, "if it is somewhere else than on PATH"),
            program=wanted.name,
            install=wanted.install,
        )

    def _check(self, path: Path, wanted: ProgramSpec) -> None:
        """Raise DENIED for what somebody else than the owner of this home could exchange."""
        if (found := self._open_to(path)) is not None:
            who, mend = found
            raise AegisError(ErrorKind.DENIED, f"{path} is not run: {who}", _mend(wanted, mend), program=wanted.name)

    def _open_to(self, path: Path) -> tuple[str, str] | None:
        """Who could exchange a file or a directory, or one on the way to it, and what mends that; None when that is nobody."""
        for way in dict.fromkeys((Path(os.path.abspath(path)), path.resolve())):
            for place in self._shared():
                if way.is_relative_to(place):
                    return f"it lies in {place}, where an agent can write", "install it somewhere else"
            if (open_ := next((step for step in (way, *way.parents) if _anybody(step)), None)) is not None:
                return f"anybody on this machine can change {open_}", f"`chmod o-w {open_}`"
        return None


def compare(one: str, other: str) -> int:
    """Below, at or above 0 as the version `one` is older than, as old as, or newer than `other`; by their numbers alone."""
    first, second = ([int(n) for n in re.findall(r"\d+", text.partition("-")[0])] for text in (one, other))
    return (first > second) - (first < second)


def _mend(wanted: ProgramSpec, otherwise: str) -> str:
    key = f"{otherwise}: `programs.{wanted.name}.path` in your own configuration"
    return f"`{wanted.install}`; {key}" if wanted.install else key


def _is_program(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode) and os.access(path, os.X_OK)
    except OSError:
        return False


def _anybody(path: Path) -> bool:
    """Whether anybody may write there. In a directory with the sticky bit nobody can exchange what is another one's."""
    try:
        info = path.lstat()
    except OSError:
        return False
    if stat.S_ISLNK(info.st_mode) or not info.st_mode & stat.S_IWOTH:
        return False
    return not (stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        info = path.stat()
    except OSError:
        return 0, 0
    return info.st_mtime_ns, info.st_size


def _judge(wanted: ProgramSpec, path: Path, found: Resolved, version: str) -> Installation:
    if wanted.oldest and compare(version, wanted.oldest) < 0:
        raise AegisError(
            ErrorKind.UNAVAILABLE,
            f"{path} is version {version}; {wanted.name} needs {wanted.oldest} or newer",
            _mend(wanted, "if a newer one is somewhere else"),
            program=wanted.name,
            version=version,
            install=wanted.install,
        )
    for mount in found.mounts:
        if private_directory(mount.source):
            raise AegisError(
                ErrorKind.DENIED,
                f"to run {path} in a sandbox, all of {mount.source} would have to be shown there",
                _mend(wanted, "install it in a directory of its own"),
                program=wanted.name,
            )
    word = "newer" if wanted.pinned and compare(version, wanted.pinned) > 0 else "older"
    other = wanted.pinned and version != wanted.pinned
    return Installation(
        name=wanted.name,
        argv=list(found.argv),
        version=version,
        path=path,
        mounts=found.mounts,
        warning=f"version {version} is {word} than {wanted.pinned}, which Aegis is tested with" if other else "",
    )


async def _ask(found: Resolved, wanted: ProgramSpec) -> tuple[str, str]:
    """The version that the program tells, empty if it tells none, and what else it said."""
    with tempfile.TemporaryDirectory(prefix="aegis-version-", ignore_cleanup_errors=True) as folder:
        folders = os.pathsep.join(sorted({str(Path(found.argv[0]).parent)} - set(_STANDARD_PATH.split(os.pathsep))))
        env = {
            "PATH": f"{_STANDARD_PATH}:{folders}" if folders else _STANDARD_PATH,
            "HOME": folder,
            "TMPDIR": folder,
            "LANG": "C.UTF-8",
            **wanted.env,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *found.argv,
                *wanted.version_args,
                cwd=folder,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return "", error.strerror or str(error)
        assert process.stdout is not None
        output = bytearray()
        try:
            async with asyncio.timeout(_PATIENCE):
                while len(output) < _MOST and (chunk := await process.stdout.read(_MOST)):
                    output += chunk
                if len(output) < _MOST:
                    await process.wait()
        except TimeoutError:
            return "", f"no answer within {_PATIENCE:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    text = bytes(output[:_MOST]).decode(errors="replace")
    told = _VERSION.search(text) if process.returncode == 0 else None
    return (told[1] if told else ""), text
