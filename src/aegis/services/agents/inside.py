"""Paths as an agent names them, and what they are on the host: `/workspace/part` of a sandbox is a directory somewhere else.

A path is resolved with every symbolic link in it, because an agent makes those as it likes, and refused when it leads out of what the
agent sees. What is swapped later is found when a sandbox is started on it: that refuses a path which leads elsewhere by then.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.services.agents.model import MountRule
from aegis.services.agents.narrowing import holder, places

if TYPE_CHECKING:
    from aegis.services.agents.model import Launch


class Wanted(NamedTuple):
    """A mount as an agent asks for it: `PATH[:TARGET][:rw]`, the path as it sees it."""

    path: str
    target: str
    writable: bool


def directory(launch: Launch, path: str) -> str:
    """The real directory that an instance sees as `path`. Raises AegisError: USAGE, NOT_FOUND, DENIED for what leads out."""
    found = outside(launch, path)
    if not Path(found).is_dir():
        raise AegisError(ErrorKind.NOT_FOUND, f"{_shown(path)} is not a directory", "name a directory that is there, such as /workspace")
    return found


def mount(launch: Launch, text: str) -> MountRule:
    """What an instance asks to show to a child. Raises as `directory`."""
    wanted = _wanted(text)
    source = outside(launch, wanted.path)
    target = wanted.target or wanted.path
    if PurePosixPath(target).is_relative_to("/workspace"):
        raise AegisError(
            ErrorKind.USAGE,
            f"{_shown(target)} is where the child's workspace is",
            "write PATH:TARGET with another target, such as /workspace/docs:/docs, or give that directory as `cwd`",
        )
    return MountRule(source, target, wanted.writable)


def outside(launch: Launch, path: str) -> str:
    """The real path on the host of what an instance sees as `path`. Raises AegisError."""
    if "\x00" in path or not path:
        raise AegisError(ErrorKind.USAGE, "a path is empty or holds a NUL", "name a path below /workspace")
    inside = PurePosixPath("/workspace") / path
    if ".." in inside.parts:
        raise AegisError(ErrorKind.DENIED, f"{_shown(path)} goes up with `..`", "name the path from /workspace down")
    host = _host(launch, inside)
    if host is None:
        seen = ", ".join(place.target for place in places(launch)) or "no directory that can be shared"
        raise AegisError(ErrorKind.DENIED, f"{_shown(path)} is not in what you see and can share", f"you see {seen}")
    try:
        real = str(host.resolve(strict=True))
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it cannot be resolved"
        raise AegisError(ErrorKind.NOT_FOUND, f"{_shown(path)}: {why}", "make it first, or name another") from None
    if holder(launch, real) is None:
        raise AegisError(ErrorKind.DENIED, f"{_shown(path)} leads out of what you see, or into `.git` or `.aegis`", "name another path")
    return real


def _host(launch: Launch, inside: PurePosixPath) -> Path | None:
    """Where a path lies on the host, not yet resolved. Without a boundary an agent sees the host's own paths as well."""
    found = [place for place in places(launch) if inside.is_relative_to(place.target)]
    if found:
        place = max(found, key=lambda place: len(place.target))
        return Path(place.source) / inside.relative_to(place.target)
    if launch.sandbox == "process" and any(inside.is_relative_to(place.source) for place in places(launch)):
        return Path(inside)
    return None


def _wanted(text: str) -> Wanted:
    path, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if target in ("rw", "ro") and not mode:
        target, mode = "", target
    if mode not in ("", "ro", "rw"):
        raise AegisError(ErrorKind.USAGE, f"{_shown(text)} is not a mount", "write PATH[:TARGET][:rw]")
    if not path.startswith("/"):
        path = f"/workspace/{path}"
    return Wanted(path, target, mode == "rw")


def _shown(path: str) -> str:
    return f"`{one_line(path, 120)}`"
