"""What of the host a sandbox may see: refusals, the interpreter, virtual environments, and files kept from the agent.

All checks happen on resolved paths, before anything is started. Errors name the path and what to do instead.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import sys
from pathlib import Path, PurePosixPath
from typing import Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.sandboxes import Mount, SandboxSpec

WORKSPACE: Final = "/workspace"
HOME: Final = "/home/agent"
TMP: Final = "/tmp"  # noqa: S108
#: Places inside that a mount may neither replace, lie in, nor contain.
_SEALED: Final = tuple(
    PurePosixPath(path) for path in (*"/proc /dev /sys /usr /etc /bin /sbin /lib /lib32 /lib64 /libx32 /run/aegis".split(), WORKSPACE)
)
#: Directories inside that exist anyway: a mount may lie in them but not replace them.
_KEPT: Final = tuple(map(PurePosixPath, (TMP, "/run", HOME)))
#: Where a directory that is or holds a virtual environment says so.
_CONFIGS: Final = (".venv/pyvenv.cfg", "venv/pyvenv.cfg", "pyvenv.cfg")
#: Files of a workspace that the host acts upon: Aegis's own declarations and what git runs.
_PROTECTED: Final = (".aegis.yaml", ".aegis", ".git/hooks", ".git/config", ".git/config.worktree", ".git/info/attributes")


def interpreter_prefix() -> Path | None:
    """The installation the guest's interpreter belongs to, when it must be shown inside by itself; None under /usr."""
    prefix = Path(sys.base_prefix).resolve()
    return None if prefix.is_relative_to("/usr") else prefix


def check(spec: SandboxSpec) -> None:
    """Refuse a spec whose paths would break the promises. Raises AegisError(USAGE, DENIED or NOT_FOUND)."""
    workspace = [spec.workspace] if spec.workspace is not None else []
    for mount in workspace:
        if mount.target != WORKSPACE:
            raise AegisError(ErrorKind.USAGE, f"the workspace is shown at {WORKSPACE}, not at {mount.target}")
    for mount in (*workspace, *spec.mounts):
        _check_source("workspace" if mount in workspace else "mount", mount.source, spec)
    if workspace and not workspace[0].source.is_dir():
        raise AegisError(ErrorKind.USAGE, f"the workspace {workspace[0].source} is not a directory", "name a directory")
    targets = [mount.target for mount in spec.mounts]
    for target in targets:
        _check_target(target)
        if targets.count(target) > 1:
            raise AegisError(ErrorKind.USAGE, f"two mounts have the target {target}", "give each its own target")


def _check_source(what: str, source: Path, spec: SandboxSpec) -> None:
    try:
        real = source.resolve(strict=True)
    except OSError as error:
        text = f"the {what} {source} cannot be reached: {error.strerror}"
        raise AegisError(ErrorKind.NOT_FOUND, text, "name an existing path") from error
    for private in (spec.home.resolve(), spec.state.resolve()):
        if real == private or private.is_relative_to(real) or real.is_relative_to(private):
            word = "lies within" if real != private and real.is_relative_to(private) else "contains"
            raise AegisError(
                ErrorKind.DENIED,
                f"the {what} {source} {word} the home {private}: its socket would be reachable from inside",
                "use a directory of its own for the project, or move the home with AEGIS_HOME",
            )
    if real == Path("/"):
        raise AegisError(ErrorKind.DENIED, f"the {what} {source} is the whole machine", "name the directory that is meant")
    if real != source:
        # Whoever asked for it meant what was there then; since, another sandbox may have put a link in its way.
        raise AegisError(ErrorKind.DENIED, f"the {what} {source} leads to {real} by now", f"if that is meant, name {real} itself")
    if not os.access(real, os.R_OK):
        raise AegisError(ErrorKind.DENIED, f"the {what} {source} is not readable by the daemon", f"chmod u+r {source}")


def identities(spec: SandboxSpec) -> dict[str, tuple[int, int]]:
    """What is to be seen at the targets of the workspace and the mounts: device and inode, without following a link on the way.

    Raises AegisError(DENIED) when a path leads elsewhere by now.
    """
    found = {}
    for mount in (*([spec.workspace] if spec.workspace is not None else []), *spec.mounts):
        fd = os.open(mount.source, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            leads = os.readlink(f"/proc/self/fd/{fd}")
            if leads != str(mount.source):
                text = f"{mount.source} leads to {leads} by now"
                raise AegisError(ErrorKind.DENIED, text, "see who else works there, then start it again")
            about = os.fstat(fd)
        finally:
            os.close(fd)
        found[mount.target] = (about.st_dev, about.st_ino)
    return found


def _check_target(target: str) -> None:
    path = PurePosixPath(target)
    if not path.is_absolute() or ".." in path.parts or str(path) != target or "\0" in target:
        raise AegisError(ErrorKind.USAGE, f"the mount target {target!r} is not a plain absolute path", "write it like /data")
    for sealed in _SEALED:
        if path.is_relative_to(sealed) or sealed.is_relative_to(path):
            raise AegisError(ErrorKind.DENIED, f"the mount target {target} would shadow {sealed}", "choose a target such as /data")
    for kept in _KEPT:
        if kept.is_relative_to(path):
            raise AegisError(
                ErrorKind.DENIED, f"the mount target {target} would shadow {kept}", f"choose one below it, such as {kept}/data"
            )


def prepare(workspace: Path) -> None:
    """Make an empty `hooks` in a repository that has none, as git does itself: what does not exist cannot be kept from an agent."""
    with contextlib.suppress(OSError):
        fd = os.open(workspace / ".git", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.stat("HEAD", dir_fd=fd, follow_symlinks=False)
            os.mkdir("hooks", 0o755, dir_fd=fd)
            owner = os.fstat(fd)
            os.chown("hooks", owner.st_uid, owner.st_gid, dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(fd)


def protected(workspace: Path) -> list[tuple[str, bool]]:
    """Paths relative to the workspace that get a mount of their own: (path, whether writable), parents first.

    A file that is only protected itself goes away with a renamed parent; a parent that is a mount point cannot be renamed.
    Symbolic links are left alone: they lead nowhere inside, and following one here would show its target.
    """
    found: dict[str, bool] = {}
    if _kind(workspace / ".git") == stat.S_IFREG:  # a worktree's or submodule's pointer to its real directory
        found[".git"] = False
    for name in _PROTECTED:
        parents = [str(parent) for parent in reversed(PurePosixPath(name).parents) if str(parent) != "."]
        if all(_kind(workspace / parent) == stat.S_IFDIR for parent in parents) and _kind(workspace / name) in {stat.S_IFDIR, stat.S_IFREG}:
            found |= {parent: True for parent in parents if parent not in found}
            found[name] = False
    return list(found.items())


def _kind(path: Path) -> int | None:
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except OSError:
        return None


def python_prefixes(spec: SandboxSpec) -> list[Path]:
    """Installations of Python that virtual environments in the workspace and the mounts stand on, to be shown read-only.

    The file that names them may have been written by an agent, so only what is a Python installation, and no more, counts.
    """
    places: list[Mount] = [*([spec.workspace] if spec.workspace else []), *spec.mounts]
    roots = [place.source.resolve() for place in places]
    found: list[Path] = []
    for root in roots:
        for config in _CONFIGS:
            prefix = _named_prefix(root / config)
            if prefix is None or prefix in found or prefix.is_relative_to("/usr") or any(prefix.is_relative_to(r) for r in roots):
                continue
            if _is_installation(prefix) and not _is_private(prefix, spec.home.resolve()):
                found.append(prefix)
    return found


def path_of_environment(workspace: Path) -> str | None:
    """The workspace's own path when it holds a virtual environment, whose programs name that path in their first line.

    It is then a symbolic link to the workspace inside. None where that name means something else there.
    """
    taken = [*_SEALED, *_KEPT, *((PurePosixPath(prefix),) if (prefix := interpreter_prefix()) else ())]
    inside = any(workspace.is_relative_to(place) or place.is_relative_to(workspace) for place in taken if str(place) not in {TMP, "/run"})
    return str(workspace) if not inside and any(_kind(workspace / name) == stat.S_IFREG for name in _CONFIGS) else None


def _named_prefix(config: Path) -> Path | None:
    try:
        # An agent may exchange it for a pipe at any moment, which must not hold up the daemon.
        fd = os.open(config, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, encoding="utf-8") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            lines = file.read(16384).splitlines()
        for line in lines:
            key, _, value = line.partition("=")
            if key.strip() == "home" and value.strip().startswith("/"):
                return Path(value.strip()).resolve(strict=True).parent
    except (OSError, ValueError):
        pass
    return None


def _is_installation(prefix: Path) -> bool:
    """Whether it has an interpreter and its library, as files of its own."""
    programs = [p for p in prefix.glob("bin/python3*") if _kind(p) == stat.S_IFREG and os.access(p, os.X_OK)]
    return bool(programs) and any(_kind(p) == stat.S_IFREG for p in prefix.glob("lib/python3.*/os.py"))


def _is_private(prefix: Path, home: Path) -> bool:
    """Whether showing `prefix` would show a person's home directory or the home of Aegis, or a whole part of the machine."""
    if len(prefix.parts) < 3 or prefix == home or home.is_relative_to(prefix) or prefix.is_relative_to(home):
        return True
    people = {Path(entry.pw_dir) for entry in pwd.getpwall() if entry.pw_dir not in {"", "/"}} | {Path.home()}
    # `.local` may hold an installation, and holds keyrings and tokens as well.
    return any(person.is_relative_to(prefix) or prefix == person / ".local" for person in people)
