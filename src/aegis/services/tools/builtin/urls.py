"""Addresses of pages, read so that nobody behind reads them differently."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.services.egress.places import Malformed, Place, read_place

#: The longest address, in characters.
MAX_URL: Final = 8192
PORTS: Final = {"http": 80, "https": 443}
#: What may stand in a path and a query as it is; all else is written in percent.
_SAFE: Final = "/%:@!$&'()*+,;=-._~?"


class Address(NamedTuple):
    """Where a page is. `target` is its path with its query."""

    scheme: str
    place: Place
    target: str

    @property
    def host(self) -> str:
        """As the header `Host` has it."""
        return self.place.authority if self.place.port == PORTS[self.scheme] else str(self.place)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.target}"


def read_url(text: str, base: Address | None = None) -> Address:
    """An http or https address; relative to `base`, where there is one. Raises AegisError: USAGE, DENIED for another kind of address."""
    shown = f"`{one_line(text, 200)}`"
    if len(text) > MAX_URL or any(ord(char) <= 0x20 or char in "\\\x7f" for char in text.strip()):
        raise AegisError(ErrorKind.USAGE, f"{shown} is not an address of a page", "write https://HOST/PATH, without spaces")
    try:
        parts = urlsplit(urljoin(str(base), text.strip()) if base is not None else text.strip())
        scheme = parts.scheme.lower()
        if scheme not in PORTS:
            hint = "only http and https are fetched"
            raise AegisError(ErrorKind.DENIED, f"{shown} is no address of the web", hint)
        if "@" in parts.netloc:
            raise Malformed("it holds a user name")
        place = read_place(_ascii(parts.netloc), PORTS[scheme])
    except (ValueError, Malformed) as error:
        raise AegisError(ErrorKind.USAGE, f"{shown} cannot be fetched: {error}", "write https://HOST/PATH") from None
    path = quote(parts.path or "/", safe=_SAFE)
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return Address(scheme, place, f"{path if path.startswith('/') else f'/{path}'}{query}")


def _ascii(netloc: str) -> str:
    """A name in another script as DNS holds it."""
    if netloc.isascii():
        return netloc
    import idna

    host, colon, port = netloc.partition(":")
    try:
        return f"{idna.encode(host, uts46=True).decode()}{colon}{port}"
    except idna.IDNAError as error:
        raise Malformed(f"the name cannot be one of a host: {error}") from None
