"""Verbs of messages: send, cancel, read, transcript, mail."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import click

from aegis.cli import blocks, render
from aegis.cli.options import Word, handle_argument, image_option, session_option
from aegis.cli.output import Output
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.cli.view import View
from aegis.client import lasting
from aegis.client.api import MAX_WAIT, answers, pages
from aegis.client.images import read_image
from aegis.client.shapes import FRAME_TYPES
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line

if TYPE_CHECKING:
    from aegis.client.api import Client
    from aegis.client.shapes import Frame, Mail, Receipt, Session

_MAIL_STATES = {"accepted": "cyan", "injected": "yellow", "acknowledged": "green", "failed": "red", "expired": "red"}


@click.command(cls=Verb)
@handle_argument
@click.argument("text")
@session_option
@click.option("--wait", "-w", is_flag=True, help="Wait for the answer and print it.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="The longest to wait with --wait.")
@click.option("--interrupt", is_flag=True, help="Cut the turn that runs now.")
@click.option("--msg-id", metavar="ID", help="An id of your own; sending it again changes nothing.")
@image_option
@click.pass_obj
def send(
    out: Output,
    handle: str,
    text: str,
    session: Session,
    wait: bool,
    timeout: float | None,
    interrupt: bool,
    msg_id: str | None,
    images: tuple[str, ...],
) -> int:
    """Send a message.

    TEXT is the message, or `-` for standard input. When this returns the message is on disk and will be delivered, also if the
    instance sleeps or the daemon dies. With --wait the exit code tells how the turn ended; a daemon that dies meanwhile is started
    again.

    \b
    Examples:
      aegis send coder "run the tests and mend what fails"
      git diff | aegis send reviewer - --wait
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait", click.get_current_context())
    if text == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    pictures = [read_image(path) for path in images]
    daemon = client()
    receipt = lasting.send(daemon, handle, text, session=session, msg_id=msg_id, interrupt=interrupt, images=pictures)
    if not wait:
        out.data(receipt)
        word = "already accepted " if receipt.get("duplicate") else "accepted "
        out.say((word, "green"), receipt["id"], (f" (seq {receipt['ingress_seq']})", "dim"))
        out.hint(f"`aegis read {handle}{_flag(session)} --after {receipt['ingress_seq']} --wait 30`")
        return 0
    done = answer(out, daemon, handle, session, receipt, timeout)
    payload = done["payload"]
    out.data({**payload, "message_id": receipt["id"], "seq": done["seq"]})
    if payload.get("text"):
        out.say(payload["text"])
    failure = failure_of(payload)
    if failure is None:
        return 0
    if not out.json:
        out.error(failure)
    return failure.exit_code


def answer(out: Output, daemon: Client, handle: str, session: Session, receipt: Receipt, timeout: float | None) -> Frame:
    """The `assistant.done` that answers a message. Raises TIMEOUT after `timeout` seconds, FAILED if it cannot be delivered."""
    hint = f"`aegis read {handle}{_flag(session)} --after {receipt['ingress_seq']} --wait 30`"
    found = lasting.frames(daemon, handle, receipt["ingress_seq"], session, timeout=timeout, ended=out.warn)
    try:
        with closing(found):
            for frame in found:
                if answers(frame, receipt["id"]):
                    return frame
                if frame["type"] == "approval.requested":
                    ident = blocks.short_id(frame["payload"]["id"])
                    told = frame["payload"]["title"] or frame["payload"]["tool"]
                    out.hint(f"it needs you: {one_line(told)}; `aegis approvals approve {ident}`, or `reject`")
                if frame["type"] == "event.failed" and receipt["id"] in frame["payload"]["ids"]:
                    raise undelivered(handle, frame["payload"]["reason"])
    except AegisError as error:
        if error.kind is ErrorKind.TIMEOUT and timeout is not None:
            told = f"`{handle}` has not answered within {timeout:g} s"
            raise AegisError(ErrorKind.TIMEOUT, told, f"the turn goes on; {hint}", id=receipt["id"]) from None
        if error.kind is ErrorKind.UNREACHABLE:
            raise AegisError(error.kind, error.message, f"the message is kept; {hint} goes on", id=receipt["id"]) from None
        raise
    raise AssertionError("frames never end")


def undelivered(handle: str, reason: str) -> AegisError:
    """The error of a message that no turn will answer."""
    return AegisError(ErrorKind.FAILED, f"the message was not delivered: {reason}", f"see `aegis mail {handle}`")


def failure_of(done: dict[str, Any]) -> AegisError | None:
    """The error of a turn that did not complete, from its `assistant.done`."""
    outcome = done.get("outcome", "completed")
    if outcome == "completed":
        return None
    if done.get("error"):
        return AegisError.from_dict(done["error"])
    kind = {"limited": ErrorKind.LIMIT, "cancelled": ErrorKind.INTERRUPTED}.get(outcome, ErrorKind.FAILED)
    return AegisError(kind, f"the turn was {outcome}" if outcome != "failed" else "the turn failed")


@click.command(cls=Verb)
@handle_argument
@session_option
@click.pass_obj
def cancel(out: Output, handle: str, session: Session) -> int:
    """Cut the turn that runs.

    The agent and what it remembers stay; what the turn did so far stays done. A turn that waits for its provider's limit to end is
    tried at once instead. Nothing happens when no turn runs.
    """
    cut = client().mail.cancel(handle, session)
    out.data({"cancelled": cut})
    out.say(("cut", "yellow") if cut else ("no turn runs", "dim"))
    return 0


@click.command(cls=Verb)
@handle_argument
@session_option
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Only frames after this number.")
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Wait this long for the first one.")
@click.option("--limit", type=click.IntRange(1, 200), metavar="N", help="The most frames to return.")
@click.option(
    "--types",
    type=Word("frame type", FRAME_TYPES, several=True),
    metavar="TYPE,...",
    help="Only frames of these types, such as `assistant.done`.",
)
@click.pass_obj
def read(out: Output, handle: str, session: Session, after: int, wait: float, limit: int | None, types: list[str] | None) -> None:
    """Read what came back.

    Prints the frames after a number, messages to the agent included. With --json the answer has `next_seq`, the number to read
    on from.

    \b
    Examples:
      aegis read coder --after 120 --wait 30
      aegis read coder --types assistant.done --json
    """
    daemon, deadline = client(), time.monotonic() + wait
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        page = daemon.mail.poll(handle, after, session=session, wait=left, types=types or (), limit=limit)
        if page["frames"] or left <= MAX_WAIT:
            break
    out.data(page)
    if page.get("evicted"):
        out.warn(f"pieces up to {page['evicted']} are no longer kept; their whole texts are")
    for frame in page["frames"]:
        out.say(*render.frame_line(frame))
    if page["frames"]:
        out.hint(f"`aegis read {handle}{_flag(session)} --after {page['next_seq']}` reads on")
    else:
        out.say("nothing yet" if not after else f"nothing after {after}")


@click.command(cls=Verb)
@handle_argument
@session_option
@click.pass_obj
def transcript(out: Output, handle: str, session: Session) -> None:
    """Show a whole conversation.

    What was said, the tools that were used and what they gave back, as `aegis watch` showed it. With --json it is the agent's memory of
    the session.
    """
    daemon = client()
    if out.json:
        out.data(daemon.mail.transcript(handle, session))
        return
    view, nothing = View(out, whole=True), True
    for event in pages(daemon, 0, daemon.instances.get(handle)["id"], ":".join(session)):
        if not event["type"].endswith(".delta"):
            view.show(event)
            nothing = False
    view.close()
    if nothing:
        out.say("nothing was said yet")


@click.command(cls=Verb)
@handle_argument
@click.pass_obj
def mail(out: Output, handle: str) -> None:
    """Show the messages to an agent and how far each came.

    A message is `accepted` when it is on disk, `injected` when the program has it, `acknowledged` when a model has read it;
    or it is `failed` or `expired`, with the reason. INJECTED and ACK say how long after it was accepted.
    """
    found = client().mail.all(handle)
    for item in found:
        out.data(item)
    if not found:
        out.say("no messages")
        return
    head = ("STATE", "ACCEPTED", "INJECTED", "ACK", "FROM", "SESSION", "TEXT")
    out.table(head, ([
        (item["state"], _MAIL_STATES.get(item["state"], "")), render.clock(item["accepted_at"])[:8],
        _later(item, "injected_at"), _later(item, "acknowledged_at"), item["sender"], item["session"],
        f"{item['text']}  ({item['reason']})" if item.get("reason") else item["text"],
    ] for item in found))  # fmt: skip


def _later(item: Mail, key: Literal["injected_at", "acknowledged_at"]) -> str:
    """How long after it was accepted."""
    then, accepted = render.moment(item.get(key)), render.moment(item["accepted_at"])
    if then is None or accepted is None:
        return "-"
    seconds = (then - accepted).total_seconds()
    return f"+{seconds * 1000:.0f} ms" if seconds < 1 else f"+{seconds:.1f} s" if seconds < 100 else f"+{seconds / 60:.0f} min"


def _flag(session: Session) -> str:
    """The flag that names a session again in a hint."""
    return "" if session == ("host", "default") else f" --session {':'.join(session)}"
