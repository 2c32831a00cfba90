"""Verbs about what a person is told: list, test."""

from __future__ import annotations

import click

from aegis.cli import blocks, render
from aegis.cli.options import Word
from aegis.cli.output import Output, Piece
from aegis.cli.reach import client
from aegis.cli.verbs import Verb

KINDS = ("needs-you", "stuck", "failed", "limited", "done")
_CHANNELS = {"bell": "the bell", "desktop": "the desktop", "command": "your command"}
_STATES = {"told": "", "waiting": "not told yet", "answered": "answered before"}


@click.command("list", cls=Verb)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, metavar="N", help="The most notices, the newest ones."
)
@click.pass_obj
def list_(out: Output, limit: int) -> None:
    """List what you were told.

    One line for each notice: that an agent needs you, is done, failed, waits for its provider, or seems stuck. What agents say to each
    other is never among them. `notify.on` in your `config.yaml` says what you want to be told, `notify.desktop`, `notify.bell` and
    `notify.command` how, and `notify.quiet` when not.
    """
    found = client().attention.list(limit)
    for item in found:
        out.data(item)
    if not found:
        out.say("nothing needed you yet")
        out.hint("`aegis attention test` tries how you would be told")
        return
    out.table(
        ("WHEN", "KIND", "WHAT", ""),
        (
            [
                render.when(item["since"]),
                (item["kind"], blocks.NOTICES.get(item["kind"], "")),
                item["text"],
                (_STATES.get(item["state"], ""), "dim"),
            ]
            for item in found
        ),
    )


@click.command(cls=Verb)
@click.argument("kind", type=Word("kind of notice", KINDS), default="needs-you", required=False)
@click.pass_obj
def test(out: Output, kind: str) -> int:
    """Try how you would be told.

    Gives a notice to every channel that is on, whatever the hour: the desktop, the bell of every `aegis watch` and `aegis chat`, your own
    command. The exit code is 1 when one of them did not take it. KIND is `needs-you` unless you say `done`, `failed`, `limited` or `stuck`.

    \b
    Examples:
      aegis attention test
      aegis attention test done
    """
    told = client().attention.test(kind)
    out.data(told)
    if told["channels"]["bell"]["on"]:
        out.bell()
    for name, channel in told["channels"].items():
        if not channel["on"]:
            mark: Piece = ("- ", "dim")
            detail = f"off; `notify.{name}` in your `config.yaml` turns it on"
        else:
            mark = ("✓ ", "green") if channel["ok"] else ("✗ ", "red")
            detail = channel["detail"]
        out.say(mark, (_CHANNELS.get(name, name), "bold"), f"  {detail}" if detail else "")
    if kind not in told["on"]:
        out.warn(f"`notify.on` leaves out `{kind}`, so that you are not told when it happens")
    if told["quiet_until"]:
        out.hint(f"it is quiet until {render.when(told['quiet_until'])}; what comes is summed up then")
    return 0 if all(channel["ok"] for channel in told["channels"].values()) else 1
