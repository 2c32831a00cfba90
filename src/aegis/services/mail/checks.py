"""What is refused before anything is stored: texts that are none or too long, times that are over, ids that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis.core.envelopes import MAX_TEXT
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import PrincipalKind
from aegis.services.mail.model import MAX_AGENT_TEXT
from aegis.services.mail.pictures import check_images

if TYPE_CHECKING:
    from aegis.core.principals import Principal
    from aegis.services.mail.model import Draft


def check(principal: Principal, draft: Draft, now: float) -> None:
    """Raise AegisError (USAGE, TOO_LARGE) for a draft that is not a message."""
    agent = principal.kind is PrincipalKind.INSTANCE
    _check_text(draft.text, MAX_AGENT_TEXT if agent else MAX_TEXT)
    if draft.msg_id is not None and not 1 <= len(draft.msg_id) <= 200:
        raise AegisError(ErrorKind.USAGE, "msg_id must have 1 to 200 characters", "leave it out, or shorten it")
    if draft.task is not None and not (1 <= len(draft.task) <= 200 and draft.task.isprintable()):
        raise AegisError(ErrorKind.USAGE, "a task is named by 1 to 200 printable characters", "leave it out, or shorten it")
    if draft.expires is not None and not now < draft.expires < float("inf"):  # also when it is not a number
        raise AegisError(ErrorKind.USAGE, "the message would expire before it is accepted", "give the seconds it may wait, over zero")
    if agent and principal.id == draft.instance:
        raise AegisError(
            ErrorKind.USAGE, "this is a message to yourself", "name another agent; what you want to remember, write into a file"
        )
    if draft.report_to == draft.instance:
        raise AegisError(ErrorKind.USAGE, "the report would go to who writes it", "name another agent for the report")
    if draft.report and draft.report_to is None and not agent:
        raise AegisError(
            ErrorKind.USAGE, "a person has no mailbox for a report", "name the agent that is to have it, or wait for the answer"
        )
    if draft.images:
        check_images(draft.images)


def _check_text(text: str, most: int) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > most:
        raise AegisError(
            ErrorKind.TOO_LARGE,
            f"the message has {size:,} bytes, the limit is {most:,}",
            "put the material into a file of the workspace and name it in the message",
        )
    if not text.strip():
        raise AegisError(ErrorKind.USAGE, "the message has no text", "send at least one character that is not white space")
    if "\x00" in text:
        raise AegisError(ErrorKind.USAGE, f"the message has a NUL character at offset {text.index(chr(0))}", "remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise AegisError(ErrorKind.USAGE, f"the message is not valid Unicode at offset {error.start}", "send UTF-8 text") from error
