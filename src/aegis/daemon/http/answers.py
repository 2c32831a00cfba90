"""Requests in, responses out: JSON by msgspec, errors as the error contract says, streams that end when their reader goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")
Write = "Callable[[bytes], Awaitable[None]]"

#: The largest request body, in bytes: a message of the largest size with every character escaped still fits.
MAX_BODY: Final = 32 * 1024 * 1024

_INTEGER: Final = re.compile(r"-?[0-9]{1,30}")
_logger = logging.getLogger(__name__)


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def error_response(error: AegisError) -> Response:
    """An error with the status of its kind."""
    return json_response(error.to_dict(), error.http_status)


async def on_error(_request: Request, error: Exception) -> Response:
    """What a route raised. A defect is logged whole and answered without its inside."""
    if isinstance(error, AegisError):
        return error_response(error)
    if isinstance(error, ClientDisconnect):  # nobody is there to read this
        return error_response(AegisError(ErrorKind.INTERRUPTED, "the request broke off"))
    _logger.error("a defect in a route", exc_info=error)
    return error_response(
        AegisError(
            ErrorKind.INTERNAL, f"a defect in Aegis: {type(error).__name__}", "the daemon's log has the details: `aegisd.log` in the home"
        )
    )


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The body, refused as soon as it is over `limit` bytes."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise AegisError(ErrorKind.TOO_LARGE, f"the request has {int(announced):,} bytes, the limit is {limit:,}", "send less at once")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise AegisError(ErrorKind.TOO_LARGE, f"the request is over {limit:,} bytes", "send less at once")
    return bytes(body)


async def read_json(request: Request, kind: type[T], limit: int = MAX_BODY) -> T:
    """The body as a typed value. Raises USAGE with the place of the fault; an unknown field is one."""
    body = await read_body(request, limit)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AegisError(ErrorKind.USAGE, f"the request body is not right: {error}", "see the documentation of the HTTP API") from error


def query_int(request: Request, name: str, default: int, low: int, high: int) -> int:
    """An integer of the query string, clamped to `low`..`high`; USAGE when it is not one."""
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    if not _INTEGER.fullmatch(text):
        raise AegisError(ErrorKind.USAGE, f"{name}={text[:40]!r} is not a whole number", f"give a number from {low} to {high}")
    return max(low, min(high, int(text)))


def query_flag(request: Request, name: str) -> bool:
    """A yes or no of the query string, no when it is not there; USAGE for any other word."""
    text = request.query_params.get(name, "").lower()
    if text in ("1", "true", "yes"):
        return True
    if text in ("", "0", "false", "no"):
        return False
    raise AegisError(ErrorKind.USAGE, f"{name}={text[:40]!r} is neither yes nor no", f"give `{name}=1`, or leave it out")


class Streamed(Response):
    """A response whose body `produce` writes piece by piece; it is cancelled as soon as the reader goes away."""

    def __init__(
        self, produce: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]], media_type: str = "application/x-ndjson"
    ) -> None:
        self._produce = produce
        super().__init__(status_code=200, media_type=media_type, headers={"cache-control": "no-store"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        work = asyncio.ensure_future(self._produce(write))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                if (error := work.exception()) is not None:
                    body = (
                        error.to_dict()
                        if isinstance(error, AegisError)
                        else {"error": f"a defect in Aegis: {type(error).__name__}", "kind": "internal"}
                    )
                    if not isinstance(error, AegisError):
                        _logger.error("a defect in a stream", exc_info=error)
                    await write(msgspec.json.encode(body) + b"\n")
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            for task in (work, gone):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
