"""`web.fetch` through the real gate, with names that a test makes up: names that lead inside, names that change their mind, TLS."""

from __future__ import annotations

import re
import socket
from typing import Any, cast

import pytest
from tests.egress.conftest import Certified, Outside, certified, outside  # noqa: F401 - fixtures

from aegis.core.egress import EgressRule
from aegis.core.errors import AegisError, ErrorKind
from aegis.services.egress.dialling import Unreachable
from aegis.services.tools.builtin.fetching import Page, Way
from aegis.services.tools.builtin.urls import read_url


async def fetch(outside: Outside, url: str, trusted: str = "") -> Page:  # noqa: F811
    way = Way(cast("Any", outside.egress.serve), lambda _: trusted)
    return await way.get(cast("Any", outside.instance), read_url(url))


async def refused(outside: Outside, url: str) -> str:  # noqa: F811
    with pytest.raises(AegisError) as caught:
        await fetch(outside, url)
    assert caught.value.kind is ErrorKind.DENIED, caught.value.message
    return caught.value.message


async def test_a_name_that_leads_inside_is_refused(outside: Outside) -> None:  # noqa: F811
    site = await outside.site("evil.test")
    outside.allow(f"evil.test:{site.port}")
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd00:ec2::254", "0.0.0.0"):
        outside.names["evil.test"] = ["93.184.216.34", address]
        said = await refused(outside, f"http://evil.test:{site.port}/")
        assert "leads to" in said
    assert site.seen == []
    assert [row["decision"] for row in outside.audit()] == ["deny"] * 8


async def test_a_name_that_changes_its_mind_is_dialled_where_it_was_looked_at(
    outside: Outside,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First public, then this machine: what was looked at is dialled, and the name is asked for once."""
    inner, public = await outside.site(None), "192.0.2.7"
    answers = [[public], ["127.0.0.1"], ["127.0.0.1"]]
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    outside.egress._resolve = resolve
    dialled: list[Any] = []

    async def connect(addresses: Any, port: int, timeout: float) -> socket.socket:
        dialled.append([str(address) for address in addresses])
        raise Unreachable("no network here")

    for module in ("aegis.services.egress.service", "aegis.services.egress.ways"):
        monkeypatch.setattr(f"{module}.connect", connect, raising=False)
    monkeypatch.setattr("aegis.services.egress.addresses._INSIDE", _without_documentation())
    outside.allow(f"evil.test:{inner.port}")
    with pytest.raises(AegisError):
        await fetch(outside, f"http://evil.test:{inner.port}/")
    assert (asked, dialled) == (["evil.test"], [[public]])
    with pytest.raises(AegisError, match=r"leads to 127\.0\.0\.1"):
        await fetch(outside, f"http://evil.test:{inner.port}/")
    assert dialled == [[public]]
    assert inner.seen == []


def _without_documentation() -> Any:
    """The addresses for documentation count as public, so that no test dials a stranger's."""
    from aegis.services.egress import addresses

    return tuple(entry for entry in addresses._INSIDE if str(entry[0]) != "192.0.2.0/24")


async def test_tls_is_with_the_host_that_was_asked_for(outside: Outside, certified: Certified) -> None:  # noqa: F811
    site = await outside.site("site.test", certified.server)
    outside.admitted(site)
    pem = re.sub(r"-----BEGIN PRIVATE KEY.*?END PRIVATE KEY-----\n", "", certified.path.read_text(), flags=re.DOTALL)
    page = await fetch(outside, f"https://site.test:{site.port}/x", pem)
    assert (page.status, page.body) == (200, b"ok")
    assert site.seen[0].startswith(b"GET /x HTTP/1.1\r\n")
    with pytest.raises(AegisError, match="no TLS with"):  # nobody vouches for it
        await fetch(outside, f"https://site.test:{site.port}/x")
    outside.names["other.test"] = ["127.0.0.1"]
    outside.allow(f"other.test:{site.port}", f"127.0.0.1:{site.port}")
    with pytest.raises(AegisError, match="no TLS with"):  # it is somebody else's
        await fetch(outside, f"https://other.test:{site.port}/x", pem)


async def test_port_443_is_for_tls(outside: Outside) -> None:  # noqa: F811
    outside.allow("site.test:443")
    assert "port 443" in await refused(outside, "http://site.test:443/")
    assert "no egress rule" in await refused(outside, "https://else.test/")
    assert outside.asked == []


async def test_where_requests_are_looked_at_so_are_these(outside: Outside, certified: Certified) -> None:  # noqa: F811
    site = await outside.site("site.test", certified.server)
    place = f"site.test:{site.port}"
    rule = EgressRule(host=place, inspect=True, methods=("GET",), paths=("/open/*",), roots=str(certified.path))
    outside.allow(rule, f"127.0.0.1:{site.port}")
    pem = outside.egress.authority(outside.instance).pem
    assert (await fetch(outside, f"https://{place}/open/x", pem)).body == b"ok"
    with pytest.raises(AegisError) as caught:
        await fetch(outside, f"https://{place}/closed", pem)
    assert caught.value.kind is ErrorKind.DENIED
    assert "/closed" in caught.value.message
    assert len(site.seen) == 1
