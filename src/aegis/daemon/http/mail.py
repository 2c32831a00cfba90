"""Routes of mail: what is in the mailboxes, what became of a message, dead letters, many messages at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypedDict

import msgspec

from aegis.core.envelopes import DEFAULT_SESSION, Image, Receipt, session_key
from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import MAX_BODY, json_response, query_flag, query_int, read_body, read_json
from aegis.daemon.http.instances import house, instance, principal
from aegis.daemon.http.shapes import MailInfo
from aegis.services.mail import Draft

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from aegis.daemon.wiring import House

#: The most messages of one batch.
MOST: Final = 10_000


class Letter(msgspec.Struct, forbid_unknown_fields=True):
    """One message of a batch. `to` is a handle or an id; `expires_s` are seconds from now on."""

    to: str
    text: str
    session: str = DEFAULT_SESSION
    msg_id: str | None = None
    user: dict[str, Any] | None = None
    interrupt: bool = False
    expires_s: float | None = None
    images: list[Image] = []
    task: str | None = None
    report_to: str | None = None
    hold: bool = False


class Retry(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/mail/{id}/retry. `hold`: also for an instance that is disabled, until it is started."""

    hold: bool = False


class Posted(TypedDict, total=False):
    """What became of one message of a batch: its receipt, or the error."""

    id: str
    ingress_seq: int
    duplicate: bool
    error: str
    kind: str
    hint: str
    data: dict[str, Any]


class MailReceipt(MailInfo):
    """All about one message: its whole text, and how many are before it (None when it does not wait)."""

    position: int | None
    images: int


_LIST: Final = msgspec.json.Decoder(list[Letter])
_LINE: Final = msgspec.json.Decoder(Letter)


async def index(request: Request) -> Response:
    """GET /v1/instances/{name}/mail?limit&dead&before_seq"""
    return json_response(_listed(request, instance(request).id))


async def everywhere(request: Request) -> Response:
    """GET /v1/mail?limit&dead&before_seq"""
    return json_response(_listed(request, None))


async def show(request: Request) -> Response:
    """GET /v1/mail/{id}"""
    return json_response(_receipt(house(request), _ident(request)))


async def retry(request: Request) -> Response:
    """POST /v1/mail/{id}/retry: a message that failed or expired waits again."""
    body, parts, ident = await read_json(request, Retry), house(request), _ident(request)
    await parts.mail.retry(principal(request), ident, hold=body.hold)
    return json_response(_receipt(parts, ident))


async def drop(request: Request) -> Response:
    """POST /v1/mail/{id}/drop: a message that waits has failed."""
    parts, ident = house(request), _ident(request)
    await parts.mail.drop(principal(request), ident)
    return json_response(_receipt(parts, ident))


async def batch(request: Request) -> Response:
    """POST /v1/mail/batch: a list, or lines of JSON; for each message a receipt or an error, in the same order."""
    parts = house(request)
    letters = _letters(await read_body(request, MAX_BODY))
    if len(letters) > MOST:
        raise AegisError(ErrorKind.TOO_LARGE, f"the batch has {len(letters):,} messages, the limit is {MOST:,}", "send them in several")
    now = parts.clock.now()
    drafts: list[Draft] = []
    results: list[Receipt | AegisError | None] = []
    sessions: dict[str, str] = {}
    for letter in letters:
        try:
            drafts.append(_draft(parts, letter, now, sessions))
            results.append(None)
        except AegisError as error:
            results.append(error)
    done = iter(await parts.mail.accept_all(principal(request), drafts))
    return json_response([_posted(next(done) if result is None else result) for result in results])


def _draft(parts: House, letter: Letter, now: float, sessions: dict[str, str]) -> Draft:
    session = sessions.get(letter.session)
    if session is None:
        channel, _, ident = letter.session.partition(":")
        session = sessions[letter.session] = session_key(channel, ident)
    return Draft(
        instance=parts.registry.get(letter.to).id,
        session=session,
        text=letter.text,
        msg_id=letter.msg_id,
        user=letter.user,
        interrupt=letter.interrupt,
        expires=None if letter.expires_s is None else now + letter.expires_s,
        images=letter.images,
        task=letter.task,
        report_to=None if letter.report_to is None else parts.registry.get(letter.report_to).id,
        hold=letter.hold,
    )


def _letters(body: bytes) -> list[Letter]:
    try:
        return _LINE.decode_lines(body) if body.lstrip()[:1] == b"{" else _LIST.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AegisError(ErrorKind.USAGE, f"the request body is not right: {error}", "see docs/messages.md") from error


def _posted(result: Receipt | AegisError) -> dict[str, Any]:
    if isinstance(result, AegisError):
        return result.to_dict()
    return {"id": result.id, "ingress_seq": result.seq, "duplicate": result.duplicate}


def _ident(request: Request) -> str:
    """The message that the path names, by its id or the end of that."""
    name = request.path_params["id"]
    return name if name.startswith("msg_") else house(request).mail.find(name)


def _listed(request: Request, ident: str | None) -> list[dict[str, Any]]:
    parts = house(request)
    before = query_int(request, "before_seq", 0, 0, 2**62) or None
    found = parts.mail.box(ident, query_int(request, "limit", 100, 1, 1000), dead=query_flag(request, "dead"), before=before)
    return [{**row, "handle": _handle(parts, row["instance"])} for row in found]


def _receipt(parts: House, ident: str) -> dict[str, Any]:
    told = parts.mail.receipt(ident)
    return {**told, "handle": _handle(parts, told["instance"])}


def _handle(parts: House, ident: str) -> str | None:
    found = parts.registry.find(ident)
    return found.handle if found is not None else None
