"""SIGKILL under load: a daemon is killed at random moments while messages arrive in two sessions; an outside checker counts.

`AEGIS_KILLS` sets how often (8 by default; a long run uses 200).
"""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest
from tests.crash.test_sweep import finish, mortal, revive, send

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RealDaemon

__all__ = ["mortal"]
KILLS = int(os.environ.get("AEGIS_KILLS", "8"))


@pytest.mark.timeout(60 + KILLS * 10)
def test_kill_loop_under_load(mortal: RealDaemon, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    mortal.up()
    mortal.start("a", workspace=str(tmp_path))
    ledger = tmp_path / "ledger"
    receipts, pause = [], threading.Event()
    for n in range(KILLS):
        text = f'[[call bash {{"command": "echo m{n} >> {ledger}; sleep 0.05"}}]] [[call bash {{"command": "true"}}]] [[say done {n}]]'
        receipts.append(send(mortal, "a", text, f"id-{n}"))
        pause.wait(dice.uniform(0.0, 0.4))
        mortal.kill()
        revive(mortal)
    outcomes = [finish(mortal, "a", receipt)["outcome"] for receipt in receipts]
    heard = [ident for message in mortal.client.mail.transcript("a")["messages"] for ident in message.get("ids") or []]
    assert heard == [receipt["id"] for receipt in receipts], "each once, in order"
    # Messages that waited together became one turn, and the script follows the last of them: its effect must be there.
    assert f"m{KILLS - 1}" in ledger.read_text().split()
    # A turn that was cut short too often in a row ends as interrupted, and says so; none is without an answer.
    assert set(outcomes) <= {"completed", "interrupted"}
