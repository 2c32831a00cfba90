"""The crash sweep: at every fault point of instances, mail and turns the daemon is killed, an exception is raised, the disk is full.

Whatever happens, after the daemon is there again: every message that was accepted is answered by exactly one final terminal frame,
stands in the conversation exactly once and in the order of acceptance, its effects were made at least once, and numbers only grow.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import RealDaemon, wait_gone

from aegis.core.errors import AegisError
from aegis.core.faults import POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
MESSAGES = 3
#: At which passage a point of these parts strikes.
NTH = {"store": 4, "instance": 1}
#: Points that nothing here passes; they have sweeps of their own.
ELSEWHERE = ("spawn.", "cascade.", "mail.joined", "mail.report")


@pytest.fixture
def mortal(short_home: Path) -> Iterator[RealDaemon]:
    """A daemon that is not yet started."""
    real = RealDaemon(short_home)
    yield real
    real.down()


def send(daemon: RealDaemon, handle: str, text: str, msg_id: str) -> dict[str, Any]:
    """Send until there is a receipt, starting the daemon again whenever it is gone; the msg_id makes that harmless."""
    for _ in range(10):
        try:
            revive(daemon)
            return dict(daemon.client.mail.send(handle, text, msg_id=msg_id))
        except AegisError:
            continue
    raise AssertionError(f"{msg_id} was never accepted")


def revive(daemon: RealDaemon) -> None:
    """Start the daemon again if it died; one that is dying may still take a connection, but does not answer it."""
    try:
        daemon.client.status()
    except AegisError:
        wait_gone(daemon.pid)
        daemon.up()


def finish(daemon: RealDaemon, handle: str, receipt: dict[str, Any]) -> dict[str, Any]:
    """The final terminal payload, across deaths of the daemon."""
    for _ in range(10):
        try:
            revive(daemon)
            return daemon.finish(handle, receipt)
        except AegisError:
            continue
    raise AssertionError(f"{receipt} was never answered")


def forget(daemon: RealDaemon, handle: str) -> None:
    """Delete the instance, across deaths of the daemon."""
    for _ in range(10):
        revive(daemon)
        with contextlib.suppress(AegisError):
            if handle not in {item["handle"] for item in daemon.client.instances.all()}:
                return
            daemon.client.instances.delete(handle)
    raise AssertionError(f"{handle} cannot be deleted")


def all_events(daemon: RealDaemon) -> list[dict[str, Any]]:
    """The whole durable log."""
    found: list[dict[str, Any]] = []
    cursor = 0
    while page := daemon.client.events(cursor, limit=1000)["events"]:
        found += page
        cursor = page[-1]["seq"]
    return found


def check(daemon: RealDaemon, handle: str, receipts: list[dict[str, Any]], outcomes: list[str], ledger: Path) -> None:
    """The promises, looked at from outside."""
    events = all_events(daemon)
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs))
    final: dict[str, int] = {}
    started, finished = [], []
    for event in events:
        if event["type"] == "turn.started":
            started.append(event["turn"])
        if event["type"] == "turn.finished":
            finished.append(event["turn"])
            if not (event["data"].get("error") or {}).get("will_continue"):
                for ident in event["data"]["in_reply_to"]:
                    final[ident] = final.get(ident, 0) + 1
    assert sorted(started) == sorted(finished), "every turn ends exactly once"
    assert final == {receipt["id"]: 1 for receipt in receipts}, "every message has exactly one final answer"
    messages = daemon.client.mail.transcript(handle)["messages"]
    heard = [ident for message in messages for ident in message.get("ids") or []]
    completed = [n for n, outcome in enumerate(outcomes) if outcome == "completed"]
    assert len(heard) == len(set(heard)), "no message is in the conversation twice"
    assert [ident for ident in heard if ident in final] == [r["id"] for r in receipts if r["id"] in heard], "they are there in order"
    assert {receipts[n]["id"] for n in completed} <= set(heard)
    made = set(ledger.read_text().split())
    told = str(messages)
    for n in completed:
        assert f"m{n}" in made or "interrupted" in told, "every effect was made, or the agent was told that nobody knows"


@pytest.mark.parametrize("action", ["kill", pytest.param("raise", marks=pytest.mark.thorough), "enospc"])
@pytest.mark.parametrize("name", sorted(name for name in POINTS if not name.startswith(ELSEWHERE)))
def test_nothing_accepted_is_lost(mortal: RealDaemon, tmp_path: Path, name: str, action: str) -> None:
    mortal.up(faults=f"{name}={action}:{NTH.get(name.partition('.')[0], 2)}")
    with contextlib.suppress(AegisError):  # a fault may hit the start of the instance itself
        mortal.start("a", workspace=str(tmp_path))
    revive(mortal)
    if "a" not in {item["handle"] for item in mortal.client.instances.all()}:
        mortal.start("a", workspace=str(tmp_path))
    ledger = tmp_path / "ledger"
    receipts, outcomes = [], []
    for n in range(MESSAGES):
        receipts.append(send(mortal, "a", f'[[call bash {{"command": "echo m{n} >> {ledger}"}}]] [[say done {n}]]', f"id-{n}"))
        outcomes.append(finish(mortal, "a", receipts[-1])["outcome"])
    revive(mortal)
    check(mortal, "a", receipts, outcomes, ledger)
    # A death is survived; a defect or a full disk inside a turn fails that turn and no other.
    assert set(outcomes) <= ({"completed"} if action == "kill" else {"completed", "failed"})
    assert outcomes.count("failed") <= 1
    forget(mortal, "a")
    assert list((mortal.home / "instances").iterdir()) == []
