"""A daemon that listens on TCP, as programs of others see it."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from tests.conftest import RealDaemon

from aegis.client import launch


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """The daemon's HTTP API over TCP with the token."""

    def __init__(self, daemon: RealDaemon) -> None:
        self.daemon = daemon
        self.token = (daemon.home / "token").read_text().strip()

    @property
    def port(self) -> int:
        return int(self.daemon.client.status()["listen"][0].rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request and its whole answer, whatever its status."""
        data = raw if body is None else json.dumps(body).encode()
        given = self.bearer | ({"Content-Type": "application/json"} if body is not None else {}) | (headers or {})
        url = self.url + path + (f"?{urlencode(query)}" if query else "")
        request = urllib.request.Request(url, data=data, headers=given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """One daemon for all tests of a file."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    real = RealDaemon(folder / "home")
    launch.ensure_daemon(real.home, listen="127.0.0.1:0")
    real.pid = real.client.status()["pid"]
    yield Api(real)
    real.down()
    shutil.rmtree(folder, ignore_errors=True)
