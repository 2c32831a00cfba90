"""Hosts and ports as programs and people write them, read without guessing.

One host has one spelling here: a name in lower case and ASCII without a dot at its end, or an address in its canonical form. What
other readers might take for another host (an address in octal, a user name, a percent sign) is refused, not interpreted.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from aegis.services.egress.addresses import Address

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: The last label of a name that some readers take for an address: a number, also in hexadecimal.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_MAX_NAME: Final = 253


class Malformed(ValueError):
    """Not a host or not a port; the text says why, for people."""


class Place(NamedTuple):
    """A host and a port. `address` is set where the host is written as one."""

    host: str
    port: int
    address: Address | None = None

    @property
    def authority(self) -> str:
        """The host as a URL holds it."""
        return f"[{self.host}]" if self.address is not None and self.address.version == 6 else self.host

    def __str__(self) -> str:
        return f"{self.authority}:{self.port}"


def read_place(text: str, default_port: int | None = None) -> Place:
    """`host:port`, or `host` where there is a default. Raises Malformed."""
    if text.startswith("["):
        inner, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise Malformed(f"{_shown(text)} has no address in brackets")
        return _place(read_address_v6(inner), rest[1:] if rest else None, default_port, text)
    host, colon, port = text.partition(":")
    if ":" in port:
        raise Malformed(f"{_shown(text)} has more than one colon; an IPv6 address stands in brackets")
    return _place(read_host(host), port if colon else None, default_port, text)


def read_port(text: str) -> int:
    """A port. Raises Malformed."""
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise Malformed(f"{_shown(text)} is not a port: it is a number from 1 to 65535")
    return int(text)


def read_host(text: str) -> str | IPv4Address:
    """A name in its one spelling, or an IPv4 address. Raises Malformed."""
    if not text.isascii() or not text.isprintable():
        raise Malformed(f"{_shown(text)} is not a host: it is not printable ASCII")
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return IPv4Address(text)
        except AddressValueError:
            raise Malformed(f"{_shown(text)} is neither a name nor an address in its usual form (four decimal numbers)") from None
    if len(host) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise Malformed(f"{_shown(text)} is not the name of a host")
    return host


def read_address_v6(text: str) -> IPv6Address:
    """An IPv6 address without a zone. Raises Malformed."""
    try:
        if "%" in text:
            raise Malformed(f"{_shown(text)} names a network interface")
        return IPv6Address(text)
    except AddressValueError:
        raise Malformed(f"{_shown(text)} is not an IPv6 address") from None


def _place(host: str | Address, port: str | None, default_port: int | None, text: str) -> Place:
    if port is None and default_port is None:
        raise Malformed(f"{_shown(text)} names no port")
    number = read_port(port) if port is not None else default_port or 0
    return Place(host, number) if isinstance(host, str) else Place(str(host), number, host)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:79] + "…")
