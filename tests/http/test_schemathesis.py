"""schemathesis against the real daemon over TCP, with the document that the daemon gives: it finds nothing.

It looks for answers of 500 and more, statuses, media types and shapes that the document does not have, wrong data that is taken,
methods that are not refused with 405, and operations that answer without the bearer. What is right by the document may still be
refused: that a file has to exist is no matter of shape.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.http.conftest import Api

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
#: Operations that end the daemon, have no end, or speak another protocol.
LEFT_OUT = ("shutdown", "follow_frames", "events_socket", "instance_events_socket")


@pytest.mark.timeout(240)
def test_schemathesis_finds_nothing(api: Api, tmp_path: Path) -> None:
    api.daemon.start("kept", model="scripted/echo")
    api.daemon.ask("kept", "hello")
    argv = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/v1/openapi.json", "--header", f"Authorization: Bearer {api.token}",
        "--phases", "coverage,fuzzing,stateful", "--checks", "all", "--exclude-checks", "positive_data_acceptance",
        "--max-examples", "3", "--seed", "1", "--generation-deterministic", "--no-shrink",
        "--continue-on-failure", "--request-timeout", "20", "--no-color", "--warnings", "off",
        *(word for name in LEFT_OUT for word in ("--exclude-operation-id", name)),
    ]  # fmt: skip
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.http.schemathesis_hooks",
        "AEGIS_TEST_PLACE": str(tmp_path),
        "AEGIS_TEST_KEPT": "kept",
    }
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)
    log = (api.daemon.home / "aegisd.log").read_text()
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:] + log[-3_000:]
    assert "a defect" not in log, log[-3_000:]
    tried = re.search(r"(\d+) generated", done.stdout)
    assert tried is not None
    assert int(tried[1]) > 500, done.stdout[-2_000:]
    assert api.ask("GET", "/v1/status").status == 200
