"""Named fault points: places where a test may make the world go wrong.

`point("mail.accept.commit")` does nothing unless that name is armed, either in the process (`arm`) or by the variable
`AEGIS_FAULTS` of a daemon started by a test, e.g. `AEGIS_FAULTS=turn.injected=kill:3,mail.accept.commit=enospc`.
Actions: `kill` (SIGKILL to this process), `raise` (a RuntimeError), `enospc`, `eio` (the OSError). `:N` fires at the Nth
passage, once. Every name that occurs in the source stands in `POINTS`, so that a sweep can loop over all of them.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Final

#: Every fault point of the program, with what has just happened when it is reached.
POINTS: Final[dict[str, str]] = {
    "store.commit.before": "a batch of writes has run inside the transaction, nothing is committed",
    "store.commit.after": "the batch is on disk, nobody has been told",
    "audit.write": "inside the transaction that writes a row of the audit record, which is not written yet",
    "mail.accept.before": "the envelope is checked, nothing is written",
    "mail.accept.commit": "inside the transaction that stores the envelope",
    "mail.accept.after": "the envelope is on disk, the sender has no receipt",
    "mail.report.after": "the end of a turn and the report of it are on disk, the receiver was not told",
    "mail.joined": "envelopes belong to a turn that runs, its program has not heard of them",
    "instance.created": "the instance is on disk, it has no sandbox",
    "instance.started": "the sandbox is up, nobody has been told",
    "instance.ended": "the instance is being deleted: its sandbox is gone, its rows are there",
    "spawn.reserved": "a child is on disk and counts, it has no sandbox; a daemon that finds it so removes it",
    "spawn.started": "the child's sandbox is up, and its message may be on disk; it is not yet its parent's for good",
    "cascade.recorded": "that a whole family ends is on disk, nothing is stopped",
    "cascade.stopped": "all of a family is stopped, nobody has been told",
    "turn.start.before": "envelopes are waiting, no turn exists",
    "turn.start.after": "the turn is on disk, the program has heard nothing",
    "session.opened": "the program of a session runs and its name of it is on disk, it has heard nothing",
    "turn.sent": "the program was handed the turn, nothing is confirmed",
    "turn.injected": "the program confirmed the envelopes",
    "turn.message": "a message of the program is stored, the program has not been told",
    "turn.finish.before": "the program finished, nothing is written",
    "turn.finish.after": "the end of the turn is on disk, the next has not begun",
}

_armed: dict[str, tuple[str, int]] = {}


def arm(name: str, action: str, nth: int = 1) -> None:
    """Arm one point. Raises KeyError for a name that no source file has."""
    if name not in POINTS:
        raise KeyError(name)
    _armed[name] = (action, nth)


def disarm() -> None:
    """Forget every armed point."""
    _armed.clear()


def arm_from_environment() -> None:
    """Arm what `AEGIS_FAULTS` asks for; called once by the daemon."""
    for item in filter(None, os.environ.get("AEGIS_FAULTS", "").split(",")):
        name, _, action = item.partition("=")
        action, _, nth = action.partition(":")
        arm(name, action, int(nth or 1))


def point(name: str) -> None:
    """Pass the fault point `name`; costs one dictionary look-up when nothing is armed."""
    if not _armed:
        return
    armed = _armed.get(name)
    if armed is None:
        return
    action, nth = armed
    if nth > 1:
        _armed[name] = (action, nth - 1)
        return
    del _armed[name]
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    if action == "eio":
        raise OSError(errno.EIO, os.strerror(errno.EIO), name)
    raise RuntimeError(f"fault at {name}")
