"""Verbs of approvals: what agents ask leave for, and the answers of a person, on the line of commands or in the middle of a turn."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import click

from aegis.cli import blocks, render
from aegis.cli.options import complete_approval, complete_handle
from aegis.cli.output import Output, Piece
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aegis.client.api import Client
    from aegis.client.shapes import ApprovalInfo

_PREFIX = "appr_"
_STATES = {"pending": "yellow", "approved": "green", "rejected": "red", "withdrawn": "dim"}


@click.command("list", cls=Verb)
@click.option("--instance", metavar="HANDLE", shell_complete=complete_handle, help="Only those of one instance.")
@click.option("--all", "everything", is_flag=True, help="Also those that were answered or withdrawn.")
@click.pass_obj
def list_(out: Output, instance: str | None, everything: bool) -> None:
    """List what agents ask leave for.

    The one that has waited longest stands first. An agent asks when its instance was started with `--approvals ask`.
    """
    found = client().approvals.list(None if everything else "pending", instance=instance)
    for item in found:
        out.data(item)
    if not found:
        out.say("nothing was ever asked" if everything else "nothing waits for you")
        return
    more = ("STATE",) if everything else ()
    rows: list[list[Piece]] = []
    for item in found:
        shown: list[Piece] = [
            (blocks.short_id(item["id"]), "bold"),
            item["handle"] or item["instance"],
            item["tool"],
            render.ago(item["asked_at"]),
        ]
        state: list[Piece] = [(item["state"], _STATES.get(item["state"], ""))] if everything else []
        rows.append([*shown, *state, _what(item)])
    out.table(("ID", "AGENT", "TOOL", "SINCE", *more, "WHAT"), rows)
    if any(item["state"] == "pending" for item in found):
        first = next(item for item in found if item["state"] == "pending")
        out.hint(f"`aegis approvals show {blocks.short_id(first['id'])}`, then `approve` or `reject`")


@click.command(cls=Verb)
@click.argument("ident", metavar="ID", shell_complete=complete_approval)
@click.pass_obj
def show(out: Output, ident: str) -> None:
    """Show one request with all it is about."""
    item = resolve(client(), ident)
    out.data(item)
    for line in blocks.request(item, item["id"], (out.columns or blocks.WIDE) - 12)[: -1 if item["state"] != "pending" else None]:
        out.say(*line)
    out.pairs([
        ("id", item["id"]), ("agent", str(item["handle"] or item["instance"])), ("session", item["session"]),
        ("state", (item["state"], _STATES.get(item["state"], ""))), ("asked", render.when(item["asked_at"])),
        *([("answered", f"{render.when(item['decided_at'])} by {blocks.who_is(item['principal'])}")] if item["decided_at"] else []),
        *([("reason", item["reason"])] if item["reason"] else []),
    ])  # fmt: skip


@click.command(cls=Verb)
@click.argument("idents", metavar="ID...", nargs=-1, shell_complete=complete_approval)
@click.option("--all", "everything", is_flag=True, help="All that wait now; with --instance those of one.")
@click.option("--instance", metavar="HANDLE", shell_complete=complete_handle, help="With --all: only those of one instance.")
@click.option("--reason", metavar="TEXT", default="", help="Why; it is kept with the answer.")
@click.option("--input", "edited", metavar="JSON", help="What the tool is to be given instead, as a JSON object; for one ID.")
@click.pass_obj
def approve(out: Output, idents: tuple[str, ...], everything: bool, instance: str | None, reason: str, edited: str | None) -> int:
    """Say yes to what agents ask leave for.

    ID is the end or the beginning of an id, as long as only one request that waits has it.

    \b
    Examples:
      aegis approvals approve k3x9f2
      aegis approvals approve --all --instance coder
      aegis approvals approve k3x9f2 --input '{"command": "ls -l"}'
    """
    given = _object(edited) if edited is not None else None
    if given is not None and (everything or len(idents) != 1):
        raise click.UsageError("--input is for one ID", click.get_current_context())
    return _decide(out, idents, everything, instance, lambda daemon, item: daemon.approvals.decide(item, True, reason=reason, input=given))


@click.command(cls=Verb)
@click.argument("idents", metavar="ID...", nargs=-1, shell_complete=complete_approval)
@click.option("--all", "everything", is_flag=True, help="All that wait now; with --instance those of one.")
@click.option("--instance", metavar="HANDLE", shell_complete=complete_handle, help="With --all: only those of one instance.")
@click.option("--reason", metavar="TEXT", default="", help="Why, and what to do instead; the agent reads it.")
@click.pass_obj
def reject(out: Output, idents: tuple[str, ...], everything: bool, instance: str | None, reason: str) -> int:
    """Say no to what agents ask leave for.

    ID is the end or the beginning of an id, as long as only one request that waits has it.

    \b
    Examples:
      aegis approvals reject k3x9f2 --reason "use the staging database"
    """
    return _decide(out, idents, everything, instance, lambda daemon, item: daemon.approvals.decide(item, False, reason=reason))


def _decide(
    out: Output, idents: Sequence[str], everything: bool, instance: str | None, answer: Callable[[Client, str], ApprovalInfo]
) -> int:
    """Answer each, going on after a failure; the exit code is that of the first."""
    if everything == bool(idents) or (instance and not everything):
        raise click.UsageError("name one or several IDs, or --all", click.get_current_context())
    daemon, code = client(), 0
    if everything:
        idents = [item["id"] for item in daemon.approvals.list(instance=instance)]
        if not idents:
            out.say("nothing waits for you")
    for ident in idents:
        try:
            item = answer(daemon, resolve(daemon, ident)["id"])
        except AegisError as exc:
            out.error(exc)
            code = code or exc.exit_code
            continue
        out.data(item)
        verdict = item["state"]
        out.say((f"{verdict} ", _STATES.get(verdict, "")), (blocks.short_id(item["id"]), "bold"), f"  {item['tool']}  {_what(item)}")
    return code


def resolve(daemon: Client, given: str) -> ApprovalInfo:
    """The request that a person means. Raises NOT_FOUND, and USAGE when several that wait have this beginning or end."""
    if given.startswith(_PREFIX) and len(given) == len(_PREFIX) + 21:
        return daemon.approvals.get(given)
    waiting = daemon.approvals.list()
    part = given.lower()
    for items in (waiting, ()):
        found = [item for item in items or daemon.approvals.list(None) if part and _is_part(item["id"], part)]
        if len(found) == 1:
            return found[0]
        if found:
            told = ", ".join(item["id"].removeprefix(_PREFIX) for item in found[:4])
            raise AegisError(ErrorKind.USAGE, f"{given!r} is the beginning or end of {len(found)} requests", f"write more of it: {told}")
    raise unknown_name("request", given[:60], [blocks.short_id(item["id"]) for item in waiting], "see `aegis approvals list`")


def _is_part(ident: str, part: str) -> bool:
    return ident.endswith(part) or ident.startswith(part) or ident.removeprefix(_PREFIX).startswith(part)


def ask_here(out: Output, daemon: Client, ident: str) -> None:
    """Ask the person at the terminal, in the middle of a turn. Without an answer the request goes on waiting; one that is answered
    elsewhere meanwhile, or withdrawn, is not asked any more."""
    with ExitStack() as stack:
        bell: int | None = None
        with suppress(AegisError):  # then there is nobody to tell of answers from elsewhere, nor to take ours: it is started again for that
            head = int(daemon.status()["head"])
            bell = stack.enter_context(daemon.follow_events(head, types=("approval.decided", "attention.raised"))).fileno()
            item = daemon.approvals.get(ident)
            if item["state"] != "pending":
                return
            if questions := blocks.asked_of_a_person(item["input"]):
                _choose(out, daemon, item, questions, bell)
                return
        said = out.read_answer("    allow it? [y/n, Enter: later] ", bell, lambda: _over(daemon, ident))
        if said is None:
            return
        if said[:1].lower() not in ("y", "n"):
            out.hint(f"it waits: `aegis approvals approve {blocks.short_id(ident)}`, or `reject`")
            return
        yes, reason = said[0].lower() == "y", ""
        if not yes:
            reason = out.read_answer("    why not? the agent reads it: ", bell, lambda: _over(daemon, ident)) or ""
    answer(out, daemon, ident, approve=yes, reason=reason)


def _choose(out: Output, daemon: Client, item: ApprovalInfo, questions: Sequence[dict[str, Any]], bell: int) -> None:
    """Let the person answer the questions of an agent, each by a number or in words."""
    ident, answers = item["id"], {}
    for question in questions:
        text, labels = str(question["question"]), [str(option.get("label") or "") for option in question["options"]]
        which = f"{one_line(text, 60)}  " if len(questions) > 1 else ""
        numbers = f"1-{len(labels)}, or " if labels else ""
        said = out.read_answer(f"    {which}your answer [{numbers}in words, Enter: later] ", bell, lambda: _over(daemon, ident))
        if said is None:
            return
        if not said:
            out.hint(f"it waits: `aegis chat {item['handle']}` asks again, `aegis approvals reject {blocks.short_id(ident)}` declines")
            return
        answers[text] = labels[int(said) - 1] if said.isdecimal() and 0 < int(said) <= len(labels) else said
    answer(out, daemon, ident, approve=True, reason="", given={**item["input"], "answers": answers})


def _over(daemon: Client, ident: str) -> bool:
    """Whether a request does not wait any more."""
    try:
        return daemon.approvals.get(ident)["state"] != "pending"
    except AegisError as error:
        return error.kind is ErrorKind.NOT_FOUND


def answer(out: Output, daemon: Client, ident: str, *, approve: bool, reason: str, given: dict[str, Any] | None = None) -> None:
    """Answer a request; one that was answered elsewhere meanwhile is not an error, and a daemon that died is started again."""
    from aegis.client import launch

    for last in (False, True):
        try:
            daemon.approvals.decide(ident, approve, reason=reason, input=given)
            return
        except AegisError as exc:
            if exc.kind is ErrorKind.UNREACHABLE and not last:
                launch.ensure_daemon(daemon.home)
                continue
            out.warn(exc.message)
            return


def _what(item: ApprovalInfo) -> str:
    """What it is about, in a line."""
    return item["title"] or render.compact(item["input"])


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--input is not JSON: {error}", click.get_current_context()) from None
    if not isinstance(value, dict):
        raise click.UsageError("--input must be a JSON object", click.get_current_context())
    return value
