"""Verbs that look on: logs, events, ps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aegis.cli import render
from aegis.cli.options import PointInTime, complete_handle, handle_argument
from aegis.cli.output import Output, Piece, state
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.client.api import pages
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aegis.client.shapes import InstanceInfo, Stats


@click.command(cls=Verb)
@handle_argument
@click.option("--follow", "-f", is_flag=True, help="Go on as more is written, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--since", type=PointInTime(), metavar="WHEN", help="Only later than this: `10m`, `2h` or an RFC 3339 time.")
@click.pass_obj
def logs(out: Output, handle: str, follow: bool, tail: int | None, since: str | None) -> None:
    """Show what the programs of an instance wrote.

    Lines of the main program stand alone, others begin with where they come from.
    """
    out.live = out.live or follow
    nothing = True
    with client().instances.logs(handle, follow=follow, tail=tail, since=since) as stream:
        for item in stream:
            out.data(item)
            source = item.get("source")
            label: Piece = (f"[{source}] ", "dim") if source and source != "main" else ""
            if "dropped" in item:
                out.say(label, (f"({item['dropped']} lines were lost: written faster than read)", "yellow"))
            else:
                out.say(label, (item["text"].rstrip("\n"), "red" if item.get("stream") == "stderr" else ""))
            nothing = False
    if nothing and not follow:
        out.hint(f"nothing was written; what an agent said and did is in `aegis transcript {handle}`")


@click.command(cls=Verb)
@click.option("--follow", "-f", is_flag=True, help="Go on as more happens, until Ctrl-C; from now on, unless --after says otherwise.")
@click.option("--after", type=click.IntRange(min=0), metavar="SEQ", help="Only events after this number.")
@click.option("--instance", metavar="HANDLE", shell_complete=complete_handle, help="Only those of one instance.")
@click.pass_obj
def events(out: Output, follow: bool, after: int | None, instance: str | None) -> None:
    """Show what happened.

    Every event has a number that grows and is never reused; --after NUMBER goes on where an earlier look ended.

    \b
    Examples:
      aegis events -f
      aegis events --after 1200 --json
    """
    daemon = client()
    handles = {item["id"]: item["handle"] for item in daemon.instances.all()}
    if not follow:
        _show_events(out, pages(daemon, after or 0, instance), handles)
        return
    out.live = True
    start = int(daemon.status()["head"]) if after is None else after
    cursor = start

    def noted(stream: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        nonlocal cursor
        for event in stream:
            cursor = event["seq"]
            yield event

    try:
        with daemon.follow_events(start, instance=instance) as stream:
            _show_events(out, noted(stream), handles)
    except AegisError as exc:
        if exc.kind is not ErrorKind.UNREACHABLE:
            raise
    raise AegisError(ErrorKind.UNREACHABLE, "the daemon ended", f"`aegis events -f --after {cursor}` goes on where this ended")


def _show_events(out: Output, found: Iterable[dict[str, Any]], handles: dict[str, str]) -> None:
    for event in found:
        out.data(event)
        ident = str(event.get("instance") or "")
        if event["type"] == "instance.created":
            handles[ident] = event["data"]["handle"]
        about = f"{handles.get(ident, ident)} {event.get('session') or ''}".strip()
        out.say((f"{event['seq']:>7} {render.clock(event['ts'])} ", "dim"), (event["type"], "cyan"), f" {about} ", _told(event["data"]))


def _told(data: dict[str, Any]) -> Piece:
    """The fact of an event in few words: its text if it has one, else all of it."""
    text = data.get("text")
    return render.compact(text if text else " ".join(f"{key}={render.compact(value)}" for key, value in data.items())), "dim"


@click.command(cls=Verb)
@click.pass_obj
def ps(out: Output) -> None:
    """Show what each instance uses.

    Memory is what its processes really share out among them (PSS) where the system tells it, else what each has resident (RSS).
    """
    daemon = client()
    rows: list[tuple[InstanceInfo, Stats | None]] = [
        (item, daemon.instances.stats(item["id"]) if item["state"] in {"running", "paused"} else None) for item in daemon.instances.all()
    ]
    for item, stats in rows:
        out.data({"id": item["id"], "handle": item["handle"], "state": item["state"], **(stats or {})})
    if not rows:
        out.say("no instances yet")
        return
    head = ("HANDLE", "STATE", "PROCESSES", "CPU", "MEMORY", "SESSIONS")
    out.table(head, ([(item["handle"], "bold"), state(item["state"]), *_used(stats), _sessions(item)] for item, stats in rows))


def _used(stats: Stats | None) -> tuple[str, str, str]:
    """Processes, processor time and memory."""
    if stats is None:
        return "-", "-", "-"
    memory = stats["rss_bytes"] if stats["pss_bytes"] is None else stats["pss_bytes"]
    return str(stats["processes"]), f"{stats['cpu_seconds']:.1f} s", render.size(memory)


def _sessions(item: InstanceInfo) -> str:
    return ", ".join(f"{s['session']}{' (busy)' if s.get('busy') else ''}" for s in item.get("sessions") or []) or "-"
