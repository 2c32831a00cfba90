"""Verbs of what agents left in a workspace and Aegis put aside: list, show, release, drop, look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aegis.cli import blocks, render
from aegis.cli.options import complete_handle, complete_held, handle_argument
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.cli.output import Output, Piece
    from aegis.client.api import Client

_PREFIX = "held_"
_STATES = {"held": "yellow", "released": "green", "dropped": "red"}


@click.command("list", cls=Verb)
@click.option("--instance", metavar="HANDLE", shell_complete=complete_handle, help="Only of one instance.")
@click.option("--all", "everything", is_flag=True, help="Also what was released or dropped.")
@click.pass_obj
def list_(out: Output, instance: str | None, everything: bool) -> None:
    """List what was put aside.

    Files that an agent left in its workspace and that your git, your editor, your shell or another agent would run: Aegis took them out.
    Nothing of them is lost.
    """
    _table(out, client().held.list(None if everything else "held", instance=instance), everything=everything)


@click.command(cls=Verb)
@click.argument("ident", metavar="ID", shell_complete=complete_held)
@click.option("--whole", is_flag=True, help="All of it instead of the difference to what was there.")
@click.pass_obj
def show(out: Output, ident: str, whole: bool) -> None:
    """Show one: what it is, and what it would change.

    Characters that are not seen are written out, as `\\u{202e}`.
    """
    item = client().held.get(resolve(client(), ident)["id"])
    out.data(item)
    out.pairs([
        ("id", item["id"]), ("file", (f"{item['place']}/{item['path']}", "bold")), ("left by", item["handle"]),
        ("why", f"{item['rule']}; {item['reason']}"), ("state", (item["state"], _STATES.get(item["state"], ""))),
        ("held", render.when(item["held_at"])), *([("instead", "what was there before is back")] if item["restored"] else []),
    ])  # fmt: skip
    if item["changed"]:
        out.warn("it changed since it was held: a program had it open. It cannot be released.")
    for line in (item["text"] if whole or not item["diff"] else item["diff"]).splitlines():
        out.say((line, {"+": "green", "-": "red"}.get(line[:1], "") if not whole else ""))
    if item["state"] == "held":
        short = blocks.short_id(item["id"])
        out.hint(f"`aegis held release {short}` puts it back, `aegis held drop {short}` removes it")


@click.command(cls=Verb)
@click.argument("idents", metavar="ID...", nargs=-1, shell_complete=complete_held)
@click.option("--all", "everything", is_flag=True, help="All that is put aside now; with --instance of one.")
@click.option("--instance", metavar="HANDLE", shell_complete=complete_handle, help="With --all: only of one instance.")
@click.pass_obj
def release(out: Output, idents: tuple[str, ...], everything: bool, instance: str | None) -> int:
    """Put back where they were.

    ID is the end or the beginning of an id. From then on the file counts as yours. Nothing is put over another file that stands there.

    \b
    Examples:
      aegis held release k3x9f2
    """
    return _decide(out, idents, everything, instance, release=True)


@click.command(cls=Verb)
@click.argument("idents", metavar="ID...", nargs=-1, shell_complete=complete_held)
@click.option("--all", "everything", is_flag=True, help="All that is put aside now; with --instance of one.")
@click.option("--instance", metavar="HANDLE", shell_complete=complete_handle, help="With --all: only of one instance.")
@click.pass_obj
def drop(out: Output, idents: tuple[str, ...], everything: bool, instance: str | None) -> int:
    """Remove for good.

    ID is the end or the beginning of an id.

    \b
    Examples:
      aegis held drop k3x9f2
    """
    return _decide(out, idents, everything, instance, release=False)


@click.command(cls=Verb)
@handle_argument
@click.pass_obj
def look(out: Output, handle: str) -> None:
    """Look at the workspace of an instance now.

    It is looked at by itself after each turn, when the sandbox is frozen or stops, and before it starts.
    """
    _table(out, client().held.look(handle), everything=False)


def _table(out: Output, found: Sequence[dict[str, Any]], *, everything: bool) -> None:
    for item in found:
        out.data(item)
    if not found:
        out.say("nothing was ever put aside" if everything else "nothing is put aside")
        return
    rows: list[list[Piece]] = []
    for item in found:
        state: list[Piece] = [(item["state"], _STATES.get(item["state"], ""))] if everything else []
        row: list[Piece] = [(blocks.short_id(item["id"]), "bold"), item["handle"], render.ago(item["held_at"]), *state]
        rows.append([*row, one_line(item["path"], 120), one_line(item["reason"], 120)])
    out.table(("ID", "AGENT", "SINCE", *(("STATE",) if everything else ()), "FILE", "WHY"), rows)
    waiting = next((item for item in found if item["state"] == "held"), None)
    if waiting is not None:
        out.hint(f"`aegis held show {blocks.short_id(waiting['id'])}`, then `release` or `drop`")


def _decide(out: Output, idents: Sequence[str], everything: bool, instance: str | None, *, release: bool) -> int:
    """Decide of each, going on after a failure; the exit code is that of the first."""
    if everything == bool(idents) or (instance and not everything):
        raise click.UsageError("name one or several IDs, or --all", click.get_current_context())
    daemon, code = client(), 0
    if everything:
        idents = [item["id"] for item in daemon.held.list(instance=instance)]
        if not idents:
            out.say("nothing is put aside")
    for ident in idents:
        try:
            item = daemon.held.decide(resolve(daemon, ident)["id"], release=release)
        except AegisError as exc:
            out.error(exc)
            code = code or exc.exit_code
            continue
        out.data(item)
        out.say((f"{item['state']} ", _STATES.get(item["state"], "")), (blocks.short_id(item["id"]), "bold"), f"  {one_line(item['path'])}")
    return code


def resolve(daemon: Client, given: str) -> dict[str, Any]:
    """What a person means. Raises NOT_FOUND, and USAGE when several have this beginning or end."""
    if given.startswith(_PREFIX) and len(given) == len(_PREFIX) + 21:
        return daemon.held.get(given)
    part, waiting = given.lower(), daemon.held.list()
    for items in (waiting, ()):
        found = [item for item in items or daemon.held.list(None) if part and _is_part(item["id"], part)]
        if len(found) == 1:
            return found[0]
        if found:
            told = ", ".join(blocks.short_id(item["id"]) for item in found[:4])
            raise AegisError(ErrorKind.USAGE, f"{given!r} is the beginning or end of {len(found)} ids", f"write more of it: {told}")
    raise unknown_name("id", given[:60], [blocks.short_id(item["id"]) for item in waiting], "see `aegis held list`")


def _is_part(ident: str, part: str) -> bool:
    return ident.endswith(part) or ident.startswith(part) or ident.removeprefix(_PREFIX).startswith(part)
