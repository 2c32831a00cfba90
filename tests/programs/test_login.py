"""`auth: login`: a copy of a login (here a made-up one, in a HOME of the test) for one instance, with all that it takes said."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RealDaemon
from tests.kit.clis import cli

from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers.login import LOGINS

WANTED: dict[str, Any] = {
    "agent": "agent", "provider": "claude-code", "model": "scripted/echo", "auth": "login", "permission": "full",
    "egress": list(LOGINS["claude-code"].egress), "sandbox": "bwrap",
}  # fmt: skip


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's HOME, with a login that is worth nothing."""
    home = tmp_path / "person"
    (home / ".claude").mkdir(parents=True)
    (home / ".claude" / ".credentials.json").write_text('{"claudeAiOauth": {"accessToken": "dummy"}}')
    (home / ".claude.json").write_text(json.dumps({"userID": "u", "projects": {"/private": {}}, "mcpServers": {"x": {"env": {"K": "v"}}}}))
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def real(person: Path, short_home: Path) -> Iterator[RealDaemon]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    path = cli("claude-code")
    short_home.mkdir(mode=0o700)
    (short_home / "config.yaml").write_text(f"programs: {{claude-code: {{path: {path}}}}}\n")
    daemon = RealDaemon(short_home)
    daemon.up()
    yield daemon
    daemon.down()


def inside(real: RealDaemon, handle: str, script: str) -> str:
    """What a shell script in the sandbox prints."""
    with contextlib.closing(real.client.instances.exec(handle, ["/bin/sh", "-c", script])) as stream:
        return b"".join(base64.b64decode(item["d"]) for item in stream if item.get("s") == 1).decode()


def start(real: RealDaemon, handle: str, **changes: Any) -> dict[str, Any]:
    return dict(real.client.instances.start(WANTED | {"handle": handle} | changes).instance)  # type: ignore[arg-type]


def refused(real: RealDaemon, handle: str, **changes: Any) -> AegisError:
    with pytest.raises(AegisError) as caught:
        start(real, handle, **changes)
    return caught.value


def test_one_instance_has_a_private_copy_that_lasts(real: RealDaemon, person: Path) -> None:
    one = start(real, "one")
    assert any("copy of your login to claude-code" in told for told in one["warnings"])
    assert "accessToken" in inside(real, "one", "cat ~/.claude/.credentials.json")
    assert json.loads(inside(real, "one", "cat ~/.claude.json")) == {"userID": "u"}
    assert inside(real, "one", "stat -c %a ~/.claude/.credentials.json").strip() == "600"

    error = refused(real, "two")
    assert (error.kind, error.data["holder"]) == (ErrorKind.CONFLICT, "one")

    # What the program renewed stays, also over a crash of the daemon; what the person renewed replaces it.
    inside(real, "one", "echo renewed > ~/.claude/.credentials.json")
    real.kill()
    real.up()
    real.client.instances.act("one", "restart")
    assert inside(real, "one", "cat ~/.claude/.credentials.json") == "renewed\n"
    assert refused(real, "two").kind is ErrorKind.CONFLICT
    (person / ".claude" / ".credentials.json").write_text('"again"')
    real.client.instances.act("one", "restart")
    assert inside(real, "one", "cat ~/.claude/.credentials.json") == '"again"'

    real.client.instances.delete("one")
    start(real, "two")


def test_what_it_takes_is_said(real: RealDaemon, person: Path) -> None:
    assert "--permission full" in refused(real, "a", permission="write", egress=[]).hint
    assert refused(real, "a", egress=["api.anthropic.com:443"]).kind is ErrorKind.USAGE
    assert refused(real, "a", agent="agent", provider="native").kind is ErrorKind.USAGE
    (person / ".claude" / ".credentials.json").unlink()
    error = refused(real, "a")
    assert (error.kind, "have not logged in" in error.message) == (ErrorKind.NOT_FOUND, True)
    assert real.client.instances.all() == []


def test_without_it_nothing_of_a_login_is_inside(real: RealDaemon) -> None:
    start(real, "plain", auth="broker", permission="write", egress=[])
    assert inside(real, "plain", "ls -a ~/.claude ~/.claude.json ~/.aegis-login 2>/dev/null").strip() == ""
