"""The rules of an agent: `egress: ["api.example.com:443", "*.example.org:80,443", "10.0.0.0/8:5432", "packages"]`.

| rule | allows |
|---|---|
| `HOST:PORT` | one host on one port; several ports stand between commas, without any it is 443 |
| `*.HOST:PORT` | every name below HOST, not HOST itself |
| `ADDRESS:PORT`, `[ADDRESS]:PORT`, `NETWORK/BITS:PORT` | addresses, private ones included, also where a name that is allowed leads to one |
| `tcp://` before any of these | bytes of any kind; without it a tunnel carries TLS, or HTTP on other ports than 443 |
| `packages` | the indexes that this machine's own pip and npm are set to use |

A rule may also be a mapping, `{host: "api.example.com:443", inspect: true, methods: [GET], paths: ["/v1/*"]}`: then each request to
that host is looked at (`EgressRule`). Where such a rule names a place, those without `inspect` do not count there.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import idna

from aegis.core.egress import EgressRule
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.services.egress.addresses import Address, Network, unnameable
from aegis.services.egress.paths import Pattern, Read, read_pattern
from aegis.services.egress.places import Malformed, Place, read_address_v6, read_host, read_port

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

PACKAGES: Final = "packages"
DEFAULT_PORTS: Final = frozenset({443})
_RAW: Final = "tcp://"
_FORMS: Final = 'write `HOST:PORT`, `*.HOST:PORT`, `ADDRESS:PORT` or `packages`, such as egress: ["api.example.com:443"]'
#: Wider networks than these are nearly everything.
_WIDEST: Final = {4: 8, 6: 16}
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}): ?([ -~]{1,400})")
#: Headers that say where a message ends, or for whom it is.
_FRAMING: Final = frozenset(
    "host content-length transfer-encoding connection upgrade te trailer expect keep-alive proxy-authorization".split()
)
_INSPECTED: Final = 'write {host: "api.example.com:443", inspect: true, methods: [GET, POST], paths: ["/v1/*"]}; `/*` is every path'


class Inspect(NamedTuple):
    """What passes to a host whose requests are looked at, and what is added. `header` is a name and a text with `{}` for the secret."""

    methods: frozenset[str]
    paths: tuple[Pattern, ...]
    secret: str | None = None
    header: tuple[str, str] | None = None
    roots: str | None = None

    def allows(self, method: str, path: Read) -> bool:
        """Whether a request passes: its method, and every reading of its path."""
        if path.problem is not None or method not in self.methods:
            return False
        return all(any(pattern.matches(reading) for pattern in self.paths) for reading in path.paths)

    def covers(self, other: Inspect) -> bool:
        """Whether everything that passes by the other passes by this, with the same added."""
        if not other.methods <= self.methods or not all(any(mine.covers(path) for mine in self.paths) for path in other.paths):
            return False
        if other.roots is not None and other.roots != self.roots:
            return False
        return other.secret is None or (other.secret == self.secret and other.header in (None, self.header))


class Rule(NamedTuple):
    """One rule: a name, all names below one, or a network of addresses; and the ports."""

    text: str
    ports: frozenset[int]
    name: str | None = None
    below: bool = False
    network: Network | None = None
    raw: bool = False
    inspect: Inspect | None = None

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

    def sends_to(self, hosts: Collection[str]) -> bool:
        """Whether requests to one of these hosts are looked at by this rule."""
        if self.inspect is None:
            return False
        if self.name is None:
            return self.network is not None and str(self.network[0]) in hosts
        return any(host.endswith(f".{self.name}") for host in hosts) if self.below else self.name in hosts

    def meets(self, other: Rule) -> bool:
        """Whether some place is named by both."""
        if self.ports.isdisjoint(other.ports):
            return False
        if self.network is not None or other.network is not None:
            mine, theirs = self.network, other.network
            return mine is not None and theirs is not None and mine.version == theirs.version and mine.overlaps(theirs)
        return self.covers(other) or other.covers(self)

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

    def __init__(self, rules: Iterable[str | EgressRule]) -> None:
        self.all: tuple[Rule, ...] = ()
        self.packages = False
        for rule in rules:
            if rule == PACKAGES:
                self.packages = True
            else:
                self.all += (_rule(rule),)

    def find(self, place: Place) -> Rule | None:
        """The rule that names a place: one that looks at requests comes before others, then one for any bytes."""
        found = [rule for rule in self.all if place.port in rule.ports and rule.names(place)]
        return max(found, key=lambda rule: (rule.inspect is not None, rule.raw), default=None)

    def inspecting(self, place: Place) -> list[Rule]:
        """The rules that look at requests to a place."""
        return [rule for rule in self.all if rule.inspect is not None and place.port in rule.ports and rule.names(place)]

    def cover(self, rule: str | EgressRule) -> bool:
        """Whether all that a rule allows is allowed by these, each of its ports by one of them. Raises USAGE for what is no rule.

        Where these look at requests, only a rule that does so, too, is covered: else it would be a way around.
        """
        if rule == PACKAGES:
            return self.packages
        wanted = _rule(rule)
        looking = [mine for mine in self.all if mine.inspect is not None and (mine.meets(wanted) or wanted.meets(mine))]
        if looking and wanted.inspect is None:
            return False

        def admits(mine: Rule, port: int) -> bool:
            if port not in mine.ports or not mine.covers(wanted):
                return False
            if wanted.inspect is None:
                return True
            return mine.inspect.covers(wanted.inspect) if mine.inspect is not None else wanted.inspect.secret is None

        return all(any(admits(mine, port) for mine in looking or self.all) for port in wanted.ports)

    @property
    def secrets(self) -> list[str]:
        """The names of the secrets that are added to requests, or replace their placeholders there."""
        return sorted({rule.inspect.secret for rule in self.all if rule.inspect is not None and rule.inspect.secret is not None})

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
        found = [
            str(Place(str(rule.network[0]), port, rule.network[0]))
            for rule in single
            if rule.network is not None and rule.network.is_loopback
            for port in sorted(rule.ports)
        ]
        return sorted(set(found))


def secrets_of(rules: Iterable[str | EgressRule]) -> list[str]:
    """The names of the secrets that rules make use of."""
    return sorted({rule.secret for rule in rules if isinstance(rule, EgressRule) and rule.secret is not None})


def _rule(rule: str | EgressRule) -> Rule:
    text = rule.host if isinstance(rule, EgressRule) else rule
    try:
        if not isinstance(text, str) or not text.strip():
            raise Malformed("it is empty, and an empty rule allows nothing")
        if text != text.strip():
            raise Malformed("there is space around it")
        body = text.removeprefix(_RAW)
        if "://" in body or "/" in body.rpartition(":")[2]:
            raise Malformed("it is an address of a page; a rule is a host and a port")
        if isinstance(rule, EgressRule) and text == PACKAGES:
            raise Malformed("`packages` is a rule by itself, as text")
        read = _read(text, body, raw=body is not text and body != text)
    except Malformed as error:
        raise AegisError(ErrorKind.USAGE, f"the egress rule {text!a} cannot be used: {error}", _FORMS, rule=text) from None
    if not isinstance(rule, EgressRule):
        return read
    try:
        return read._replace(text=f"{text} (inspected)", inspect=_inspect(rule, read))
    except Malformed as error:
        raise AegisError(ErrorKind.USAGE, f"the egress rule for {text!a} cannot be used: {error}", _INSPECTED, rule=text) from None


def _inspect(rule: EgressRule, read: Rule) -> Inspect:
    """What a mapping says besides its host. Raises Malformed."""
    if not rule.inspect:
        raise Malformed("without `inspect: true` nobody looks at requests; write the host alone, as text")
    if read.raw:
        raise Malformed("bytes of any kind (`tcp://`) cannot be looked at")
    if read.network is not None and read.network.num_addresses > 1:
        raise Malformed("requests are looked at for names and single addresses, not for a network")
    if not rule.methods or not rule.paths:
        missing = "methods" if not rule.methods else "paths"
        raise Malformed(f"`{missing}` is empty or not there, so nothing would pass")
    for method in rule.methods:
        if not _METHOD.fullmatch(method) or method in ("CONNECT", "TRACE"):
            raise Malformed(f"{method!a} is not a method that can pass; they are named one by one, in capitals")
    if rule.header is not None and rule.secret is None:
        raise Malformed("`header` is there without the `secret` that it is to hold")
    if rule.secret is not None and (read.below or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", rule.secret)):
        raise Malformed("a secret goes to one host that is named" if read.below else f"{rule.secret!a} cannot name a secret")
    if rule.roots is not None and not rule.roots.startswith("/"):
        raise Malformed("`roots` is not an absolute path")
    return Inspect(frozenset(rule.methods), tuple(map(read_pattern, rule.paths)), rule.secret, read_header(rule.header), rule.roots)


def read_header(text: str | None) -> tuple[str, str] | None:
    """A header for a secret: its name, and its text with `{}`. Raises Malformed."""
    if text is None:
        return None
    found = _HEADER.fullmatch(text)
    if found is None or found[2].count("{}") != 1 or found[1].lower() in _FRAMING:
        raise Malformed(f"{one_line(text, 80)!a} is not a header such as `Authorization: Bearer {{}}`, with `{{}}` for the secret")
    return found[1], found[2]


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
