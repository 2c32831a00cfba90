"""Which addresses are the public network, and which are somebody's inside."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Where clouds hand out a machine's own credentials. No rule reaches them.
METADATA: Final = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, OpenStack and others
        "169.254.170.2",  # AWS, credentials of containers
        "169.254.170.23",
        "168.63.129.16",  # Azure, host agent
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)

#: Not the public network, and what to call it. The first that holds an address counts.
_INSIDE: Final = tuple(
    (ip_network(text), what)
    for text, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a provider's customers"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved for documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved for measurements"),
        ("198.51.100.0/24", "reserved for documentation"),
        ("203.0.113.0/24", "reserved for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "an IPv4 address in disguise"),
        ("::ffff:0:0:0/96", "an IPv4 address in disguise"),
        ("::/96", "an IPv4 address in disguise"),
        ("64:ff9b::/96", "an IPv4 address in disguise"),
        ("64:ff9b:1::/48", "an IPv4 address in disguise"),
        ("2002::/16", "an IPv4 address in disguise"),
        ("2001::/32", "an IPv4 address in disguise"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved for documentation"),
        ("3fff::/20", "reserved for documentation"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
    )
)
_PUBLIC_V6: Final = ip_network("2000::/3")
#: No rule may name these: there is nobody there to talk to, or the address has another name.
_NEVER: Final = frozenset({"unspecified", "multicast", "an IPv4 address in disguise"})


def inside(address: Address) -> str | None:
    """What keeps an address from being the public network, in a word or a few; None when nothing does."""
    for network, what in _INSIDE:
        if address.version == network.version and address in network:
            return what
    if address.version == 6 and address not in _PUBLIC_V6:
        return "reserved"
    return None


def unnameable(address: Address) -> str | None:
    """Why not even a rule that names it reaches an address; None when one does."""
    if address in METADATA:
        return "it is the metadata service of a cloud, which gives away the machine's own credentials"
    what = inside(address)
    if what in _NEVER or address == IPv4Address("255.255.255.255"):
        return f"it is {what}"
    return None


def is_own(address: Address) -> bool:
    """Whether an address is one of this machine's: a service that listens on all of them would be reached from inside."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # whatever else hinders: better refused
    return True
