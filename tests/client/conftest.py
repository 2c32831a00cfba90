"""A small HTTP server on a unix socket, for what no real daemon does on demand."""

from __future__ import annotations

import shutil
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty private directory with a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="aegis-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def serve(home: Path) -> Iterator[Callable[[Answer], Path]]:
    """Start a server whose every request `answer` answers; returns the path of its socket."""
    servers = []

    def start(answer: Answer) -> Path:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    answer(self)
                else:
                    self.close_connection = True

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_: object) -> None:
                return

        path = home / "aegisd.sock"
        server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        servers.append((server, thread))
        return path

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()
