"""Names that lead where no rule leads: resolved by the daemon, every answer looked at, and connected to what was looked at."""

from __future__ import annotations

import asyncio

import pytest
from tests.egress.conftest import Outside
from tests.egress.test_proxy import connect, get, status

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.egress.dialling import Resolver, Unreachable, lookup


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["0.0.0.0"], ["10.0.0.1"], ["192.168.1.1"], ["169.254.169.254"], ["fd00:ec2::254"], ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"], ["fe80::1%eth0"], ["224.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["93.184.215.14", "2606:4700::1111", "10.0.0.1"], ["93.184.215.15"],
    ],
    ids=lambda addresses: addresses[-1],
)  # fmt: skip
async def test_a_name_that_leads_inside_is_refused(outside: Outside, addresses: list[str]) -> None:
    """One bad answer among good ones is enough; nothing is tried."""
    outside.names["site.test"] = addresses
    outside.own.add("93.184.215.15")
    outside.allow("site.test:80", "site.test:443")
    for request in (connect("site.test:443"), get("http://site.test/")):
        answer = await outside.ask(request)
        assert status(answer) == 403
        assert "leads to" in answer
    assert not any(row["allowed"] for row in outside.rows())


async def test_a_name_needs_a_rule_for_the_address_it_leads_to(outside: Outside) -> None:
    site = await outside.site()
    outside.allow(f"site.test:{site.port}")
    answer = await outside.ask(get(f"http://site.test:{site.port}/"))
    assert status(answer) == 403
    assert f'egress: ["127.0.0.1:{site.port}"]' in answer
    outside.allow(f"site.test:{site.port}", f"127.0.0.0/8:{site.port}")
    assert status(await outside.ask(get(f"http://site.test:{site.port}/", None, "Connection: close"))) == 200


async def test_no_rule_leads_to_a_metadata_service(outside: Outside) -> None:
    outside.names["site.test"] = ["169.254.169.254"]
    outside.allow("site.test:80", "169.254.0.0/16:80")
    for url in ("http://site.test/", "http://169.254.169.254/", "http://169.254.169.254./"):
        assert status(await outside.ask(get(url))) in (400, 403)
    assert not any(row["allowed"] for row in outside.rows())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "127.0.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "127.0.0.1.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
     "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "0.0.0.0", "0", "[::]", "localhost", "LOCALHOST", "localhost.", "a.localhost", "10.0.0.1", "[fe80::1%25lo]", "[fe80::1]", "93.184.215.14"],
)  # fmt: skip
async def test_no_spelling_of_an_address_passes_for_a_name(outside: Outside, host: str) -> None:
    outside.names |= {host.strip("[]"): ["127.0.0.1"], "localhost": ["127.0.0.1"]}
    outside.allow("*.example.com:80", "site.test:80")
    for request in (connect(f"{host}:80"), get(f"http://{host}/")):
        assert status(await outside.ask(request)) in (400, 403)
    assert not outside.asked
    assert not any(row["allowed"] for row in outside.rows())


async def test_an_address_is_reached_by_its_own_rule_in_its_own_spelling(outside: Outside) -> None:
    site = await outside.site(None)
    outside.allow(f"127.0.0.1:{site.port}")
    assert status(await outside.ask(get(f"http://127.0.0.1:{site.port}/", None, "Connection: close"))) == 200
    for host in ("127.1", "2130706433", "localhost", "127.0.0.2", "[::ffff:127.0.0.1]"):
        assert status(await outside.ask(get(f"http://{host}:{site.port}/"))) in (400, 403)
    assert len(site.seen) == 1


async def test_a_name_that_changes_its_mind(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebinding: the connection goes to the address that was looked at, and the next look finds the new one and refuses it."""
    from aegis.services.egress import service

    reached = []

    async def remember(addresses: list[object], port: int, timeout: float) -> object:
        outside.names["site.test"] = ["127.0.0.1"]
        reached.append([str(address) for address in addresses])
        raise Unreachable("for the test")

    monkeypatch.setattr(service, "connect", remember)
    outside.names["site.test"] = ["93.184.215.14"]
    outside.allow("site.test:80")
    assert status(await outside.ask(get("http://site.test/"))) == 502
    assert status(await outside.ask(get("http://site.test/"))) == 403
    assert reached == [["93.184.215.14"]]
    assert outside.asked == ["site.test", "site.test"]


async def test_a_name_that_is_never_resolved(outside: Outside) -> None:
    from aegis.services.egress.proxy import Patience

    outside.make(Patience(resolve=0.02))

    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    outside.egress._resolve = never
    outside.allow("site.test:443")
    answer = await outside.ask(connect("site.test:443"))
    assert status(answer) == 502
    assert "not resolved within" in answer


async def test_the_check_says_what_would_be_said(outside: Outside) -> None:
    outside.names |= {"site.test": ["93.184.215.14"], "inside.test": ["10.0.0.1"]}
    outside.allow("site.test:443", "inside.test:443", "gone.test:443")

    async def check(place: str) -> dict[str, object]:
        return await outside.egress.check(outside.instance, place)

    told = await check("Site.test")
    assert (told["allowed"], told["rule"], told["addresses"], told["port"]) == (True, "site.test:443", ["93.184.215.14"], 443)
    told = await check("inside.test:443")
    assert not told["allowed"]
    assert "10.0.0.1:443" in str(told["hint"])
    told = await check("gone.test:443")
    assert told["allowed"]
    assert "no address" in str(told["problem"])
    assert not (await check("other.test:443"))["allowed"]
    with pytest.raises(AegisError) as wrong:
        await check("127.1:80")
    assert wrong.value.kind is ErrorKind.USAGE
    assert not outside.rows()
    outside.instance.launch.permission = "write"
    assert "permission" in str((await check("site.test:443"))["reason"])


async def test_the_systems_own_resolver() -> None:
    resolver = Resolver()
    try:
        assert {str(address) for address in await lookup(resolver, "localhost", 80, 20)} <= {"127.0.0.1", "::1"}
        with pytest.raises(Unreachable):
            await lookup(resolver, "no-such-name.invalid", 80, 20)
    finally:
        resolver.close()


async def test_the_list_goes_on_where_it_ended(outside: Outside) -> None:
    for number in range(5):
        await outside.ask(connect(f"s{number}.test:443"))
    hosts = [row["host"] for row in outside.egress.list(limit=3)]
    assert hosts == ["s2.test", "s3.test", "s4.test"]
    first = outside.egress.list(limit=100)[0]["id"]
    assert [row["host"] for row in outside.egress.list("inst_1", after=first, limit=2)] == ["s1.test", "s2.test"]
    assert not outside.egress.list("inst_2")
