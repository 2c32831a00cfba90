"""Addresses, what is taken of an answer, redirects, and the search service; the gate and the servers are played."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.agents.model import Instance, Launch, State
from aegis.services.config.model import WebDefinition
from aegis.services.gate import Effect
from aegis.services.tools import ToolCaller
from aegis.services.tools.builtin.desks import Answer, Desks
from aegis.services.tools.builtin.fetching import Way
from aegis.services.tools.builtin.searching import Search
from aegis.services.tools.builtin.urls import read_url
from aegis.services.tools.builtin.web import Web

HERE = Instance(
    id="inst_1", handle="a", idx=1, launch=Launch(agent="agent", sandbox="bwrap", workspace="/w", tools=("web",)),
    state=State.RUNNING, reason="", enabled=True, token="t", created_at=0.0, last_active_at=0.0,
)  # fmt: skip
CALLER = ToolCaller(principal=Principal(PrincipalKind.INSTANCE, "inst_1"), instance=HERE, session="host:default")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://Example.COM", "https://example.com/"),
        ("http://example.com:80/a b".replace(" ", "%20"), "http://example.com/a%20b"),
        ("https://example.com:8443/x?q=1&r=%2e%2e#frag", "https://example.com:8443/x?q=1&r=%2e%2e"),
        ("https://bücher.example/ä?ö", "https://xn--bcher-kva.example/%C3%A4?%C3%B6"),
        ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]/"),
    ],
)
def test_an_address_has_one_spelling(text: str, found: str) -> None:
    assert str(read_url(text)) == found


@pytest.mark.parametrize(
    "text",
    [
        "", "example.com", "//example.com/", "file:///etc/passwd", "gopher://127.0.0.1:70/x", "ftp://h/", "data:text/html,x", "javascript:x",
        "http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://0177.0.0.1/", "http://0x7f.1/", "http://user@example.com/",
        "http://user:pass@example.com/", "http://example.com:0/", "http://example.com:99999/", "http://exa mple.com/", "http://e.com\\@x.com/",
        "http://example.com/\r\nHost: x", "http://[::1", "http://[::1%25lo]/", "http://ex%61mple.com/", "http://１２７.0.0.1:x/", "http:///x",
        "https://" + "a" * 9000,
    ],
)  # fmt: skip
def test_what_two_readers_could_take_for_two_hosts_is_refused(text: str) -> None:
    with pytest.raises(AegisError) as caught:
        read_url(text)
    assert caught.value.kind in (ErrorKind.USAGE, ErrorKind.DENIED)
    assert caught.value.hint


class Gate:
    """Plays the proxy: gives each path its bytes, or says no."""

    def __init__(self, pages: dict[str, bytes | Callable[[Any], Any]]) -> None:
        self.pages = pages
        self.asked: list[str] = []
        self.judged: list[Effect] = []
        self.html: list[str] = []

    async def serve(self, channel: Any, instance: Any) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await channel.read()
        target = data.split()[1].decode()
        self.asked.append(target)
        page = self.pages[target]
        with contextlib.suppress(AegisError):
            if isinstance(page, bytes):
                await channel.write(page)
            else:
                await page(channel)
        await channel.close()

    async def judge(self, caller: ToolCaller, effect: Effect) -> None:
        self.judged.append(effect)
        if "forbidden" in str(effect.arguments["url"]):
            raise AegisError(ErrorKind.DENIED, "a rule forbids it")

    async def ask(self, instance: Instance, request: dict[str, Any], *, limit: int, seconds: float) -> Answer:
        self.html.append(request["html"])
        return Answer(text="as Markdown", data={"title": "T"})

    async def fetch(self, url: str, limit: int = 100_000, **more: Any) -> Any:
        way = Way(self.serve, lambda _: "")
        search = Search(WebDefinition, _no_secret, SystemClock())
        return await Web(cast("Desks", self), way, search, self.judge).call(CALLER, "fetch", {"url": url, **more}, limit=limit)


async def _no_secret(name: str, instance: str, host: str) -> str | None:
    return None


def answer(body: bytes = b"", *headers: str, status: str = "200 OK", kind: str = "text/plain") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def moved(to: str, status: str = "302 Found") -> bytes:
    return answer(b"", f"location: {to}", status=status)


async def test_a_page_is_fetched() -> None:
    gate = Gate({"http://example.com/a?b=1": answer("grüß".encode("latin-1"), kind="text/plain; charset=ISO-8859-1")})
    said = await gate.fetch("http://example.com/a?b=1")
    assert said.content[0]["text"] == "[200 http://example.com/a?b=1]\n\ngrüß"
    assert said.structured["status"] == 200
    gate = Gate({"http://example.com/": answer(b"<p>x</p>", kind="text/html")})
    assert "as Markdown" in (await gate.fetch("http://example.com/")).content[0]["text"]
    assert "<p>x</p>" in (await gate.fetch("http://example.com/", to_markdown=False)).content[0]["text"]
    gate = Gate({"http://example.com/": answer(b"\x89PNG" * 10, kind="image/png", status="404 Not Found")})
    said = await gate.fetch("http://example.com/")
    assert (said.is_error, "40 bytes: not shown" in said.content[0]["text"]) == (True, True)


async def test_what_is_packed_is_not_unpacked_without_end() -> None:
    bomb = _bomb()
    gate = Gate(
        {
            "http://e.com/gzip": answer(bomb, "content-encoding: gzip"),
            "http://e.com/twice": answer(gzip.compress(bomb), "content-encoding: gzip, gzip"),
            "http://e.com/br": answer(b"\x8b\x00\x80", "content-encoding: br"),
            "http://e.com/broken": answer(b"no gzip at all", "content-encoding: gzip"),
            "http://e.com/good": answer(gzip.compress(b"small"), "content-encoding: gzip"),
            "http://e.com/deflate": answer(zlib.compress(b"small"), "content-encoding: deflate"),
        }
    )
    said = await gate.fetch("http://e.com/gzip", limit=4000)
    assert said.structured["truncated"]
    assert len(said.content[0]["text"]) < 5000
    for path in ("twice", "br", "broken"):
        with pytest.raises(AegisError) as caught:
            await gate.fetch(f"http://e.com/{path}")
        assert caught.value.kind is ErrorKind.FAILED
    for path in ("good", "deflate"):
        assert "small" in (await gate.fetch(f"http://e.com/{path}")).content[0]["text"]


def _bomb() -> bytes:
    """64 MB of nothing in 64 kB."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(b"\0" * 2**20) for _ in range(64)) + packer.flush()


async def test_an_answer_ends_in_size_and_time() -> None:
    async def endless(channel: Any) -> None:
        await channel.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            await channel.write(b"x" * 65536)

    async def slow(channel: Any) -> None:
        await channel.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            await channel.write(b"x")
            await asyncio.sleep(0.01)

    async def head(channel: Any) -> None:
        await channel.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            await channel.write(b"x-more: " + b"y" * 8000 + b"\r\n")

    gate = Gate(
        {
            "http://e.com/endless": endless,
            "http://e.com/slow": slow,
            "http://e.com/head": head,
            "http://e.com/none": b"",
            "http://e.com/not": b"SSH-2.0\r\n\r\n",
        }
    )
    said = await gate.fetch("http://e.com/endless", limit=10_000)
    assert said.structured["truncated"]
    assert len(said.content[0]["text"]) < 11_000
    for path, kind in (("slow", ErrorKind.TIMEOUT), ("head", ErrorKind.FAILED), ("none", ErrorKind.FAILED), ("not", ErrorKind.FAILED)):
        with pytest.raises(AegisError) as caught:
            await gate.fetch(f"http://e.com/{path}", timeout=0.2 if path == "slow" else 20)
        assert caught.value.kind in (kind, ErrorKind.UNREACHABLE), path


async def test_each_place_that_a_page_leads_to_is_judged() -> None:
    gate = Gate(
        {
            "http://e.com/": moved("/next"),
            "http://e.com/next": moved("http://other.com/x", "308 Permanent Redirect"),
            "http://other.com/x": answer(b"there"),
            "http://e.com/loop": moved("/loop"),
            "http://e.com/forbidden": answer(b"must not be seen"),
            "http://e.com/to-forbidden": moved("/forbidden"),
        }
    )
    said = await gate.fetch("http://e.com/")
    assert (said.structured["url"], said.structured["moved"]) == ("http://other.com/x", 2)
    assert [(e.facets[0].host, e.facets[0].url_path) for e in gate.judged] == [("e.com", "/next"), ("other.com", "/x")]
    gate.asked.clear()
    with pytest.raises(AegisError, match="a rule forbids it"):
        await gate.fetch("http://e.com/to-forbidden")
    assert gate.asked == ["http://e.com/to-forbidden"]
    with pytest.raises(AegisError, match="from page to page"):
        await gate.fetch("http://e.com/loop")
    said = await gate.fetch("http://e.com/", follow_redirects=False)
    assert (said.structured["status"], said.structured["location"]) == (302, "/next")


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "gopher://127.0.0.1:6379/_x", "ftp://x/", "//127.1/", "http://0x7f000001/", "http://a@b/", "http://[::1"]
)
async def test_a_page_leads_nowhere_else(to: str) -> None:
    gate = Gate({"http://e.com/": moved(to)})
    with pytest.raises(AegisError) as caught:
        await gate.fetch("http://e.com/")
    assert caught.value.kind in (ErrorKind.DENIED, ErrorKind.USAGE)
    assert gate.asked == ["http://e.com/"]


async def test_what_the_gate_says_is_told() -> None:
    text = answer(b"aegis: no egress rule of `a` allows e.com:80; to allow it, add it\n", "x-aegis-egress: refused", status="403 Forbidden")
    gate = Gate({"http://e.com/": text, "e.com:443": text})
    for url in ("http://e.com/", "https://e.com/"):
        with pytest.raises(AegisError) as caught:
            await gate.fetch(url)
        assert caught.value.kind is ErrorKind.DENIED
        assert "no egress rule of `a`" in caught.value.message
    # A page cannot pass itself off for more than a page.
    gate = Gate({"http://e.com/": answer(b"aegis: denied", status="403 Forbidden")})
    assert (await gate.fetch("http://e.com/")).is_error


# The search service.


class Waits(SystemClock):
    """Waits for nothing and remembers how long it should have."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)


@asynccontextmanager
async def service(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives its answers one after the other, the last one for ever."""
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[min(len(asked), len(answers)) - 1])
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/res/v1/web/search", asked


async def find(url: str, clock: Waits | None = None, secret: str | None = "KEY", stored: str | None = "the-key") -> Any:
    async def reveal(name: str, instance: str, host: str) -> str | None:
        assert (name, instance, host) == (secret, "inst_1", "127.0.0.1")
        return stored

    search = Search(lambda: WebDefinition(search_url=url, search_secret=secret), reveal, clock or Waits())
    return await search.find("what is it", 3, "inst_1")


BRAVE = (
    b'{"web": {"results": [{"title": "<strong>It</strong> is", "url": "https://e.com/", "description": "a &amp; b", "age": 1}]}, "x": 1}'
)


async def test_a_search_gives_results() -> None:
    async with service(answer(BRAVE, kind="application/json")) as (url, asked):
        assert await find(url) == [("It is", "https://e.com/", "a & b")]
    assert b"/res/v1/web/search?q=what+is+it&count=3" in asked[0] or b"q=what%20is%20it&count=3" in asked[0]
    assert b"x-subscription-token: the-key" in asked[0].lower()


async def test_a_search_that_is_refused_is_tried_again_later() -> None:
    clock = Waits()
    busy = answer(b"", status="429 Too Many Requests")
    async with service(busy, answer(b"", "retry-after: 7", status="429 Too Many Requests"), answer(BRAVE)) as (url, asked):
        assert len(await find(url, clock)) == 1
        assert len(asked) == 3
    assert 0.5 <= clock.waited[0] <= 1.0
    assert clock.waited[1] == 7.0
    async with service(busy) as (url, asked):
        with pytest.raises(AegisError) as caught:
            await find(url)
        assert caught.value.kind is ErrorKind.LIMIT
        assert len(asked) == 4
    async with service(answer(b"", "retry-after: 3600", status="429 Too Many Requests")) as (url, asked):
        with pytest.raises(AegisError):
            await find(url)
        assert len(asked) == 1


async def test_a_search_without_a_key_says_so() -> None:
    for secret, stored in ((None, None), ("KEY", None)):
        with pytest.raises(AegisError) as caught:
            await find("http://127.0.0.1:1/", secret=secret, stored=stored)
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        assert "nothing was searched" in caught.value.message
        assert "aegis secret set" in caught.value.hint


async def test_a_search_service_that_misbehaves_is_told_of_without_the_key() -> None:
    for said in (
        answer(b"the-key is wrong", status="401 Unauthorized"),
        answer(b"the-key", status="500 Oops"),
        answer(b"{" * 100_000),
        answer(b"[]"),
        answer(b"x" * 3_000_000),
        b"nonsense\r\n\r\n",
        moved("http://127.0.0.1:1/"),
    ):
        async with service(said) as (url, _):
            with pytest.raises(AegisError) as caught:
                await find(url)
            assert "the-key" not in str(caught.value.to_dict())
