"""The crash sweep of mail between agents: a report on its way, a message that joins a turn which runs.

Whatever happens at a fault point, after the daemon is there again: what was accepted is answered, each message is in the memory of the
agent once and in the order of its acceptance, and every piece of work that wants a report has exactly one.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.crash.test_sweep import all_events, finish, mortal, revive, send

from aegis.core.errors import AegisError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import RealDaemon

__all__ = ["mortal"]

pytestmark = pytest.mark.slow
WORK = 3
#: The fault points that such mail passes, and at which passage each strikes.
STRIKES = {
    "mail.report.after": 2,
    "mail.joined": 1,
    "mail.accept.commit": 3,
    "mail.accept.after": 3,
    "turn.start.before": 3,
    "turn.message": 5,
    "turn.injected": 3,
    "turn.finish.before": 2,
    "turn.finish.after": 2,
    "store.commit.before": 12,
    "store.commit.after": 12,
}


def until(daemon: RealDaemon, condition: Callable[[], Any]) -> Any:
    """Wait until something is so, across deaths of the daemon."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(AegisError):
            revive(daemon)
            if found := condition():
                return found
        time.sleep(0.02)
    raise AssertionError("it never came to be so")


def hand_over(daemon: RealDaemon, text: str, msg_id: str) -> dict[str, Any]:
    """Give work to the worker and have it reported to the boss, until there is a receipt."""
    for _ in range(10):
        with contextlib.suppress(AegisError):
            revive(daemon)
            return dict(daemon.client.mail.send("worker", text, msg_id=msg_id, report_to="boss"))
    raise AssertionError(f"{msg_id} was never accepted")


@pytest.mark.parametrize("action", ["kill", pytest.param("raise", marks=pytest.mark.thorough), "enospc"])
@pytest.mark.parametrize("name", sorted(STRIKES))
def test_reports_and_what_joins_a_turn(mortal: RealDaemon, tmp_path: Path, name: str, action: str) -> None:
    mortal.up(faults=f"{name}={action}:{STRIKES[name]}")
    for handle in ("boss", "worker"):
        for _ in range(3):
            with contextlib.suppress(AegisError):
                revive(mortal)
                if handle not in {item["handle"] for item in mortal.client.instances.all()}:
                    mortal.start(handle)
    go = tmp_path / "go"
    work, joined = [], []
    for n in range(WORK):
        gate = f"{go}{n}"
        text = f'[[call bash {{"command": "until [ -e {gate} ]; do sleep 0.01; done; echo {n}"}}]] [[say done {n}]]'
        work.append(hand_over(mortal, text, f"work-{n}"))
        joined.append(send(mortal, "worker", f"[[say read {n}]]", f"more-{n}"))
        (tmp_path / f"go{n}").touch()
        finish(mortal, "worker", work[-1])
        finish(mortal, "worker", joined[-1])
    reports = until(mortal, lambda: _answered(mortal))
    assert sorted(report["task"] for report in reports) == sorted(receipt["id"] for receipt in work), "each has one report"
    for handle in ("boss", "worker"):
        messages = mortal.client.mail.transcript(handle)["messages"]
        heard = [ident for message in messages for ident in message.get("ids") or []]
        assert len(heard) == len(set(heard)), "no message is in the conversation twice"
        box = {item["id"]: item for item in mortal.client.mail.all(handle, limit=1000)}
        seqs = [box[ident]["seq"] for ident in heard]
        assert seqs == sorted(seqs), "they are there in order"
        assert {ident for ident, item in box.items() if item["state"] == "acknowledged"} <= set(heard)
        # A death is survived; a defect or a full disk inside a turn fails that turn and no other.
        # What a program had and answered may stay `injected`: the word that it was read dies with a daemon that dies right then.
        lost = [item for item in box.values() if item["state"] not in ("acknowledged", "injected")]
        assert len(lost) <= (0 if action == "kill" else 1)
    final: dict[str, int] = {}
    for event in all_events(mortal):
        if event["type"] == "turn.finished" and not (event["data"].get("error") or {}).get("will_continue"):
            for ident in event["data"]["in_reply_to"]:
                final[ident] = final.get(ident, 0) + 1
    assert set(final.values()) == {1}, "every message has exactly one final answer"


def _answered(daemon: RealDaemon) -> list[Any]:
    """The reports to the boss, once there is one for each piece of work and all are done with."""
    found = daemon.client.mail.all("boss", limit=1000)
    return found if len(found) >= WORK and all(item.get("done_at") for item in found) else []
