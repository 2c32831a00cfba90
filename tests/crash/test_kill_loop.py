"""SIGKILL again and again, with a checker outside that counts; in every sandbox that works here.

`AEGIS_KILLS` sets how often (6 by default; a long run uses 200).
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest
from tests.crash.test_sweep import finish, mortal, revive, send

from aegis.sandboxes.bwrap import Bwrap

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RealDaemon

pytestmark = pytest.mark.slow

__all__ = ["mortal"]
KILLS = int(os.environ.get("AEGIS_KILLS", "6"))


@pytest.fixture(params=["process", "bwrap"])
def sandbox(request: pytest.FixtureRequest) -> str:
    """Each sandbox; skipped with the reason where it does not work."""
    if request.param == "bwrap" and not (verdict := asyncio.run(Bwrap().probe())).ok:
        pytest.skip(f"bwrap does not work here: {verdict.detail}")
    return str(request.param)


@pytest.mark.timeout(60 + KILLS * 10)
def test_killed_at_random_moments_under_load(mortal: RealDaemon, tmp_path: Path, sandbox: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    mortal.up()
    mortal.start("a", workspace=str(tmp_path), sandbox=sandbox)
    receipts, pause = [], threading.Event()
    for n in range(KILLS):
        text = f'[[call bash {{"command": "echo m{n} >> ledger; sleep 0.05"}}]] [[call bash {{"command": "true"}}]] [[say done {n}]]'
        receipts.append(send(mortal, "a", text, f"id-{n}"))
        pause.wait(dice.uniform(0.0, 0.4))
        mortal.kill()
        revive(mortal)
    outcomes = [finish(mortal, "a", receipt)["outcome"] for receipt in receipts]
    assert heard(mortal) == [receipt["id"] for receipt in receipts], "each once, in order"
    # A turn that was cut short too often in a row ends as interrupted, and says so; none is without an answer.
    assert set(outcomes) <= {"completed", "interrupted"}
    # Messages that waited together became one turn, and the script follows the last of them: its effect must be there.
    assert outcomes[-1] == "interrupted" or made_or_told(mortal, tmp_path, KILLS - 1)


@pytest.mark.timeout(60 + KILLS * 10)
def test_killed_between_injected_and_the_next_tool_result(mortal: RealDaemon, tmp_path: Path, sandbox: str) -> None:
    mortal.up()
    mortal.start("a", workspace=str(tmp_path), sandbox=sandbox)
    mortal.down()
    receipts = []
    for n in range(KILLS):
        mortal.up(faults="turn.injected=kill" if n % 2 else "turn.message=kill:2")
        receipts.append(mortal.client.mail.send("a", f'[[call bash {{"command": "echo m{n} >> ledger"}}]] [[say done {n}]]'))
        assert finish(mortal, "a", dict(receipts[-1]))["outcome"] == "completed"
        assert made_or_told(mortal, tmp_path, n)
        mortal.down()
    mortal.up()
    assert heard(mortal) == [receipt["id"] for receipt in receipts], "each once, in order"
    ends = [e for e in mortal.client.events(0, limit=1000)["events"] if e["type"] == "turn.finished"]
    assert [e["data"]["outcome"] for e in ends[:2]] == ["interrupted", "completed"], "the daemon really died in between"


def heard(daemon: RealDaemon) -> list[str]:
    """The ids of the messages in the conversation, in its order."""
    return [ident for message in daemon.client.mail.transcript("a")["messages"] for ident in message.get("ids") or []]


def made_or_told(daemon: RealDaemon, workspace: Path, n: int) -> bool:
    """Whether message `n` had its effect, or the agent was told that nobody knows."""
    ledger = workspace / "ledger"
    made = ledger.read_text().split() if ledger.exists() else []
    return f"m{n}" in made or "whether it ran and what it did is unknown" in str(daemon.client.mail.transcript("a"))
