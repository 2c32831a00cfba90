"""Verbs about budgets: what may be spent, what was, and setting it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from aegis.cli import render
from aegis.cli.options import Word, complete_agent, complete_handle
from aegis.cli.output import Output, Piece
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem

SCOPES = ("home", "project", "agent", "instance", "session")
_KINDS = ("usd", "tokens", "output_tokens")
_STYLES = {"ok": "green", "warned": "yellow", "blocked": "red"}
_MOST = 3


def complete_budget(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of budgets that begin so."""
    from aegis.cli.options import told

    return told(lambda daemon: [(item["name"], item["scope"]) for item in daemon.budgets.list()], incomplete)


@click.command("list", cls=Verb)
@click.argument("handle", required=False, shell_complete=complete_handle)
@click.pass_obj
def list_(out: Output, handle: str | None) -> None:
    """List the budgets, what was spent of each, and when it frees.

    Every budget that a call counts in must allow it. With HANDLE those that this instance's calls count in. A budget of agents, instances
    or conversations has a line for each of them.

    \b
    Examples:
      aegis budget list
      aegis budget list coder --json
    """
    found = client().budgets.list(handle)
    for item in found:
        out.data(item)
    if not found:
        out.say("no budget is set" + (f" that `{handle}` counts in" if handle else ""))
        out.hint("`aegis budget set daily --usd 10 --window 24h` bounds what all agents spend together")
        return
    out.table(("BUDGET", "OF", "SPENT", "RESERVED", "WINDOW", "STATE"), [line for item in found for line in _lines(item)])


@click.command(cls=Verb)
@click.argument("name", shell_complete=complete_budget)
@click.pass_obj
def show(out: Output, name: str) -> None:
    """Show one budget with all the places it counts in."""
    item = client().budgets.get(name)
    out.data(item)
    out.pairs(
        [
            ("budget", (item["name"], "bold")),
            ("of", _whose(item)),
            ("bounds", ", ".join(amount(kind, item[kind]) for kind in _KINDS if item[kind] is not None)),
            ("window", span(item["window"])),
            ("told at", f"{item['warn']:.0%}"),
            ("unknown prices", "count at the dearest known one" if item["unpriced"] == "dearest" else "are refused"),
            ("declared", item["source"]),
        ]
    )
    if item["places"]:
        out.table(("BUDGET", "OF", "SPENT", "RESERVED", "WINDOW", "STATE"), _lines(item, all_places=True))
    for place in item["places"]:
        if place["unpriced_calls"]:
            out.warn(f"{place['subject'] or 'the home'}: the price of {place['unpriced_calls']} calls was not known")


@click.command("set", cls=Verb)
@click.argument("name", required=False, shell_complete=complete_budget)
@click.option("--instance", metavar="HANDLE", shell_complete=complete_handle, help="The budget of this instance, with all that it spawns.")
@click.option("--agent", metavar="AGENT", shell_complete=complete_agent, help="Of all instances of an agent together.")
@click.option("--project", metavar="DIR", type=click.Path(file_okay=False), help="Of a project.")
@click.option("--scope", type=Word("scope", SCOPES), metavar="SCOPE", help=f"What is added up: {', '.join(SCOPES)}.")
@click.option("--usd", metavar="AMOUNT", help="US dollars, such as `1.50`; `none` takes the bound away.")
@click.option("--tokens", metavar="N", help="Tokens of prompts and answers; cached ones count once.")
@click.option("--output-tokens", metavar="N", help="Tokens that models write.")
@click.option("--window", metavar="TIME", help="In what time, such as `5h` or `7d`; `life` for ever.")
@click.option(
    "--warn", type=click.FloatRange(0, 1, min_open=True), metavar="PART", help="At what part of it you are told; 0.8 unless you say."
)
@click.option(
    "--unpriced",
    type=Word("way", ("dearest", "refuse")),
    metavar="dearest|refuse",
    help="What becomes of calls whose price is not known.",
)
@click.pass_obj
def set_(out: Output, /, name: str | None, instance: str | None, **given: Any) -> None:
    """Set a budget, or another value of one that there is.

    It counts from now on, also what was used before; who waited goes on at once where it leaves something. A budget that a file declares
    under NAME is covered by this one until `aegis budget remove NAME`. What is not said stays as it was.

    \b
    Examples:
      aegis budget set daily --usd 10 --window 24h
      aegis budget set coders --agent coder --tokens 2000000 --window 5h
      aegis budget set --instance my-agent --usd 1.50
    """
    if instance is not None:
        if name is not None or given["agent"] or given["project"] or given["scope"]:
            raise AegisError(ErrorKind.USAGE, "the budget of an instance has no other name or scope", "leave out NAME, or `--instance`")
        name = f"@{instance}"
    if name is None:
        raise AegisError(ErrorKind.USAGE, "which budget?", "give a NAME, or `--instance HANDLE`")
    wish: dict[str, Any] = {key: given[key] for key in ("agent", "scope", "warn", "unpriced") if given[key] is not None}
    if given["project"] is not None:
        wish["project"] = os.path.realpath(os.path.expanduser(given["project"]))
    if given["usd"] is not None:
        wish["usd"] = None if given["usd"] == "none" else given["usd"]
    for key in ("tokens", "output_tokens"):
        if given[key] is not None:
            wish[key] = None if given[key] == "none" else _whole(key, given[key])
    if given["window"] is not None:
        wish["window"] = None if given["window"] == "life" else given["window"]
    if not wish:
        raise AegisError(ErrorKind.USAGE, "nothing is to be set", "give `--usd`, `--tokens`, `--output-tokens`, or `--window`")
    item = client().budgets.set(name, wish)
    out.data(item)
    bounds = ", ".join(amount(kind, item[kind]) for kind in _KINDS if item[kind] is not None)
    out.say(("set ", "green"), (item["name"], "bold"), f"  {bounds} {_within(item['window'])}, {_whose(item)}")
    if item["state"] == "blocked":
        out.warn("so much is spent already: calls that count in it are refused")


@click.command(cls=Verb)
@click.argument("name", shell_complete=complete_budget)
@click.pass_obj
def remove(out: Output, name: str) -> None:
    """Take away a budget that was set by hand.

    What a file declares under the same name counts again. `@HANDLE` is that of an instance.
    """
    told = client().budgets.remove(name)
    out.data(told)
    again = told.get("declared")
    out.say(("removed ", "green"), (told["name"], "bold"), f"  (that of {again} counts again)" if again else "")


def amount(kind: str, value: float) -> str:
    """An amount for people: `$1.50`, `2,000 tokens`."""
    if kind == "usd":
        return f"${value:,.2f}" if value >= 1 or value == round(value, 2) else f"${value:.6f}".rstrip("0")
    return f"{value:,.0f} {'output tokens' if kind == 'output_tokens' else 'tokens'}"


def span(seconds: float | None) -> str:
    """A window for people."""
    if seconds is None:
        return "life"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def spent(place: Mapping[str, Any]) -> str:
    """What was spent of what, of each kind that is bounded."""
    parts = []
    for kind in _KINDS:
        if place["limit"][kind] is not None:
            of = amount(kind, place["limit"][kind])
            parts.append(f"{amount(kind, place['spent'][kind]).removesuffix(' tokens').removesuffix(' output')} of {of}")
    return ", ".join(parts)


def _lines(item: Mapping[str, Any], *, all_places: bool = False) -> list[list[Piece]]:
    """A line for each place, those that are nearest to their cap first."""
    places = sorted(item["places"], key=lambda place: -_share(place))
    shown = places if all_places else places[:_MOST]
    lines: list[list[Piece]] = []
    for place in shown:
        held = ", ".join(
            amount(kind, place["reserved"][kind]) for kind in _KINDS if place["limit"][kind] is not None and place["reserved"][kind]
        )
        state = place["state"]
        frees = f" until {render.when(place['unblock_at'])}" if place["unblock_at"] else ", for good" if state == "blocked" else ""
        lines.append([
            (item["name"], "bold"), place["subject"] or item["scope"], spent(place), held or "-", span(item["window"]),
            (f"{state}{frees}", _STYLES[state]),
        ])  # fmt: skip
    if len(places) > len(shown):
        lines.append([(item["name"], "bold"), f"and {len(places) - len(shown)} more", "", "", "", ("", "")])
    if not places:
        bounds = ", ".join(amount(kind, item[kind]) for kind in _KINDS if item[kind] is not None)
        lines.append([(item["name"], "bold"), _whose(item), f"0 of {bounds}", "-", span(item["window"]), ("ok", "green")])
    return lines


def _share(place: Mapping[str, Any]) -> float:
    return max(float(place["spent"][kind] / place["limit"][kind]) for kind in _KINDS if place["limit"][kind] is not None)


def _whose(item: Mapping[str, Any]) -> str:
    scope = item["scope"]
    if item["instance"]:
        return f"{item['instance']} and all it spawns"
    if scope == "home":
        return "all agents together"
    within = f" in {item['project']}" if item["project"] else ""
    if scope == "project":
        return f"all agents{within}" if within else "each project"
    agent = f"agent {item['agent']}" if item["agent"] else "each agent"
    if scope == "agent":
        return f"{agent}{within}"
    what = "instance" if scope == "instance" else "conversation"
    return f"each {what}" + (f" of {item['agent']}" if item["agent"] else "") + within


def _within(window: float | None) -> str:
    return "ever" if window is None else f"in {span(window)}"


def _whole(key: str, text: str) -> int:
    try:
        return int(text.replace("_", "").replace(",", ""))
    except ValueError:
        raise AegisError(ErrorKind.USAGE, f"{text[:40]!r} is no number of tokens", f"such as `--{key.replace('_', '-')} 200000`") from None
