"""The one place where the environment of a sandbox is made.

An allow-list: of the daemon's own environment only TZ goes in. Everything else is what the instance was given, or what
programs need to find their way.
"""

from __future__ import annotations

import os
import sys

from aegis.sandboxes import SandboxSpec, tree

_STANDARD_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def clean_env(spec: SandboxSpec, *, home: str | None = None, tmp: str | None = None) -> dict[str, str]:
    """The whole environment of the guest of `spec`, `AEGIS_TETHER_FD` excepted.

    `home` and `tmp` are HOME and TMPDIR as seen inside; without them the directories in `spec.state`. What the instance was
    given comes before the defaults, but never before the marks by which the daemon finds its processes.
    """
    env = {
        "PATH": os.pathsep.join(_path()),
        "HOME": home or str(spec.state / "home"),
        "TMPDIR": tmp or str(spec.state / "tmp"),
        "LANG": "C.UTF-8",
    }
    if "TZ" in os.environ:
        env["TZ"] = os.environ["TZ"]
    env.update(spec.env)
    env["AEGIS_RLIMIT_CORE"] = "0"
    env.update(tree.marks(spec.id, spec.home))
    return env


def _path() -> tuple[str, ...]:
    """The standard directories, and that of the interpreter where it is somewhere else."""
    if sys.base_prefix == "/usr" or sys.base_prefix.startswith("/usr/"):
        return _STANDARD_PATH
    return (*_STANDARD_PATH, os.path.join(sys.base_prefix, "bin"))
