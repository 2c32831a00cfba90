"""Case 23 against `web.fetch`: addresses in other spellings, pages that lead elsewhere, answers that do not end."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.conftest import Box
from tests.attacks.test_egress import SPELLINGS
from tests.attacks.test_tool_paths import calls
from tests.conftest import RealDaemon

Make = Callable[..., Box]


@pytest.fixture(scope="module")
def house() -> Iterator[RealDaemon]:
    """A daemon whose agents have the tools of the web; skips where no sandbox with a boundary works, for no other has rules."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "config.yaml").write_text("defaults:\n  tools: [core, web]\n")
    real = RealDaemon(home)
    real.up()
    try:
        bwrap = next(s for s in real.client.doctor()["sandboxes"] if s["name"] == "bwrap")
        if not bwrap["ok"]:
            pytest.skip(f"bwrap: {bwrap['detail']}; {bwrap['mend']}")
        yield real
    finally:
        real.down()
        shutil.rmtree(folder, ignore_errors=True)


class Site:
    """A server of this machine that answers as it is told, and counts who came."""

    def __init__(self) -> None:
        self.came = 0
        self.seen: list[str] = []
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.closing = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.seen.append(f"{self.path} {self.headers['host']}")
                site.pages.get(self.path, page(b"the canary"))(self)

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
                site.came += 1
                return super().get_request()

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def page(body: bytes, kind: str = "text/plain", status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(to: BaseHTTPRequestHandler) -> None:
        to.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()
        to.wfile.write(body)

    return answer


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture(scope="module")
def other() -> Iterator[Site]:
    """A server that no rule names."""
    made = Site()
    yield made
    made.close()


def fetch(a: Box, *urls: str, **more: Any) -> list[dict[str, Any]]:
    return calls(a, *(("web_fetch", {"url": url, **more}) for url in urls))


def text(result: dict[str, Any]) -> str:
    return str(result["content"][0]["text"])


def granted(box: Make, *rules: str, handle: str = "a") -> Box:
    return box(handle, permission="full", egress=list(rules))


def test_no_spelling_of_an_inner_address_is_fetched(box: Make, other: Site) -> None:
    a = granted(box, "api.example.com:443", f"*.example.com:{other.port}")
    hosts = [
        *SPELLINGS,
        "[::ffff:7f00:0001]",
        "[64:ff9b:1::7f00:1]",
        "[::ffff:a9fe:a9fe]",
        "0251.0376.0251.0376",
        "2852039166",
        "①②⑦.0.0.1",
    ]
    urls = [f"http://{host}:{other.port}/" for host in hosts] + [f"https://{host}/" for host in hosts]
    before = other.came
    for url, result in zip(urls, fetch(a, *urls), strict=True):
        assert result["isError"], (url, result)
        assert "canary" not in text(result)
    assert other.came == before
    asked = a.client.egress("a", limit=1000)["connections"]
    assert not [row for row in asked if row["allowed"]]


def test_what_a_rule_names_is_fetched_and_on_record(box: Make, site: Site, other: Site) -> None:
    a = granted(box, f"127.0.0.1:{site.port}")
    site.pages["/page"] = page(b"<h1>Hello</h1><p>see <a href='/x'>this</a></p>", "text/html")
    found, missed = fetch(a, f"{site.url}/page", f"{other.url}/")
    assert f"# Hello\n\nsee [this]({site.url}/x)" in text(found)
    assert missed["isError"]
    assert f"127.0.0.1:{other.port}" in text(missed)
    records = [row for row in a.client.audit(limit=1000) if row["principal"] == f"instance:{a.id}"]
    asked = [(row["action"], row["decision"]) for row in records]
    assert asked.count(("tool.call", "allow")) == 2
    assert {decision for action, decision in asked if action.startswith("egress.")} == {"allow", "deny"}
    b = box("b")  # without a rule
    before = site.came
    assert fetch(b, f"{site.url}/page")[0]["isError"]
    assert site.came == before


def test_a_page_that_leads_elsewhere_is_judged_anew(box: Make, site: Site, other: Site) -> None:
    a = granted(box, f"127.0.0.1:{site.port}")
    targets = [
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "ftp://127.0.0.1/x",
        "dict://127.0.0.1:11211/stat",
        "data:text/plain,canary",
        f"{other.url}/",
        f"//127.0.0.1:{other.port}/",
        f"http://127.1:{site.port}/",
        f"http://[::ffff:127.0.0.1]:{other.port}/",
        f"http://2130706433:{other.port}/",
        f"http://user@127.0.0.1:{site.port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "https://127.0.0.1/",
        "http://\\\\127.0.0.1/",
        "http://127.0.0.1:0/",
        "/loop",
    ]
    for n, target in enumerate(targets):
        site.pages[f"/{n}"] = page(b"moved", status=302, location=target)
    site.pages["/loop"] = page(b"", status=307, location="/loop")
    before = other.came
    for target, result in zip(targets, fetch(a, *(f"{site.url}/{n}" for n in range(len(targets)))), strict=True):
        assert result["isError"], (target, result)
        assert "canary" not in text(result).replace("data:text/plain,canary", ""), target
        assert "root:" not in text(result), target
    assert other.came == before
    site.pages["/good"] = page(b"", status=301, location="/end")
    site.pages["/end"] = page(b"here")
    moved, kept = fetch(a, f"{site.url}/good")[0], fetch(a, f"{site.url}/good", follow_redirects=False)[0]
    assert text(moved).endswith("here")
    assert kept["structuredContent"]["location"] == "/end"


def test_a_bomb_a_flood_and_a_drip_end(box: Make, site: Site) -> None:
    a = granted(box, f"127.0.0.1:{site.port}")
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b"\0" * 2**20) for _ in range(256)) + packer.flush()
    site.pages |= {
        "/gzip": page(bomb, content_encoding="gzip"),
        "/html": page(bomb, "text/html", content_encoding="gzip"),
        "/nested": page(gzip.compress(bomb), content_encoding="gzip, gzip"),
        "/br": page(b"\xcf\xff\xff\x7f\xf8" + b"\x00" * 100, content_encoding="br"),
        "/zstd": page(b"\x28\xb5\x2f\xfd", content_encoding="zstd"),
        "/flood": _flood(site),
        "/drip": _drip(site),
        "/markup": page(b"<a " * 300_000, "text/html"),
    }
    endless: list[dict[str, Any]] = [{"url": f"{site.url}/{name}"} for name in ("gzip", "flood")]
    refused: list[dict[str, Any]] = [{"url": f"{site.url}/{name}"} for name in ("nested", "br", "zstd")]
    late: list[dict[str, Any]] = [{"url": f"{site.url}/{name}", "timeout": 0.3} for name in ("drip", "markup")]
    wanted = [*endless, *refused, *late, {"url": f"{site.url}/html"}]
    results = calls(a, *(("web_fetch", arguments) for arguments in wanted))
    for result in results[:2]:
        assert result["structuredContent"]["truncated"]
        assert len(json.dumps(result)) < 3_000_000
    for arguments, result in zip(wanted[2:7], results[2:7], strict=True):
        assert result["isError"], arguments
    assert a.client.status()["status"] == "running"


def _flood(site: Site) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(to: BaseHTTPRequestHandler) -> None:
        to.close_connection = True
        to.send_response(200)
        to.send_header("content-type", "text/plain")
        to.end_headers()
        try:
            while not site.closing.is_set():
                to.wfile.write(b"flood " * 10_000)
        except OSError:
            pass

    return answer


def _drip(site: Site) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(to: BaseHTTPRequestHandler) -> None:
        to.close_connection = True
        to.send_response(200)
        to.send_header("content-type", "text/plain")
        to.end_headers()
        try:
            while not site.closing.wait(0.02):
                to.wfile.write(b".")
        except OSError:
            pass

    return answer
