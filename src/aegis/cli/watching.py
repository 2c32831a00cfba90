"""The verb that shows agents at work."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from aegis.cli.options import PointInTime, SessionType, complete_handle, complete_session
from aegis.cli.output import Output
from aegis.cli.reach import client
from aegis.cli.render import moment
from aegis.cli.verbs import Verb
from aegis.cli.view import Place, View
from aegis.client import lasting
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from aegis.client.api import Client
    from aegis.client.shapes import Session

_TURNS = ("turn.started", "turn.finished")
_LOOK_BACK = 200  # ends and beginnings of turns among which one that runs now has its beginning


@click.command(cls=Verb)
@click.argument("handle", required=False, shell_complete=complete_handle)
@click.option(
    "--session",
    "-s",
    type=SessionType(),
    shell_complete=complete_session,
    help="Only this conversation, as `channel:id` or `id`; all of them if not given.",
)
@click.option("--since", type=PointInTime(), metavar="WHEN", help="Begin then: `10m`, `2h` or an RFC 3339 time.")
@click.option("--after", type=click.IntRange(min=0), metavar="SEQ", help="Begin after the event with this number.")
@click.pass_obj
def watch(out: Output, handle: str | None, session: Session | None, since: str | None, after: int | None) -> int:
    """Watch agents at work.

    Shows what one instance, or every one without HANDLE, is told, says and does, as it happens: texts and the tools it uses, changes in
    files, plans, and what it asks leave for with the command that answers. It begins with the turn that runs now. A daemon that dies is
    started again, one that is stopped is waited for. Ctrl-C leaves; the work goes on.

    \b
    Examples:
      aegis watch coder
      aegis watch --since 1h
      aegis watch coder --json
    """
    daemon = client()
    handles = {item["id"]: item["handle"] for item in daemon.instances.all()}
    instance = daemon.instances.get(handle)["id"] if handle else None
    key = ":".join(session) if session else None
    if after is None:
        after = _at(daemon, instance, since) if since else _running(daemon, instance, key)
    out.live = True
    view = View(out, name=_named(daemon, handles, alone=instance is not None) if key is None or instance is None else None)

    def ended(told: str) -> None:
        view.close()
        out.warn(told)

    if out.interactive:
        out.hint(f"{handle or 'everything'} is shown as it happens; Ctrl-C leaves, the work goes on")
    try:
        with closing(lasting.events(daemon, after, instance=instance, patience=None, ended=ended)) as found:
            for event in found:
                if key is not None and event.get("session") not in (None, key):
                    continue
                out.data(event)
                view.show(event)
                if event["type"] == "instance.deleted" and instance is not None:
                    return 0
    except KeyboardInterrupt:
        view.close()
        raise
    raise AegisError(ErrorKind.UNREACHABLE, "the daemon ended", "start it with `aegis up`")


def _named(daemon: Client, handles: dict[str, str], *, alone: bool) -> Any:
    """How the heading calls a conversation: `alone`, when only one instance is watched, by its session."""

    def name(place: Place) -> str:
        ident, session = place
        if alone:
            return session or handles.get(ident, ident)
        if ident and ident not in handles:
            handles.update((item["id"], item["handle"]) for item in daemon.instances.all())
        return f"{handles.get(ident, ident) or 'the home'} {session}".rstrip()

    return name


def _running(daemon: Client, instance: str | None, session: str | None) -> int:
    """The number before the oldest turn that runs now; the newest number when none does."""
    head = int(daemon.status()["head"])
    page = daemon.events(0, instance=instance, session=session, types=_TURNS, before=head + 1, limit=_LOOK_BACK)
    open_: dict[Any, int] = {}
    for event in page["events"]:
        if event["type"] == "turn.started":
            open_[event["turn"]] = event["seq"] - 1
        else:
            open_.pop(event["turn"], None)
    return min(open_.values(), default=head)


def _at(daemon: Client, instance: str | None, since: str) -> int:
    """The number before the first event of that time or later; the numbers grow with time, so it is found by halves."""
    then = moment(since)
    assert then is not None
    low, high = 0, int(daemon.status()["head"])
    while low < high:
        middle = (low + high) // 2
        found = daemon.events(middle, instance=instance, limit=1)["events"]
        if found and found[0]["ts"] < then.timestamp():
            low = int(found[0]["seq"])
        else:
            high = middle
    return low
