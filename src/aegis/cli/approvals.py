"""Verbs of approvals: what agents ask leave for, and the answers of a person, on the line of commands or in the middle of a turn."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import click

from aegis.cli import blocks, render
from aegis.cli.options import Span, complete_approval, complete_handle
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
_THEN = {"reject": "it is rejected", "approve": "it is APPROVED"}
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
        rows.append([*shown, *state, _what(item) + (f"  ⚠ {item['risk']}" if item["risk"] else "")])
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
    waits = item["state"] == "pending"
    out.pairs([
        ("id", item["id"]), ("agent", str(item["handle"] or item["instance"])), ("session", item["session"]),
        *([("action", item["action"])] if item["action"] != "tool.use" else []),
        *([("asked by the rule", ", ".join(item["policies"]))] if item["policies"] else []),
        *([("argv", " ".join(map(_word, item["argv"])))] if item["argv"] else []),
        *([("directory", item["cwd"])] if item["cwd"] else []),
        *([("risk", (item["risk"], "yellow"))] if item["risk"] else []),
        ("digest", item["digest"]),
        ("state", (item["state"], _STATES.get(item["state"], ""))), ("asked", render.when(item["asked_at"])),
        *([("deadline", f"{render.when(item['deadline'])}, then {_THEN[item['default']]}")] if waits and item["deadline"] else []),
        *([("escalated", f"{render.when(item['escalated_at'])} by {blocks.who_is(item['escalated_by'])}")] if item["escalated_at"] else []),
        *([("answered", f"{render.when(item['decided_at'])} by {blocks.who_is(item['principal'])}")] if item["decided_at"] else []),
        *([("reason", item["reason"])] if item["reason"] else []),
        *([("counts for", "the same call again in this session")] if item["scope"] == "session" else []),
        *([("rule", item["rule"])] if item["rule"] else []),
    ])  # fmt: skip


@click.command(cls=Verb)
@click.argument("idents", metavar="ID...", nargs=-1, shell_complete=complete_approval)
@click.option("--all", "everything", is_flag=True, help="All that wait now; with --instance those of one.")
@click.option("--instance", metavar="HANDLE", shell_complete=complete_handle, help="With --all: only those of one instance.")
@click.option("--reason", metavar="TEXT", default="", help="Why; it is kept with the answer.")
@click.option("--session", "for_session", is_flag=True, help="Also for the same exact call again, in this session.")
@click.option(
    "--rule", "as_rule", is_flag=True, help="Also write the narrowest rule that spares the question; it is shown first. For one ID."
)
@click.option("--yes", "-y", is_flag=True, help="With --rule: write it without asking.")
@click.option("--input", "edited", metavar="JSON", help="What the tool is to be given instead, as a JSON object; for one ID.")
@click.pass_obj
def approve(
    out: Output,
    idents: tuple[str, ...],
    everything: bool,
    instance: str | None,
    reason: str,
    for_session: bool,
    as_rule: bool,
    yes: bool,
    edited: str | None,
) -> int:
    """Say yes to what agents ask leave for.

    ID is the end or the beginning of an id, as long as only one request that waits has it. A yes counts once, for exactly this call.

    \b
    Examples:
      aegis approvals approve k3x9f2
      aegis approvals approve k3x9f2 --session
      aegis approvals approve k3x9f2 --rule
      aegis approvals approve --all --instance coder
    """
    context = click.get_current_context()
    given = _object(edited) if edited is not None else None
    if (given is not None or as_rule) and (everything or len(idents) != 1):
        raise click.UsageError("--input and --rule are for one ID", context)
    if as_rule + for_session + (given is not None) > 1 or (yes and not as_rule):
        raise click.UsageError("choose one of --session, --rule and --input; --yes goes with --rule", context)
    if as_rule:
        return _approve_with_rule(out, idents[0], reason, yes=yes)
    scope = "session" if for_session else "once"
    return _decide(
        out, idents, everything, instance, lambda daemon, item: daemon.approvals.decide(item, True, reason=reason, input=given, scope=scope)
    )


def _approve_with_rule(out: Output, ident: str, reason: str, *, yes: bool) -> int:
    """Show the rule, and write it with the answer once the person agrees."""
    daemon = client()
    item = resolve(daemon, ident)
    rule = daemon.approvals.rule(item["id"])
    if not out.json:
        out.say(f"This rule would go to {rule['path']}:")
        out.say()
        for line in rule["text"].rstrip().split("\n"):
            out.say("  ", (line, "cyan"))
        out.say()
    if not yes:
        if not out.interactive:
            raise AegisError(ErrorKind.USAGE, "nobody is here to agree to the rule", "look at it, then add `--yes`", **rule)
        if out.read_line("Write it, and approve? [y/N] ").strip().lower() not in ("y", "yes"):
            out.say("nothing was done: it still waits")
            return 1
    done = daemon.approvals.decide(item["id"], True, reason=reason, scope="rule", rule=rule["text"])
    out.data(done)
    out.say(("approved ", "green"), (blocks.short_id(done["id"]), "bold"), f"  {done['tool']}  {_what(done)}")
    out.say(f"rule {done['rule']} is in force; `aegis policy show {done['rule']}`")
    return 0


@click.command(cls=Verb)
@click.argument("ident", metavar="ID", shell_complete=complete_approval)
@click.argument("changes", metavar="NAME=VALUE...", nargs=-1)
@click.option("--input", "edited", metavar="JSON", help="All of what the tool is to be given, as a JSON object.")
@click.option("--reason", metavar="TEXT", default="", help="Why; it is kept with the answer.")
@click.pass_obj
def edit(out: Output, ident: str, changes: tuple[str, ...], edited: str | None, reason: str) -> int:
    """Say yes to something else in place of what a tool was to be given.

    NAME=VALUE changes one argument and leaves the others as they are. Not every program can take another input.

    \b
    Examples:
      aegis approvals edit k3x9f2 command='make -n'
      aegis approvals edit k3x9f2 --input '{"command": "ls -l"}'
    """
    if bool(changes) == (edited is not None):
        raise click.UsageError("say what to change: NAME=VALUE, or --input", click.get_current_context())
    given = _object(edited) if edited is not None else None
    if given is None:
        if any("=" not in change for change in changes):
            raise click.UsageError("a change is NAME=VALUE", click.get_current_context())
        item = resolve(client(), ident)
        given = dict(item["input"])
        for name, _sign, value in (change.partition("=") for change in changes):
            if name not in given:
                raise unknown_name("argument", name[:60], list(given), f"see `aegis approvals show {blocks.short_id(item['id'])}`")
            given[name] = value if isinstance(given[name], str) else _value(value)
    return _decide(out, [ident], False, None, lambda daemon, one: daemon.approvals.decide(one, True, reason=reason, input=given))


@click.command(cls=Verb)
@click.argument("ident", metavar="ID", shell_complete=complete_approval)
@click.option("--deadline", type=Span(), metavar="TIME", help="Let it wait that much longer from now, at least: `2h`, `3d`.")
@click.option("--reason", metavar="TEXT", default="", help="Why it matters; whoever is told reads it.")
@click.pass_obj
def escalate(out: Output, ident: str, deadline: float | None, reason: str) -> None:
    """Have people told of a request again, and put its deadline off.

    It is told through every channel that is on (`aegis attention test` tries them), and recorded by whom.

    \b
    Examples:
      aegis approvals escalate k3x9f2 --deadline 2d --reason "blocks the release"
    """
    daemon = client()
    done = daemon.approvals.escalate(resolve(daemon, ident)["id"], seconds=deadline, reason=reason)
    out.data(done)
    until = f"; it waits until {render.when(done['deadline'])}" if done["deadline"] else ""
    out.say(("escalated ", "yellow"), (blocks.short_id(done["id"]), "bold"), f"  {done['tool']}  {_what(done)}{until}")


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
        said = out.read_answer("    allow it? [y/n, s: in this session, Enter: later] ", bell, lambda: _over(daemon, ident))
        if said is None:
            return
        if said[:1].lower() not in ("y", "n", "s"):
            out.hint(f"it waits: `aegis approvals approve {blocks.short_id(ident)}`, or `reject`")
            return
        yes, reason = said[0].lower() != "n", ""
        if not yes:
            reason = out.read_answer("    why not? the agent reads it: ", bell, lambda: _over(daemon, ident)) or ""
    answer(out, daemon, ident, approve=yes, reason=reason, scope="session" if said[0].lower() == "s" else "once")


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


def answer(
    out: Output, daemon: Client, ident: str, *, approve: bool, reason: str, given: dict[str, Any] | None = None, scope: str = "once"
) -> None:
    """Answer a request; one that was answered elsewhere meanwhile is not an error, and a daemon that died is started again."""
    from aegis.client import launch

    for last in (False, True):
        try:
            daemon.approvals.decide(ident, approve, reason=reason, input=given, scope=scope)
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


def _word(text: str) -> str:
    """A word of a command, so that its end can be seen."""
    return one_line(text if text and not set(text) & set(" \t\n'\"") else json.dumps(text, ensure_ascii=False), 400)


def _value(text: str) -> Any:
    """JSON where it is that, else a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--input is not JSON: {error}", click.get_current_context()) from None
    if not isinstance(value, dict):
        raise click.UsageError("--input must be a JSON object", click.get_current_context())
    return value
