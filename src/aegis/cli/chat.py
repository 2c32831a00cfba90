"""A conversation with an agent at the terminal, or with lines from a pipe.

A turn is read from the log by cursor, so an interrupted read loses nothing: Ctrl-C closes the stream, asks the daemon to cancel
the turn, and reads on to its end; a daemon that dies is started again and read on from.
"""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import click

from aegis.cli import approvals, blocks, render
from aegis.cli.options import handle_argument, image_option, session_option
from aegis.cli.output import Output
from aegis.cli.reach import client
from aegis.cli.talk import failure_of, undelivered
from aegis.cli.verbs import Verb
from aegis.cli.view import View
from aegis.client import lasting
from aegis.client.images import read_image
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aegis.client.api import Client
    from aegis.client.shapes import ImageSpec, InstanceInfo, Session


@click.command(cls=Verb)
@handle_argument
@session_option
@image_option
@click.option("--model", metavar="PROVIDER/MODEL", help="Go on with this model.")
@click.option("--mode", metavar="MODE", help="Go on in this mode of the program.")
@click.option("--effort", metavar="WORD", help="How hard the model is to think from now on.")
@click.pass_obj
def chat(
    out: Output, handle: str, session: Session, images: tuple[str, ...], model: str | None, mode: str | None, effort: str | None
) -> int:
    """Talk with an agent, line by line.

    The answer is shown as it comes, with the tools it uses. What the agent asks leave for you can answer on the spot, or later with
    `aegis approvals`. Ctrl-C cuts the turn; twice at the prompt, or Ctrl-D, leaves. The conversation stays and can be gone on with.
    From a pipe each line is a message, and the exit code is that of the last turn that did not complete. Pictures go with the first
    message. With --json the answer is the events of the turns, one on a line.

    \b
    Examples:
      aegis chat coder
      aegis chat coder --image screenshot.png
      echo "what changed today?" | aegis chat coder
    """
    pictures = [read_image(path) for path in images]
    daemon = client()
    item = daemon.instances.get(handle)
    if model or mode or effort:
        item = daemon.sessions.configure(item["id"], session, model=model, mode=mode, effort=effort)
    out.live = True
    if out.interactive:
        out.say((item["handle"], "bold"), (f"  {_runs_with(item, session)}", "dim"))
        render.cautions(out, item)
        _waiting(out, daemon, item["id"], session)
    code = 0
    for line in _lines(out, item["handle"]):
        failure = _turn(out, daemon, item, session, line, pictures)
        pictures = []
        if failure is None:
            continue
        if not (out.interactive and failure.kind is ErrorKind.INTERRUPTED):
            out.error(failure)
        code = failure.exit_code
    return 0 if out.interactive else code


def _runs_with(item: InstanceInfo, session: Session) -> str:
    """The program of a conversation, and what it runs with."""
    key = ":".join(session)
    entry: Mapping[str, Any] = next((entry for entry in item["sessions"] if entry["session"] == key), item)
    found = [item.get("driver"), entry.get("model"), *(f"{name} {entry[name]}" for name in ("mode", "effort") if entry.get(name))]
    return "  ".join([*(str(word) for word in found if word), key])


def _lines(out: Output, handle: str) -> Iterator[str]:
    """The messages a person types or a pipe holds, without the empty ones. Raises KeyboardInterrupt at the second Ctrl-C."""
    if not out.interactive:
        for line in sys.stdin.buffer:
            if text := line.decode("utf-8", "replace").strip():
                yield text
        return
    warned = False
    while True:
        try:
            text = out.read_line(f"{handle}> ").strip()
        except EOFError:
            out.say()
            return
        except KeyboardInterrupt:
            out.say()
            if warned:
                raise
            warned = True
            out.hint("Ctrl-C once more, or Ctrl-D, leaves; the conversation stays")
            continue
        warned = False
        if text:
            yield text


def _waiting(out: Output, daemon: Client, instance: str, session: Session) -> None:
    """What the agent asked in this conversation while nobody was here."""
    for asked in daemon.approvals.list(instance=instance):
        if asked["session"] == ":".join(session):
            for line in blocks.request(asked, asked["id"], (out.columns or blocks.WIDE) - 12, commands=False):
                out.say(*line)
            with suppress(KeyboardInterrupt):
                approvals.ask_here(out, daemon, asked["id"])


def _turn(
    out: Output, daemon: Client, item: InstanceInfo, session: Session, text: str, images: Sequence[ImageSpec] = ()
) -> AegisError | None:
    """Send one message and show the turn that answers it; returns its error if it did not complete."""
    view, place = View(out, failures=False, here=out.interactive), ":".join(session)

    def ended(told: str) -> None:
        view.close()
        out.warn(told)

    try:
        receipt = lasting.send(daemon, item["id"], text, session=session, images=images)
    except AegisError as exc:
        return exc
    cursor, cancelled = receipt["ingress_seq"], False
    while True:
        try:
            with closing(lasting.events(daemon, cursor, instance=item["id"], ended=ended)) as events:
                for event in events:
                    cursor = event["seq"]
                    if event.get("session") not in (None, place):
                        continue
                    out.data(event)
                    view.show(event)
                    data = event["data"]
                    if event["type"] == "turn.finished" and receipt["id"] in data["in_reply_to"]:
                        if not (data.get("error") or {}).get("will_continue"):
                            return failure_of(data)
                    elif event["type"] == "mail.failed" and receipt["id"] in data["message_ids"]:
                        return undelivered(item["handle"], data["reason"])
                    elif event["type"] == "approval.requested" and out.interactive:
                        approvals.ask_here(out, daemon, data["approval_id"])
                    elif event["type"] == "instance.limited" and out.interactive:
                        out.hint("Ctrl-C tries at once; twice leaves, and it goes on without you")
                    elif event["type"] == "instance.deleted":
                        return undelivered(item["handle"], "the instance was deleted")
        except AegisError as exc:
            view.close()
            return exc
        except KeyboardInterrupt:
            if not view.close():
                out.say()  # after what the terminal shows of the key
            if cancelled:
                raise
            cancelled = True
            with suppress(AegisError):  # then there is no turn to cut: the daemon died, or the instance was deleted
                daemon.mail.cancel(item["id"], session)
