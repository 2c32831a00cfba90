"""The verb that sums up: what agents used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aegis.cli import blocks, render
from aegis.cli.options import SessionType, complete_handle, complete_session
from aegis.cli.output import Output, Piece
from aegis.cli.reach import client
from aegis.cli.verbs import Verb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aegis.client.api import Client
    from aegis.client.shapes import Session

_OUTCOMES = {"completed": "green", "failed": "red", "limited": "yellow", "cancelled": "yellow", "interrupted": "yellow"}
_COUNTED = ("turns", "input", "output", "cached", "tools", "tool_errors", "seconds")


@click.command(cls=Verb)
@click.argument("handle", required=False, shell_complete=complete_handle)
@click.option(
    "--session", "-s", type=SessionType(), shell_complete=complete_session, help="Only this conversation, as `channel:id` or `id`."
)
@click.option("--turns", type=click.IntRange(min=1), metavar="N", help="The last N turns one by one; needs HANDLE.")
@click.pass_obj
def stats(out: Output, handle: str | None, session: Session | None, turns: int | None) -> None:
    """Show what agents used: tokens, money, tools, time.

    Without HANDLE by instance, with it by conversation, with --turns by turn; a total stands under it. IN counts all of the prompts,
    CACHED the share of it that the provider had kept. A cost that is not known is shown as `-`, and left out of a total, which then
    has a `+`.

    \b
    Examples:
      aegis stats
      aegis stats coder --turns 10
    """
    if handle is None and (session or turns):
        raise click.UsageError("--session and --turns need a HANDLE", click.get_current_context())
    daemon = client()
    if handle is None:
        items = [(item, daemon.sessions.usage(item["id"])) for item in daemon.instances.all() if item.get("driver")]
        for item, used in items:
            out.data({"id": item["id"], "handle": item["handle"], **used})
        _table(out, "AGENT", [((item["handle"], "bold"), used) for item, used in items])
    elif turns:
        found = _turns(daemon, handle, session, turns)
        for entry in found:
            out.data(entry)
        _table(out, "TURN", [(_name(entry), entry) for entry in found])
    else:
        used = daemon.sessions.usage(handle, session)
        out.data(used)
        entries = used.get("sessions") or ([{"session": ":".join(session), **used}] if session else [])
        _table(out, "SESSION", [((entry["session"], "bold"), entry) for entry in entries])


def _turns(daemon: Client, handle: str, session: Session | None, last: int) -> list[dict[str, Any]]:
    """The last turns that have ended, oldest first."""
    key, head = ":".join(session) if session else None, int(daemon.status()["head"])
    page = daemon.events(0, instance=handle, session=key, types=("turn.finished",), before=head + 1, limit=last)
    return [
        {"turn": event["turn"], "session": event["session"], "finished_at": event["ts"], "outcome": event["data"]["outcome"]}
        | daemon.sessions.usage(handle, turn=event["turn"])
        | {"seconds": (event["data"].get("ms") or 0.0) / 1000}
        for event in page["events"]
    ]


def _name(entry: Mapping[str, Any]) -> Piece:
    outcome = str(entry["outcome"])
    return f"{render.when(entry['finished_at'])[5:]} {outcome}", _OUTCOMES.get(outcome, "")


def _table(out: Output, what: str, rows: list[tuple[Piece, Mapping[str, Any]]]) -> None:
    if not rows:
        out.say("nothing was used yet")
        return
    shown = [[name, *_cells(used)] for name, used in rows]
    if len(rows) > 1:
        shown.append([("total", "bold"), *_cells(total(used for _, used in rows))])
    head = [what, "TURNS", "IN", "CACHED", "OUT", "COST", "TOOLS", "TIME"]
    if what == "TURN":  # each is one
        head, shown = [what, *head[2:]], [[row[0], *row[2:]] for row in shown]
    out.table(head, shown)


def total(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of several; `cost_unknown` says that some of them have none though they used a model."""
    entries = list(entries)
    costs = [entry.get("cost_usd") for entry in entries]
    known = [cost for cost in costs if cost is not None]
    unknown = any(entry.get("cost_usd") is None and entry.get("input") for entry in entries)
    sums: dict[str, Any] = {key: sum(entry.get(key) or 0 for entry in entries) for key in _COUNTED}
    return sums | {"cost_usd": sum(known) if known else None, "cost_unknown": unknown and bool(known)}


def _cells(used: Mapping[str, Any]) -> list[Piece]:
    taken, cached = used.get("input") or 0, used.get("cached") or 0
    errors = f" ({used['tool_errors']} failed)" if used.get("tool_errors") else ""
    cost = "-" if used.get("cost_usd") is None else blocks.cost(used["cost_usd"]) + ("+" if used.get("cost_unknown") else "")
    share = f"{cached * 100 // taken}%" if taken else "-"
    turns, tools = str(used.get("turns", 1)), f"{used.get('tools') or 0}{errors}"
    return [
        turns,
        blocks.count(taken),
        share,
        blocks.count(used.get("output") or 0),
        cost,
        tools,
        blocks.span((used.get("seconds") or 0.0) * 1000),
    ]
