"""HTTP over the daemon's unix socket, synchronous and light: `http.client`, one connection for each call.

Every failure is an `AegisError`: the daemon's own, `unreachable` when nobody answers or the answer breaks off, `timeout` when
it takes too long. A `Stream` that is closed early closes its connection, which tells the daemon to stop.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote, urlencode

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

#: Seconds a call may take that has no limit of its own.
CALL_SECONDS = 120.0
_CHUNK = 256 * 1024


class Answer(NamedTuple):
    """A whole answer: the HTTP status and the decoded body."""

    status: int
    body: Any


def path_of(*parts: str) -> str:
    """The path `/v1/...` with each part quoted."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def target_of(path: str, query: Mapping[str, Any] | None) -> str:
    """`path` with the members of `query` that are not None."""
    given = {key: ("1" if value is True else value) for key, value in (query or {}).items() if value is not None and value is not False}
    return f"{path}?{urlencode(given)}" if given else path


def error_of(status: int, body: bytes) -> AegisError:
    """The error that an answer with a status of 400 or more carries."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if isinstance(told, dict) and "error" in told:
        return AegisError.from_dict(told)
    text = body[:200].decode("utf-8", "replace").strip()
    return AegisError(
        ErrorKind.INTERNAL,
        f"the daemon answered {status}: {text or 'no reason given'}",
        "it may be of another version: `aegis down`, then `aegis up`",
    )


def unreachable(path: Path, why: object) -> AegisError:
    """The error for a daemon that does not answer."""
    return AegisError(ErrorKind.UNREACHABLE, f"no answer from the daemon at {path}: {why}", "start it with `aegis up`")


class Connection(http.client.HTTPConnection):
    """An HTTP connection to a unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("aegis", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class Stream:
    """The lines of a streamed answer, each decoded from JSON. A context manager; leaving it closes the connection."""

    def __init__(self, connection: Connection, response: http.client.HTTPResponse, path: Path, deadline: float | None = None) -> None:
        self._connection = connection
        self._response = response
        self._path = path
        self._deadline = deadline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream, whether it was read to its end or not. Idempotent."""
        self._response.close()
        self._connection.close()

    def fileno(self) -> int:
        """The descriptor of the connection, to be waited on for more by one who does not read the stream."""
        return self._response.fileno()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The objects as they arrive. An object that is an error is raised; so are a connection that breaks off, and the deadline."""
        pending: list[bytes] = []
        while True:
            try:
                self._mind_the_deadline()
                data = self._response.read1(_CHUNK)
            except TimeoutError as exc:
                raise AegisError(ErrorKind.TIMEOUT, "the daemon sent nothing in time") from exc
            except (OSError, http.client.HTTPException) as exc:
                raise unreachable(self._path, "it broke off") from exc
            if not data:
                return
            head, *lines = data.split(b"\n")
            pending.append(head)
            for line in lines:
                whole, pending = b"".join(pending), [line]
                if whole.strip():
                    yield _decoded(whole)

    def _mind_the_deadline(self) -> None:
        if self._deadline is None:
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if self._connection.sock is not None:
            self._connection.sock.settimeout(left)


def _decoded(line: bytes) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(line)
    if "error" in item and "kind" in item:
        raise AegisError.from_dict(item)
    return item


class Transport:
    """The way to the daemon that listens on the socket `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: float | None = CALL_SECONDS,
    ) -> Answer:
        """One request and its whole answer, decoded from JSON."""
        connection, response = self._ask(method, path, body, query, timeout)
        try:
            data = response.read()
        except TimeoutError as exc:
            raise AegisError(ErrorKind.TIMEOUT, f"the daemon did not finish its answer to {method} {path}") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise unreachable(self.path, "it broke off") from exc
        finally:
            connection.close()
        if response.status >= 400:
            raise error_of(response.status, data)
        return Answer(response.status, json.loads(data) if data.strip() else None)

    def stream(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> Stream:
        """One request and its answer line by line; `deadline` is on the monotonic clock, None for no limit of time."""
        connection, response = self._ask(method, path, body, query, None if deadline is None else max(deadline - time.monotonic(), 0.001))
        if response.status >= 400:
            try:
                raise error_of(response.status, response.read())
            finally:
                connection.close()
        return Stream(connection, response, self.path, deadline)

    def upload(self, path: str, chunks: Iterable[bytes]) -> Any:
        """Send raw bytes as they come; the end of `chunks` is the end of the body."""
        connection = Connection(self.path, None)
        headers = {"Content-Type": "application/octet-stream", "Transfer-Encoding": "chunked"}
        try:
            connection.request("POST", path, body=chunks, headers=headers, encode_chunked=True)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as exc:
            raise unreachable(self.path, exc) from exc
        finally:
            connection.close()
        if response.status >= 400:
            raise error_of(response.status, data)
        return json.loads(data) if data.strip() else None

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, Any] | None, timeout: float | None
    ) -> tuple[Connection, http.client.HTTPResponse]:
        connection = Connection(self.path, timeout)
        headers = {"Accept": "application/json, application/x-ndjson"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, target_of(path, query), body=data, headers=headers)
            return connection, connection.getresponse()
        except TimeoutError as exc:
            connection.close()
            told = f"the daemon did not answer {method} {path} within {timeout:g} s"
            raise AegisError(ErrorKind.TIMEOUT, told, "see `aegis status`") from exc
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise unreachable(self.path, getattr(exc, "strerror", None) or exc) from exc
