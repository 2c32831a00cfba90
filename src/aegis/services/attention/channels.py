"""The channels that are programs: the desktop's `notify-send`, and a command of the person's own.

Both run without a shell, with an environment made from nothing, for a limited time, and away from any project. What lies where an agent
can write is never run: it would run outside of its sandbox. A process that a command leaves in the background stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from aegis.services.attention.model import Notice

#: How long a channel may take, in seconds, and how much of what it says is looked at, in bytes.
DESKTOP_SECONDS: Final = 10.0
COMMAND_SECONDS: Final = 30.0
_MOST: Final = 16 * 1024
#: What a program needs to reach the desktop of the person.
_BUS: Final = ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR")
#: What the person's own command gets besides: of the daemon's environment, never a key.
_OWN: Final = ("HOME", "USER", "LANG", "TZ", *_BUS)


class Channels:
    """Gives notices to programs.

    Args:
        home: the home, which the command may ask further.
        environ: the environment of the daemon.
        shared: directories that agents can write to.
    """

    def __init__(self, home: Path, environ: Mapping[str, str], shared: Callable[[], Iterable[Path]]) -> None:
        self._home = home
        self._environ = environ
        self._shared = shared

    async def desktop(self, text: str, notices: Sequence[Notice]) -> None:
        """Show it on the desktop. Raises AegisError: UNAVAILABLE without `notify-send`, FAILED and TIMEOUT when that does not do it."""
        program = shutil.which("notify-send", path=self._path())
        if program is None:
            raise AegisError(
                ErrorKind.UNAVAILABLE, "there is no `notify-send` on this machine", "install libnotify, or `notify.desktop: false`"
            )
        body = "" if len(notices) == 1 else "\n".join(notice.text for notice in notices[:8])
        env = {name: self._environ[name] for name in _BUS if name in self._environ}
        run_dir = f"/run/user/{os.geteuid()}"
        if "DBUS_SESSION_BUS_ADDRESS" not in env and "XDG_RUNTIME_DIR" not in env and os.path.isdir(run_dir):
            env["XDG_RUNTIME_DIR"] = run_dir
        argv = [program, "--app-name=Aegis", "--", printable(text), _markup(body)]
        await _run(argv, {"PATH": os.defpath, "LANG": "C.UTF-8", **env}, b"", DESKTOP_SECONDS)

    async def command(self, argv: Sequence[str], text: str, notices: Sequence[Notice]) -> None:
        """Run the person's command. Raises AegisError: NOT_FOUND, DENIED for what an agent could exchange, FAILED, TIMEOUT."""
        path = self._path()
        program = shutil.which(argv[0], path=path) if "/" not in argv[0] else argv[0]
        if program is None or not os.path.isabs(program) or not os.access(program, os.X_OK):
            raise AegisError(ErrorKind.NOT_FOUND, f"`{one_line(argv[0])}` of `notify.command` is not a program", "give its absolute path")
        for part in (program, *argv[1:]):
            if (place := self._open_to(part)) is not None:
                raise AegisError(
                    ErrorKind.DENIED, f"{one_line(part)} is not run: it lies in {place}, where an agent can write", "keep it somewhere else"
                )
        first = notices[0]
        facts = {"AEGIS_ATTENTION_KIND": first.kind, "AEGIS_ATTENTION_HANDLE": first.handle, "AEGIS_ATTENTION_TEXT": text}
        env = {name: value for name, value in self._environ.items() if name in _OWN or name.startswith("LC_")}
        env |= {"PATH": path, "AEGIS_HOME": str(self._home), **facts, "AEGIS_ATTENTION_COUNT": str(len(notices))}
        told = {
            "v": 1,
            "kind": first.kind,
            "text": text,
            "notices": [
                {name: getattr(notice, name) for name in ("kind", "handle", "instance", "session", "turn", "cause", "text", "since")}
                for notice in notices
            ],
        }
        await _run([program, *argv[1:]], env, msgspec.json.encode(told) + b"\n", COMMAND_SECONDS)

    def _path(self) -> str:
        folders = [folder for folder in self._environ.get("PATH", os.defpath).split(os.pathsep) if folder.startswith("/")]
        return os.pathsep.join(folder for folder in folders if self._open_to(folder) is None)

    def _open_to(self, path: str) -> Path | None:
        """The directory of an agent that a path leads into."""
        if not path.startswith("/"):
            return None
        ways = (Path(os.path.abspath(path)), Path(path).resolve())
        return next((place for place in self._shared() for way in ways if way.is_relative_to(place)), None)


def _markup(text: str) -> str:
    """A text for the body of a notification, which takes markup; `notify-send` itself takes escapes of C, such as `\\074` for `<`."""
    for char, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\\", "\\\\")):
        text = text.replace(char, escape)
    return printable(text)


async def _run(argv: Sequence[str], env: Mapping[str, str], stdin: bytes, seconds: float) -> None:
    """Run a program to its end. Raises AegisError: FAILED with the last line of what it said, TIMEOUT; it is killed then."""
    name = one_line(os.path.basename(argv[0]), 60)
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=dict(env),
            cwd="/",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise AegisError(ErrorKind.FAILED, f"`{name}` could not be run: {error}") from error
    said = bytearray()
    reading = asyncio.create_task(_keep(process, said))
    feeding = asyncio.create_task(_feed(process, stdin))
    try:
        async with asyncio.timeout(seconds):
            code = await process.wait()
        await asyncio.wait({reading}, timeout=0.2)  # what it left in the background may hold the pipe open for ever
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, TimeoutError):
            raise AegisError(ErrorKind.TIMEOUT, f"`{name}` did not end within {seconds:g} s and was killed") from None
        raise
    finally:
        for task in (reading, feeding):
            task.cancel()
        await asyncio.gather(reading, feeding, return_exceptions=True)
        process._transport.close()  # type: ignore[attr-defined]  # else the pipes stay open as long as what it left in the background
    if code != 0:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        raise AegisError(ErrorKind.FAILED, f"`{name}` ended with {code}" + (f": {one_line(lines[-1])}" if lines else ""))


async def _keep(process: asyncio.subprocess.Process, said: bytearray) -> None:
    """Read what it says to the end, and keep the last of it."""
    assert process.stdout is not None
    while chunk := await process.stdout.read(65536):
        said += chunk
        del said[:-_MOST]


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it does not read
        process.stdin.write(data)
        await process.stdin.drain()
        process.stdin.close()
