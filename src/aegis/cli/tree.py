"""The verb `tree`: who spawned whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from aegis.cli import render
from aegis.cli.options import complete_handle
from aegis.cli.output import Output, Piece, state
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aegis.client.api import Client

#: After an event of one of these the tree may look different.
_CHANGES: Final = ("instance.", "turn.started", "turn.finished", "approval.")


@click.command(cls=Verb)
@click.argument("handle", required=False, shell_complete=complete_handle)
@click.option("--follow", "-f", is_flag=True, help="Show it again whenever it changes, until Ctrl-C.")
@click.pass_obj
def tree(out: Output, handle: str | None, follow: bool) -> None:
    """Show who spawned whom, with state and cost.

    With HANDLE that instance and all below it. TOKENS and COST are those of an instance with all below it; AGE is how long ago it was
    made. With --json each instance is an object on a line of its own; with --follow each line is a whole tree, `{"nodes": [...]}`.
    """
    daemon = client()
    if not follow:
        _show(out, daemon.instances.tree(handle), whole=False)
        return
    out.live = True
    shown: list[dict[str, Any]] | None = None
    for _ in _changes(daemon):
        nodes = daemon.instances.tree(handle)
        looks = [{**node, "last_active_at": None} for node in nodes]
        if looks != shown:
            if shown is not None:
                out.say()
            _show(out, nodes, whole=True)
        shown = looks
    raise AegisError(ErrorKind.UNREACHABLE, "the daemon ended", "`aegis up` starts it; then `aegis tree -f` again")


def _changes(daemon: Client) -> Iterator[None]:
    """At once, and then whenever the tree may look different, until the daemon ends."""
    start = int(daemon.status()["head"])
    yield
    try:
        with daemon.follow_events(start) as stream:
            for event in stream:
                if str(event["type"]).startswith(_CHANGES):
                    yield
    except AegisError as error:
        if error.kind is not ErrorKind.UNREACHABLE:
            raise


def _show(out: Output, nodes: Sequence[dict[str, Any]], *, whole: bool) -> None:
    for value in [{"nodes": nodes}] if whole else nodes:
        out.data(value)
    if not nodes:
        out.say("no instances yet")
        out.hint("start one with `aegis instance start`")
        return
    head = ("HANDLE", "STATE", "ACTIVITY", "AGENT", "TOKENS", "COST", "AGE")
    out.table(head, (_row(line, node) for line, node in zip(_lines(nodes), nodes, strict=True)))


def _row(line: str, node: dict[str, Any]) -> list[Piece]:
    total = node["total"]
    named = node["agent"] if node["driver"] else f"{node['agent']} (program)"
    return [
        (line, "bold"),
        state(node["state"]) if node["enabled"] else ("disabled", "dim"),
        render.activity(node),  # type: ignore[arg-type]
        named,
        f"{total['input'] + total['output']:,}",
        "?" if total["cost_usd"] is None else f"${total['cost_usd']:.4f}" if total["cost_usd"] else "-",
        render.ago(node["created_at"]).removesuffix(" ago"),
    ]


def _lines(nodes: Iterable[dict[str, Any]]) -> list[str]:
    """The handles with the branches before them."""
    found = list(nodes)
    lines: list[str] = []
    open_: list[bool] = []  # by depth, whether a sibling comes further down
    for n, node in enumerate(found):
        depth = node["depth"]
        rest = (later["depth"] for later in found[n + 1 :])
        more = next((d == depth for d in rest if d <= depth), False)
        del open_[depth:]
        open_.append(more)
        # A table keeps no run of blanks, so a branch that has ended is a dot.
        branch = "".join("│ " if go_on else "· " for go_on in open_[1:-1]) + ("├─ " if more else "└─ ") if depth else ""
        lines.append(branch + node["handle"])
    return lines
