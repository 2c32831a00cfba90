"""Budget race: one program in a sandbox makes many model calls at once, under many names of sessions, and goes away early."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.attacks.conftest import Box
from tests.attacks.test_model_endpoint import request, token

from aegis.core.errors import AegisError, ErrorKind

Make = Callable[..., Box]

#: Sends all requests at the same time, each on a connection of its own; of each the status, or `gone` where it did not wait.
RACE = """
import json, os, socket, threading, urllib.parse
url = urllib.parse.urlsplit(os.environ["AEGIS_MODEL_URL"])
wanted = json.load(open("/workspace/requests"))
found = [None] * len(wanted)
start = threading.Barrier(len(wanted))
def one(i, text, patient):
    with socket.create_connection((url.hostname, url.port), 30) as c:
        start.wait()
        c.sendall(text.encode("latin-1"))
        if not patient:
            found[i] = "gone"
            return
        said = b""
        while data := c.recv(65536):
            said += data
        found[i] = said.decode("latin-1")
threads = [threading.Thread(target=one, args=(i, *each)) for i, each in enumerate(wanted)]
[t.start() for t in threads]
[t.join() for t in threads]
print(json.dumps(found))
"""


def race(a: Box, wanted: list[tuple[str, bool]]) -> list[str]:
    (a.workspace / "requests").write_text(json.dumps(wanted))
    return list(a.python(RACE))


def ask(a: Box, session: str | None = None) -> str:
    body: dict[str, Any] = {
        "model": "scripted/echo",
        "max_tokens": 100,
        "stream": True,
        "messages": [{"role": "user", "content": "x" * 400}],
    }
    named = [f"x-aegis-session: {session}"] if session else []
    return request(None, body, f"x-api-key: {token(a)}", *named)


def budget(a: Box, name: str) -> dict[str, Any]:
    (place,) = a.client.budgets.get(name)["places"]
    return dict(place)


def test_many_calls_at_once_do_not_pass_a_cap_together(box: Make) -> None:
    a = box("racer", model="scripted/echo", budget=["2000tokens"])
    text = ask(a)
    size = len(text.partition("\r\n\r\n")[2]) // 4 + 100
    said = race(a, [(text, True)] * 40)
    passed = [each for each in said if each.startswith("HTTP/1.1 200")]
    refused = [each for each in said if each.startswith("HTTP/1.1 402")]
    assert passed
    assert refused
    assert len(passed) + len(refused) == 40
    place = budget(a, "@racer")
    assert place["spent"]["tokens"] <= 2000 + size
    assert place["reserved"]["tokens"] == 0
    assert place["state"] == "blocked"
    for each in refused:
        assert "x-should-retry: false" in each.lower()
        assert "@racer" in each
        assert "aegis budget set --instance racer" in each
    assert race(a, [(ask(a, f"host:{n}"), True) for n in range(3)])[0].startswith("HTTP/1.1 402")  # nor under another session


def test_who_goes_away_before_the_answer_pays_for_it(box: Make) -> None:
    a = box("leaver", model="scripted/echo", budget=["3000tokens"])
    for _ in range(8):
        race(a, [(ask(a), False)] * 5)
        if budget(a, "@leaver")["state"] == "blocked":
            break
    last = race(a, [(ask(a), True)] * 30)
    place = budget(a, "@leaver")
    assert place["spent"]["tokens"] > 0
    assert place["reserved"]["tokens"] == 0
    assert any(each.startswith("HTTP/1.1 402") for each in last)


def test_an_agent_cannot_raise_its_own_budget_nor_outlive_it_by_a_child(box: Make) -> None:
    a = box("parent", budget=["5000tokens"])
    with pytest.raises(AegisError) as wrong:
        a.client.budgets.set("@parent", {"usd": "nan"})
    assert wrong.value.kind is ErrorKind.USAGE
    end = a.ask("[[say " + "x" * 100 + ']] [[call aegis_spawn {"prompt": "[[say hi]]"}]] [[say done]]')
    shown = a.client.budgets.list("parent")
    assert [each["name"] for each in shown] == ["@parent"]
    (place,) = shown[0]["places"]
    assert place["spent"]["tokens"] > 0
    assert end["outcome"] in ("completed", "limited")
