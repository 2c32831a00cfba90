"""What the guest asks of the kernel for itself: process attributes and resource limits."""

from __future__ import annotations

import os

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_SIGCONT = 18


def _call(name: str, *arguments: int) -> int | None:
    """Call a function of the C library; None where there is none of that name."""
    # The package `ctypes` costs 3 to 5 ms and 0.5 MB for so little, its C half 0.5 ms and 64 kB.
    try:
        import _ctypes

        function = _ctypes.dlsym(_ctypes.dlopen(None, 0), name)  # type: ignore[arg-type]
        return int(_ctypes.call_function(function, arguments))
    except (ImportError, AttributeError, OSError):
        pass
    try:
        import ctypes

        return int(getattr(ctypes.CDLL(None), name)(*arguments))
    except (ImportError, AttributeError, OSError):
        return None


def prctl(option: int, value: int) -> bool:
    """Call prctl(2) with one argument; whether it worked."""
    return _call("prctl", option, value, 0, 0, 0) == 0


def give_back() -> None:
    """Return freed memory to the kernel, where the C library can; otherwise it keeps the most it ever needed."""
    _call("malloc_trim", 0)


def protect() -> None:
    """Make this process unreadable for what it starts, the reaper of all it starts, and awake when its parent dies.

    Non-dumpable, a program of the same user cannot trace it or take its descriptors, the tether among them. The parent's
    death is seen by the end of the tether, but not by a stopped process: hence SIGCONT. SIGKILL would end this process
    before it could kill what it started.
    """
    prctl(_PR_SET_DUMPABLE, 0)
    if os.getpid() != 1:
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
    prctl(_PR_SET_PDEATHSIG, _SIGCONT)


def die_with_parent() -> None:
    """Have this process killed when its parent dies, also after it has become another program."""
    prctl(_PR_SET_PDEATHSIG, 9)


def unprotect() -> None:
    """Undo in a forked child what it inherited of `protect`: it is a program like any other."""
    prctl(_PR_SET_DUMPABLE, 1)


def limit(environ: dict[str, str]) -> dict[str, str]:
    """Apply the `AEGIS_RLIMIT_*` of `environ`, taking them out; returns name -> `ok` or why not.

    Soft and hard limits are both set, so that nothing started here can raise them again.
    """
    wanted = {name: environ.pop(name) for name in sorted(environ) if name.startswith("AEGIS_RLIMIT_")}
    if not wanted:
        return {}
    import resource

    result = {}
    for name, value in wanted.items():
        short = name[len("AEGIS_RLIMIT_") :]
        try:
            number = int(value)
            which = getattr(resource, "RLIMIT_" + short)
            hard = resource.getrlimit(which)[1]
            bound = number if hard == resource.RLIM_INFINITY else min(number, hard)
            resource.setrlimit(which, (bound, bound))
            result[short.lower()] = "ok"
        except (OSError, ValueError, AttributeError) as error:
            result[short.lower()] = str(error)
    return result
