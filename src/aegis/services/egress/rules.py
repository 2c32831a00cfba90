"""The rules of an agent: `egress: ["api.example.com:443", "*.example.org:80,443", "10.0.0.0/8:5432", "packages"]`.

| rule | allows |
|---|---|
| `HOST:PORT` | one host on one port; several ports stand between commas, without any it is 443 |
| `*.HOST:PORT` | every name below HOST, not HOST itself |
| `ADDRESS:PORT`, `[ADDRESS]:PORT`, `NETWORK/BITS:PORT` | addresses, private ones included, also where a name that is allowed leads to one |
| `tcp://` before any of these | bytes of any kind; without it a tunnel carries TLS, or HTTP on other ports than 443 |
| `packages` | the indexes that this machine's own pip and npm are set to use |
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, NamedTuple

import idna

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.egress.addresses import Address, Network, unnameable
from aegis.services.egress.places import Malformed, Place, read_address_v6, read_host, read_port

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES: Final = "packages"
DEFAULT_PORTS: Final = frozenset({443})
_RAW: Final = "tcp://"
_FORMS: Final = 'write `HOST:PORT`, `*.HOST:PORT`, `ADDRESS:PORT` or `packages`, such as egress: ["api.example.com:443"]'
#: Wider networks than these are nearly everything.
_WIDEST: Final = {4: 8, 6: 16}


class Rule(NamedTuple):
    """One rule: a name, all names below one, or a network of addresses; and the ports."""

    text: str
    ports: frozenset[int]
    name: str | None = None
    below: bool = False
    network: Network | None = None
    raw: bool = False

    def names(self, place: Place) -> bool:
        """Whether the host is this rule's, whatever the port."""
        if place.address is not None:
            return self.holds(place.address)
        if self.name is None:
            return False
        return place.host.endswith(f".{self.name}") if self.below else place.host == self.name

    def holds(self, address: Address) -> bool:
        """Whether this rule names the address."""
        return self.network is not None and self.network.version == address.version and address in self.network

    def covers(self, other: Rule) -> bool:
        """Whether every host of the other rule is one of this rule's, as freely. The ports are not looked at."""
        if other.raw and not self.raw:
            return False
        if other.network is not None:
            mine = self.network
            if mine is None or mine.version != other.network.version:
                return False
            return other.network[0] in mine and other.network[-1] in mine
        if self.name is None or other.name is None:
            return False
        if self.below:
            return other.name.endswith(f".{self.name}") or (other.below and other.name == self.name)
        return not other.below and other.name == self.name


class Rules:
    """The rules of one launch. Raises AegisError(USAGE) for one that cannot be read, naming it and the mend."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.all: tuple[Rule, ...] = ()
        self.packages = False
        for text in texts:
            if text == PACKAGES:
                self.packages = True
            else:
                self.all += (_rule(text),)

    def find(self, place: Place) -> Rule | None:
        """The rule that names a place; one for any bytes comes before others."""
        found = [rule for rule in self.all if place.port in rule.ports and rule.names(place)]
        return max(found, key=lambda rule: rule.raw, default=None)

    def cover(self, text: str) -> bool:
        """Whether all that a rule allows is allowed by these, each of its ports by one of them. Raises USAGE for what is no rule."""
        if text == PACKAGES:
            return self.packages
        wanted = _rule(text)
        return all(any(port in rule.ports and rule.covers(wanted) for rule in self.all) for port in wanted.ports)

    def ports_of(self, place: Place) -> list[int]:
        """The ports on which its host may be reached."""
        return sorted({port for rule in self.all if rule.names(place) for port in rule.ports})

    def admits(self, address: Address, port: int) -> bool:
        """Whether a rule names this very address, so that it may be reached although it is not public."""
        return any(port in rule.ports and rule.holds(address) for rule in self.all)

    @property
    def loopback(self) -> list[str]:
        """Places on this machine's loopback that a rule names one by one, as `ADDRESS:PORT`."""
        single = [rule for rule in self.all if rule.network is not None and rule.network.num_addresses == 1]
        return [
            str(Place(str(rule.network[0]), port, rule.network[0]))
            for rule in single
            if rule.network is not None and rule.network.is_loopback
            for port in sorted(rule.ports)
        ]


def _rule(text: str) -> Rule:
    try:
        if not isinstance(text, str) or not text.strip():
            raise Malformed("it is empty, and an empty rule allows nothing")
        if text != text.strip():
            raise Malformed("there is space around it")
        body = text.removeprefix(_RAW)
        if "://" in body or "/" in body.rpartition(":")[2]:
            raise Malformed("it is an address of a page; a rule is a host and a port")
        return _read(text, body, raw=body is not text and body != text)
    except Malformed as error:
        raise AegisError(ErrorKind.USAGE, f"the egress rule {text!a} cannot be used: {error}", _FORMS, rule=text) from None


def _read(text: str, body: str, *, raw: bool) -> Rule:
    host, ports = _split(body)
    if host.startswith("[") or "/" in host or (host.count(":") > 1):
        return Rule(text, ports, network=_network(host.strip("[]")), raw=raw)
    if host == "*":
        raise Malformed("it would allow every host; name those that are needed")
    below = host.startswith("*.")
    name = read_host(_ascii(host.removeprefix("*.")))
    if not isinstance(name, str):
        if below:
            raise Malformed("there are no names below an address")
        return Rule(text, ports, network=_network(str(name)), raw=raw)
    if name == "localhost" or name.endswith(".localhost"):
        raise Malformed("`localhost` is the sandbox itself; to reach this machine name the address, `127.0.0.1:PORT`")
    if below and "." not in name:
        raise Malformed(f"it would allow every name that ends in `.{name}`; name more of it")
    return Rule(text, ports, name=name, below=below, raw=raw)


def _split(body: str) -> tuple[str, frozenset[int]]:
    """The host as written, and the ports."""
    if body.startswith("["):
        host, closed, rest = body.partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise Malformed("the bracket is not closed before the port")
        return host + closed, _ports(rest[1:]) if rest else DEFAULT_PORTS
    if body.count(":") > 1:
        raise Malformed("an IPv6 address stands in brackets, `[ADDRESS]:PORT`")
    host, colon, ports = body.partition(":")
    return host, _ports(ports) if colon else DEFAULT_PORTS


def _ports(text: str) -> frozenset[int]:
    if text == "*":
        raise Malformed("it would allow every port; name those that are needed")
    return frozenset(read_port(port) for port in text.split(","))


def _ascii(host: str) -> str:
    """A name in another script as DNS holds it."""
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True).decode()
    except idna.IDNAError as error:
        raise Malformed(f"the name cannot be one of a host: {error}") from None


def _network(text: str) -> Network:
    address, slash, bits = text.partition("/")
    network: Network
    try:
        if ":" in address:
            network = ipaddress.IPv6Network(f"{read_address_v6(address)}/{bits if slash else 128}")
        else:
            network = ipaddress.IPv4Network(f"{ipaddress.IPv4Address(address)}/{bits if slash else 32}")
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(str(error)) from None
    if not (bits.isdigit() or not slash):
        raise Malformed(f"{bits!r} is not a number of bits")
    if network.prefixlen < _WIDEST[network.version]:
        raise Malformed(f"it is nearly everything; name a network of at least {_WIDEST[network.version]} bits")
    reason = unnameable(network[0]) if network.num_addresses == 1 else None
    if reason is None and network.version == 6 and network.num_addresses > 1:
        reason = unnameable(network[0]) and unnameable(network[-1]) and f"the network is not one of hosts: {unnameable(network[-1])}"
    if reason is not None:
        raise Malformed(reason)
    return network
