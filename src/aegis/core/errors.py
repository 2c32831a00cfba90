"""One error type for every face of Aegis.

An error says what kind it is (a closed set), what happened, and what to do next. Each kind has exactly one HTTP status
and one exit code, so that a person, a script and a program see the same thing.
"""

from __future__ import annotations

from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Codes(NamedTuple):
    """What one kind of error looks like from outside."""

    http: int
    exit: int


class ErrorKind(StrEnum):
    """Why something could not be done."""

    USAGE = "usage"  # the request itself is wrong
    TOO_LARGE = "too_large"  # the request is over a size limit
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"  # the thing is in a state that does not allow it
    DENIED = "denied"  # the gate said no
    LIMIT = "limit"  # a budget, quota or provider limit is reached
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"  # no daemon, or it does not answer
    UNAVAILABLE = "unavailable"  # this machine cannot do it (a missing program, a full disk)
    FAILED = "failed"  # the work was done and failed
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"  # a defect of Aegis

    @property
    def codes(self) -> Codes:
        """The HTTP status and the exit code of this kind."""
        return _CODES[self]


_CODES = {
    ErrorKind.USAGE: Codes(400, 2),
    ErrorKind.TOO_LARGE: Codes(413, 2),
    ErrorKind.NOT_FOUND: Codes(404, 3),
    ErrorKind.CONFLICT: Codes(409, 1),
    ErrorKind.DENIED: Codes(403, 4),
    ErrorKind.LIMIT: Codes(429, 5),
    ErrorKind.TIMEOUT: Codes(504, 6),
    ErrorKind.UNREACHABLE: Codes(502, 7),
    ErrorKind.UNAVAILABLE: Codes(503, 1),
    ErrorKind.FAILED: Codes(422, 1),
    ErrorKind.INTERRUPTED: Codes(499, 130),
    ErrorKind.INTERNAL: Codes(500, 1),
}


class AegisError(Exception):
    """Anything Aegis refuses or fails to do.

    Args:
        kind: one of the closed set.
        message: what happened, naming the thing concerned.
        hint: what to do next, usually a command; empty when there is nothing to do.
        data: further facts for programs (`place`, `nearest`, `stderr`, ...); JSON values only.
    """

    def __init__(self, kind: ErrorKind, message: str, hint: str = "", **data: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.data = data

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this error."""
        return self.kind.codes.exit

    @property
    def http_status(self) -> int:
        """The HTTP status of an answer that carries this error."""
        return self.kind.codes.http

    def to_dict(self) -> dict[str, Any]:
        """The error as the HTTP body sends it: `error` is the text, the rest is for programs."""
        body: dict[str, Any] = {"error": self.message, "kind": self.kind.value}
        if self.hint:
            body["hint"] = self.hint
        if self.data:
            body["data"] = self.data
        return body

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> AegisError:
        """Read back what `to_dict` wrote; tolerant of answers that Aegis did not write."""
        try:
            kind = ErrorKind(body.get("kind", "internal"))
        except ValueError:
            kind = ErrorKind.INTERNAL
        data = body.get("data")
        return cls(kind, str(body.get("error", "unknown error")), str(body.get("hint", "")), **(data if isinstance(data, dict) else {}))


def unknown_name(what: str, name: str, known: Iterable[str], hint: str = "") -> AegisError:
    """The error for a name that does not exist, with the nearest one that does."""
    names = sorted(known)
    swapped = [n for n in names if sorted(n) == sorted(name)]  # letters in the wrong order are nearer than a letter too many
    near = swapped or get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean `{near[0]}`?" + (f" {hint}" if hint else "")
    elif names and not hint:
        hint = "known: " + ", ".join(f"`{n}`" for n in names[:12])
    return AegisError(ErrorKind.NOT_FOUND, f"no {what} `{name}`", hint, nearest=near[0] if near else None)
