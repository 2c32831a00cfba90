"""Credentials in flight: what stands for a secret inside a sandbox, and its value in the requests of the host that it is bound to.

A placeholder is worth nothing by itself. In the headers of a request to its host, and nowhere else, the value takes its place at the
last moment; in a query, a body, packed or not, or on the way to another host it stays what it is, and that it was there is noted. What
an answer says of the value is covered again, in headers and, as far as it is not packed, in the body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.egress.exchanging import Headers, Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence


_PLACEHOLDER: Final = re.compile(rb"aegis-secret-([A-Za-z_][A-Za-z0-9_]{0,127})-([0-9a-f]{16})")
#: The longest placeholder, in bytes.
_LONGEST: Final = 13 + 128 + 1 + 16
_BASIC: Final = re.compile(rb"(basic +)([A-Za-z0-9+/=]{4,8192})", re.IGNORECASE)
_UNSENDABLE: Final = re.compile(r"[\x00-\x1f\x7f]")
#: So much of a packed body is unpacked to look for placeholders, in bytes.
_UNPACKED: Final = 1024 * 1024
#: Values shorter than this would be found where they are not meant.
_LEAST: Final = 6


def placeholder(name: str, token: str) -> str:
    """What stands for the secret `name` inside the sandbox of the instance with this token."""
    return f"aegis-secret-{name}-{_mark(token)}"


def _mark(token: str) -> str:
    return hmac.new(token.encode(), b"placeholder", hashlib.sha256).hexdigest()[:16]


class Adding(NamedTuple):
    """A header that a request gets: its text with `{}` for the value of the secret."""

    name: str
    text: str
    secret: str


class Passing(Watch):
    """One request: fills in what is due, and watches the rest of it.

    Args:
        token: of the instance; placeholders of others are only noted.
        bound: the names whose placeholders are replaced.
        use: reveals one of them.
        note: is told, once for each, of what was not replaced.
    """

    def __init__(self, token: str, bound: Iterable[str], use: Callable[[str], Awaitable[str]], note: Callable[[str], None]) -> None:
        self._mark = _mark(token).encode()
        self._token = token
        self._bound = frozenset(bound)
        self._use = use
        self._note = note
        self._noted: set[str] = set()
        self._values: dict[str, bytes] = {}
        self._covers: dict[bytes, bytes] = {}  # what must not come back -> what stands there instead
        #: Called with the status of the answer.
        self.on_status: Callable[[int], None] = lambda _status: None
        #: So many bytes of the answer may pass; None for all.
        self.most: int | None = None
        self._passed = 0
        self._scan: _Scan | None = None
        self._mask: _Mask | None = None

    async def fill(self, target: bytes, headers: Headers, adding: Sequence[Adding] = ()) -> Headers:
        """The headers as the server gets them. Raises AegisError when a secret cannot be used."""
        self._look(target, "the address of the request")
        filled: Headers = []
        added = {header.name.lower().encode() for header in adding}
        for name, value in headers:
            if name.lower() in added:
                continue
            filled.append((name, await self._header(name, value)))
        for header in adding:
            value = header.text.encode().replace(b"{}", await self._value(header.secret))
            self._cover(value, header.secret)
            filled.append((header.name.encode(), value))
        packing = b", ".join(value for name, value in headers if name.lower() == b"content-encoding")
        self._scan = _Scan(packing)
        if self._values:  # what comes back must be readable
            filled = [(name, value) for name, value in filled if name.lower() != b"accept-encoding"] + [(b"accept-encoding", b"identity")]
        return filled

    async def _header(self, name: bytes, value: bytes) -> bytes:
        basic = _BASIC.fullmatch(value) if name.lower() in (b"authorization", b"proxy-authorization") else None
        if basic is not None:
            try:
                inner = base64.b64decode(basic[2], validate=True)
            except (binascii.Error, ValueError):
                return value
            replaced = await self._replaced(name, inner)
            if replaced == inner:
                return value
            packed = base64.b64encode(replaced)
            self._covers[packed] = basic[2]
            return basic[1] + packed
        return await self._replaced(name, value)

    async def _replaced(self, header: bytes, value: bytes) -> bytes:
        pieces, at = [], 0
        for found in _PLACEHOLDER.finditer(value):
            name = found[1].decode()
            if found[2] != self._mark or name not in self._bound:
                self._tell(name, f"the header {header.decode('latin-1')[:60]}", other=True)
                continue
            pieces += [value[at : found.start()], await self._value(name)]
            at = found.end()
        return b"".join([*pieces, value[at:]])

    async def _value(self, name: str) -> bytes:
        if name not in self._values:
            text = await self._use(name)
            if _UNSENDABLE.search(text):
                raise AegisError(ErrorKind.FAILED, f"the value of the secret `{name}` cannot stand in a header", "it must be one line")
            self._values[name] = text.encode()
            self._cover(self._values[name], name)
        return self._values[name]

    def _cover(self, value: bytes, name: str) -> None:
        """Have `value`, as it is and in the usual wrappings, not come back."""
        shown = placeholder(name, self._token).encode()
        for form in (value, quote(value, safe="").encode(), base64.b64encode(value), base64.urlsafe_b64encode(value).rstrip(b"=")):
            if len(form) >= _LEAST:
                self._covers.setdefault(form, shown)

    @property
    def used(self) -> Mapping[str, bytes]:
        """The secrets that were filled in."""
        return self._values

    # Watch.

    def request(self, data: bytes) -> None:
        for name in self._scan(data) if self._scan is not None else ():
            self._tell(name, "the body")

    def head(self, status: int, headers: Headers) -> Headers:
        self.on_status(status)
        if not self._covers:
            return headers
        self._mask = _Mask(self._covers)
        packing = [value for name, value in headers if name.lower() == b"content-encoding" and value.strip().lower() != b"identity"]
        if packing:
            self._note("the answer is packed, so it was not searched for the secret")
        found = []
        for name, value in headers:
            for form, shown in sorted(self._covers.items(), key=lambda item: -len(item[0])):
                value = value.replace(form, shown)
            found.append((name, value))
        return found

    def answer(self, data: bytes) -> bytes:
        self._passed += len(data)
        if self.most is not None and self._passed > self.most:
            raise OSError(f"it is over the {self.most} bytes that a policy allows")
        return self._mask(data) if self._mask is not None else data

    def rest(self) -> bytes:
        return self._mask.rest() if self._mask is not None else b""

    def _look(self, data: bytes, where: str) -> None:
        for found in _PLACEHOLDER.finditer(data):
            self._tell(found[1].decode(), where)

    def _tell(self, name: str, where: str, *, other: bool = False) -> None:
        if name not in self._noted:
            self._noted.add(name)
            why = "it is not for this host" if other else "only headers are filled in"
            self._note(f"the placeholder of {name} stood in {where} and was not replaced: {why}")


class _Scan:
    """Looks for placeholders in a body that comes in pieces, unpacking it where that is simple."""

    def __init__(self, packing: bytes) -> None:
        word = packing.strip().lower()
        self._unpack = zlib.decompressobj(47) if word in (b"gzip", b"x-gzip", b"deflate") else None
        self._room = _UNPACKED
        self._tail = b""

    def __call__(self, data: bytes) -> list[str]:
        if self._unpack is not None:
            try:
                data = self._unpack.decompress(data, max(1, self._room)) if self._room > 0 else b""
            except zlib.error:
                self._unpack, self._room = None, 0
            self._room -= len(data)
        data = self._tail + data
        self._tail = data[-_LONGEST:]
        return [found[1].decode() for found in _PLACEHOLDER.finditer(data)]


class _Mask:
    """Covers needles in bytes that come in pieces, by as many asterisks; the length stays."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._needles = sorted(needles, key=len, reverse=True)
        self._kept = b""

    def __call__(self, data: bytes) -> bytes:
        data = self._covered(self._kept + data)
        keep = max((self._begun(data, needle) for needle in self._needles), default=0)
        self._kept = data[len(data) - keep :]
        return data[: len(data) - keep]

    def rest(self) -> bytes:
        data, self._kept = self._kept, b""
        return data

    def _covered(self, data: bytes) -> bytes:
        for needle in self._needles:
            data = data.replace(needle, b"*" * len(needle))
        return data

    @staticmethod
    def _begun(data: bytes, needle: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of `needle`."""
        most = min(len(needle) - 1, len(data))
        return next((count for count in range(most, 0, -1) if data.endswith(needle[:count])), 0)
