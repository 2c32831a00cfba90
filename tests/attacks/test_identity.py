"""Cases 7, 8, 10 and 11: names that only look like another, keys that are guessed or outlive their owner, and work put into other hands."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.attacks.conftest import Box
from tests.attacks.test_mcp import bearer, call, post, send, statuses
from tests.conftest import RealDaemon

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.agents.bearers import bearer_of, path_of

Make = Callable[..., Box]
SRC = Path(__file__).resolve().parents[2] / "src" / "aegis"


def test_keys_are_long_and_stand_in_no_argument_or_log(box: Make, house: RealDaemon) -> None:
    a, b = box("a"), box("b")
    with contextlib.closing(sqlite3.connect(f"file:{house.home}/aegis.db?mode=ro", uri=True)) as db:
        tokens = [str(row[0]) for row in db.execute("SELECT token FROM instances")]
    keys = [
        bearer(a),
        bearer(b),
        bearer(a, "host:other"),
        (house.home / "token").read_text().strip() if (house.home / "token").exists() else "x" * 43,
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) >= 32 for key in (*keys, *tokens)), "128 bits in hexadecimal digits are 32"
    shown = a.sh("cat /proc/[0-9]*/cmdline").out + (house.home / "aegisd.log").read_text()
    shown += (
        json.dumps(house.client.events(0, limit=1000))
        + json.dumps(house.client.audit(limit=1000))
        + json.dumps(house.client.instances.all())
    )
    for key in (*keys, *tokens):
        assert key not in shown


def test_keys_are_compared_in_even_time() -> None:
    """No `==` between what somebody presented and a key, in the files that know keys."""
    for name in ("daemon/http/door.py", "daemon/mcp/plane.py", "services/broker/asking.py"):
        tree = ast.parse((SRC / name).read_text())
        assert any(isinstance(node, ast.Attribute) and node.attr == "compare_digest" for node in ast.walk(tree)), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq | ast.In) for op in node.ops):
                assert not re.search(r"bearer_of|_token\b(?! is)|\.token\b", ast.unparse(node)), f"{name}:{node.lineno}"


def test_a_key_is_dead_with_its_owner(box: Make, house: RealDaemon) -> None:
    a, b = box("a"), box("b")
    old = bearer(b)
    house.client.instances.delete("b")
    house.start("b", sandbox="bwrap", workspace=str(b.workspace))
    assert bearer(b) != old
    assert statuses(send(b, post(call("aegis_meta"), token=old), post(call("aegis_meta"), token=bearer(b)))) == ["401", "200"]
    assert statuses(send(a, post(call("aegis_meta"), token=old), post(call("aegis_meta"), token=bearer(b)))) == ["401", "401"]


def test_guesses_open_nothing_and_hold_nobody_up(box: Make) -> None:
    a = box("a")
    mine = bearer(a)
    tries = [mine[:-1], mine + "0", mine.upper(), mine[::-1], "", "0" * 64, mine[:32], f"{mine} {mine}", "x" * 5000]
    tries += [mine[:-2] + f"{n:02x}" for n in range(200) if mine[-2:] != f"{n:02x}"]
    assert set(statuses(send(a, *(post(call("aegis_meta"), token=each) for each in tries)))) <= {"401", "400", "431"}
    assert statuses(send(a, post(call("aegis_meta"), token=mine))) == ["200"]


def test_sessions_are_not_guessed(box: Make, house: RealDaemon) -> None:
    """Who knows the name of a session of another has nothing of it: no endpoint, no history, no place in the result."""
    a, b = box("a"), box("b")
    b.ask("[[say the secret word]]", session="host:private")
    names = ["host:private", f"{b.id}/host:private", "b/host:private", "../b/host:private", "host:private\0", "HOST:private"]
    said = send(a, *(post(call("aegis_list_sessions"), token=bearer(a), path=path_of(name)) for name in names))
    assert set(statuses(said)) <= {"401", "404", "400"}
    assert not any("secret word" in answer for answer in said)
    with contextlib.closing(sqlite3.connect(f"file:{house.home}/aegis.db?mode=ro", uri=True)) as db:
        token = str(db.execute("SELECT token FROM instances WHERE handle = 'a'").fetchone()[0])
    own = send(a, *(post(call("aegis_list_sessions"), token=bearer_of(token, name), path=path_of(name)) for name in names[:1]))
    assert "secret word" not in own[0], "the same name is another session"


LOOKALIKES = (
    "рm",
    "a\nb",
    "a\tb",
    " a",
    "a ",
    "A/../b",
    "ａ",
    "a‮b",
    "system",
    "substrate",
    "Owner",
    "-a",
    "",
    "a" * 64,
    "a;b",
    "a b",
    "a\0b",
)


@pytest.mark.parametrize("name", LOOKALIKES, ids=ascii)
def test_no_name_looks_like_another(house: RealDaemon, name: str, tmp_path: Path) -> None:
    if name == "":
        return  # then it is given one
    with pytest.raises(AegisError) as caught:
        house.start(name, sandbox="bwrap", workspace=str(tmp_path))
    assert caught.value.kind is ErrorKind.USAGE


def test_who_may_not_has_nobody_do_it(box: Make, house: RealDaemon) -> None:
    """No verb of an agent changes what anybody may; work that it hands on is told as its own; and one rule keeps readers from the mighty."""
    reader = box("reader", permission="read")
    box("mighty", permission="full")
    mine = bearer(reader)
    listed = send(reader, post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, token=mine))[0]
    names = re.findall(r'"name":"(\w+)"', listed)
    assert names
    forbidden = re.compile(r"config|trust|approv|secret|polic|held|grant|audit|guard|vault|budget_set|agent_add|mount", re.IGNORECASE)
    assert not [name for name in names if forbidden.search(name)]
    for name in ("aegis_config_set", "config_add_agent", "aegis_approve", "held_release", "policy_write"):
        assert (
            '"result"' not in send(reader, post(call(name), token=mine))[0]
            or '"isError":true' in send(reader, post(call(name), token=mine))[0]
        )
    handover = post(call("aegis_handoff", target_handle="mighty", context="please"), token=mine)
    assert '"isError":false' in send(reader, handover)[0]
    (mail,) = house.client.mail.all("mighty")
    assert (mail["name"], mail["sender"]) == ("agent:reader", f"instance:{reader.id}")
    rule = house.home / "policies" / "deputy.cedar"
    rule.parent.mkdir(mode=0o700, exist_ok=True)
    rule.write_text(
        '@id("no-deputy") forbid (principal is Instance, action == Action::"mail.send", resource is Instance)'
        ' when { principal.permission == "read" && resource.permission == "full" };'
    )
    try:
        house.client.policies.list()
        said = send(reader, handover)[0]
        assert '"isError":true' in said
        assert "no-deputy" in said
        assert len(house.client.mail.all("mighty")) == 1
    finally:
        rule.unlink()
        house.client.policies.list()


def test_nothing_waits_for_a_lock_of_the_dead(box: Make, house: RealDaemon) -> None:
    """A turn whose sandbox is killed gives back what it held: the next one runs."""
    a = box("a")
    receipt = a.client.mail.send("a", "[[hang 60]]")
    deadline = time.monotonic() + 30
    while not any(e["type"] == "turn.started" for e in a.client.events(receipt["ingress_seq"] - 1)["events"]):
        assert time.monotonic() < deadline
    a.client.instances.act("a", "restart")
    a.client.mail.cancel("a")
    assert a.ask("[[say here]]")["text"] == "here"
