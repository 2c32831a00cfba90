"""What a sandbox sees and how bwrap is told: the sources to stage, and the arguments that put them in place.

The arguments travel by descriptor, never on the command line: they hold the environment, and every user of the host can
read command lines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.sandboxes import bundle
from aegis.sandboxes.bwrap import places, roots
from aegis.sandboxes.bwrap.stage import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.sandboxes import SandboxSpec

#: The user and group inside. Not 0, and not the overflow id, as which files of unmapped owners show.
UID: Final = 1000
_TMP_BYTES: Final = 2 << 30
_RUN_BYTES: Final = 64 << 20
_SHM_BYTES: Final = 256 << 20

_ISOLATION: Final = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try", "--unshare-net"),
    *("--uid", str(UID), "--gid", str(UID), "--disable-userns", "--cap-drop", "ALL"),
    *("--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"),
)
#: Of /etc only what programs need to find libraries, certificates, and the time zone.
_ETC: Final = (
    *("ssl", "pki", "ca-certificates", "ca-certificates.conf", "crypto-policies", "alternatives"),
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "services", "protocols"),
)
_FILES: Final = {
    "/etc/passwd": f"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nagent:x:{UID}:{UID}:agent:{places.HOME}:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": f"root:x:0:\nagent:x:{UID}:\nnogroup:x:65534:\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


class Shown(NamedTuple):
    """One source and where it stands inside."""

    source: Source
    target: str
    writable: bool = False


def shown(spec: SandboxSpec, lib: Path) -> list[Shown]:
    """Everything of the host but the system itself, in the order in which it must be mounted: later ones cover earlier."""
    listed = [Shown(Source((spec.state / "home").resolve(), mapped=True), places.HOME, writable=True)]
    if spec.workspace is not None:
        listed.append(Shown(Source(spec.workspace.source, mapped=True), places.WORKSPACE, spec.workspace.writable))
    # What a person shows is meant to be read, so modes for others must not decide.
    listed += [Shown(Source(m.source, mapped=True, required=m.writable), m.target, m.writable) for m in spec.mounts]
    prefixes = places.python_prefixes(spec)
    own = places.interpreter_prefix()
    if own is not None and own not in prefixes:
        prefixes.append(own)
    listed += [Shown(Source(prefix, mapped=False), str(prefix)) for prefix in prefixes]
    listed.append(Shown(Source(lib.resolve(), mapped=False), bundle.INSIDE))
    return listed


def arguments(spec: SandboxSpec, listed: Sequence[Shown], paths: Sequence[str], env: dict[str, str], files: dict[str, int]) -> list[str]:
    """bwrap's arguments. `paths` are where the sources of `listed` stand, `files` the descriptors of the generated files."""
    args = [*_ISOLATION, "--hostname", spec.handle]
    for name, value in env.items():
        args += ["--setenv", name, value]
    args += _system()
    args += ["--perms", "0755", "--dir", "/etc", "--perms", "0755", "--dir", "/home"]
    for name in _ETC:
        args += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name, fd in files.items():
        if name not in roots.PLACES:
            args += ["--perms", "0444", "--file", str(fd), name]
    for name in roots.PLACES & files.keys():
        args += ["--perms", "0444", "--ro-bind-data", str(files[name]), name]
    args += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    for size, perms, name in ((_TMP_BYTES, "1777", "/tmp"), (_RUN_BYTES, "0755", "/run"), (_SHM_BYTES, "1777", "/dev/shm")):  # noqa: S108
        args += ["--perms", perms, "--size", str(size), "--tmpfs", name]
    for item, path in zip(listed, paths, strict=True):
        args += ["--bind" if item.writable else "--ro-bind", path, item.target]
        if item.target == places.WORKSPACE and spec.workspace is not None and item.writable:
            for name, writable in places.protected(spec.workspace.source.resolve()):
                args += ["--bind" if writable else "--ro-bind", f"{path}/{name}", f"{places.WORKSPACE}/{name}"]
    own_path = places.path_of_environment(spec.workspace.source.resolve()) if spec.workspace is not None else None
    if own_path is not None:
        args += ["--symlink", places.WORKSPACE, own_path]
    args += ["--chdir", places.WORKSPACE if spec.workspace is not None else places.HOME]
    return [*args, "--remount-ro", "/dev", "--remount-ro", "/"]  # both are memory without a bound


def files(spec: SandboxSpec) -> dict[str, str]:
    """The generated files: path inside -> text."""
    return {
        **_FILES,
        **roots.files(spec.roots),
        "/etc/hostname": f"{spec.handle}\n",
        "/etc/hosts": f"127.0.0.1 localhost {spec.handle}\n::1 localhost\n",
    }


def _system() -> list[str]:
    """/usr and the top-level names that lead into it, or, on hosts that keep them apart, those directories themselves."""
    args = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = f"/{name}"
        if os.path.islink(path):
            args += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            args += ["--ro-bind", path, path]
    return args


def unprotected(spec: SandboxSpec, mountinfo: str) -> str | None:
    """The first protected path that `mountinfo` of a process inside does not show as the workspace's own, else None.

    bwrap looks the sources up by name, and another sandbox on the same workspace could exchange a directory for a link in
    between. Nothing of the agent runs before this is asked.
    """
    if spec.workspace is None or not spec.workspace.writable:
        return None
    at: dict[str, tuple[str, str, str]] = {}
    for line in mountinfo.splitlines():
        _, _, device, root, point, options, *_ = line.split(" ")
        at[_plain(point)] = (device, _plain(root), options)
    device, root, _ = at[places.WORKSPACE]
    for name, writable in places.protected(spec.workspace.source.resolve()):
        there = at.get(f"{places.WORKSPACE}/{name}")
        if there is None or there[:2] != (device, f"{root.rstrip('/')}/{name}") or (not writable and "ro" not in there[2].split(",")):
            return name
    return None


def protects(spec: SandboxSpec, mountinfo: str) -> frozenset[str]:
    """Paths of the workspace that `mountinfo` of a process inside shows as read-only mounts.

    One that the host replaces by renaming, as git and editors do with files, is no mount any more, and an agent can write to it.
    """
    if spec.workspace is None or not spec.workspace.writable:
        return frozenset()
    found = set()
    for line in mountinfo.splitlines():
        _, _, _, _, point, options, *_ = line.split(" ")
        if _plain(point).startswith(f"{places.WORKSPACE}/") and "ro" in options.split(","):
            found.add(_plain(point).removeprefix(f"{places.WORKSPACE}/"))
    return frozenset(found)


def _plain(escaped: str) -> str:
    """A path of mountinfo without its octal escapes."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        escaped = escaped.replace(code, character)
    return escaped
