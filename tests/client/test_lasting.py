"""A message and its answer across the end of the daemon: what is sent again, what is read on, what is given up."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from aegis.client import lasting, launch
from aegis.client.api import Client
from aegis.core.errors import AegisError, ErrorKind

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], Path]


class Daemon:
    """Plays a script, one step for each request: frames and how the answer ends. Notes what was asked."""

    def __init__(self, *script: tuple[list[int], str]) -> None:
        self.script = list(script)
        self.asked: list[str] = []
        self.sent: list[dict[str, Any]] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        if request.command == "POST":
            self.sent.append(json.loads(request.rfile.read(int(request.headers["Content-Length"]))))
        seqs, end = self.script.pop(0)
        if end == "nothing":
            request.close_connection = True
            return
        request.send_response(200)
        if end == "receipt":
            body = json.dumps({"id": "m", "ingress_seq": 1, "duplicate": True}).encode()
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
            return
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for seq in seqs:
            line = json.dumps({"seq": seq, "type": "assistant.delta", "payload": {"text": "x"}}).encode() + b"\n"
            request.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        request.wfile.flush()
        if end == "stopped":
            request.wfile.write(b"0\r\n\r\n")
        elif end == "hangs":
            request.connection.recv(1)
        request.close_connection = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The homes whose daemon was started."""
    homes: list[Path] = []
    monkeypatch.setattr(launch, "ensure_daemon", homes.append)
    return homes


def test_a_stream_is_read_on_from_its_cursor_after_a_death(serve: Serve, started: list[Path]) -> None:
    daemon = Daemon(([3, 5], "died"), ([9], "hangs"))
    client, told = Client(serve(daemon)), list[str]()
    frames = lasting.frames(client, "h", 1, ended=told.append)
    assert [next(frames)["seq"] for _ in range(3)] == [3, 5, 9]
    frames.close()
    assert [path.partition("after_seq=")[2].partition("&")[0] for path in daemon.asked] == ["1", "5"]
    assert started == [client.home]
    assert told == ["the daemon died; it is started again"]


def test_a_daemon_that_was_stopped_is_waited_for_and_not_started(
    serve: Serve, started: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(([3], "stopped"), ([4], "hangs"))
    client = Client(serve(daemon))
    frames = lasting.frames(client, "h", 1)
    assert [next(frames)["seq"] for _ in range(2)] == [3, 4]
    frames.close()

    monkeypatch.setattr(launch, "answers", lambda path: False)
    monkeypatch.setattr(lasting, "PATIENCE", 0.0)
    daemon.script = [([5], "stopped")]
    with pytest.raises(AegisError, match="was stopped before the answer") as caught:
        list(lasting.frames(client, "h", 1))
    assert caught.value.kind is ErrorKind.UNREACHABLE
    assert started == []


def test_the_longest_wait_is_kept(serve: Serve) -> None:
    with pytest.raises(AegisError) as caught:
        list(lasting.frames(Client(serve(Daemon(([3], "hangs")))), "h", 1, timeout=0.2))
    assert caught.value.kind is ErrorKind.TIMEOUT


def test_a_message_is_sent_again_under_the_same_id(serve: Serve, started: list[Path]) -> None:
    daemon = Daemon(([], "nothing"), ([], "receipt"))
    receipt = lasting.send(Client(serve(daemon)), "h", "hello")
    assert receipt["duplicate"] is False
    assert len(started) == 1
    first, again = daemon.sent
    assert first == again
    assert first["msg_id"].startswith("auto-")
