"""Case 4: a stored key is in no sandbox, no answer, no log, no event and no file; `NAME:env` is the one way, and is shown."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.conftest import Box
from tests.conftest import RealDaemon

from aegis.core.errors import AegisError

Make = Callable[..., Box]
KEY = "sk-canary-77aa55cc33ee"


class Provider:
    """A model server that quotes the key it was sent wherever it can."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.seen.append(self.headers["authorization"] or "")
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                said = str(body["messages"][-1]["content"])
                status = next((code for code in (400, 401, 403, 404, 422) if f"status {code}" in said), 400)
                answer = json.dumps({"error": {"message": f"bad key {self.headers['authorization']}", "type": "invalid"}}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("x-request-id", f"{self.headers['authorization']}")
                self.send_header("x-ratelimit-key", KEY)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def guarded(box: Make, house: RealDaemon, provider: Provider, tmp_path: Path) -> Box:
    """An instance whose model needs the key."""
    project = tmp_path / "project"
    project.mkdir()
    (project / ".aegis.yaml").write_text(
        f"providers: {{lab{provider.server.server_address[1]}: {{base_url: '{provider.url}', dialect: openai, secret: LAB_KEY}}}}\n"
    )
    house.client.secrets.set("LAB_KEY", KEY)
    house.client.config.grant(project, house.client.config.trust(project)["hash"])
    return box(model=f"lab{provider.server.server_address[1]}/m", project=str(project), secrets=["LAB_KEY"])


#: The key as an agent or a log might carry it.
FORMS = (KEY.encode(), base64.b64encode(KEY.encode()), KEY[::-1].encode(), KEY.encode().hex().encode())


def leaks(data: bytes) -> list[bytes]:
    return [form for form in FORMS if form in data]


def test_the_key_reaches_the_provider_and_nothing_else(guarded: Box, house: RealDaemon, provider: Provider) -> None:
    answers = [json.dumps(guarded.ask(f"status {code}")).encode() for code in (400, 401, 403, 404, 422)]
    assert provider.seen == [f"Bearer {KEY}"] * 5
    inside = guarded.sh(
        "env; cat /proc/*/environ /proc/*/cmdline ~/.* ~/* /tmp/* 2>/dev/null; find / -xdev -newer /proc/1 -type f -exec cat {} + 2>/dev/null"
    )
    direct = guarded.python(
        """
import http.client, json, os, urllib.parse
url = urllib.parse.urlsplit(os.environ["AEGIS_MODEL_URL"])
found = []
for token in ("x", "", "LAB_KEY"):
    for path in ("/v1/chat/completions", "/v1/models", "/v1/../secrets", "/v1/secrets/LAB_KEY"):
        c = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
        c.request("POST", path, json.dumps({"model": "lab/m", "messages": []}), {"authorization": "Bearer " + token})
        r = c.getresponse(); found.append([r.status, str(r.getheaders()), r.read().decode()])
print(json.dumps(found))
"""
    )
    client = house.client
    with contextlib.closing(client.instances.logs("a")) as stream:
        logs = list(stream)
    told = [
        *answers,
        (inside.out + inside.err).encode(),
        json.dumps(direct).encode(),
        json.dumps(client.events(0)).encode(),
        json.dumps(client.audit()).encode(),
        json.dumps(client.mail.transcript("a")).encode(),
        json.dumps(client.instances.get("a")).encode(),
        json.dumps(client.doctor()).encode(),
        json.dumps(logs).encode(),
        Path(f"/proc/{house.pid}/environ").read_bytes() + Path(f"/proc/{house.pid}/cmdline").read_bytes(),
        Path(f"/proc/{guarded.pid}/cmdline").read_bytes(),
    ]
    told += [path.read_bytes() for path in house.home.rglob("*") if path.is_file()]
    told += [path.read_bytes() for path in guarded.workspace.rglob("*") if path.is_file()]
    for text in told:
        assert not leaks(text), text[:300]
    assert b"[key]" in answers[0]  # the provider did quote it


def test_no_request_returns_a_value(house: RealDaemon) -> None:
    client = house.client
    client.secrets.set("QUIET", KEY)
    call = client.secrets._transport.call
    for method, path in (
        ("GET", "/v1/secrets"),
        ("GET", "/v1/secrets/QUIET"),
        ("POST", "/v1/secrets/QUIET"),
        ("DELETE", "/v1/secrets/QUIE"),
    ):
        try:
            told = json.dumps(call(method, path, {} if method == "POST" else None).body)
        except AegisError as error:
            told = json.dumps(error.to_dict())
        assert KEY not in told
    for name, value in (("BAD", f"{KEY}\0"), ("bad name", KEY), ("../x", KEY), ("BAD", KEY + "x" * 70_000), ("-n", KEY)):
        with pytest.raises(AegisError) as caught:
            client.secrets.set(name, value)
        assert KEY not in json.dumps(caught.value.to_dict())
    with pytest.raises(AegisError) as caught:  # a body that cannot be read is not quoted back, and not logged
        call("PUT", "/v1/secrets/QUIET", {"value": KEY, "more": KEY})
    assert KEY not in json.dumps(caught.value.to_dict())
    client.secrets.delete("QUIET")
    assert KEY not in (house.home / "aegisd.log").read_text()


def test_env_is_the_one_way_and_is_shown(box: Make, house: RealDaemon) -> None:
    house.client.secrets.set("SHOWN", KEY)
    a = box(secrets=["SHOWN:env"])
    assert a.sh("echo $SHOWN").out.strip() == KEY
    assert a.client.instances.get("a")["exposed_secrets"] == ["SHOWN"]
    created = next(r for r in reversed(house.client.audit()) if r["action"] == "instance.create")
    assert created["data"]["exposed"] == ["SHOWN"]
    bwrap = [p for p in Path("/proc").iterdir() if p.name.isdigit()]
    for process in bwrap:  # whoever is on this host can read command lines
        try:
            assert KEY.encode() not in (process / "cmdline").read_bytes()
        except OSError:
            continue
    for path in house.home.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
    house.client.secrets.delete("SHOWN")


def test_a_crash_of_the_daemon_leaves_no_core(house: RealDaemon) -> None:
    limits = Path(f"/proc/{house.pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert all(int(word) <= 1 for word in line.split()[4:6])


def test_the_daemon_is_not_given_keys_by_its_caller(house: RealDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment of whoever starts the daemon stay there."""
    from aegis.client.launch import daemon_environment

    for name in (
        "ANTHROPIC_API_KEY",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "SSH_AUTH_SOCK",
        "PYTHONPATH",
        "LD_PRELOAD",
        "GITHUB_TOKEN",
    ):
        monkeypatch.setenv(name, KEY)
    assert KEY not in daemon_environment().values()
