"""Hosts in the one spelling that rules compare: lower case and ASCII, no dot at the end, addresses in their canonical form.

Programs understand more spellings of an address than people know: one number for all of it, octal, hexadecimal, fewer parts,
digits of other scripts. Each is brought to the address that it means.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

__all__ = ["Target", "host_of", "url_of"]

_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21, "ssh": 22, "git": 9418, "sftp": 22}


class Target(NamedTuple):
    """Where a URL leads."""

    host: str
    port: int | None
    path: str


def host_of(text: str) -> str | None:
    """The one spelling of a host; None for what is none, or what readers could understand differently."""
    if not text or "%" in text or any(char.isspace() or not char.isprintable() for char in text):
        return None
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if ":" in text:
        try:
            address = IPv6Address(text)
        except ValueError:
            return None
        return str(address.ipv4_mapped or address)
    if not text.isascii():
        import idna

        try:
            text = idna.encode(text, uts46=True).decode()
        except idna.IDNAError:
            return None
    name = text.lower().removesuffix(".")
    parts = name.split(".")
    if _NUMBER.fullmatch(parts[-1]):
        return _address(parts)
    return name if _NAME.fullmatch(name) and ".." not in name else None


def _address(parts: list[str]) -> str | None:
    """An IPv4 address in any of the spellings of `inet_aton`."""
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    values = []
    for part in parts:
        try:
            base = 16 if part.startswith("0x") else 8 if part.startswith("0") and len(part) > 1 else 10
            values.append(int(part[2:] or "0", 16) if base == 16 else int(part, base))
        except ValueError:
            return None
    *high, low = values
    if any(value > 255 for value in high) or low >= 256 ** (4 - len(high)):
        return None
    return str(IPv4Address(sum(value << (24 - 8 * n) for n, value in enumerate(high)) + low))


def url_of(text: str) -> Target | None:
    """Where a URL leads; None when it is none, or when not all readers agree."""
    scheme, sign, rest = text.partition("://")
    if not sign or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) or "\\" in rest:
        return None
    if any(char.isspace() or not char.isprintable() for char in text):
        return None
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = rest[len(authority) :].split("?")[0].split("#")[0]
    if authority.count("@") > 1:
        return None
    authority = authority.rpartition("@")[2]
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]{0,5}))?", authority)
    host = host_of(found[1]) if found else None
    if found is None or host is None:
        return None
    port = int(found[2]) if found[2] else _PORTS.get(scheme.lower())
    return Target(host, port, path or "/")
