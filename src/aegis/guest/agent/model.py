"""One model call: the request over the guest's loopback endpoint, the answer as it streams in.

A stream that breaks off is asked for again, twice at most: no tool has run from it. Errors before the first byte are final
here, because the broker behind the endpoint has already tried again.
"""

from __future__ import annotations

import time

from aegis.guest.agent.dialects import StreamError
from aegis.guest.agent.http import HttpError, Post
from aegis.tether.jsontext import dumps_text, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from aegis.guest.agent.dialects import Dialect, Reply
    from aegis.guest.agent.wire import Wire

_RETRIES = 2
_PAUSE = 0.25  # seconds before the first repetition; doubled for the next
_MAX_ERROR = 64 * 1024
_MAX_EVENT = 16 * 1024 * 1024
_LIMITS = frozenset({"rate_limit_error", "usage_limit", "budget"})
_FINAL = _LIMITS | {"invalid_request_error", "authentication_error", "permission_error", "not_found_error"}
_KINDS = {401: "denied", 403: "denied", 404: "not_found", 408: "timeout", 413: "too_large", 504: "timeout"}


class ModelError(Exception):
    """The call failed for good. `outcome` is what the turn's must be, `error` what it tells."""

    def __init__(self, outcome: str, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.outcome = outcome
        self.error = error


class Model:
    """The model endpoint as one session sees it. `reply` is the newest answer, also when it did not come to its end."""

    def __init__(self, wire: Wire, dialect: Dialect, *, url: str, token: str, session: str) -> None:
        self._wire = wire
        self._dialect = dialect
        self._url = url
        self.reply = dialect.reply()
        self._headers = {"content-type": "application/json", "accept": "text/event-stream", "x-aegis-session": session}
        self._headers |= dialect.headers(token)

    def begin(self) -> None:
        """Forget the last answer: what comes now belongs to the next call."""
        self.reply = self._dialect.reply()

    def call(self, body: dict[str, Any], begun: Callable[[], None]) -> Reply:
        """Make the call and send `delta` and `thinking` frames as it streams. Raises ModelError, and Stopped.

        `begun` is called when the first bytes of an answer have been shown. After a repetition the pieces sent before it come again.
        """
        data = dumps_text(body)
        tries = 0
        while True:
            self.begin()
            try:
                self._stream(data, self.reply, begun)
            except (HttpError, StreamError) as error:
                if tries == _RETRIES or not _may_repeat(error):
                    raise _final(error) from None
                self._wire.send("presence", state="retrying")
                self._wire.wait(until=time.monotonic() + _PAUSE * 2**tries)
                tries += 1
            else:
                return self.reply

    def _stream(self, data: bytes, reply: Reply, begun: Callable[[], None]) -> None:
        with Post(self._wire, self._url, self._dialect.path, self._headers, data) as post:
            post.send()
            if post.status != 200:
                raise _refused(post)
            for i, events in enumerate(_events(post.body())):
                try:
                    self._show(reply, events)
                finally:
                    if not i:
                        begun()  # after the words: the daemon takes its time to write it down
                if reply.over:
                    break
        if not reply.finished:
            raise HttpError("the model's answer broke off")

    def _show(self, reply: Reply, events: list[dict[str, Any]]) -> None:
        """Feed the events that came together; neighbouring pieces of one kind go out as one frame."""
        pieces: list[tuple[str, str]] = []
        try:
            for event in events:
                pieces += reply.feed(event)
        except (KeyError, TypeError, AttributeError) as error:
            raise HttpError(f"the model's answer cannot be read: {error!r}") from None
        finally:
            for kind, text in _joined(pieces):
                self._wire.send("delta" if kind == "text" else "thinking", text=text)


def _may_repeat(error: HttpError | StreamError) -> bool:
    """Whether asking again may help."""
    return not (isinstance(error, StreamError) and error.type_ in _FINAL)


def _final(error: HttpError | StreamError) -> ModelError:
    if isinstance(error, StreamError):
        outcome, kind = ("limited", "limit") if error.type_ in _LIMITS else ("failed", "unavailable")
        return ModelError(outcome, {"kind": kind, "message": error.message, "type": error.type_})
    return ModelError("failed", {"kind": "unreachable", "message": str(error)})


def _refused(post: Post) -> ModelError:
    """The error that an answer other than 200 tells."""
    raw = bytearray()
    try:
        for data in post.body():
            raw += data
            if len(raw) > _MAX_ERROR:
                break
    except HttpError:
        pass  # what came of it must do
    try:
        body = loads(raw)
        told = body["error"]
        told = told if isinstance(told, dict) else {"message": told}
    except (ValueError, KeyError, TypeError):
        body, told = {}, {"message": raw.decode("utf-8", "replace").strip()[:500]}
    status, type_ = post.status, str(told.get("type") or told.get("code") or "")
    # The broker marks every limit, its own and the provider's, and gives its own a status that programs do not try again.
    limited = type_ in _LIMITS or "x-aegis-limit" in post.headers
    kind = "limit" if limited else _KINDS.get(status, "unavailable" if status >= 500 else "failed")
    error = {"kind": kind, "message": str(told.get("message") or f"the model endpoint answered {status}"), "status": status}
    if type_:
        error["type"] = type_
    resets_at = told.get("resets_at", body.get("resets_at", post.headers.get("x-aegis-resets-at")))
    if resets_at is not None:
        try:
            error["resets_at"] = float(resets_at)
        except (ValueError, TypeError):
            pass  # it is a courtesy
    return ModelError("limited" if limited else "failed", error)


def _events(chunks: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    """The JSON of server-sent events, as lists of those that came with one read; `[DONE]` is `{"done": true}`."""
    buffer = bytearray()
    data: list[bytes] = []
    for chunk in chunks:
        buffer += chunk
        if len(buffer) > _MAX_EVENT:
            raise HttpError("the model's answer has a line that is too long")
        events = []
        *lines, rest = bytes(buffer).split(b"\n") if b"\n" in chunk else (bytes(buffer),)
        buffer = bytearray(rest)
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif not line and data:
                events += _parsed(b"\n".join(data))
                data.clear()
        yield events


def _parsed(data: bytes) -> list[dict[str, Any]]:
    if data == b"[DONE]":
        return [{"done": True}]
    try:
        event = loads(data)
    except ValueError:
        raise HttpError("the model's answer has an event that is not JSON") from None
    return [event] if isinstance(event, dict) else []


def _joined(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for kind, text in pieces:
        if out and out[-1][0] == kind:
            out[-1] = (kind, out[-1][1] + text)
        else:
            out.append((kind, text))
    return out
