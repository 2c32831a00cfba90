"""Rules and the places they name: what is read, and what is refused because it could be read in two ways."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.egress.addresses import METADATA, inside, is_own, unnameable
from aegis.services.egress.places import Malformed, read_place
from aegis.services.egress.rules import Rules


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        ("api.example.com:443", ["api.example.com:443", "API.Example.COM:443", "api.example.com.:443"], ["api.example.com:80", "example.com:443", "x.api.example.com:443", "api.example.com.evil.test:443"]),
        ("api.example.com", ["api.example.com:443"], ["api.example.com:80"]),
        ("Example.COM.:443", ["example.com:443"], []),
        ("*.example.com:443", ["a.example.com:443", "a.b.example.com:443"], ["example.com:443", "aexample.com:443", "a.example.com:80"]),
        ("example.com:80,443,8443", ["example.com:80", "example.com:8443"], ["example.com:8080"]),
        ("mirror:8080", ["mirror:8080"], ["mirror.test:8080"]),
        ("127.0.0.1:8080", ["127.0.0.1:8080"], ["127.0.0.1:8081", "127.0.0.2:8080"]),
        ("10.0.0.0/8:5432", ["10.1.2.3:5432"], ["11.0.0.1:5432", "10.1.2.3:443"]),
        ("[fd12::1]:443", ["[fd12::1]:443", "[fd12:0::0:1]:443"], ["[fd12::2]:443"]),
        ("[fd12::/32]:443", ["[fd12::99]:443"], ["[fd13::1]:443"]),
        ("[fd12::1]", ["[fd12::1]:443"], ["[fd12::1]:80"]),
        ("bücher.example:443", ["xn--bcher-kva.example:443"], []),
        ("tcp://db.example.com:5432", ["db.example.com:5432"], []),
    ],
)  # fmt: skip
def test_what_a_rule_names(rule: str, yes: list[str], no: list[str]) -> None:
    rules = Rules([rule])
    assert all(rules.find(read_place(place)) for place in yes)
    assert not any(rules.find(read_place(place)) for place in no)


@pytest.mark.parametrize(
    "rule",
    ["", " ", "*", " *", "*:443", "*.com:443", "*.*.com:443", "a.*.com:443", "example.com:*", "example.com:0", "example.com:65536", "example.com:",
     "example.com:443,", "example.com:https", "example.com:+443", "example.com:４４３", ":443", "https://example.com", "http://example.com:80/", "example.com:443/path", "user@example.com:443",
     "exa mple.com:443", "example.com :443", "example..com:443", "-example.com:443", "exam%70le.com:443", "localhost:80", "a.localhost:80", "a" * 64 + ".com:443", "a." * 130 + "com:443",
     "127.1:80", "0x7f.0.0.1:80", "0x7f000001:80", "2130706433:80", "0177.0.0.1:80", "127.0.0.1.:80", "256.1.1.1:80", "::1:80", "[::1:80", "[::1]80", "[fe80::1%eth0]:80",
     "0.0.0.0:80", "255.255.255.255:80", "224.0.0.1:80", "[::]:80", "[::ffff:127.0.0.1]:80", "[64:ff9b::7f00:1]:80", "[2002:7f00:1::]:80", "[ff02::1]:80",
     "169.254.169.254:80", "[fd00:ec2::254]:80", "168.63.129.16:80", "0.0.0.0/0:443", "0.0.0.0/1:443", "[::/0]:443", "10.0.0.1/8:443", "10.0.0.0/33:443", "10.0.0.0/255.0.0.0:443",
     "PACKAGES:1:2", "tcp://", "tcp://*:22", "example.com:443\n", "example.com\x00:443"],
)  # fmt: skip
def test_what_is_no_rule(rule: str) -> None:
    with pytest.raises(AegisError) as told:
        Rules([rule])
    assert told.value.kind is ErrorKind.USAGE
    assert ascii(rule) in told.value.message
    assert told.value.hint


def test_nothing_names_nothing() -> None:
    rules = Rules([])
    assert not rules.packages
    assert rules.find(read_place("example.com:443")) is None
    assert rules.find(read_place("127.0.0.1:443")) is None


def test_a_network_admits_addresses_and_no_names() -> None:
    rules = Rules(["10.0.0.0/8:5432", "db.test:5432"])
    assert rules.admits(ip_address("10.1.2.3"), 5432)
    assert not rules.admits(ip_address("10.1.2.3"), 5433)
    assert not rules.admits(ip_address("192.168.0.1"), 5432)
    assert Rules(["127.0.0.1:80,81", "[::1]:82", "127.0.0.0/8:83", "10.0.0.1:84"]).loopback == ["127.0.0.1:80", "127.0.0.1:81", "[::1]:82"]


@pytest.mark.parametrize(
    "text",
    ["127.1:80", "0x7f000001:80", "0x7f.0.0.1:80", "2130706433:80", "017700000001:80", "0177.0.0.01:80", "127.0.0.01:80", "127.0.0.1.:80", "1.2.3.4.5:80", "127。0。0。1:80",
     "①②⑦.0.0.1:80", "example.com@127.0.0.1:80", "a b:80", "a\tb:80", "a%2eb:80", "a/b:80", "a\\b:80", "[::1%25lo]:80", "[::1", "::1:80", "a:80:80", "", ":80", "a:", "a:-1", "a:99999",
     "[::ffff:127.0.0.1:80", "exämple.com:80", "a..b:80", ".a:80", "a.0x:80"],
)  # fmt: skip
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(Malformed):
        read_place(text, 80)


def test_a_place_has_one_spelling() -> None:
    assert read_place("Example.COM.:0443") == read_place("example.com:443")
    assert str(read_place("[0:0::1]:80")) == "[::1]:80"
    assert read_place("example.com", 80).port == 80
    with pytest.raises(Malformed):
        read_place("example.com")


INSIDE = """
0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.168.0.1 198.18.0.1
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::7f00:1
64:ff9b:1::1 2002:7f00:1:: 2001::1 2001:db8::1 fc00::1 fd00::1 fe80::1 fec0::1 ff02::1 100::1 4000::1 3fff::1 5f00::1
""".split()


@pytest.mark.parametrize("text", INSIDE)
def test_what_is_not_the_public_network(text: str) -> None:
    assert inside(ip_address(text)) is not None


@pytest.mark.parametrize("text", ["1.1.1.1", "8.8.8.8", "172.32.0.1", "172.15.255.255", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"])
def test_what_is_the_public_network(text: str) -> None:
    assert inside(ip_address(text)) is None
    assert unnameable(ip_address(text)) is None


def test_metadata_and_disguises_cannot_even_be_named() -> None:
    assert all(unnameable(address) for address in METADATA)
    assert unnameable(ip_address("::ffff:169.254.169.254"))
    assert unnameable(ip_address("127.0.0.1")) is None


def test_this_machine_knows_its_own_addresses() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert not is_own(ip_address("192.0.2.1"))
