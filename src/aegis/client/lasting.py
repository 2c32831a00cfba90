"""Sending a message and reading what answers it, across the end of the daemon.

What was accepted is on disk and frames are numbered, so both can be gone on with: a message is sent again under the same id, a
stream is read on from its cursor. A daemon that died is started again at once; one that was stopped is waited for, in case
somebody restarts it, and then left stopped.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, cast

from aegis.client import launch
from aegis.client.shapes import DEFAULT_SESSION
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from aegis.client.api import Client
    from aegis.client.shapes import Frame, Receipt, Session
    from aegis.client.transport import Stream

#: Seconds to wait for a daemon that was stopped to be started again.
PATIENCE = 10.0
_LOOK = 0.1


def send(
    daemon: Client,
    h: str,
    text: str,
    *,
    session: Session = DEFAULT_SESSION,
    msg_id: str | None = None,
    **more: Any,
) -> Receipt:
    """Send a message; a daemon that dies meanwhile is started again and gets it again, which it notices by the id.

    `more` is what else `Mailbox.send` takes.
    """
    ident = msg_id or fresh_id()
    try:
        return daemon.mail.send(h, text, session=session, msg_id=ident, **more)
    except AegisError as error:
        if error.kind is not ErrorKind.UNREACHABLE:
            raise
    launch.ensure_daemon(daemon.home)
    receipt = daemon.mail.send(h, text, session=session, msg_id=ident, **more)
    if msg_id is None:
        receipt["duplicate"] = False
    return receipt


def frames(
    daemon: Client,
    h: str,
    after: int,
    session: Session | None = DEFAULT_SESSION,
    *,
    timeout: float | None = None,
    ended: Callable[[str], Any] = lambda told: None,
) -> Generator[Frame, None, None]:
    """Frames after the cursor `after`, without end. `ended` is told, in words, when the daemon ends.

    Raises TIMEOUT after `timeout` seconds, UNREACHABLE when the daemon was stopped and nobody starts it again.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    found = _lasting(daemon, after, lambda cursor: daemon.mail.stream(h, cursor, session, deadline=deadline), deadline, PATIENCE, ended)
    yield from cast("Generator[Frame, None, None]", found)


def events(
    daemon: Client,
    after: int,
    *,
    instance: str | None = None,
    session: str | None = None,
    timeout: float | None = None,
    patience: float | None = PATIENCE,
    ended: Callable[[str], Any] = lambda told: None,
) -> Generator[dict[str, Any], None, None]:
    """Events after the cursor `after`, without end, of one instance and session or of all. `ended` is as in `frames`.

    Raises TIMEOUT after `timeout` seconds, UNREACHABLE when the daemon was stopped and nobody starts it again within `patience`
    seconds (None: however long it takes).
    """
    deadline = None if timeout is None else time.monotonic() + timeout

    def follow(cursor: int) -> Stream:
        return daemon.follow_events(cursor, instance=instance, session=session, deadline=deadline)

    return _lasting(daemon, after, follow, deadline, patience, ended)


def _lasting(
    daemon: Client,
    after: int,
    open_: Callable[[int], Stream],
    deadline: float | None,
    patience: float | None,
    ended: Callable[[str], Any],
) -> Generator[dict[str, Any], None, None]:
    while True:
        try:
            with open_(after) as stream:
                for item in stream:
                    after = max(after, item["seq"])
                    yield item
            stopped = True
        except AegisError as error:
            if error.kind is not ErrorKind.UNREACHABLE:
                raise
            stopped = False
        if stopped:
            ended("the daemon was stopped; waiting for it to be started again")
            _await(daemon, deadline, patience)
        else:
            ended("the daemon died; it is started again")
            launch.ensure_daemon(daemon.home)


def fresh_id() -> str:
    """An id for a message whose sender did not give one, so that it can be sent again without harm."""
    return f"auto-{secrets.token_hex(10)}"


def _await(daemon: Client, deadline: float | None, patience: float | None) -> None:
    """Return when somebody has started the daemon again."""
    path = launch.socket_path(daemon.home)
    end = time.monotonic() + (float("inf") if patience is None else patience)
    while time.monotonic() < (end if deadline is None else min(end, deadline)):
        if launch.answers(path):
            return
        time.sleep(_LOOK)
    if deadline is not None and time.monotonic() >= deadline:
        raise AegisError(ErrorKind.TIMEOUT, "the daemon did not come back in time", "start it with `aegis up`")
    raise AegisError(ErrorKind.UNREACHABLE, "the daemon was stopped before the answer", "what was sent is kept: `aegis up` goes on with it")
