"""The kind `bwrap`: whether it works here, making sandboxes, and cleaning up after a dead daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aegis.sandboxes import Verdict, cgroups, seccomp, tree
from aegis.sandboxes.bwrap import descriptors
from aegis.sandboxes.bwrap.sandbox import BwrapSandbox
from aegis.sandboxes.bwrap.stage import Stage, exit_of, private_id

if TYPE_CHECKING:
    from aegis.sandboxes import SandboxSpec

#: The number whose private user tries the machine out; instances count from below.
_PROBE_INDEX: Final = 0x0FFDFFFF
_OLDEST: Final = (0, 8)

#: (file, value that forbids, what it means, what mends it), asked in this order when bwrap may not make namespaces.
_SWITCHES: Final = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "user namespaces are switched off", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "0", "user namespaces are limited to none", "sysctl -w user.max_user_namespaces=15000"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor keeps programs without a profile from user namespaces",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


class Bwrap:
    """Namespaces, seccomp and no capabilities, by bubblewrap."""

    name = "bwrap"
    strength = 50
    boundary = (
        "Files, processes, network and devices of the host are out of reach and system calls are filtered; "
        "the kernel is shared, so a hole in the kernel is a hole in the wall."
    )

    def __init__(self) -> None:
        self._stage = Stage()

    async def probe(self) -> Verdict:
        program = shutil.which("bwrap")
        if program is None:
            return Verdict(False, "the program `bwrap` is not installed", "apt-get install bubblewrap")
        if platform.machine() not in seccomp.MACHINES:
            return Verdict(False, f"no system call table for the processor {platform.machine()}", "use the sandbox `process`")
        version = await asyncio.to_thread(_output, [program, "--version"])
        found = re.search(r"(\d+)\.(\d+)", version)
        if found is None or (int(found[1]), int(found[2])) < _OLDEST:
            return Verdict(False, f"{version.strip() or program} is too old, 0.8.0 is needed", "apt-get install bubblewrap")
        return await self._try(program, version.strip())

    async def _try(self, program: str, version: str) -> Verdict:
        private = private_id(_PROBE_INDEX)
        isolation = [
            "--unshare-user",
            "--unshare-all",
            "--disable-userns",
            "--uid",
            "1000",
            "--gid",
            "1000",
            "--die-with-parent",
            "--cap-drop",
            "ALL",
        ]
        with contextlib.ExitStack() as given:
            filter_fd, said = seccomp.memfd(), descriptors.bounded_memfd()
            for fd in (filter_fd, said):
                given.callback(os.close, fd)
            argv = [
                program,
                *isolation,
                "--ro-bind",
                "/",
                "/",
                "--proc",
                "/proc",
                "--dev",
                "/dev",
                "--seccomp",
                str(filter_fd),
                "--",
                "/usr/bin/true",
            ]
            try:
                staged = await self._stage.prepare("probe", [], private)
                tried = await self._stage.start(staged, argv, private=private, pass_fds=[filter_fd], env={}, output=said)
            except OSError as error:
                return Verdict(False, f"{version}: {error}", "run the daemon as an ordinary user")
            if await exit_of(tried) == 0:
                return Verdict(True, version)
            return _why(version, descriptors.said(said))

    def create(self, spec: SandboxSpec) -> BwrapSandbox:
        return BwrapSandbox(spec, self._stage)

    async def sweep(self, home: Path) -> list[str]:
        return await asyncio.to_thread(_sweep, home)


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def _why(version: str, stderr: str) -> Verdict:
    for path, forbidding, meaning, mend in _SWITCHES:
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() == forbidding:
                return Verdict(False, f"{meaning} ({stderr})", mend)
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return Verdict(
            False,
            f"this container may not make namespaces ({stderr})",
            "start it with --security-opt seccomp=unconfined --security-opt systempaths=unconfined",
        )
    return Verdict(False, f"{version}: {stderr}", "run the daemon outside of containers, or use the sandbox `process`")


def _sweep(home: Path) -> list[str]:
    """Kill what carries the marks of this home and a dead daemon, then what stands in its control groups."""
    return tree.kill_orphans(home) + cgroups.sweep(home)
