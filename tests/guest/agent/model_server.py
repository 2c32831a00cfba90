"""A model server on loopback that plays a script: Anthropic Messages and OpenAI Chat Completions, as streams.

A script is a list of steps, one per request. A step is either an error (`Refuse`) or an answer (`Say`) of parts in order:
`text`, `thinking`, `call`, and the odd ones `pause`, `hang` (until the client leaves) and `break_off`.
"""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Say:
    """An answer. `stop` is in the words of Anthropic; `split` is the size of the pieces a text comes in."""

    parts: list[tuple[Any, ...]]
    stop: str | None = None
    split: int = 7
    usage: dict[str, int] = field(default_factory=lambda: {"input": 11, "output": 5, "cached": 3, "written": 2})


@dataclass
class Refuse:
    """An answer other than 200."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


def text(value: str) -> tuple[Any, ...]:
    return ("text", value)


def thinking(value: str, signature: str = "sig") -> tuple[Any, ...]:
    return ("thinking", value, signature)


def call(name: str, arguments: Any, ident: str = "t1") -> tuple[Any, ...]:
    """A tool call; arguments that are a string go out as they are, malformed or not."""
    return ("call", ident, name, arguments if isinstance(arguments, str) else json.dumps(arguments))


HANG = ("hang",)
BREAK = ("break",)
_OPENAI_STOPS = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "refusal": "content_filter"}


class _Left(Exception):
    pass


class ModelServer:
    """Listens at `url` until `close`. `requests` and `headers` are what came, `left` is set when a client left a hanging answer."""

    def __init__(self, script: list[Say | Refuse] | None = None) -> None:
        self.script = list(script or [])
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.hanging = threading.Event()
        self.left = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop, and cut what is open. Idempotent."""
        if self._socket.fileno() < 0:
            return
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for one in list(self._open):
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            self._exchange(connection)
        except (OSError, _Left):
            self.left.set()
        finally:
            connection.close()
            self._open.discard(connection)

    def _exchange(self, connection: socket.socket) -> None:
        file = connection.makefile("rb")
        line = file.readline().decode()
        headers = {}
        while (header := file.readline().decode().strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        data = file.read(int(headers.get("content-length", 0)))
        if "content-length" not in headers or len(data) < int(headers["content-length"]):
            raise _Left
        body = json.loads(data)
        self.paths.append(line.split()[1])
        self.headers.append(headers)
        self.requests.append(body)
        step = self.script.pop(0) if self.script else Refuse(500, {"error": {"type": "api_error", "message": "the script is over"}})
        if isinstance(step, Refuse):
            data = step.body if isinstance(step.body, bytes) else json.dumps(step.body).encode()
            extra = "".join(f"{k}: {v}\r\n" for k, v in step.headers.items())
            connection.sendall(f"HTTP/1.1 {step.status} No\r\n{extra}content-length: {len(data)}\r\n\r\n".encode() + data)
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        stream = _Anthropic if self.paths[-1].endswith("/messages") else _OpenAI
        try:
            stream(self, connection, step).play()
        except ConnectionAbortedError:
            return
        connection.sendall(b"0\r\n\r\n")

    def hang(self, connection: socket.socket) -> None:
        self.hanging.set()
        connection.recv(1)
        raise _Left


class _Stream:
    def __init__(self, server: ModelServer, connection: socket.socket, step: Say) -> None:
        self.server, self.connection, self.step = server, connection, step
        self.stop = step.stop or ("tool_use" if any(p[0] == "call" for p in step.parts) else "end_turn")

    def chunk(self, data: bytes) -> None:
        self.connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def pieces(self, value: str) -> list[str]:
        return [value[i : i + self.step.split] for i in range(0, len(value), self.step.split)]

    def play(self) -> None:
        self.begin()
        for index, part in enumerate(self.step.parts):
            if part[0] == "hang":
                self.server.hang(self.connection)
            elif part[0] == "break":
                raise ConnectionAbortedError
            elif part[0] == "raw":
                self.chunk(part[1])
            else:
                self.part(index, part)
        self.end()

    def begin(self) -> None: ...
    def part(self, index: int, part: tuple[Any, ...]) -> None: ...
    def end(self) -> None: ...


class _Anthropic(_Stream):
    def send(self, type_: str, **fields: Any) -> None:
        self.chunk(f"event: {type_}\ndata: {json.dumps({'type': type_, **fields})}\n\n".encode())

    def begin(self) -> None:
        usage = self.step.usage
        counts = {"input_tokens": usage["input"], "output_tokens": 1}
        counts |= {"cache_read_input_tokens": usage["cached"], "cache_creation_input_tokens": usage["written"]}
        message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "x", "stop_reason": None, "usage": counts}
        self.send("message_start", message=message)
        self.send("ping")

    def part(self, index: int, part: tuple[Any, ...]) -> None:
        start, deltas = {
            "text": lambda: ({"type": "text", "text": ""}, [{"type": "text_delta", "text": p} for p in self.pieces(part[1])]),
            "thinking": lambda: (
                {"type": "thinking", "thinking": "", "signature": ""},
                [{"type": "thinking_delta", "thinking": p} for p in self.pieces(part[1])]
                + [{"type": "signature_delta", "signature": part[2]}],
            ),
            "call": lambda: (
                {"type": "tool_use", "id": part[1], "name": part[2], "input": {}},
                [{"type": "input_json_delta", "partial_json": p} for p in self.pieces(part[3])],
            ),
        }[part[0]]()
        self.send("content_block_start", index=index, content_block=start)
        for delta in deltas:
            self.send("content_block_delta", index=index, delta=delta)
        following = self.step.parts[index + 1 : index + 2]
        if not following or following[0][0] not in ("hang", "break"):
            self.send("content_block_stop", index=index)

    def end(self) -> None:
        usage = {"output_tokens": self.step.usage["output"]}
        self.send("message_delta", delta={"stop_reason": self.stop, "stop_sequence": None}, usage=usage)
        self.send("message_stop")


class _OpenAI(_Stream):
    calls = 0

    def send(self, delta: dict[str, Any], finish: str | None = None) -> None:
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x"}
        chunk = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        self.chunk(f"data: {json.dumps(chunk)}\n\n".encode())

    def begin(self) -> None:
        self.send({"role": "assistant", "content": ""})

    def part(self, index: int, part: tuple[Any, ...]) -> None:
        if part[0] == "text":
            for piece in self.pieces(part[1]):
                self.send({"content": piece})
        elif part[0] == "thinking":
            for piece in self.pieces(part[1]):
                self.send({"reasoning_content": piece})
        else:
            head = {"index": self.calls, "id": part[1], "type": "function", "function": {"name": part[2], "arguments": ""}}
            self.send({"tool_calls": [head]})
            for piece in self.pieces(part[3]):
                self.send({"tool_calls": [{"index": self.calls, "function": {"arguments": piece}}]})
            self.calls += 1

    def end(self) -> None:
        self.send({}, _OPENAI_STOPS[self.stop])
        usage = self.step.usage
        tokens = {"prompt_tokens": usage["input"], "completion_tokens": usage["output"], "total_tokens": usage["input"] + usage["output"]}
        chunk = {"id": "c", "choices": [], "usage": {**tokens, "prompt_tokens_details": {"cached_tokens": usage["cached"]}}}
        self.chunk(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())
