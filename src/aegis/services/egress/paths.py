"""Paths of requests, read so that a server behind cannot take them for others than those that were judged.

A path has one or more readings: as it stands, with encoded slashes as slashes, without what follows a `;`, decoded twice. All of them
must be allowed. What a server could resolve to a path somewhere else (dot segments, empty segments, backslashes, in any encoding) is
a problem whatever the rules say.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from aegis.services.egress.places import Malformed

#: What stands for itself in a segment, beside letters and digits.
_PLAIN: Final = "!$&'()*+,;=:@-._~"
_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f\\]")
_MAX: Final = 8192
#: So often a path may be encoded before it is refused unseen.
_ROUNDS: Final = 4


class Pattern(NamedTuple):
    """Which paths a rule allows: segment by segment, `*` for any one; with `below` everything under them."""

    text: str
    segments: tuple[str, ...]
    below: bool

    def matches(self, path: str) -> bool:
        """Whether a path in its normal form is one of these."""
        segments = path[1:].split("/")
        if len(segments) <= len(self.segments) if self.below else len(segments) != len(self.segments):
            return False
        return all(mine in ("*", theirs) for mine, theirs in zip(self.segments, segments, strict=False))

    def covers(self, other: Pattern) -> bool:
        """Whether every path of the other is one of these."""
        if self.below:
            if len(other.segments) < len(self.segments) + (not other.below):
                return False
        elif other.below or len(other.segments) != len(self.segments):
            return False
        return all(mine in ("*", theirs) for mine, theirs in zip(self.segments, other.segments, strict=False))


class Read(NamedTuple):
    """The readings of a path, the plain one first, each in normal form; and why no rule may allow it, if so."""

    paths: tuple[str, ...]
    problem: str | None = None


def read_pattern(text: str) -> Pattern:
    """A pattern as rules have it: `/v1/models`, `/repos/*/issues`, `/v1/*`. Raises Malformed."""
    if not isinstance(text, str) or not text.strip():
        raise Malformed("an empty path allows nothing; `/*` is everything")
    if not text.startswith("/"):
        raise Malformed(f"the path {text!a} does not begin with `/`; `/*` is everything")
    if "?" in text or "#" in text:
        raise Malformed(f"the path {text!a} has a query or a fragment, which no rule looks at")
    read = read_path(text)
    if read.problem is not None or len(read.paths) > 1 or not text.isascii():
        raise Malformed(f"the path {text!a} can be read in two ways: {read.problem or 'it has encoded or special characters'}")
    segments = read.paths[0][1:].split("/")
    if any("*" in segment and segment != "*" for segment in segments):
        raise Malformed(f"in the path {text!a} a `*` is a whole segment: `/v1/*`, `/repos/*/issues`")
    below = segments[-1] == "*"
    return Pattern(text, tuple(segments[:-1] if below else segments), below)


def read_path(target: str) -> Read:
    """The path of a request's target, without its query."""
    path = target.partition("?")[0]
    raw = path.encode("latin-1", "replace")
    if len(path) > _MAX:
        return Read((path[:_MAX],), "it is too long")
    segments = [unquote_to_bytes(segment) for segment in raw.split(b"/")]
    plain = _normal(segments)
    found = [plain]
    problem = "a fragment (`#`) is not sent in a request" if "#" in target else None
    if not path.startswith("/"):
        problem = problem or "it does not begin with `/`"
    if _BROKEN.search(path):
        problem = problem or "a `%` in it is not followed by two hexadecimal digits"
    decoded = raw
    for round_ in range(_ROUNDS + 1):
        if round_ == _ROUNDS:
            problem = problem or "it is encoded over and over"
            break
        problem = problem or _problem(decoded)
        readings = [decoded, b"/".join(piece.partition(b";")[0] for piece in decoded.split(b"/")), _resolved(decoded)]
        # What stands encoded in the request is decoded segment by segment; later rounds have decoded it already.
        found += [_normal([unquote_to_bytes(s) if round_ == 0 else s for s in reading.split(b"/")]) for reading in readings]
        deeper = unquote_to_bytes(decoded)
        if deeper == decoded:
            break
        decoded = deeper
    return Read(tuple(dict.fromkeys(found)), problem)


def _problem(path: bytes) -> str | None:
    """Why one reading of a path might lead elsewhere."""
    if _CONTROL.search(path):
        return "it has a backslash or a control character"
    try:
        path.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8"
    pieces = [piece.partition(b";")[0] for piece in path[1:].split(b"/")]
    if any(piece in (b".", b"..") for piece in pieces):
        return "it has a segment `.` or `..`"
    if b"" in pieces[:-1]:
        return "it has an empty segment (`//`)"
    return None


def _resolved(path: bytes) -> bytes:
    """The path that most servers make of one with dot segments and empty ones."""
    kept: list[bytes] = []
    pieces = path.replace(b"\\", b"/").split(b"/")
    for piece in pieces:
        name = piece.partition(b";")[0] if piece.partition(b";")[0] in (b".", b"..") else piece
        if name == b"..":
            kept = kept[:-1]
        elif name not in (b"", b"."):
            kept.append(piece)
    last = b"/" if kept and pieces[-1].partition(b";")[0] in (b"", b".", b"..") else b""
    return b"/" + b"/".join(kept) + last


def _normal(segments: list[bytes]) -> str:
    return "/".join(quote_from_bytes(segment, safe=_PLAIN) for segment in segments)
