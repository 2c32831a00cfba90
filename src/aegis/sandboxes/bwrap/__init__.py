"""The kind `bwrap`: a sandbox of namespaces, a system call filter and no capabilities, made by bubblewrap.

`kind` finds out whether it works here and makes sandboxes, `sandbox` is the life of one, `view` what it sees, `places` what
of the host may be shown, `stage` and `idmap` how a root daemon shows files to a user who owns nothing.

Guaranteed: no process of a sandbox has the host's uid 0, a capability, or a network but its own loopback; of the host's
files only the system's programs (read-only), the workspace, its own HOME and the declared mounts are there; files keep
their owners. Not: a boundary against a hole in the kernel, and quotas on disk.
"""

from aegis.sandboxes.bwrap.kind import Bwrap
from aegis.sandboxes.bwrap.sandbox import BwrapSandbox

__all__ = ["Bwrap", "BwrapSandbox"]
