"""What Aegis answers where it does not let a provider answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.models.errors import error_body, error_type

if TYPE_CHECKING:
    from aegis.models import Dialect

#: Official clients obey this; for errors that a repetition cannot mend.
NO_RETRY: Final = ("x-should-retry", "false")


class Refusal(Exception):
    """An answer that Aegis gives instead of a provider's."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or error_type(status)
        self.headers = headers
        self.more = more or {}

    def body(self, dialect: Dialect) -> bytes:
        """The answer's body in the shape of a dialect."""
        return error_body(dialect, self.message, status=self.status, type=self.type, **self.more)


def from_error(error: AegisError) -> Refusal:
    """An AegisError as an answer. A reached limit must not look like one that passes: programs would try again and again."""
    message = f"{error.message}; {error.hint}" if error.hint else error.message
    if error.kind is ErrorKind.LIMIT:
        limit = one_line(str(error.data.get("limit", "budget")), 60).encode("ascii", "replace").decode()
        headers, more = [("x-aegis-limit", limit), NO_RETRY], {}
        moment = error.data.get("resets_at")
        if isinstance(moment, int | float):
            headers.append(("x-aegis-resets-at", str(int(moment))))
            more["resets_at"] = moment
        return Refusal(400, message, type="budget", headers=tuple(headers), more=more)
    if error.kind is ErrorKind.UNREACHABLE:
        return Refusal(502, message)  # a network may come back: here programs may try again
    status = error.http_status if error.http_status < 500 and error.http_status not in (408, 409, 429, 499) else 400
    return Refusal(status, message, headers=(NO_RETRY,))
