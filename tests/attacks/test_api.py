"""Cases 5 and 6 again, for every operation of the table and for WebSockets: what a page can send, what a rebound name can reach, floods."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.http.conftest import Answer, Api, api
from websockets.sync.client import connect

from aegis.client.api import pages
from aegis.core.events import FACTS
from aegis.daemon.http import sockets
from aegis.daemon.http.app import rows
from aegis.daemon.http.table import Row

__all__ = ["api"]

MUTATIONS = [row for row in rows() if row.mutates]
READS = [row for row in rows() if not row.mutates and row.socket is None and row.pages]
FORMS = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain; application/json", "", "json")


#: What happens without anybody asking: a person is told of what has happened before.
BY_ITSELF = {"attention.raised"}


def address(row: Row, name: str = "target") -> str:
    """A path of the operation, about the instance that is there to be harmed."""
    path = row.public_path
    for place in row.places:
        if place.choices:
            path = path.replace(f"{{{place.name}}}", place.choices[0])
    for word, value in (("name", name), ("session", "host:default"), ("exec_id", "none"), ("id", "none")):
        path = path.replace(f"{{{word}}}", value)
    return path


@pytest.fixture
def target(api: Api) -> Iterator[dict[str, Any]]:
    """An instance that sleeps and is disabled, so that nothing but an attack changes it."""
    api.daemon.client.secrets.set("target", "x")
    api.daemon.start("target", model="scripted/echo")
    api.daemon.ask("target", "hello")
    api.daemon.client.instances.act("target", "disable")
    yield state(api)
    api.daemon.client.instances.delete("target")


def state(api: Api) -> dict[str, Any]:
    """What an attack could have changed."""
    client = api.daemon.client
    return {
        "instances": client.instances.all(),
        "secrets": client.secrets.all(),
        "audit": [record for record in client.audit() if record["action"] != "secret.list"],
        "facts": [event["type"] for event in pages(client, 0) if not FACTS[event["type"]].ephemeral and event["type"] not in BY_ITSELF],
        "agents": [agent["name"] for agent in client.agents(None)],
        "home": sorted(os.listdir(api.daemon.home)),
    }


def test_no_form_reaches_an_operation(api: Api, target: dict[str, Any]) -> None:
    """Even with the token: what a page can send without asking first is refused by its media type."""
    for row in MUTATIONS:
        for form in FORMS:
            answer = api.ask(row.method, address(row), raw=b'{"value":"stolen"}', headers={"Content-Type": form})
            assert (answer.status, answer.json["kind"]) == (415, "usage"), (row.name, form, answer)
    assert state(api) == target


def test_no_mutation_guesses_at_its_query(api: Api, target: dict[str, Any]) -> None:
    for row in MUTATIONS:
        for query in ({"token": api.token}, {"_method": "DELETE"}, {"dry_run": "1"}, {"value": "x"}):
            answer = api.ask(row.method, address(row), query=query)
            assert answer.status == 400, (row.name, query, answer)
            assert next(iter(query)) in answer.json["error"]
    assert state(api) == target
    assert api.ask("GET", "/v1/instances", query={"dry_run": "1", "state": "stopped"}).status == 200, (
        "a read goes past what it does not know"
    )


def test_no_read_changes_anything(api: Api, target: dict[str, Any], tmp_path: Any) -> None:
    """The whole table, with every parameter it takes, by GET and by HEAD, and with overrides of the method."""
    for row in READS:
        query = {p.name: p.choices[0] if p.choices else {"int": 1, "flag": "0", "text": "target"}[p.kind] for p in row.query}
        if "project" in query:
            query["project"] = str(tmp_path)
        for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "POST"})):
            answer = api.ask(method, address(row), query=query, headers=headers)
            assert answer.status < 500, (row.name, answer)
    assert state(api) == target


def test_what_stands_at_a_path_takes_no_other_method(api: Api, target: dict[str, Any]) -> None:
    for path in sorted({address(row) for row in rows()}):
        exact = [row for row in rows() if path in {address(row), row.path}]
        known = {row.method for row in exact}
        known |= {"HEAD"} if "GET" in known else set()
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} - known:
            answer = api.ask(method, path)
            assert answer.status == 405, (method, path, answer)
            assert set(answer.headers["allow"].split(", ")) == known, path
            assert answer.json["kind"] == "usage"
    assert state(api) == target


def test_the_token_is_taken_from_its_header_alone(api: Api, target: dict[str, Any]) -> None:
    for row in rows():
        for query, headers in (
            ({"token": api.token, "access_token": api.token}, {}),
            ({}, {"Cookie": f"token={api.token}; Authorization=Bearer {api.token}"}),
            ({}, {"X-Authorization": f"Bearer {api.token}"}),
            ({}, {"Authorization": f"Basic {base64.b64encode(b'token:' + api.token.encode()).decode()}"}),
            ({}, {"Authorization": f"Bearer {api.token}x"}),
            ({}, {"Authorization": api.token}),
            ({}, {"Sec-WebSocket-Protocol": f"aegis.bearer.{api.token}"}),
        ):
            answer = api.ask(row.method, address(row), query=query, headers={"Authorization": ""} | headers)
            assert (answer.status, answer.json["kind"]) == (401, "denied"), (row.name, headers)
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert state(api) == target


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"a":' * 50_000, "\x00", '{"a": NaN}', "nul", '"\\ud800"', "1e999", " ", "[]", '{"a":1}{']
)
def test_no_body_is_a_defect(api: Api, target: dict[str, Any], body: str) -> None:
    for row in MUTATIONS:
        if row.body is not None and row.name != "shutdown":
            answer = api.ask(
                row.method, address(row), raw=body.encode("utf-8", "surrogatepass"), headers={"Content-Type": "application/json"}
            )
            assert answer.status in (200, 400, 404, 409, 413), (row.name, body[:20], answer)
    assert "a defect" not in (api.daemon.home / "aegisd.log").read_text()


def test_slow_bodies_hold_nobody_up(api: Api) -> None:
    """A stranger is refused before his body is read; a friend who is slow waits alone."""
    head = "POST /v1/instances HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n"
    with socket.create_connection(("127.0.0.1", api.port), 30) as stranger:
        stranger.sendall(f"{head}\r\n{{".encode())
        assert b" 401 " in stranger.recv(65536)
    slow = [socket.create_connection(("127.0.0.1", api.port), 30) for _ in range(100)]
    for connection in slow:
        connection.sendall(f"{head}authorization: Bearer {api.token}\r\n\r\n{{".encode())
    assert api.ask("GET", "/v1/status").status == 200
    for connection in slow:
        connection.close()


class Handshake:
    """A WebSocket handshake written by hand."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def ask(self, *headers: str, host: str | None = "localhost", token: bool = True, path: str = "/v1/events/ws", line: str = "") -> Answer:
        """What is answered before or instead of the upgrade; the status is 0 when the connection is closed without a word."""
        lines = [
            line or f"GET {path} HTTP/1.1", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", *([f"host: {host}"] if host is not None else []), *headers,
            *([f"authorization: Bearer {self.api.token}"] if token else []),
        ]  # fmt: skip
        with socket.create_connection(("127.0.0.1", self.api.port), 30) as connection:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            said = b""
            while b"\r\n\r\n" not in said:
                try:
                    data = connection.recv(65536)
                except ConnectionResetError:
                    data = b""
                if not data:
                    break
                said += data
        return Answer(int(said.split()[1]) if said else 0, {}, said)


@pytest.fixture
def handshake(api: Api) -> Handshake:
    return Handshake(api)


def test_an_honest_handshake(handshake: Handshake) -> None:
    assert handshake.ask().status == 101


@pytest.mark.parametrize(
    "host",
    ["evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "localhost@evil.com", "0.0.0.0", "[::]", "", "127.1", "localhost evil.com"],
)
def test_a_rebound_name_opens_no_websocket(handshake: Handshake, host: str) -> None:
    assert handshake.ask(host=host).status in (400, 403)


def test_more_than_one_host_opens_no_websocket(handshake: Handshake) -> None:
    assert handshake.ask(host=None).status in (400, 403)
    assert handshake.ask("host: evil.com").status in (400, 403)
    assert handshake.ask("x-forwarded-host: localhost", host="evil.com").status == 403


@pytest.mark.parametrize("origin", ["null", "http://evil.com", "https://localhost.evil.com:1", "http://evil.com:80", "file://", ""])
def test_pages_open_no_websocket(api: Api, handshake: Handshake, origin: str) -> None:
    """A page may open a WebSocket to anywhere without asking; the Origin that its browser adds is what stops it."""
    assert handshake.ask(f"origin: {origin}").status == 403
    assert handshake.ask(f"origin: {origin}", f"sec-websocket-protocol: aegis.bearer.{api.token}", token=False).status == 403


def test_nobody_opens_a_websocket_unproven(api: Api, handshake: Handshake) -> None:
    good = api.token
    for headers in (
        [],
        [f"cookie: token={good}"],
        ["sec-websocket-protocol: aegis.v1"],
        ["sec-websocket-protocol: aegis.bearer."],
        ["sec-websocket-protocol: aegis.bearer.x"],
        [f"sec-websocket-protocol: {good}"],
        [f"sec-websocket-protocol: aegis.bearer.x, aegis.bearer.{good}"],
        [f"sec-websocket-protocol: aegis.bearer.{good}", "authorization: Bearer x"],
        ["x-forwarded-for: uid:0"],
    ):
        assert handshake.ask(*headers, token=False).status == 401, headers
    assert handshake.ask(path=f"/v1/events/ws?token={good}&authorization=Bearer%20{good}", token=False).status == 401
    assert handshake.ask(path="/v1/nothing", token=False).status == 401, "a stranger does not learn what there is"


@pytest.mark.parametrize(
    ("headers", "line"),
    [
        ((f"x-a: {'a' * 20_000}",), ""),
        (tuple(f"x-{n}: a" for n in range(500)), ""),
        (("content-length: 5",), ""),
        (("transfer-encoding: chunked",), ""),
        ((), "POST /v1/events/ws HTTP/1.1"),
        (("sec-websocket-version: 12",), ""),
        (("sec-websocket-key: short",), ""),
        (("sec-websocket-extensions: permessage-deflate; server_max_window_bits=99",), ""),
        (("x: a\rhost: evil",), ""),
        ((f"sec-websocket-protocol: {','.join(f'p{n}' for n in range(2000))}",), ""),
    ],
)
def test_no_handshake_is_left_hanging(handshake: Handshake, headers: tuple[str, ...], line: str) -> None:
    answer = handshake.ask(*headers, line=line)
    assert answer.status in (0, 101, 400, 403, 405, 426, 431), answer
    assert b"permessage" not in answer.body, "what is compressed can be a bomb"


def test_a_flood_of_websockets_meets_a_bound(api: Api, handshake: Handshake) -> None:
    request = re.sub(
        r"\s*\n\s*",
        "\r\n",
        f"""GET /v1/events/ws HTTP/1.1
        host: localhost
        connection: upgrade
        upgrade: websocket
        sec-websocket-version: 13
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==
        authorization: Bearer {api.token}""",
    )
    held: list[socket.socket] = []
    try:
        statuses = []
        for _ in range(sockets.MAX_SOCKETS + 5):
            connection = socket.create_connection(("127.0.0.1", api.port), 30)
            held.append(connection)
            connection.sendall(f"{request}\r\n\r\n".encode())
            statuses.append(int(connection.recv(65536).split()[1]))
        assert statuses == [101] * sockets.MAX_SOCKETS + [429] * 5
        assert api.ask("GET", "/v1/status").status == 200
    finally:
        for connection in held:
            connection.close()
    while handshake.ask().status == 429:  # until the daemon has seen that they are gone
        pass
    assert handshake.ask().status == 101


def test_a_flood_of_frames_holds_nobody_up(api: Api) -> None:
    """Thousands of frames by one who reads none of the answers: he alone waits, nothing grows, and he is let go."""
    url = f"ws://127.0.0.1:{api.port}/v1/events/ws"
    with connect(url, additional_headers=api.bearer, max_queue=1, close_timeout=0.1, ping_interval=None) as flood:
        before = rss(api)
        raw = flood.socket
        raw.settimeout(0.2)
        frame = json.dumps({"type": "ping", "id": "x" * 64}).encode()
        masked = b"\x81" + bytes([0x80 | len(frame)]) + b"\0\0\0\0" + frame
        sent = 0
        try:
            while sent < 50_000:
                raw.sendall(masked * 1000)
                sent += 1000
        except TimeoutError:
            pass  # the daemon reads no more of it
        assert api.ask("GET", "/v1/status").status == 200
        assert rss(api) - before < 40 * 1024 * 1024


@pytest.mark.parametrize("text", ["[" * 60_000, '{"type":' * 7_000, '{"type":"ping","id":"\\ud800"}', "\x00", '{"type":1e999}'])
def test_no_frame_is_a_defect(api: Api, text: str) -> None:
    with connect(f"ws://127.0.0.1:{api.port}/v1/events/ws", additional_headers=api.bearer) as talk:
        talk.recv(30)
        talk.send(text)
        assert json.loads(talk.recv(30))["type"] in ("error", "pong")
        talk.send(b'{"type":"ping"}')
        assert json.loads(talk.recv(30))["type"] == "pong"
    assert "a defect" not in (api.daemon.home / "aegisd.log").read_text()


def test_the_log_has_no_token(api: Api, handshake: Handshake) -> None:
    handshake.ask(path=f"/v1/events/ws?token={api.token}", token=False)
    handshake.ask(f"sec-websocket-protocol: aegis.bearer.{api.token}", token=False)
    api.ask("GET", f"/v1/status?token={api.token}")
    assert api.token not in (api.daemon.home / "aegisd.log").read_text()


def rss(api: Api) -> int:
    """What the daemon has in memory, in bytes."""
    with open(f"/proc/{api.daemon.client.status()['pid']}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
