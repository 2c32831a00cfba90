"""`auth: login`: a copy of a program's own login for one instance.

A login renews itself, and two copies that do so throw each other out. So of the instances that exist only one has the login of a
program, from its creation to its deletion: the oldest. The copy is made from inside the sandbox when that starts; what the
program then makes of it stays in the instance's HOME, and is replaced only when the person's own files have changed since.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis.drivers.login import Login
    from aegis.sandboxes.link import Link
    from aegis.services.agents.model import Instance, Launch
    from aegis.services.agents.registry import Registry

#: The largest file of a login, in bytes.
_MOST: Final = 4 * 1024 * 1024
#: How long it may take to put it into the sandbox.
_SECONDS: Final = 30.0
#: $1 is the hash of what is copied, $2 the name of the first file; stdin is the files, each as a name, a size, and its bytes.
_PUT: Final = """
set -eu
umask 077
cd -- "$HOME"
[ -f "$2" ] && [ "$(cat .aegis-login 2>/dev/null)" = "$1" ] && exit 0
while IFS= read -r name && IFS= read -r size; do
  mkdir -p -- "$(dirname -- "$name")"
  head -c "$size" > "$name.new"
  mv -f -- "$name.new" "$name"
done
printf %s "$1" > .aegis-login
"""


class Logins:
    """The logins of the person whose daemon this is.

    Args:
        home: the HOME of that person.
        known: what is known of the login of each program.
        registry: all instances; those with `auth: login` hold one.
    """

    def __init__(self, home: Path, known: Mapping[str, Login], registry: Registry) -> None:
        self._home = home
        self.known = known
        self._registry = registry

    def check(self, program: str, instance: str | None = None) -> None:
        """Whether an instance (a new one when None) may have the login of a program.

        Raises AegisError: CONFLICT naming the one that has it, NOT_FOUND when the person has not logged in.
        """
        holders = [i for i in self._registry.all() if i.launch.auth == "login" and i.launch.driver == program]
        first = min(holders, key=lambda i: (i.created_at, i.idx), default=None)
        if first is not None and first.id != instance:
            raise AegisError(
                ErrorKind.CONFLICT,
                f"`{first.handle}` has the login of {program}; a second copy would throw it out when it renews itself",
                f"use `{first.handle}`, or delete it: `aegis instance delete {first.handle}`",
                holder=first.handle,
            )
        self._files(program)

    async def enter(self, instance: Instance, link: Link) -> None:
        """Put the login into a sandbox that has just started. Raises as `check`, and FAILED when it cannot be written there."""
        program = instance.launch.driver or ""
        self.check(program, instance.id)
        files = self._files(program)
        digest = hashlib.sha256(msgspec.msgpack.encode(files)).hexdigest()
        # The shell reads the bytes of a file through a pipe that `read` must not have read ahead of: it reads byte by byte.
        script = await link.run(["/bin/sh", "-c", _PUT, "sh", digest, self.known[program].files[0]], cwd="/")
        said = bytearray()
        code: int | None = None
        # What the agent left in HOME may be anything, such as a pipe in the place of a file.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                with contextlib.suppress(AegisError):  # it has ended, because everything is there already
                    for name, content in files.items():
                        await script.write(f"{name}\n{len(content)}\n".encode() + content)
                    await script.close_stdin()
                while (item := await script.read()) is not None:
                    said = (said + item[1])[-2048:]
                code = await script.wait()
        if code is None:
            await script.channel.close()
        if code != 0:
            raise AegisError(
                ErrorKind.FAILED, f"the login of {program} could not be put into the sandbox", stderr=said[-2048:].decode(errors="replace")
            )

    def warnings(self, launch: Launch) -> list[str]:
        """What a person should know of an instance with `auth: login`; nothing of others."""
        login = self.known.get(launch.driver or "")
        if launch.auth != "login" or login is None:
            return []
        return [
            f"it has a copy of your login to {launch.driver} ({', '.join(login.files)}): whoever controls the agent can take that along to "
            f"where it may connect. What it spends is {launch.driver}'s own report, and limits act between turns, not between calls"
        ]

    def _files(self, program: str) -> dict[str, bytes]:
        """The files of a login as they are now, by their names below HOME."""
        login = self.known[program]
        found: dict[str, bytes] = {}
        for name in login.files:
            content = _read(self._home / name)
            if content is not None and name in login.members:
                content = _members(content, login.members[name])
            if content is not None:
                found[name] = content
        if login.files[0] not in found:
            raise AegisError(
                ErrorKind.NOT_FOUND,
                f"you have not logged in with {program}: there is no {self._home / login.files[0]}",
                "start the program once by yourself and log in, or leave out `auth: login`",
            )
        return found


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            content = file.read(_MOST + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return None
    return content if 0 < len(content) <= _MOST else None


def _members(content: bytes, wanted: tuple[str, ...]) -> bytes | None:
    """A JSON object with those of its members alone that belong to the login."""
    try:
        whole = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return msgspec.json.encode({name: whole[name] for name in wanted if name in whole})
