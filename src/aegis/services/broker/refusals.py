"""What Aegis answers where it does not let a provider answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.models.errors import error_body, error_type

if TYPE_CHECKING:
    from aegis.models import Dialect
    from aegis.services.broker.model import LimitHit

#: Official clients obey this; for errors that a repetition cannot mend.
NO_RETRY: Final = ("x-should-retry", "false")
#: Payment Required, for limits that last. Of all statuses this is the one that every program takes at once as final: some try
#: again on 400 or 404 with another form of the request, on 429 and 5xx for minutes whatever the headers say, and 403 makes them
#: speak of a wrong login.
LIMITED: Final = 402


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
        moment = error.data.get("resets_at")
        return _limit(message, limit, moment if isinstance(moment, int | float) else None, "budget")
    if error.kind is ErrorKind.UNREACHABLE:
        return Refusal(502, message)  # a network may come back: here programs may try again
    status = error.http_status if error.http_status < 500 and error.http_status not in (408, 409, 429, 499) else 400
    return Refusal(status, message, headers=(NO_RETRY,))


def from_limit(hit: LimitHit, said: str = "") -> Refusal:
    """A provider's limit as an answer. `said` is the provider's own text."""
    when = f"; it ends at {datetime.fromtimestamp(hit.resets_at, UTC):%Y-%m-%d %H:%M} UTC" if hit.resets_at is not None else ""
    message = f"the usage limit of model provider `{hit.provider}` is reached{when}"
    return _limit(f"{message}: {said}" if said else message, "provider", hit.resets_at, "usage_limit")


def _limit(message: str, name: str, resets_at: float | None, type: str) -> Refusal:
    headers, more = [("x-aegis-limit", name), NO_RETRY], {}
    if resets_at is not None:
        headers.append(("x-aegis-resets-at", str(int(resets_at))))
        more["resets_at"] = resets_at
    return Refusal(LIMITED, message, type=type, headers=tuple(headers), more=more)
