"""The proxy on a connection: what goes out and how, what comes back, what is refused and what a person sees of it."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.egress.conftest import Certified, Outside, hello

from aegis.services.egress import service
from aegis.services.egress.proxy import Patience
from aegis.services.egress.service import Bounds


def get(url: str, host: str | None = None, *headers: str, method: str = "GET", body: str = "") -> str:
    """A request to the proxy."""
    authority = host or url.split("//")[1].split("/")[0]
    return "\r\n".join([f"{method} {url} HTTP/1.1", f"Host: {authority}", *headers]) + "\r\n\r\n" + body


def connect(place: str, *headers: str) -> str:
    return "\r\n".join([f"CONNECT {place} HTTP/1.1", f"Host: {place}", *headers]) + "\r\n\r\n"


def status(answer: str) -> int:
    return int(answer.split()[1]) if answer.startswith("HTTP/1.1 ") else 0


async def test_a_request_goes_out_as_the_server_wants_it(outside: Outside) -> None:
    site = await outside.site()
    outside.admitted(site)
    headers = [
        "Proxy-Authorization: Basic c2VjcmV0", "Proxy-Connection: keep-alive", "Connection: x-drop, keep-alive", "X-Drop: 1", "Keep-Alive: 5",
        "TE: trailers", "Upgrade: h2c", "X-Kept: 2", "Accept: */*",
    ]  # fmt: skip
    wire = await outside.wire()
    await wire.say(get(f"http://Site.Test:{site.port}/a/b?q=1", None, *headers))
    head = await wire.head()
    assert status(head) == 200
    assert await wire.reader.readexactly(2) == b"ok"
    await site.done.wait()
    lines = site.seen[0].decode().split("\r\n")
    assert lines[0] == "GET /a/b?q=1 HTTP/1.1"
    assert sorted(lines[1:-2]) == sorted([f"host: site.test:{site.port}", "X-Kept: 2", "Accept: */*", "connection: close"])


async def test_what_was_asked_is_recorded_once_and_before(outside: Outside) -> None:
    site = await outside.site()
    outside.admitted(site)
    answer = await outside.ask(get(f"http://site.test:{site.port}/", None, "Connection: close"))
    assert status(answer) == 200
    await outside.ended()
    (row,) = outside.rows()
    assert (row["host"], row["port"], row["address"], row["allowed"]) == ("site.test", site.port, "127.0.0.1", True)
    assert row["received"] == len(site.answer)
    assert row["sent"] == len(site.seen[0])
    assert row["ms"] >= 0
    (record,) = outside.audit()
    assert (record["principal"], record["resource"], record["decision"]) == ("instance:inst_1", f"site.test:{site.port}", "allow")
    assert record["data"]["addresses"] == ["127.0.0.1"]
    assert (record["data"]["rule"], record["data"]["method"], record["data"]["path"]) == (f"site.test:{site.port}", "GET", "/")
    (fact,) = outside.facts()
    assert (fact.host, fact.port, fact.allowed) == ("site.test", site.port, True)


async def test_without_a_record_there_is_no_connection(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    from aegis.core.errors import AegisError, ErrorKind

    site = await outside.site()
    outside.admitted(site)

    async def full(fn: object) -> None:
        raise AegisError(ErrorKind.UNAVAILABLE, "the disk is full")

    monkeypatch.setattr(outside.store, "write", full)
    assert status(await outside.ask(get(f"http://site.test:{site.port}/"))) == 503
    assert not site.seen


async def test_a_denial_says_which_rule_to_add(outside: Outside) -> None:
    for request in (connect("api.example.com:443"), get("http://api.example.com:443/")):
        answer = await outside.ask(request)
        assert status(answer) == 403
        assert 'egress: ["api.example.com:443"]' in answer.split("\r\n")[0]
        told = json.loads(answer.split("\r\n\r\n")[1])
        assert 'egress: ["api.example.com:443"]' in told["error"]["hint"]
        assert (told["error"]["kind"], told["rule"], told["allowed"]) == ("denied", None, [])
        assert "content-type: application/json" in answer.split("\r\n\r\n")[0]
    assert [row["allowed"] for row in outside.rows()] == [False, False]
    assert [record["decision"] for record in outside.audit()] == ["deny", "deny"]
    assert not outside.asked, "a name that no rule allows is not even resolved"
    outside.allow("api.example.com:443")
    answer = await outside.ask(connect("api.example.com:80"))
    assert "is allowed on port 443, not on 80" in answer


async def test_rules_count_with_permission_full_alone(outside: Outside) -> None:
    site = await outside.site()
    outside.admitted(site)
    outside.instance.launch.permission = "write"
    assert status(await outside.ask(get(f"http://site.test:{site.port}/"))) == 403
    assert await outside.egress.environment(outside.instance.launch) == {}
    assert not site.seen


async def test_each_request_of_a_kept_connection_is_decided(outside: Outside) -> None:
    site, other = await outside.site(), await outside.site("other.test")
    outside.admitted(site)
    wire = await outside.wire()
    for _ in range(2):
        await wire.say(get(f"http://site.test:{site.port}/"))
        assert status(await wire.head()) == 200
        assert await wire.reader.readexactly(2) == b"ok"
    await wire.say(get(f"http://other.test:{other.port}/"))
    assert status(await wire.head()) == 403
    assert not other.seen
    assert [row["allowed"] for row in outside.rows()] == [True, True, False]


async def test_pipelined_requests_are_answered_in_order(outside: Outside) -> None:
    site = await outside.site()
    outside.admitted(site)
    post = get(f"http://site.test:{site.port}/1", None, "Content-Length: 3", method="POST", body="one")
    answer = await outside.ask(post + "\r\n" + get(f"http://site.test:{site.port}/2", None, "Connection: close"))
    assert answer.count("HTTP/1.1 200 OK") == 2
    assert [seen.split(b" ")[1] for seen in site.seen] == [b"/1", b"/2"]


async def test_a_body_in_pieces_and_one_that_is_waited_for(outside: Outside) -> None:
    site = await outside.site()
    outside.admitted(site)
    wire = await outside.wire()
    await wire.say(get(f"http://site.test:{site.port}/", None, "Transfer-Encoding: chunked", "Expect: 100-continue", method="PUT"))
    assert status(await wire.head()) == 100
    for _ in range(3):
        await wire.say("5;ext=1\r\nabcde\r\n")
    await wire.say("0\r\nTrailer: x\r\n\r\n")
    assert status(await wire.head()) == 200
    await site.done.wait()
    assert b"transfer-encoding: chunked" in site.seen[0].lower()
    assert b"Expect" not in site.seen[0]
    assert b"Trailer" not in site.seen[0]
    assert site.seen[0].count(b"abcde") == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: 1\r\n\r\nhello",
    ],
)  # fmt: skip
async def test_answers_of_every_length(outside: Outside, answer: bytes) -> None:
    site = await outside.site()
    site.answer = answer
    outside.admitted(site)
    told = await outside.ask(get(f"http://site.test:{site.port}/", None, "Connection: close"))
    assert status(told) == 200
    assert "hello" in told
    assert "x-hop" not in told.lower()


async def test_a_head_request_and_a_large_answer(outside: Outside) -> None:
    site = await outside.site()
    site.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + bytes(3_000_000)
    outside.admitted(site)
    answer = await outside.ask(get(f"http://site.test:{site.port}/", None, "Connection: close"))
    assert len(answer.partition("\r\n\r\n")[2]) == 3_000_000
    answer = await outside.ask(get(f"http://site.test:{site.port}/", None, "Connection: close", method="HEAD"))
    assert status(answer) == 200
    assert not answer.partition("\r\n\r\n")[2]


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\n", b"220 mail.test ESMTP\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\nfree", b"\x00" * 100_000]
)
async def test_a_server_that_does_not_answer_as_one(outside: Outside, answer: bytes) -> None:
    site = await outside.site()
    site.answer = answer
    outside.admitted(site)
    told = await outside.ask(get(f"http://site.test:{site.port}/"))
    assert status(told) == 502
    assert "free" not in told


async def test_an_answer_that_breaks_off_is_not_a_whole_one(outside: Outside) -> None:
    site = await outside.site()
    site.answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    outside.admitted(site)
    told = await outside.ask(get(f"http://site.test:{site.port}/"))
    assert "hello" in told
    assert "0\r\n\r\n" not in told
    assert told.count("HTTP/1.1") == 1
    await outside.ended()
    assert "broke off" in outside.rows()[0]["reason"]


async def test_nobody_there(outside: Outside) -> None:
    outside.names["site.test"] = ["127.0.0.1"]
    outside.allow("site.test:1", "127.0.0.1:1", "nowhere.test:80")
    answer = await outside.ask(get("http://site.test:1/"))
    assert status(answer) == 502
    assert "refused" in answer
    answer = await outside.ask(get("http://nowhere.test/"))
    assert status(answer) == 502
    assert "has no address" in answer
    assert all("no address" in row["reason"] or "refused" in row["reason"] for row in outside.rows())
    assert all(row["ms"] is not None for row in outside.rows())


async def test_the_first_address_that_answers_is_taken(outside: Outside) -> None:
    site = await outside.site()
    outside.names["site.test"] = ["::1", "127.0.0.9", "127.0.0.1", "127.0.0.1"]
    outside.allow(f"site.test:{site.port}", f"127.0.0.0/8:{site.port}", f"[::1]:{site.port}")
    assert status(await outside.ask(get(f"http://site.test:{site.port}/", None, "Connection: close"))) == 200
    await outside.ended()
    assert outside.rows()[0]["address"] == "127.0.0.1"


# Tunnels.


async def test_tls_goes_through_a_tunnel(outside: Outside, certified: Certified) -> None:
    site = await outside.site(tls=certified.server)
    outside.admitted(site)
    wire = await outside.wire()
    await wire.say(connect(f"site.test:{site.port}"))
    assert status(await wire.head()) == 200
    await wire.writer.start_tls(certified.client, server_hostname="site.test")
    await wire.say("GET / HTTP/1.1\r\nhost: site.test\r\n\r\n")
    assert (await wire.rest()).endswith(b"ok")
    wire.writer.close()
    await outside.ended()
    (row,) = outside.rows()
    assert row["allowed"]
    assert row["sent"] > 300
    assert row["received"] > 300


@pytest.mark.parametrize("name", ["evil.test", "sub.site.test", None])
async def test_a_hello_for_another_host_does_not_pass(outside: Outside, name: str | None) -> None:
    site = await outside.site()
    outside.admitted(site)
    wire = await outside.wire()
    await wire.say(connect(f"site.test:{site.port}"))
    assert status(await wire.head()) == 200
    await wire.say(hello(name))
    assert (await wire.rest())[:1] == b"\x15", "an alert"
    await outside.ended()
    await site.done.wait()
    assert site.seen == [b""]
    (row,) = outside.rows()
    assert not row["allowed"]
    assert "hello" in row["reason"]
    assert [record["decision"] for record in outside.audit()] == ["allow", "deny"]
    assert [fact.allowed for fact in outside.facts()] == [True, False]


async def test_an_address_needs_no_name_in_the_hello(outside: Outside, certified: Certified) -> None:
    site = await outside.site(None, tls=certified.server)
    outside.allow(f"127.0.0.1:{site.port}")
    for name, passes in ((None, True), ("evil.test", False)):
        wire = await outside.wire()
        await wire.say(connect(f"127.0.0.1:{site.port}"))
        assert status(await wire.head()) == 200
        await wire.say(hello(name))
        assert ((await wire.reader.readexactly(1)) == b"\x16") is passes


async def test_what_is_no_tls_does_not_pass_through_port_443(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    site = await outside.site()
    outside.allow("site.test:443", "127.0.0.1:443")
    real = service.connect
    monkeypatch.setattr(service, "connect", lambda addresses, port, timeout: real(addresses, site.port, timeout))
    for first in (b"GET / HTTP/1.1\r\nhost: site.test\r\n\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x00"):
        wire = await outside.wire()
        await wire.say(connect("site.test:443"))
        assert status(await wire.head()) == 200
        await wire.say(first)
        await wire.rest()
    assert status(await outside.ask(get("http://site.test:443/"))) == 403
    await outside.ended(4)
    assert set(site.seen) == {b""}
    assert not any(row["allowed"] for row in outside.rows())


async def test_http_in_a_tunnel_is_held_to_its_host(outside: Outside) -> None:
    site, other = await outside.site(), await outside.site("other.test")
    outside.allow(f"site.test:{site.port}", f"127.0.0.1:{site.port},{other.port}", f"other.test:{other.port}")
    wire = await outside.wire()
    await wire.say(connect(f"site.test:{site.port}"))
    assert status(await wire.head()) == 200
    for _ in range(2):
        await wire.say(f"GET /x HTTP/1.1\r\nHost: site.test:{site.port}\r\n\r\n")
        assert status(await wire.head()) == 200
        assert await wire.reader.readexactly(2) == b"ok"
    await wire.say(f"GET /x HTTP/1.1\r\nHost: other.test:{other.port}\r\n\r\n")
    assert status(await wire.head()) == 400
    for wrong in (
        f"GET http://other.test:{other.port}/ HTTP/1.1\r\nHost: site.test:{site.port}\r\n\r\n",
        connect(f"other.test:{other.port}"),
    ):
        wire = await outside.wire()
        await wire.say(connect(f"site.test:{site.port}"))
        await wire.head()
        assert status(await wire.ask(wrong)) == 400
    assert not other.seen


async def test_any_bytes_pass_where_the_rule_says_tcp(outside: Outside) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")  # the server speaks first
        said.append(await reader.read())
        writer.write(b"221 bye\r\n")
        writer.close()

    said: list[bytes] = []
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    outside.sites.append(server)
    port = server.sockets[0].getsockname()[1]
    outside.names["mail.test"] = ["127.0.0.1"]
    for rules, passes in (([f"mail.test:{port}", f"127.0.0.1:{port}"], False), ([f"tcp://mail.test:{port}", f"127.0.0.1:{port}"], True)):
        outside.allow(*rules)
        wire = await outside.wire()
        await wire.say(connect(f"mail.test:{port}"))
        assert status(await wire.head()) == 200
        if passes:
            assert await wire.reader.readexactly(11) == b"220 hello\r\n"
        await wire.say(b"\x00\xffQUIT")
        wire.writer.write_eof()
        assert await wire.rest() == (b"221 bye\r\n" if passes else b"")
    assert said[-1] == b"\x00\xffQUIT"
    assert not any(said[:-1])


async def test_a_loopback_port_that_is_forwarded(outside: Outside) -> None:
    site = await outside.site()
    outside.info = {"to": f"127.0.0.1:{site.port}"}
    assert await outside.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n") == ""
    assert not site.seen
    outside.allow(f"127.0.0.1:{site.port}")
    assert (await outside.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n")).endswith("ok")
    for wrong in ("10.0.0.1:80", "site.test:80", "127.0.0.1", "", ["x"], 7, "127.0.0.1:0", "169.254.169.254:80"):
        outside.info = {"to": wrong}
        assert await outside.ask("GET / HTTP/1.1\r\n\r\n") == ""
    assert [row["allowed"] for row in outside.rows()] == [False, True]


async def test_a_tunnel_is_held_up_by_a_slow_reader(outside: Outside) -> None:
    """Neither side's bytes pile up in the gate: what it took is at most what its windows hold."""
    reached = asyncio.Event()
    taken = 0

    async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reached.wait()
        nonlocal taken
        while data := await reader.read(1 << 20):
            taken += len(data)
        writer.write(b"%d" % taken)
        writer.close()

    server = await asyncio.start_server(idle, "127.0.0.1", 0)
    outside.sites.append(server)
    port = server.sockets[0].getsockname()[1]
    outside.allow(f"tcp://127.0.0.1:{port}")
    wire = await outside.wire()
    await wire.say(connect(f"127.0.0.1:{port}"))
    await wire.head()
    size = 64 * 1024 * 1024
    sending = asyncio.create_task(wire.say(bytes(size)))
    for _ in range(200):
        await asyncio.sleep(0)
    assert not sending.done()
    reached.set()
    await sending
    wire.writer.write_eof()
    assert await wire.rest() == b"%d" % size


# What cannot be read in one way.

HIDDEN = "GET http://hidden.test/ HTTP/1.1\r\nHost: hidden.test\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"], ["Transfer-Encoding: chunked", "Content-Length: 5"], ["Content-Length: 5", "Content-Length: 6"],
        ["Transfer-Encoding: xchunked"], ["Transfer-Encoding: chunked, identity"], ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding : chunked"], ["Content-Length: -5"], ["Content-Length: +5"], ["Content-Length: 0x5"], ["Content-Length: 5,6"],
        ["X: a\r\n b"], ["X: a\r\n\tb"], ["X: a\nY: b"], ["X: a\rY: b"], ["X: a\x00b"], ["X y: a"], [": a"], ["Host: other.test"], ["X: " + "a" * 70_000],
        [f"X{n}: {'a' * 500}" for n in range(200)],
    ],
    ids=lambda lines: lines[0][:30],
)  # fmt: skip
async def test_a_request_with_two_readings_is_not_read(outside: Outside, lines: list[str]) -> None:
    site = await outside.site()
    outside.admitted(site)
    answer = await outside.ask(get(f"http://site.test:{site.port}/", None, *lines, method="POST", body="0\r\n\r\n" + HIDDEN))
    assert 400 <= status(answer) < 506, answer[:200]
    assert answer.count("HTTP/1.1") == 1
    assert not any(b"hidden" in seen for seen in site.seen)
    assert not [row for row in outside.rows() if row["host"] != "site.test"]


@pytest.mark.parametrize(
    "line",
    [
        "GET / HTTP/1.1", "GET site.test/ HTTP/1.1", "GET https://site.test/ HTTP/1.1", "GET ftp://site.test/ HTTP/1.1", "GET file:///etc/passwd HTTP/1.1",
        "GET gopher://site.test/ HTTP/1.1", "GET http:/site.test/ HTTP/1.1", "GET http:///site.test HTTP/1.1", "GET http://user:pw@site.test/ HTTP/1.1",
        "GET http://site.test@hidden.test/ HTTP/1.1", "GET http://site.test\\@hidden.test/ HTTP/1.1", "GET http://site.test%40hidden.test/ HTTP/1.1",
        "GET http://site.test:80:81/ HTTP/1.1", "GET http://site.test:/ HTTP/1.1", "GET http://site.test/#x HTTP/1.1", "GET http://[site.test]/ HTTP/1.1",
        "CONNECT site.test HTTP/1.1", "CONNECT http://site.test:80 HTTP/1.1", "CONNECT site.test:80/ HTTP/1.1", "CONNECT user@site.test:80 HTTP/1.1",
        "CONNECT :80 HTTP/1.1", "CONNECT / HTTP/1.1", "CONNECT site.test:80 HTTP/1.1\r\nContent-Length: 3", "CONNECT site.test:80 HTTP/1.1\r\nTransfer-Encoding: chunked",
        "GET  http://site.test/ HTTP/1.1", "GET http://site.test/ HTTP/2.0", "GET http://site.test/ HTTP/0.9", "GET http://site.test/", "PRI * HTTP/2.0",
        "\x16\x03\x01\x00\x05\x01\x00\x00", "\x05\x01\x00", "OPTIONS * HTTP/1.1",
    ],
)  # fmt: skip
async def test_a_target_that_is_none(outside: Outside, line: str) -> None:
    outside.allow("site.test:80", "site.test:443")
    answer = await outside.ask(f"{line}\r\nHost: site.test\r\n\r\n")
    assert 400 <= status(answer) < 506, answer
    assert not outside.rows()
    assert not outside.asked


async def test_the_host_is_the_one_of_the_target(outside: Outside) -> None:
    site = await outside.site()
    outside.admitted(site)
    url = f"http://site.test:{site.port}/"
    for host in (
        "evil.test",
        "site.test",
        f"site.test.evil.test:{site.port}",
        f"user@site.test:{site.port}",
        "",
        f"site.test:{site.port}, evil.test",
        "127.0.0.1",
    ):
        assert status(await outside.ask(f"GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n")) == 400, host
    assert status(await outside.ask(f"GET {url} HTTP/1.1\r\n\r\n")) == 400
    assert status(await outside.ask(f"CONNECT site.test:{site.port} HTTP/1.1\r\nHost: evil.test\r\n\r\n")) == 400
    assert not site.seen


# Time and number.


async def test_slow_clients_are_cut(outside: Outside) -> None:
    outside.make(Patience(head=0.05, kept=0.05, idle=0.05, half=0.05))
    site = await outside.site()
    outside.allow(f"site.test:{site.port}", f"tcp://127.0.0.1:{site.port}")
    assert status(await outside.ask(f"GET http://site.test:{site.port}/ HTTP/1.1\r\nHost: si")) == 408
    assert await outside.ask("") == ""
    assert status(await outside.ask(get(f"http://site.test:{site.port}/", None, "Content-Length: 10", method="POST", body="abc"))) in (
        408,
        504,
    )
    for quiet in ("", hello("site.test")[:40].decode("latin-1")):
        wire = await outside.wire()
        await wire.say(connect(f"site.test:{site.port}"))
        await wire.head()
        await wire.ask(quiet)
    wire = await outside.wire()
    await wire.say(connect(f"127.0.0.1:{site.port}"))
    await wire.head()
    assert await wire.rest() == b""
    await outside.ended(6)
    assert "nothing passed" in outside.rows()[-1]["reason"]


async def test_an_instance_has_so_many_connections(outside: Outside) -> None:
    outside.make(bounds=Bounds(connections=2))
    one, two = await outside.wire(), await outside.wire()
    await one.say("GET ")
    await two.say("GET ")
    three = await outside.wire()
    assert await three.rest() == b""
    one.writer.close()
    await outside.ended(2)
    assert status(await outside.ask(connect("x.test:443"))) == 403


async def test_a_rush_of_requests_is_slowed_down(outside: Outside) -> None:
    from aegis.core.clock import ManualClock

    clock = ManualClock()
    outside.clock = clock  # type: ignore[assignment]
    outside.make(bounds=Bounds(rush=2, per_second=1.0))
    assert status(await outside.ask(connect("x.test:443"))) == 403
    assert status(await outside.ask(connect("x.test:443"))) == 403
    late = asyncio.create_task(outside.ask(connect("x.test:443")))
    while not clock._sleepers:
        await asyncio.sleep(0.001)
    assert len(outside.rows()) == 2
    await clock.advance(1.0)
    assert status(await late) == 403


async def test_closing_cuts_and_records(outside: Outside) -> None:
    site = await outside.site()
    outside.allow(f"tcp://127.0.0.1:{site.port}")
    wire = await outside.wire()
    await wire.say(connect(f"127.0.0.1:{site.port}"))
    await wire.head()
    await wire.say("abc")
    while not outside.rows():
        await asyncio.sleep(0)
    assert outside.rows()[0]["ms"] is None
    await outside.egress.close()
    assert outside.rows()[0]["ms"] is not None


async def test_a_deleted_instance_leaves_no_rows(outside: Outside) -> None:
    await outside.ask(connect("x.test:443"))
    assert outside.rows()
    await outside.store.write(lambda tx: outside.egress.forget(tx, "inst_1"))
    assert not outside.rows()
