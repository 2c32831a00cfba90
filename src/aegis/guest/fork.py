"""A program of the bundle in a copy of the guest: it starts in a few milliseconds and shares the guest's memory.

An interpreter takes 10 ms to start and 3 MB to be; the guest is one already. The copy has nothing of the guest's but its
memory: no descriptor, no signal handler, no environment. What the guest keeps from its programs is its descriptors; in its
memory is nothing that a program of the same user could not learn elsewhere.
"""

from __future__ import annotations

import os
import sys

from aegis.guest import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:
    import _signal


def fork(module: str, env: dict[str, str], fds: tuple[int, int, int]) -> int:
    """Run `main` of `module` in a process of its own with `env` and `fds` as its 0 to 2; returns its pid. Raises OSError."""
    pid = os.fork()
    if pid == 0:
        _become(module, env, fds)
    return pid


def _become(module: str, env: dict[str, str], fds: tuple[int, int, int]) -> NoReturn:
    """Be the program. The guest's objects stay behind unused: nothing may end them, or they would close what is no longer theirs."""
    code = 1
    try:
        _signal.set_wakeup_fd(-1)
        for caught in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
            _signal.signal(caught, _signal.SIG_DFL)
        os.setsid()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        kernel.unprotect()
        os.environ.clear()
        os.environ.update(env)
        __import__(module)
        sys.modules[module].main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
