"""The model endpoint, from inside: other tokens, other models, huge and slow requests, requests that hide others."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from typing import Any

from tests.attacks.conftest import Box

Make = Callable[..., Box]

#: Sends raw bytes to the endpoint, one connection for each request, and prints what came back on each.
RAW = """
import json, os, socket, sys, urllib.parse
url = urllib.parse.urlsplit(os.environ["AEGIS_MODEL_URL"])
found = []
for request in json.load(open("/workspace/requests")):
    with socket.create_connection((url.hostname, url.port), 30) as c:
        try:
            c.sendall(request.encode("latin-1"))
        except OSError:
            pass
        said = b""
        try:
            while data := c.recv(65536):
                said += data
        except OSError:
            pass
        found.append(said.decode("latin-1"))
print(json.dumps(found))
"""


def send(a: Box, *requests: str) -> list[str]:
    """Each of the requests on a connection of its own."""
    (a.workspace / "requests").write_text(json.dumps(list(requests)))
    return list(a.python(RAW))


def token(a: Box) -> str:
    """The instance's own token. A test may look it up; a program in another sandbox may not."""
    with contextlib.closing(sqlite3.connect(f"file:{a.daemon.home}/aegis.db?mode=ro", uri=True)) as db:
        row = db.execute("SELECT token FROM instances WHERE handle = ?", (a.handle,)).fetchone()
    return str(row[0])


def request(
    token: str | None, body: Any, *headers: str, path: str = "/v1/messages", method: str = "POST", length: int | None = None
) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: x",
        "connection: close",
        f"content-length: {len(text) if length is None else length}",
        *headers,
    ]
    if token is not None:
        lines.append(f"x-api-key: {token}")
    return "\r\n".join(lines) + "\r\n\r\n" + text


def status(answer: str) -> int:
    return int(answer.split()[1]) if answer.startswith("HTTP/1.1 ") else 0


BODY = {"model": "scripted/echo", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}


def test_only_the_own_token_opens(box: Make) -> None:
    a, b = box("a", model="scripted/echo"), box("b", model="scripted/echo")
    mine, other = token(a), token(b)
    assert mine != other
    assert len(mine) >= 32
    answers = send(
        a,
        request(mine, BODY),
        *(request(wrong, BODY) for wrong in (None, "", other, mine[:-1], mine + "x", mine.swapcase(), "\x00", "Bearer " + mine, "é" * 32)),
        request(None, BODY, f"authorization: Basic {mine}"),
        request(None, BODY, f"cookie: x-api-key={mine}"),
        request(None, BODY, path=f"/v1/messages?key={other}"),
        request(None, BODY, path=f"/v1/messages?token={mine}"),
    )
    assert status(answers[0]) == 200
    assert all(status(answer) in (0, 400, 401) for answer in answers[1:]), [answer[:80] for answer in answers]


def test_only_the_own_model_is_called(box: Make) -> None:
    a = box(model="scripted/echo")
    mine = token(a)
    wrong: list[Any] = [
        {**BODY, "model": "scripted/directives"},
        {**BODY, "model": "anthropic/claude-sonnet-4-5"},
        {**BODY, "model": ""},
        {**BODY, "model": None},
        {**BODY, "model": ["scripted/echo"]},
        {**BODY, "models": ["scripted/directives"]},
        {**BODY, "Model": "scripted/directives"},
        '{"model":"scripted/echo","model":"scripted/directives","messages":[]}',
        '{"model":"scripted/echo","\\u006dodel":"scripted/directives","messages":[]}',
        '[{"model":"scripted/echo"}]',
        "[" * 200_000,
        '{"a":' * 100_000,
        "null",
        "",
    ]
    answers = send(
        a,
        *(request(mine, body) for body in wrong),
        *(
            request(mine, BODY, path=path)
            for path in ("/v1/../admin", "//v1/messages", "/v1/messages/../../x", "/v1/files", "http://evil.example/v1/messages")
        ),
    )
    assert all(400 <= status(answer) < 500 for answer in answers), [answer[:120] for answer in answers]
    calls = [r for r in a.client.audit() if r["action"] == "model.call" and r["principal"] == f"instance:{a.id}"]
    assert {r["resource"] for r in calls} <= {"scripted/echo", "scripted/directives"}
    assert not [r for r in calls if r["decision"] == "allow" and r["resource"] != "scripted/echo"]


def test_no_second_request_hides_and_no_answer_splits(box: Make) -> None:
    a = box(model="scripted/echo")
    mine = token(a)
    text = json.dumps(BODY)
    hidden = request(mine, {**BODY, "messages": [{"role": "user", "content": "HIDDEN"}]})
    answers = send(
        a,
        request(mine, text, "transfer-encoding: chunked") + hidden,
        request(mine, text, "content-length: 1") + hidden,
        request(mine, text, "transfer-encoding: xchunked") + hidden,
        request(mine, text, "x-aegis-session: a\r\n b") + hidden,
        request(mine, text, "content-encoding: gzip"),
        request(mine, text, length=-5),
        request(mine, text, length=10**12),
        request(mine, BODY, "x: " + "a" * 100_000),
        "\x16\x03\x01\x00" * 20_000,
        "a" * 300_000,
        request(mine, BODY, "anthropic-version: x\ry: z"),
    )
    assert all("HIDDEN" not in answer and "\ny: z" not in answer for answer in answers)
    assert all(status(answer) in range(400, 506) or "echo: hi" in answer for answer in answers), [answer[:400] for answer in answers]
    assert status(send(a, request(mine, BODY))[0]) == 200


SLOW = """
import json, os, socket, sys, urllib.parse
url = urllib.parse.urlsplit(os.environ["AEGIS_MODEL_URL"])
held = []
for _ in range(100):
    c = socket.create_connection((url.hostname, url.port), 30)
    c.sendall(b"POST /v1/messages HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 30000000\\r\\n\\r\\n")
    held.append(c)
open("/workspace/held", "w").close()
sys.stdout.write(json.dumps(len(held))); sys.stdout.flush()
import time; time.sleep(600)
"""


def rss(pid: int) -> int:
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_slow_and_huge_requests_of_one_leave_the_others_alone(box: Make) -> None:
    """100 requests that never end, and more bodies than an instance may have under way: the neighbour is served, memory is bounded."""
    a, b = box("a", model="scripted/echo"), box("b", model="scripted/echo")
    before = rss(a.daemon.pid)
    a.sh(f"nohup \"$AEGIS_PYTHON\" -I -c '{SLOW}' >/dev/null 2>&1 & while [ ! -e held ]; do sleep 0.02; done")
    assert b.ask("still there?")["text"] == "echo: still there?"
    flood = RAW.replace("url.port), 30)", "url.port), 2)").replace(
        'json.load(open("/workspace/requests"))',
        "['POST /v1/messages HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 30000000\\r\\n\\r\\n' + 'a' * 25000000]",
    )
    a.sh('for i in 1 2 3 4 5; do "$AEGIS_PYTHON" -I -c "$CODE" > /dev/null & done; wait', env={"CODE": flood})
    assert rss(a.daemon.pid) - before < 200 * 2**20
    assert b.ask("and now?")["text"] == "echo: and now?"
