"""Requests that are looked at, in the test's own process: TLS ends at the gate, and each request is judged by method and path."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.egress.conftest import Certified, Outside, Site, Wire
from tests.egress.test_proxy import connect, status

from aegis.core.egress import EgressRule
from aegis.core.errors import AegisError, ErrorKind
from aegis.services.egress.authority import Authority
from aegis.services.egress.credentials import placeholder
from aegis.services.egress.places import read_place
from aegis.services.egress.proxy import Patience
from aegis.services.gate import Decision, Obligations

VALUE = "the-real-value-0123456789"


class Looked:
    """A site in TLS, the rules for it, and tunnels to it."""

    def __init__(self, outside: Outside, site: Site, certified: Certified) -> None:
        self.outside, self.site, self.certified = outside, site, certified
        self.used: list[tuple[str, str, str]] = []
        outside.egress.use = self._use

    async def _use(self, name: str, *, instance: str, host: str) -> str:
        self.used.append((name, instance, host))
        if name != "KEY":
            raise AegisError(ErrorKind.DENIED, f"`{name}` is not for {host}")
        return VALUE

    def rule(self, **more: Any) -> EgressRule:
        given = {"methods": ("GET", "POST"), "paths": ("/v1/*",), "roots": str(self.certified.path), **more}
        return EgressRule(host=f"site.test:{self.site.port}", inspect=True, **given)

    def allow(self, *rules: EgressRule) -> None:
        self.outside.allow(*(rules or (self.rule(),)), f"127.0.0.1:{self.site.port}")

    async def tunnel(self, name: str = "site.test", *, alpn: tuple[str, ...] = ()) -> Wire:
        """A client's end of TLS in a tunnel, which trusts the instance's authority alone."""
        wire = await self.outside.wire()
        place = f"{name}:{self.site.port}"
        await wire.say(connect(place))
        assert status(await wire.head()) == 200
        context = ssl.create_default_context(cadata=self.outside.egress.authority(self.outside.instance).pem)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        await wire.writer.start_tls(context, server_hostname=name)
        return wire

    def request(self, path: str, *headers: str, method: str = "GET", host: str | None = None, body: str = "") -> str:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'site.test:{self.site.port}'}", *headers]
        return "\r\n".join(lines) + "\r\n\r\n" + body

    async def ask(self, path: str, *headers: str, **more: Any) -> str:
        return await (await self.tunnel()).ask(self.request(path, "Connection: close", *headers, **more))

    @property
    def placeholder(self) -> str:
        return placeholder("KEY", self.outside.instance.token)

    def seen(self) -> str:
        return b"".join(self.site.seen).decode("latin-1")

    def reasons(self) -> list[str]:
        return [row["reason"] for row in self.outside.rows() if row["method"]]


@pytest.fixture
async def looked(outside: Outside, certified: Certified) -> AsyncIterator[Looked]:
    made = Looked(outside, await outside.site(tls=certified.server), certified)
    made.allow()
    yield made


def told(answer: str) -> dict[str, Any]:
    found = json.loads(answer.partition("\r\n\r\n")[2])
    assert isinstance(found, dict)
    return found


async def test_a_request_that_a_rule_allows(looked: Looked) -> None:
    answer = await looked.ask("/v1/models?page=2", "X-Own: yes")
    assert status(answer) == 200
    assert answer.endswith("ok")
    assert looked.seen().startswith(f"GET /v1/models?page=2 HTTP/1.1\r\nhost: site.test:{looked.site.port}\r\n")
    assert "X-Own: yes" in looked.seen()
    await looked.outside.ended()
    tunnel, request = looked.outside.rows()
    assert (tunnel["method"], tunnel["allowed"]) == (None, True)
    assert (request["method"], request["path"], request["status"], request["allowed"]) == ("GET", "/v1/models", 200, True)
    assert request["sent"] == len(looked.site.seen[0])
    assert tunnel["received"] == request["received"] > 0
    assert [record["action"] for record in looked.outside.audit()] == ["egress.connect", "egress.request"]
    record = looked.outside.audit()[1]
    assert record["resource"] == f"site.test:{looked.site.port}"
    assert (record["data"]["method"], record["data"]["path"]) == ("GET", "/v1/models")
    assert [facet["url_path"] for facet in record["data"]["facets"]] == ["/v1/models"]
    assert [(fact.method, fact.path) for fact in looked.outside.facts()] == [("", ""), ("GET", "/v1/models")]


async def test_a_request_that_none_allows_is_answered_in_json(looked: Looked) -> None:
    for method, path in (("GET", "/admin"), ("DELETE", "/v1/models"), ("GET", "/v1")):
        answer = await looked.ask(path, method=method)
        assert status(answer) == 403
        assert (
            f"no rule for site.test:{looked.site.port} allows {method} {path}" in answer.split("\r\n")[0] or "is not allowed on" in answer
        )
        said = told(answer)
        assert said["error"]["kind"] == "denied"
        assert "inspect: true" in said["error"]["hint"]
        assert said["rule"].startswith("site.test")
        assert said["allowed"] == ["GET, POST /v1/*"]
        assert "content-type: application/json" in answer
    assert looked.site.seen == []
    denied = [record for record in looked.outside.audit() if record["decision"] == "deny"]
    assert [record["action"] for record in denied] == ["egress.request"] * 3


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1//admin",
        "/v1/..;/admin",
        "/v1/%252e%252e/admin",
        "/v1/a%2f..%2f..%2fadmin",
        "/v1/..%5cadmin",
    ],
)
async def test_a_path_that_may_be_another_does_not_pass(looked: Looked, path: str) -> None:
    answer = await looked.ask(path)
    assert status(answer) == 403
    assert "may mean another one" in answer
    assert looked.site.seen == []


async def test_requests_in_one_tunnel_are_judged_each(looked: Looked) -> None:
    looked.site.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok"
    wire = await looked.tunnel()
    await wire.say(looked.request("/v1/a"))
    assert status(await wire.head()) == 200
    assert await wire.reader.readexactly(2) == b"ok"
    answer = await wire.ask(looked.request("/admin") + looked.request("/v1/hidden"))
    assert status(answer) == 403
    assert answer.count("HTTP/1.1") == 1
    assert "hidden" not in looked.seen()


async def test_the_host_of_a_request_is_the_host_of_the_tunnel(looked: Looked) -> None:
    for host in ("evil.test", f"evil.test:{looked.site.port}", "site.test:1", f"x@site.test:{looked.site.port}"):
        assert status(await looked.ask("/v1/a", host=host)) == 400
    wrong = looked.request("/v1/a").replace("/v1/a", f"https://site.test:{looked.site.port}/v1/a")
    assert status(await (await looked.tunnel()).ask(wrong)) == 400
    assert looked.site.seen == []


async def test_the_server_name_is_the_host_of_the_tunnel(looked: Looked) -> None:
    wire = await looked.outside.wire()
    await wire.say(connect(f"site.test:{looked.site.port}"))
    await wire.head()
    context = ssl.create_default_context(cadata=looked.outside.egress.authority(looked.outside.instance).pem)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await wire.writer.start_tls(context, server_hostname="evil.test")
    await looked.outside.ended()
    assert "asks for evil.test" in looked.outside.rows()[0]["reason"]
    assert looked.site.seen == []


@pytest.mark.parametrize(
    "wrong",
    [
        "POST /v1/a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n",
        "POST /v1/a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST /v1/a HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "GET /v1/a HTTP/1.1\r\nHost: {host}\r\nX: a\r\n b\r\n\r\n",
        "GET /v1/a HTTP/1.1\nHost: {host}\n\n",
        "GET /v1/a HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n",
        "GET /v1/a HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\n\r\n",
    ],
)
async def test_what_could_hide_a_request_is_refused(looked: Looked, wrong: str) -> None:
    answer = await (await looked.tunnel()).ask(wrong.replace("{host}", f"site.test:{looked.site.port}"))
    assert not answer or 400 <= status(answer) < 506
    assert looked.site.seen == []


async def test_a_websocket_and_http2_do_not_pass(looked: Looked) -> None:
    answer = await looked.ask("/v1/a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    assert status(answer) == 501
    assert "WebSocket" in answer
    assert looked.site.seen == []
    wire = await looked.tunnel(alpn=("h2", "http/1.1"))
    assert wire.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_a_server_that_does_not_prove_itself_is_not_asked(looked: Looked) -> None:
    looked.allow(looked.rule(roots=None))
    answer = await looked.ask("/v1/a")
    assert status(answer) == 502
    assert "does not prove who it is" in answer
    assert looked.site.seen in ([], [b""])
    looked.allow(looked.rule(roots="/nowhere/roots.pem"))
    assert status(await looked.ask("/v1/a")) == 502


async def test_http_in_the_clear_is_not_for_a_host_that_is_looked_at(looked: Looked) -> None:
    place = f"site.test:{looked.site.port}"
    assert status(await looked.outside.ask(f"GET http://{place}/v1/a HTTP/1.1\r\nHost: {place}\r\n\r\n")) == 403
    wire = await looked.outside.wire()
    await wire.say(connect(place))
    await wire.head()
    assert "403" in await wire.ask(looked.request("/v1/a"))
    assert looked.site.seen == []


async def test_a_header_is_added_for_its_host(looked: Looked) -> None:
    looked.allow(looked.rule(secret="KEY", header="Authorization: Bearer {}"))
    assert status(await looked.ask("/v1/a", "Authorization: Bearer mine", "Accept-Encoding: gzip")) == 200
    assert f"Authorization: Bearer {VALUE}\r\n" in looked.seen()
    assert "mine" not in looked.seen()
    assert "gzip" not in looked.seen()
    assert looked.used == [("KEY", "inst_1", "site.test")]
    await looked.outside.ended()
    assert looked.reasons()[0].endswith("with the secret KEY")
    assert VALUE not in str(looked.outside.rows()) + str(looked.outside.audit())


async def test_a_placeholder_is_replaced_in_headers_of_its_host(looked: Looked) -> None:
    looked.allow(looked.rule(secret="KEY"))
    packed = base64.b64encode(f"me:{looked.placeholder}".encode()).decode()
    await looked.ask("/v1/a", f"X-Api-Key: {looked.placeholder}", f"Authorization: Basic {packed}")
    assert f"X-Api-Key: {VALUE}\r\n" in looked.seen()
    assert base64.b64encode(f"me:{VALUE}".encode()).decode() in looked.seen()
    assert "aegis-secret" not in looked.seen()


async def test_a_placeholder_anywhere_else_stays_and_is_noted(looked: Looked) -> None:
    looked.allow(looked.rule(secret="KEY"))
    body = f'{{"key": "{looked.placeholder}"}}'
    packed = gzip.compress(body.encode()).decode("latin-1")
    foreign = placeholder("KEY", "another instance")
    await looked.ask(f"/v1/a?key={looked.placeholder}")
    await looked.ask("/v1/a", f"Content-Length: {len(body)}", method="POST", body=body)
    await looked.ask("/v1/a", f"Content-Length: {len(packed)}", "Content-Encoding: gzip", method="POST", body=packed)
    await looked.ask("/v1/a", f"X-Api-Key: {foreign}")
    await looked.ask("/v1/a", f"X-Api-Key: {placeholder('OTHER', looked.outside.instance.token)}")
    await looked.outside.ended(5)
    assert VALUE not in looked.seen()
    assert looked.used == []
    where = ["the address of the request", "the body", "the body", "the header", "the header"]
    assert all(word in reason for word, reason in zip(where, looked.reasons(), strict=True)), looked.reasons()


async def test_a_value_does_not_come_back(looked: Looked) -> None:
    looked.allow(looked.rule(secret="KEY", header="Authorization: Bearer {}"))
    packed = base64.b64encode(VALUE.encode()).decode()
    body = f"you are {VALUE}, or {packed}".encode()
    head = f"HTTP/1.1 302 Found\r\nLocation: https://evil.test/?k={VALUE}\r\nX-Echo: {packed}\r\ncontent-length: {len(body)}\r\n\r\n"
    looked.site.answer = head.encode() + body
    answer = await looked.ask("/v1/a")
    assert VALUE not in answer
    assert packed not in answer
    assert f"Location: https://evil.test/?k={looked.placeholder}" in answer
    assert "you are " + "*" * len(VALUE) in answer


async def test_a_secret_that_may_not_be_used_is_a_denial(looked: Looked) -> None:
    looked.allow(looked.rule(secret="OTHER", header="X-Key: {}"))
    answer = await looked.ask("/v1/a")
    assert status(answer) == 403
    assert "`OTHER` is not for site.test" in told(answer)["error"]["message"]
    assert looked.site.seen == []


async def test_what_a_sandbox_is_given(looked: Looked) -> None:
    looked.allow(looked.rule(secret="KEY"))
    looked.outside.instance.launch.env = {"PIP_CERT": "/mine.pem"}
    given = looked.outside.egress.entrust(looked.outside.instance)
    assert given.environment["KEY"] == looked.placeholder
    assert given.environment["SSL_CERT_FILE"] == given.environment["REQUESTS_CA_BUNDLE"] == "/etc/aegis/all-roots.pem"
    assert given.environment["NODE_EXTRA_CA_CERTS"] == "/etc/aegis/roots.pem"
    assert "PIP_CERT" not in given.environment
    assert given.roots.startswith("-----BEGIN CERTIFICATE-----")
    assert "PRIVATE" not in given.roots
    looked.outside.allow("site.test:443")
    assert looked.outside.egress.entrust(looked.outside.instance) == ({}, "")


async def test_a_policy_comes_on_top(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rules of the gate say: a denial by one reading of the path, and a person who is asked and does not answer."""
    plain = looked.outside.gate.decide
    asked: list[Any] = []

    def decide(principal: Any, action: str, resource: str, *, effect: Any = None, **data: Any) -> Decision:
        for facet in effect.facets:
            asked.append((action, resource, facet.method, facet.url_path))
            if action == "egress.request" and facet.url_path.startswith("/v1/secret/"):
                return Decision(principal, action, resource, False, "no secrets", policies=("home.1",), hint="ask for another")
            if action == "egress.request" and facet.url_path.startswith("/v1/ask"):
                return Decision(principal, action, resource, False, "look at it first", ask=True, policies=("home.2",))
        return plain(principal, action, resource, effect=effect, **data)

    async def nobody(decision: Decision, effect: Any) -> Decision:
        await asyncio.Event().wait()
        return decision

    place = f"site.test:{looked.site.port}"
    looked.outside.make(Patience(person=0.05))
    monkeypatch.setattr(looked.outside.gate, "decide", decide)
    looked.outside.gate.ask = nobody
    assert status(await looked.ask("/v1/a")) == 200
    assert ("egress.connect", place, None, None) in asked
    assert ("egress.request", place, "GET", "/v1/a") in asked
    answer = await looked.ask("/v1/secret%2Fx")
    assert status(answer) == 403
    assert told(answer)["rule"] == "home.1"
    assert "no secrets" in told(answer)["error"]["message"]
    answer = await looked.ask("/v1/ask")
    assert "did not answer within 0.05 s" in told(answer)["error"]["message"]

    async def yes(decision: Decision, effect: Any) -> Decision:
        return Decision(decision.principal, decision.action, decision.resource, True, "approved by a person")

    looked.outside.gate.ask = yes
    assert status(await looked.ask("/v1/ask")) == 200


async def test_what_check_says_of_a_url(looked: Looked) -> None:
    place = f"site.test:{looked.site.port}"
    check = looked.outside.egress.check
    assert (await check(looked.outside.instance, f"https://{place}/v1/a"))["allowed"]
    assert not (await check(looked.outside.instance, f"https://{place}/admin"))["allowed"]
    assert not (await check(looked.outside.instance, f"https://{place}/v1/a", "DELETE"))["allowed"]
    assert not (await check(looked.outside.instance, f"http://{place}/v1/a"))["allowed"]
    assert (await check(looked.outside.instance, place))["inspected"]
    with pytest.raises(AegisError):
        await check(looked.outside.instance, f"ftp://{place}/")
    assert looked.outside.rows() == []


async def test_a_connection_to_the_server_is_kept(looked: Looked, certified: Certified) -> None:
    """Two requests in one tunnel take one connection to a server that lets them; one that went away is made anew."""
    came = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certified.server)
    looked.outside.sites.append(server)
    looked.site.port = server.sockets[0].getsockname()[1]
    looked.allow()
    wire = await looked.tunnel()
    for _ in range(3):
        await wire.say(looked.request("/v1/a"))
        assert status(await wire.head()) == 200
        assert await wire.reader.readexactly(2) == b"ok"
    assert came == 1


async def test_a_secret_that_is_bound_to_the_host_itself(looked: Looked) -> None:
    """Bound by a person for the secret, not by a rule: its placeholder is there, and it goes in the header that was said for it."""
    looked.outside.instance.launch.secrets = ["KEY", "UNBOUND"]
    looked.outside.egress.hosts_of = lambda name: ("site.test",) if name == "KEY" else ()
    given = looked.outside.egress.entrust(looked.outside.instance).environment
    assert given["KEY"] == looked.placeholder
    assert "UNBOUND" not in given
    await looked.ask("/v1/a", f"X-Key: {looked.placeholder}")
    assert f"X-Key: {VALUE}" in looked.seen()
    looked.outside.egress.header_of = lambda name: "X-Own: token {}" if name == "KEY" else None
    await looked.ask("/v1/b")
    assert f"X-Own: token {VALUE}" in looked.seen()
    looked.outside.egress.header_of = lambda _name: "Host: {}"
    await looked.ask("/v1/c")
    assert VALUE not in looked.site.seen[-1].decode()
    looked.outside.egress.hosts_of = lambda _name: ("other.test",)
    assert "KEY" not in looked.outside.egress.entrust(looked.outside.instance).environment


async def test_an_answer_is_no_longer_than_a_policy_allows(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = looked.outside.gate.decide

    def decide(*given: Any, **more: Any) -> Decision:
        return msgspec.structs.replace(plain(*given, **more), obligations=Obligations(max_result=1000))

    monkeypatch.setattr(looked.outside.gate, "decide", decide)
    looked.site.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"a" * 5000
    assert len(await looked.ask("/v1/a")) < 1500
    await looked.outside.ended()
    assert "over the 1000 bytes that a policy allows" in looked.reasons()[0]


async def test_certificates_are_for_one_host_and_made_anew(looked: Looked) -> None:
    now = [looked.outside.clock.now()]
    authority = Authority("a", lambda: now[0])
    place = read_place("site.test:443")
    first = authority.context(place)
    assert authority.context(place) is first
    assert authority.context(read_place("other.test:443")) is not first
    now[0] += 11.5 * 3600
    assert authority.context(place) is not first
    assert Authority("a", lambda: now[0]).pem != authority.pem
