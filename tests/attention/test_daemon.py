"""The whole of it through the real daemon: a command of the person's is given what happens, across the death of the daemon."""

from __future__ import annotations

import json
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import RealDaemon

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


class Hook:
    """A command of the person's that hands on what it is given through a pipe."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self._pipe = home.parent / "told"
        os.mkfifo(self._pipe)
        self._descriptor = os.open(self._pipe, os.O_RDWR)
        self._seen = b""
        script = home.parent / "hook"
        script.write_text(f"#!/bin/sh\ncat > {self._pipe}\n")
        script.chmod(0o755)
        (home / "config.yaml").write_text(f"notify: {{command: [{script}]}}\n")

    def told(self) -> dict[str, Any]:
        """What it is given next."""
        while b"\n" not in self._seen:
            assert select.select([self._descriptor], [], [], 30)[0], "nothing was told"
            self._seen += os.read(self._descriptor, 65536)
        line, _, self._seen = self._seen.partition(b"\n")
        return dict(json.loads(line))

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def hook(short_home: Path) -> Iterator[Hook]:
    hook = Hook(short_home)
    yield hook
    hook.close()


def test_what_happens_is_told_once_across_the_death_of_the_daemon(short_home: Path, hook: Hook) -> None:
    daemon = RealDaemon(short_home)
    client = daemon.up()
    try:
        if not any(kind["name"] == "bwrap" and kind["ok"] for kind in client.doctor()["sandboxes"]):
            pytest.skip("bwrap does not work here, and only a boundary makes a program wait for an answer")
        assert client.attention.test("done")["channels"]["command"] == {"on": True, "ok": True, "detail": ""}
        assert hook.told()["text"] == "a test of Aegis (done)"
        daemon.start("asks", sandbox="bwrap", approvals="ask")
        client.mail.send("asks", '[[call bash {"command": "true"}]] [[say after all]]')
        told = hook.told()
        assert (told["kind"], [notice["handle"] for notice in told["notices"]]) == ("needs-you", ["asks"])
        client.approvals.decide(client.approvals.list()[0]["id"], True)
        told = hook.told()
        assert (told["kind"], told["text"]) == ("done", "asks is done: after all")
        # Another one is done, and the daemon dies before a person can be told.
        daemon.start("late")
        receipt = client.mail.send("late", "[[say in time]]")
        with client.follow_events(receipt["ingress_seq"], types=("turn.finished",)) as events:
            next(iter(events))
        daemon.kill()
        daemon.up()
        told = hook.told()
        assert [notice["text"] for notice in told["notices"]] == ["late is done: in time"], "what was told is not told again"
        found = client.attention.list()
        assert [(one["handle"], one["kind"], one["state"]) for one in found] == [
            ("asks", "needs-you", "told"),
            ("asks", "done", "told"),
            ("late", "done", "told"),
        ]
    finally:
        daemon.down()
