"""Verbs of mailboxes: what is in them, dead letters, and handing work over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aegis.cli import blocks, render
from aegis.cli.options import complete_handle, complete_message, handle_argument, session_option
from aegis.cli.output import Output
from aegis.cli.reach import client
from aegis.cli.receipts import STATES, later, sender
from aegis.cli.talk import Waiting, conclude, message_of, waiting_options
from aegis.cli.verbs import Verb
from aegis.client import lasting

if TYPE_CHECKING:
    from aegis.cli.output import Piece
    from aegis.client.shapes import Session


@click.command("list", cls=Verb)
@click.argument("handle", required=False, shell_complete=complete_handle)
@click.option("--dead", is_flag=True, help="Only dead letters: those that failed or expired.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, metavar="N", help="The most messages, the newest.")
@click.pass_obj
def list_(out: Output, handle: str | None, dead: bool, limit: int) -> None:
    """List messages to an agent, or to all, and how far each came.

    A message is `accepted` when it is on disk, `injected` when the program has it, `acknowledged` when a model has read it;
    or it is `failed` or `expired`, with the reason. INJECTED and ACK say how long after it was accepted.

    \b
    Examples:
      aegis inbox list coder
      aegis inbox list --dead
    """
    found = client().mail.all(handle, dead=dead, limit=limit)
    for item in found:
        out.data(item)
    if not found:
        out.say("no dead letters" if dead else "no messages")
        return
    to = () if handle is not None else ("TO",)
    rows: list[list[Piece]] = []
    for item in found:
        text = f"{item['text']}  ({item['reason']})" if item.get("reason") else item["text"]
        rows.append([
            (blocks.short_id(item["id"]), "bold"), (item["state"], STATES.get(item["state"], "")), render.clock(item["accepted_at"])[:8],
            later(item, "injected_at"), later(item, "acknowledged_at"), *([item["handle"] or "-"] if to else []),
            sender(item), item["session"], text,
        ])  # fmt: skip
    out.table(("ID", "STATE", "ACCEPTED", "INJECTED", "ACK", *to, "FROM", "SESSION", "TEXT"), rows)
    if any(item["state"] in ("failed", "expired") for item in found):
        out.hint("`aegis inbox retry ID` tries a dead letter again")


@click.command(cls=Verb)
@click.argument("ident", metavar="MSG", shell_complete=complete_message)
@click.pass_obj
def show(out: Output, ident: str) -> None:
    """Show one message and what became of it.

    MSG is its id, or at least four characters of the end of that.
    """
    item = client().mail.get(ident)
    out.data(item)
    waits = item.get("position")
    out.pairs([
        ("id", item["id"]), ("to", f"{item['handle']}  {item['session']}"), ("from", sender(item)),
        ("state", (item["state"], STATES.get(item["state"], ""))),
        *([("waits behind", f"{waits} others")] if waits else []),
        *([("reason", str(item["reason"]))] if item.get("reason") else []),
        *([("task", f"{item['task']}{'  ' + str(item['status']) if item.get('status') else ''}")] if item.get("task") else []),
        *([("passed on", f"{item['hops']} times")] if item.get("hops") else []),
        ("accepted", render.when(item["accepted_at"])),
        *([("injected", later(item, "injected_at"))] if item.get("injected_at") else []),
        *([("acknowledged", later(item, "acknowledged_at"))] if item.get("acknowledged_at") else []),
        *([("done", later(item, "done_at"))] if item.get("done_at") else []),
        *([("expires", render.when(item["expires"]))] if item.get("expires") else []),
    ])  # fmt: skip
    out.say("")
    out.say(item["text"])
    if item["state"] in ("failed", "expired"):
        out.hint(f"`aegis inbox retry {blocks.short_id(item['id'])}` tries it again")


@click.command(cls=Verb)
@click.argument("ident", metavar="MSG", shell_complete=complete_message)
@click.option("--hold", is_flag=True, help="Also for a disabled instance: it waits until somebody starts that.")
@click.pass_obj
def retry(out: Output, ident: str, hold: bool) -> None:
    """Put a dead letter back.

    A message that failed or expired waits again, where it stood in the order, and without an end to its time.
    """
    item = client().mail.retry(ident, hold=hold)
    out.data(item)
    out.say(("waits again ", "green"), item["id"])
    out.hint(f"`aegis inbox show {blocks.short_id(item['id'])}`")


@click.command(cls=Verb)
@click.argument("ident", metavar="MSG", shell_complete=complete_message)
@click.pass_obj
def drop(out: Output, ident: str) -> None:
    """End a message that waits.

    It will not be delivered. Who wanted a report of it is told so. A message that a turn has is beyond this; `aegis cancel` cuts the turn.
    """
    item = client().mail.drop(ident)
    out.data(item)
    out.say(("dropped ", "yellow"), item["id"])


@click.command(cls=Verb)
@handle_argument
@click.argument("text")
@session_option
@click.option("--report-to", metavar="HANDLE", shell_complete=complete_handle, help="The final answer goes to this agent, as mail.")
@waiting_options
@click.pass_obj
def handoff(out: Output, handle: str, text: str, session: Session, report_to: str | None, waiting: Waiting) -> int:
    """Hand work over to an agent.

    TEXT is all that the agent needs to know, or `-` for standard input: it knows nothing of other conversations. The work has a turn
    of its own. With --report-to its final answer goes to another agent, which reads it as mail and goes on with it.

    \b
    Examples:
      aegis handoff reviewer "look at the last commit of /workspace" --report-to coder
      git log -1 -p | aegis handoff reviewer -
    """
    daemon = client()
    receipt = lasting.send(
        daemon, handle, message_of(text), session=session, msg_id=waiting.msg_id, expires=waiting.expires, hold=waiting.hold,
        report_to=report_to,
    )  # fmt: skip
    return conclude(out, daemon, handle, session, receipt, waiting)
