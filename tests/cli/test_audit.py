"""The record and the secrets at the terminal: what a person sees, filters and follows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.cli.conftest import Program


def test_a_person_reads_the_record(daemon: Program, tmp_path: Path) -> None:
    assert "no records" in daemon("audit", "list", "--decision", "deny").stdout
    with daemon.popen("audit", "list", "-f", "--action", "secret.*", "--json", stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        daemon("secret", "set", "ONE", stdin=b"value one")
        told = json.loads(following.stdout.readline())
        assert (told["action"], told["resource"]) == ("secret.set", "ONE")
        daemon("run", "--sandbox", "process", "--", "true")
        daemon("secret", "set", "TWO", stdin=b"value two")
        assert json.loads(following.stdout.readline())["resource"] == "TWO"  # the run was none of these
        following.terminate()
    rows = daemon.lines("audit", "list")
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["resource"] for row in daemon.lines("audit", "list", "--action", "secret.set")] == ["ONE", "TWO"]
    assert daemon.lines("audit", "list", "--limit", "1")[0]["id"] == rows[-1]["id"]
    assert daemon.lines("audit", "list", "--after", "0", "--limit", "1")[0]["id"] == 1
    assert daemon.lines("audit", "list", "--principal", rows[0]["principal"], "--since", "1h") != []
    shown = daemon("audit", "show", "1").stdout
    for word in ("secret.set", "ONE", "owner", rows[0]["hash"]):
        assert word in shown
    daemon("audit", "show", "999", code=3)
    daemon("audit", "export", "--to", "out.jsonl")
    daemon("audit", "export", "--to", "out.jsonl", code=1)
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600
    lines = daemon("audit", "export").stdout.splitlines()
    assert len(lines) > len(rows)
    assert daemon.json("audit", "verify", "out.jsonl")["ok"]
    assert not json.loads(daemon("audit", "verify", "--key", "00", "--json", code=1).stdout)["ok"]
    daemon("audit", "verify", "nowhere.jsonl", code=3)


def test_a_person_changes_secrets(daemon: Program, tmp_path: Path) -> None:
    for value in (b"value one", b"value two"):
        daemon("secret", "set", "KEY", "--host", "api.example.com", stdin=value)
    told = [daemon("secret", "show", "KEY"), daemon("secret", "versions", "KEY"), daemon("secret", "rollback", "KEY", "1")]
    assert daemon("run", "--sandbox", "process", "--secret", "KEY:env", "--", "printenv", "KEY").stdout == "value one\n"
    told.append(daemon("secret", "grant", "KEY", "--agent", "coder", "--project", "."))
    assert {(each["kind"], each["target"]) for each in daemon.json("secret", "show", "KEY")["grants"]} == {
        ("agent", "coder"),
        ("project", str(tmp_path.resolve())),
    }
    refused = daemon("run", "--sandbox", "process", "--secret", "KEY:env", "--", "true", code=4)
    assert "aegis secret grant KEY --agent" in refused.stderr
    told += [refused, daemon("secret", "revoke", "KEY", "--agent", "coder"), daemon("secret", "revoke", "KEY", "--agent", "coder", code=3)]
    told += [daemon("secret", "set", "KEY", "--keep", "--any-host"), daemon("secret", "rotate-key")]
    assert daemon.json("secret", "show", "KEY")["hosts"] == []
    for words in (
        ("grant", "KEY"),
        ("set", "KEY", "--keep"),
        ("set", "KEY", "--keep", "--host", "a/b"),
        ("set", "KEY", "--host", "a", "--any-host"),
    ):
        told.append(daemon("secret", *words, code=2))
    told += [daemon("secret", "rollback", "KEY", "77", code=3), daemon("secret", "show", "NONE", code=3)]
    assert not [each for each in told if "value one" in each.stdout + each.stderr or "value two" in each.stdout + each.stderr]
