"""Cases 5 and 6: a web page, a rebound name or a stranger on the TCP port; and requests that two parsers read differently."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.conftest import RealDaemon

from aegis.client import launch


class Port(NamedTuple):
    """A daemon that listens on TCP."""

    daemon: RealDaemon
    number: int
    token: str

    def raw(self, request: bytes) -> bytes:
        """Send bytes, return everything that comes until the daemon hangs up."""
        with socket.create_connection(("127.0.0.1", self.number), 30) as connection:
            connection.sendall(request)
            said = b""
            while data := _some(connection):
                said += data
            return said

    def ask(self, method: str, path: str, *headers: str, body: str = "", host: str | None = "127.0.0.1", token: bool = True) -> int:
        """The status of one request."""
        lines = [f"{method} {path} HTTP/1.1", "connection: close", f"content-length: {len(body)}", *headers]
        if host is not None:
            lines.append(f"host: {host}")
        if token:
            lines.append(f"authorization: Bearer {self.token}")
        answer = self.raw(("\r\n".join(lines) + f"\r\n\r\n{body}").encode())
        return int(answer.split()[1]) if answer else 0


def _some(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    real = RealDaemon(folder / "home")
    launch.ensure_daemon(real.home, listen="127.0.0.1:0")
    status = real.client.status()
    real.pid = status["pid"]
    yield Port(real, int(status["listen"][0].rpartition(":")[2]), (real.home / "token").read_text().strip())
    real.down()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:80", "[::1]", "[::1]:7700"])
def test_our_own_names_are_let_in(port: Port, host: str) -> None:
    assert port.ask("GET", "/v1/status", host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.com", "evil.com:7700", "localhost.evil.com", "evil.com:localhost", "127.0.0.1.evil.com", "0.0.0.0", "[::]", "",
        "localhost@evil.com", "evil.com#localhost", "localhost.", "127.1", "2130706433", "[::ffff:127.0.0.1]", "[::1].evil.com",
        "evil[::1]", "localhost evil.com",
    ],
)  # fmt: skip
def test_other_names_are_refused_before_anything_else(port: Port, host: str) -> None:
    for path in ("/v1/status", "/v1/nothing"):
        assert port.ask("GET", path, host=host) in (400, 403), host


def test_a_request_without_a_host_is_refused(port: Port) -> None:
    assert port.ask("GET", "/v1/status", host=None) in (400, 403)
    assert port.ask("GET", "/v1/status", "host: evil.com", host="localhost") in (400, 403)
    assert port.ask("GET", "/v1/status", "x-forwarded-host: localhost", "forwarded: host=localhost", host="evil.com") == 403
    assert port.ask("GET", "http://localhost/v1/status", host="evil.com") in (400, 403)


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.com", "https://localhost.evil.com:1", "http://evil.com:80", "file://", "http://evil.com:localhost:1", ""],
)
def test_pages_may_not_speak(port: Port, origin: str) -> None:
    assert port.ask("GET", "/v1/status", f"origin: {origin}") == 403
    assert port.ask("POST", "/v1/shutdown", f"origin: {origin}", body="{}") == 403
    port.daemon.client.status()


def test_what_a_form_can_send_needs_the_token(port: Port) -> None:
    """A form or an image cannot set a header; without the token nothing happens, and it is in no cookie and no address."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json"):
        assert port.ask("POST", "/v1/shutdown", f"content-type: {kind}", body="{}", token=False) == 401
    for given in (
        f"cookie: token={port.token}",
        f"cookie: authorization=Bearer {port.token}",
        "authorization: Basic Og==",
        "authorization: Bearer ",
        "authorization: Bearer x",
        "authorization:",
    ):
        assert port.ask("POST", "/v1/shutdown", given, body="{}", token=False) == 401, given
    assert port.ask("GET", f"/v1/status?token={port.token}&access_token={port.token}", token=False) == 401
    assert port.ask("OPTIONS", "/v1/shutdown", "origin: http://localhost:1", "access-control-request-method: POST", token=False) == 401
    answer = port.raw(
        f"OPTIONS /v1/shutdown HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {port.token}\r\n\r\n".encode()
    )
    assert b"access-control" not in answer.lower()
    port.daemon.client.status()


def test_a_peer_address_cannot_be_claimed(port: Port) -> None:
    for name in ("x-forwarded-for", "x-real-ip", "forwarded", "x-remote-user", "remote-user"):
        assert port.ask("GET", "/v1/status", f"{name}: uid:0", token=False) == 401


def test_get_changes_nothing(port: Port, tmp_path: Path) -> None:
    """Every route, asked by GET, HEAD and by overrides: no instance, no secret, no row but what reading leaves, and it still runs."""
    port.daemon.client.secrets.set("KEPT", "x")
    port.daemon.start("kept", sandbox="process")
    before = port.daemon.client.instances.get("kept")
    for path in (
        "/v1/shutdown", f"/v1/backup?target={tmp_path}/copy", "/v1/instances/kept/start", "/v1/instances/kept/disable", "/v1/instances/kept/restart",
        "/v1/instances/kept/exec?command=id", "/v1/instances/kept/tether?text=x", "/v1/secrets/KEPT?value=y", "/v1/instances?handle=new",
        "/v1/instances/kept?method=DELETE", "/v1/config/trust?project=/tmp&hash=x",
    ):  # fmt: skip
        for headers in ((), ("x-http-method-override: DELETE",), ("x-method-override: POST", "x-http-method: PUT")):
            for method in ("GET", "HEAD"):
                port.ask(method, path, *headers)
    client = port.daemon.client
    after = client.instances.get("kept")
    assert {k: v for k, v in after.items() if k != "last_active_at"} == {k: v for k, v in before.items() if k != "last_active_at"}
    assert [one["handle"] for one in client.instances.all()] == ["kept"]
    assert [(one["name"], one["version"]) for one in client.secrets.all()] == [("KEPT", 1)]
    assert client.mail.all("kept") == []
    assert not (tmp_path / "copy").exists()


def test_a_second_request_cannot_hide_in_the_first(port: Port) -> None:
    """Smuggling and splitting: one connection, requests whose length two readers could see differently."""
    hidden = (
        b"POST /v1/shutdown HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer "
        + port.token.encode()
        + b"\r\ncontent-length: 2\r\n\r\n{}"
    )
    good = f"host: localhost\r\nauthorization: Bearer {port.token}\r\n".encode()
    for head in (
        b"POST /v1/instances HTTP/1.1\r\n" + good + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/instances HTTP/1.1\r\n" + good + b"content-length: 2\r\ncontent-length: 300\r\n\r\n{}",
        b"POST /v1/instances HTTP/1.1\r\n" + good + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST /v1/instances HTTP/1.1\r\n" + good + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/instances HTTP/1.1\r\n" + good + b"content-length: +2\r\n\r\n{}",
        b"POST /v1/instances HTTP/1.1\r\n" + good + b"content-length : 2\r\n\r\n{}",
        b"POST /v1/instances HTTP/1.1\r\n" + good + b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + good + b"x: a\rhost: evil\r\n\r\n",
        b"GET /v1/status HTTP/1.1 \r\n" + good.replace(b"\r\n", b"\n") + b"\n\x00",
    ):
        answer = port.raw(head + hidden)
        assert b" 202 " not in answer, (head, answer)
    port.daemon.client.status()


def test_an_answer_cannot_be_split(port: Port) -> None:
    for path in ("/v1/%0d%0aset-cookie:%20x=1", "/v1/instances/a%0d%0ax:%20y", "/v1/secrets/%00", "/v1/instances/%2e%2e%2fsecrets"):
        answer = port.raw(
            f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {port.token}\r\n\r\n".encode()
        )
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert b"set-cookie" not in head
        assert b"\nx:" not in head
        assert b" 40" in head.splitlines()[0]


def test_strangers_hold_nothing(port: Port) -> None:
    """Slow requests and endless heads: a connection that does not ask is closed, and a head has an end."""
    silent = [socket.create_connection(("127.0.0.1", port.number), 30) for _ in range(50)]
    half = socket.create_connection(("127.0.0.1", port.number), 30)
    half.sendall(b"GET /v1/status HTTP/1.1\r\nhost: loc")
    second = socket.create_connection(("127.0.0.1", port.number), 30)
    second.sendall(f"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {port.token}\r\n\r\n".encode())
    assert b" 200 " in second.recv(65536)
    second.sendall(b"GET /v1/st")  # on a connection that was good once
    for line in (b"x-a: " + b"a" * 1000 + b"\r\n", b"a" * 4096):
        with socket.create_connection(("127.0.0.1", port.number), 30) as endless:
            endless.sendall(b"GET /v1/status HTTP/1.1\r\n")
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                endless.sendall(line * 100_000)
    for connection in (*silent, half, second):
        with connection:
            while _some(connection):
                pass
    assert port.ask("GET", "/v1/status") == 200


def test_hostile_bodies_are_usage_errors(port: Port) -> None:
    deep = "[" * 100_000
    for body in (
        deep,
        '{"handle":' + deep,
        '{"a":' * 50_000,
        "\x00",
        '{"handle": NaN}',
        '{"handle": "a", "handle": "b"',
        '{"handle": "\\ud800"}',
        "[]",
        "0",
        '{"memory_mb": 1e999}',
        '{"pids": -1}',
        '{"vcpus": 0}',
        '{"memory_mb": 1e300}',
    ):
        assert port.ask("POST", "/v1/instances", body=body) in (400, 413, 422), body[:60]
    for body in (
        '{"type":"user.message","payload":{"text":"x","user":' + '{"a":' * 5000 + "1" + "}" * 5000 + "}}",
        json.dumps({"type": "user.message", "payload": {"text": "x", "expires_s": -1e400}}),
    ):
        assert port.ask("POST", "/v1/instances/none/tether", body=body) in (400, 404), body[:60]
    assert port.ask("POST", "/v1/instances", "content-length: 99999999999", body="{}") in (400, 413)
    log = (port.daemon.home / "aegisd.log").read_text()
    assert "a defect" not in log, log[-3000:]
