"""Case 4, the second net: an agent that was given a secret prints it, in every form; and the record of what was done is tampered with."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.conftest import Box
from tests.conftest import RealDaemon

from aegis.client.proving import verify_export
from aegis.core.errors import AegisError, ErrorKind

Make = Callable[..., Box]
KEY = "sk-canary+net/77aa55cc33ee"

_TRACEBACK = "import os\ndef login(key): raise PermissionError('no entry with ' + key)\nlogin(os.environ['NET_KEY'])"
PRINTS = {
    "as it is": "echo $NET_KEY",
    "the environment": "env",
    "of another process": "cat /proc/self/environ | tr '\\0' '\\n'",
    "traced": "set -x; : $NET_KEY",
    "base64": "echo $NET_KEY | base64; printf 'user:%s' $NET_KEY | base64; printf %s $NET_KEY | base64",
    "hexadecimal": "printf %s $NET_KEY | od -An -v -tx1 | tr -d ' \\n'",
    "a traceback": f'$AEGIS_PYTHON -c "{_TRACEBACK}"',
    "a URL": "$AEGIS_PYTHON -c \"import os, urllib.parse as u; print('https://x/?k=' + u.quote(os.environ['NET_KEY'], safe=''))\"",
    "JSON in JSON": "$AEGIS_PYTHON -c \"import os, json; print(json.dumps(json.dumps([os.environ['NET_KEY']])))\"",
    "with a failure": "echo $NET_KEY >&2; exit 3",
}
#: What whoever finds it could use.
FORMS = (
    KEY,
    base64.b64encode(KEY.encode()).decode()[:-4],
    KEY.encode().hex(),
    KEY.replace("+", "%2B").replace("/", "%2F"),
    KEY[:18],
    KEY[8:],
)


def leaks(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [form for form in FORMS if form.encode() in data]


def test_what_an_agent_prints_is_in_no_record(box: Make, house: RealDaemon) -> None:
    client = house.client
    client.secrets.set("NET_KEY", KEY)
    before = client.status()["head"]
    a = box(secrets=["NET_KEY:env"])
    a.call("bash", command="echo 'echo started with $NET_KEY; echo oops $NET_KEY >&2' > talk.sh")
    for how, command in PRINTS.items():
        result = a.call("bash", command=command)
        assert "[secret NET_KEY]" in json.dumps(result), (how, result)
        assert not leaks(json.dumps(result)), (how, result)
    with a.client.mail.stream("a", before) as stream:  # what it says arrives in pieces
        finished = a.ask(f"[[say the key is {KEY} and {base64.b64encode(KEY.encode()).decode()}]]")
        pieces = ""
        for frame in stream:
            if frame["type"] == "assistant.delta":
                pieces += frame["payload"].get("text", "")
            if frame["type"] == "assistant.done" and frame["payload"]["in_reply_to"] == finished["in_reply_to"]:
                break
    assert "[secret NET_KEY]" in finished["text"]
    assert not leaks(pieces)
    assert a.sh("echo $NET_KEY").out.strip() == KEY  # it does have it
    program = box(
        "p", agent=None, model=None, command=["sh", "-c", "echo log $NET_KEY; echo $NET_KEY | base64; sleep 60"], secrets=["NET_KEY:env"]
    )
    with closing(client.instances.logs(program.handle, follow=True)) as stream:
        lines = [next(iter(stream)), next(iter(stream))]
    assert "[secret NET_KEY]" in lines[0]["text"]
    aegis = subprocess.run(
        [sys.executable, "-m", "aegis", "transcript", "a"],
        env={**os.environ, "AEGIS_HOME": str(house.home)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    events: list[Any] = []
    while page := client.events(events[-1]["seq"] if events else before)["events"]:
        events += page
    assert len(events) > 50
    told = {
        "events": json.dumps(events),
        "logs": json.dumps(lines) + (program.state / "log.ndjson").read_text(),
        "transcript": json.dumps(client.mail.transcript("a")),
        "the face": aegis.stdout + aegis.stderr,
        "audit": json.dumps(client.audit(limit=1000, newest=True)),
        "the daemon's log": (house.home / "aegisd.log").read_text(),
    }
    for where, text in told.items():
        assert not leaks(text), (where, leaks(text))
    assert "[secret NET_KEY]" in told["the face"]
    with closing(sqlite3.connect(f"file:{house.home / 'aegis.db'}?mode=ro", uri=True)) as db:
        for table in ("events", "memory", "audit", "attention"):
            rows = str(db.execute(f"SELECT * FROM {table}").fetchall())
            assert KEY not in rows, table
    client.secrets.delete("NET_KEY")


def verified(home: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """What `aegis audit verify` says."""
    done = subprocess.run(
        [sys.executable, "-m", "aegis", "audit", "verify", "--json", *words],
        env={**os.environ, "AEGIS_HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def test_a_record_that_was_tampered_with_is_found_out(short_home: Path, tmp_path: Path) -> None:
    """Changed, deleted, cut off, with and without the triggers, by whoever has the files; and in an export on another machine."""
    real = RealDaemon(short_home)
    client = real.up()
    for number in range(12):
        client.secrets.set(f"S{number}", f"value {number}")
    path = tmp_path / "audit.jsonl"
    env = {**os.environ, "AEGIS_HOME": str(short_home)}
    subprocess.run([sys.executable, "-m", "aegis", "audit", "export", "--to", str(path)], env=env, check=True, capture_output=True)
    assert verified(short_home)[1]["ok"]
    real.down()

    tamper = {
        "UPDATE audit SET reason = 'x' WHERE id = 5": ("changed", 5),
        "DELETE FROM audit WHERE id = 7": ("missing", 7),
        "DELETE FROM audit WHERE id > 9": ("cut", 10),
    }
    database = short_home / "aegis.db"
    whole = database.read_bytes()
    try:
        for statement, (flaw, row) in tamper.items():
            with closing(sqlite3.connect(database)) as db:
                with pytest.raises(sqlite3.IntegrityError):
                    db.execute(statement)
                for (trigger,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'audit%'").fetchall():
                    db.execute(f"DROP TRIGGER {trigger}")
                db.execute(statement)
                db.commit()
            client = real.up()  # the daemon goes on, and says so
            found = client.audit_verify()
            assert (found["ok"], found["flaw"], found["row"]) == (False, flaw, row), (statement, found)
            real.down()
            for leftover in ("aegis.db-wal", "aegis.db-shm"):
                (short_home / leftover).unlink(missing_ok=True)
            database.write_bytes(whole)
    finally:
        real.down()

    elsewhere = tmp_path / "nothing"  # no home, no daemon
    assert verified(elsewhere, str(path))[0] == 0
    key = json.loads(path.read_bytes().splitlines()[0])["public_key"]
    assert verify_export(path, key).ok
    assert verify_export(path, "0" * 64).flaw == "forged"
    lines = path.read_bytes().splitlines(keepends=True)
    for change, flaw in (
        (b"".join(lines)[:-30], "torn"),
        (b"".join(lines[:-2]), "cut"),
        (b"".join([*lines[:4], *lines[5:]]), "missing"),
        (b"".join([*lines[:4], lines[5], lines[4], *lines[6:]]), "reordered"),
        (b"".join(lines).replace(b'"S3"', b'"S4"'), "changed"),
    ):
        path.write_bytes(change)
        assert verify_export(path).flaw == flaw
    code, found = verified(elsewhere, str(path), "--key", key)
    assert (code, found["flaw"]) == (1, "changed")
    assert not elsewhere.exists()


def test_what_cannot_be_recorded_is_not_done(short_home: Path, tmp_path: Path) -> None:
    """What is asked for first cannot be recorded: it is refused, and nothing of it is there."""
    real = RealDaemon(short_home)
    try:
        client = real.up(faults="audit.write=enospc")
        with pytest.raises(AegisError) as caught:
            client.secrets.set("A_KEY", KEY)
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        assert client.secrets.all() == []
        client.secrets.set("A_KEY", KEY)
        real.down()
        client = real.up(faults="audit.write=eio")
        with pytest.raises(AegisError):
            real.start("a", workspace=str(tmp_path))
        assert client.instances.all() == []
        assert client.audit_verify()["ok"]
    finally:
        real.down()
