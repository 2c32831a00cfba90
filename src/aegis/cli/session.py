"""Verbs of sessions: the conversations of an instance, what each runs with, and copies of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aegis.cli import blocks
from aegis.cli.options import SessionType, handle_argument, session_option
from aegis.cli.output import Output, Piece
from aegis.cli.reach import client
from aegis.cli.verbs import Verb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis.client.shapes import Session


@click.command("list", cls=Verb)
@handle_argument
@click.pass_obj
def list_(out: Output, handle: str) -> None:
    """List the conversations of an instance.

    CONTEXT is how full the model's context is. What a conversation runs with is that of its instance where nothing else was set.
    """
    item = client().instances.get(handle)
    for entry in item["sessions"]:
        out.data(entry)
    if not item["sessions"]:
        out.say("no conversations yet")
        return
    head = ("SESSION", "TURNS", "STATE", "CONTEXT", "MODEL", "MODE", "EFFORT", "TITLE")
    out.table(head, ([
        (entry["session"], "bold"), str(entry.get("turns", 0)), _state(entry), context(entry),
        entry.get("model") or "-", entry.get("mode") or "-", entry.get("effort") or "-", entry.get("title") or "-",
    ] for entry in item["sessions"]))  # fmt: skip


@click.command("set", cls=Verb)
@handle_argument
@session_option
@click.option("--model", metavar="PROVIDER/MODEL", help="The model, such as `anthropic/claude-sonnet-4-5`.")
@click.option("--mode", metavar="MODE", help="A mode of the program, such as `plan`.")
@click.option("--effort", metavar="WORD", help="How hard the model is to think, in the program's own words.")
@click.pass_obj
def set_(out: Output, handle: str, session: Session, model: str | None, mode: str | None, effort: str | None) -> None:
    """Change what a conversation runs with.

    It counts from the next call of a model on, and is kept; other conversations of the instance stay as they are.

    \b
    Examples:
      aegis session set coder --model anthropic/claude-opus-4-1
      aegis session set coder --session review --mode plan
    """
    if not (model or mode or effort):
        raise click.UsageError("nothing is to be changed: give --model, --mode or --effort", click.get_current_context())
    item = client().sessions.configure(handle, session, model=model, mode=mode, effort=effort)
    entry = _entry(item["sessions"], session)
    out.data(entry)
    given = {"model": model, "mode": mode, "effort": effort}
    told = ", ".join(f"{name} {entry.get(name) or value}" for name, value in given.items() if value)
    out.say(("set ", "green"), (f"{item['handle']} {':'.join(session)}", "bold"), f"  {told}")


@click.command(cls=Verb)
@handle_argument
@click.argument("to", metavar="NEW", type=SessionType())
@session_option
@click.pass_obj
def fork(out: Output, handle: str, to: Session, session: Session) -> None:
    """Begin a conversation as a copy of another.

    The copy knows all that was said; from here on both go on apart. They share the workspace.

    \b
    Examples:
      aegis session fork coder try-it
      aegis chat coder --session try-it
    """
    item = client().sessions.fork(handle, session, to)
    out.data(_entry(item["sessions"], to))
    out.say(("forked ", "green"), ":".join(session), " → ", (":".join(to), "bold"))
    out.hint(f"`aegis chat {item['handle']} --session {':'.join(to)}`")


def context(entry: Mapping[str, Any]) -> Piece:
    """How full the context of a session is."""
    told = entry.get("context") or {}
    used, size = told.get("used") or 0, told.get("size") or 0
    if not used:
        return "-"
    share = used / size if size else 0.0
    style = "red" if share >= 0.75 else "yellow" if share >= 0.5 else ""
    return blocks.count(used) + (f" ({share * 100:.0f}%)" if size else ""), style


def _state(entry: Mapping[str, Any]) -> Piece:
    waiting = f", {entry['queued']} waiting" if entry.get("queued") else ""
    return ("working" if entry.get("busy") else "idle") + waiting, "green" if entry.get("busy") else ""


def _entry(sessions: list[dict[str, Any]], session: Session) -> dict[str, Any]:
    key = ":".join(session)
    return next((entry for entry in sessions if entry["session"] == key), {"session": key})
