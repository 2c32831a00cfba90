"""Verbs about the way out of sandboxes: what agents reached for, and what they may reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aegis.cli import render
from aegis.cli.options import complete_handle, handle_argument
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from aegis.cli.output import Output, Piece


@click.command(cls=Verb)
@click.argument("handle", required=False, shell_complete=complete_handle)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is asked for from now on.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many of the newest to show.")
@click.pass_obj
def log(out: Output, handle: str | None, follow: bool, limit: int) -> None:
    """List the connections that were asked for, and the requests where they are looked at.

    Those that were denied are listed, too, with the reason. Without HANDLE it is those of all instances.

    \b
    Examples:
      aegis egress log
      aegis egress log coder --follow
    """
    daemon = client()
    head = daemon.status()["head"] if follow else 0
    told = daemon.egress(handle, limit=limit)
    for item in told["connections"]:
        out.data(item)
    for warning in told["warnings"]:
        out.warn(warning)
    if told["connections"]:
        out.table(("TIME", "INSTANCE", "TO", "", "", "SENT", "RECEIVED", "WHY"), map(_row, told["connections"]))
    elif not follow:
        out.say("no connection was asked for yet")
    if not follow:
        return
    out.live = True
    handles = {item["id"]: item["handle"] for item in daemon.instances.all()}
    with daemon.follow_events(head, instance=handle, types=("instance.egress",)) as stream:
        for event in stream:
            out.data(event)
            said, ident = event["data"], str(event.get("instance"))
            about = f"{handles.get(ident, ident)}  {_asked(said)}  "
            out.say((f"{render.when(event['ts'])}  ", "dim"), about, _verdict(said["allowed"]), f"  {said.get('reason', '')}")
    raise AegisError(ErrorKind.UNREACHABLE, "the daemon ended", "`aegis egress log` shows what it recorded")


@click.command(cls=Verb)
@handle_argument
@click.argument("place", metavar="HOST:PORT|URL")
@click.option("--method", "-X", metavar="METHOD", help="The method of the request, with a URL; GET if not given.")
@click.pass_obj
def check(out: Output, handle: str, place: str, method: str | None) -> int:
    """Say whether an instance may connect to a place, or ask for a URL, and why.

    The name is resolved, as it would be, but nothing is connected. Without a port it is 443. The exit code is 4 when it would be
    denied. Method and path count where the rules look at requests.

    \b
    Examples:
      aegis egress check coder api.example.com:443
      aegis egress check coder https://api.example.com/v1/models -X POST
    """
    told = client().egress_check(handle, place, method)
    out.data(told)
    out.say(_verdict(told["allowed"]), "  ", (_asked(told), "bold"), f"  {told['reason']}")
    if told["addresses"]:
        out.say(("  leads to ", "dim"), ", ".join(told["addresses"]))
    if told["problem"]:
        out.warn(told["problem"])
    if told["hint"]:
        out.hint(told["hint"])
    return 0 if told["allowed"] else ErrorKind.DENIED.codes.exit


def _row(item: dict[str, Any]) -> list[Piece]:
    open_ = item["ms"] is None
    return [
        render.when(item["ts"]),
        (str(item.get("handle") or item["instance"]), "bold"),
        _asked(item),
        _verdict(item["allowed"]),
        str(item.get("status") or ""),
        "" if open_ or not item["allowed"] else render.size(item["sent"]),
        "" if open_ or not item["allowed"] else render.size(item["received"]),
        item["reason"] + ("; open" if open_ else ""),
    ]


def _verdict(allowed: bool) -> Piece:
    return ("allowed", "green") if allowed else ("denied", "red")


def _asked(item: dict[str, Any]) -> str:
    """The place, and of a request its method and path."""
    place = _place(item["host"], item["port"])
    return f"{item['method']} {place}{item['path']}" if item.get("method") else place


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
