"""Checking an export of the audit record, by its file alone: no daemon and no home are needed."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from aegis.core.audit import FORMAT, AuditRow, Finding, Flaw, Head, check, statement
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Said(msgspec.Struct):
    """A line of a head."""

    head: Head


def verify_export(path: Path, key: str | None = None) -> Finding:
    """Whether an export is whole and what was written. With `key`, a public key in hex, its heads must be of that one.

    Raises AegisError: NOT_FOUND for a file that is not there, USAGE for one that is no export.
    """
    try:
        lines = path.open("rb")
    except FileNotFoundError:
        raise AegisError(ErrorKind.NOT_FOUND, f"there is no file {path}", "`aegis audit export --to FILE` makes one") from None
    except OSError as error:
        raise AegisError(ErrorKind.UNAVAILABLE, f"{path} cannot be read: {error.strerror}", f"see `ls -l {path}`") from None
    with lines:
        try:
            first = msgspec.json.decode(lines.readline())
            whole = isinstance(first, dict) and first.get("format") == FORMAT and isinstance(first.get("rows"), int)
        except (msgspec.DecodeError, UnicodeDecodeError, OSError):
            whole = False
        if not whole:
            raise AegisError(ErrorKind.USAGE, f"{path} is no export of an audit record", "`aegis audit export --to FILE` makes one")
        reading = _Reading(lines)
        return reading.judged(check(reading.rows(), reading.heads(), _signed, key=key, sealed=True))


class _Reading:
    """The lines of an export after the first. Reading ends at the first that is not a whole one."""

    def __init__(self, lines: Any) -> None:
        self._lines = enumerate(lines, 2)
        self._next: list[tuple[int, bytes]] = []  # the line that ended the heads
        self._at = 0
        self._bad: tuple[int, bool] | None = None  # a line that is none, and whether it is the last

    def heads(self) -> list[Head]:
        """The heads, which stand before the rows."""
        found = []
        for number, line in self._lines:
            if not line.startswith(b'{"head":'):
                self._next.append((number, line))
                break
            try:
                found.append(msgspec.json.decode(line, type=_Said).head)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._bad = number, not line.endswith(b"\n")
                break
        return found

    def rows(self) -> Iterator[AuditRow]:
        """The rows, as far as they are whole."""
        decode = msgspec.json.Decoder(AuditRow).decode
        for number, line in chain(self._next, self._lines) if self._bad is None else ():
            try:
                row = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._bad = number, next(self._lines, None) is None
                return
            self._at = row.id
            yield row

    def judged(self, found: Finding) -> Finding:
        """What was found, and the line where reading had to end, if that comes first."""
        if self._bad is None or found.flaw not in ("", Flaw.CUT, Flaw.FORGED):
            return found
        number, last = self._bad
        flaw = Flaw.TORN if last else Flaw.CHANGED
        why = f"line {number} {'ends in the middle' if last else 'is no row'}: after row {self._at} nothing can be said"
        return msgspec.structs.replace(found, ok=False, flaw=flaw, row=self._at + 1, detail=why)


def _signed(head: Head) -> bool:
    """Whether a head's signature is that of the key that it names."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(head.key))
        key.verify(bytes.fromhex(head.signature), statement(head.id, head.ts, head.hash))
    except (InvalidSignature, ValueError):
        return False
    return True
