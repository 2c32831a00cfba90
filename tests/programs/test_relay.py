"""The example `relay.py` with every program that is pinned: all hand over to each other, while their daemon is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import RealDaemon
from tests.kit.clis import cli
from tests.programs.conftest import DIALECTS

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "relay.py"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_kind_of_agent_hands_over(short_home: Path, tmp_path: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    short_home.mkdir(mode=0o700)
    programs = "".join(f"  {name}: {{path: '{cli(name)}'}}\n" for name in DIALECTS)
    (short_home / "config.yaml").write_text(f"programs:\n{programs}")
    real = RealDaemon(short_home)
    env = {"AEGIS_HOME": str(short_home), "HOME": str(tmp_path), "PATH": os.environ.get("PATH", os.defpath)}
    try:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280, check=False
        )
    finally:
        real.down()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "does not run" not in done.stdout, done.stdout
    assert "-- the daemon is killed --" in done.stdout
